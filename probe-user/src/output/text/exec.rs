//! Executions as text: a line each.

use std::fmt::{self, Write as _};

use super::uprobe::duration as duration_text;
use super::{Styles, Text};
use crate::event::{ArgList, Body, Context, Exec, ExecFailed, Exit, ExitStatus, Fork};
use crate::output::signal_names;
use crate::terminal::{escape, shell_quote};

/// The most steps of indentation.
pub(super) const DEEPEST: u32 = 40;

/// How far a record is indented in a tree. A program that could not be executed is shown below the one that
/// has tried to.
pub(super) fn depth(body: &Body<'_>) -> u32 {
    match body {
        Body::Exec(Exec { lineage, .. })
        | Body::Exit(Exit { lineage, .. })
        | Body::Fork(Fork { lineage, .. }) => lineage.depth,
        Body::ExecFailed(failed) => failed.lineage.depth.saturating_add(1),
        _ => 0,
    }
}

impl Text {
    /// `ls -la 'a b'  /usr/bin/ls`
    pub(super) fn exec(&mut self, context: &Context<'_>, exec: &Exec<'_>) -> fmt::Result {
        let Styles { faint, .. } = self.styles;
        if exec.existing {
            write!(self.line, "{faint}runs{faint:#} ")?;
        }
        self.arguments(&exec.arguments)?;
        let executable = context.thread().and_then(|(process, _)| process.process.executable.as_ref());
        let executable = executable.map(|file| file.path.as_bytes());
        let first = exec.arguments.list.first().map(|argument| &*argument.0);
        // A path that equals the first argument is not repeated.
        let given = exec.path.as_deref();
        let files = [executable.filter(|path| Some(*path) != first && Some(*path) != given), given];
        let files = files.into_iter().flatten().filter(|path| Some(*path) != first);
        for path in files {
            write!(self.line, "  {faint}")?;
            escape::name(path, &mut self.line);
            write!(self.line, "{faint:#}")?;
        }
        for variable in exec.environment.iter().flat_map(|environment| &environment.list) {
            write!(self.line, "\n    {faint}")?;
            shell_quote::argument(&variable.0, &mut self.line);
            write!(self.line, "{faint:#}")?;
        }
        self.line.push('\n');
        Ok(())
    }

    /// `ENOENT /bin/nothing nothing x`
    pub(super) fn failed(&mut self, failed: &ExecFailed<'_>) -> fmt::Result {
        let Styles { warning, .. } = self.styles;
        write!(self.line, "{warning}{}{warning:#} ", signal_names::error(failed.error))?;
        match &failed.path {
            Some(path) => shell_quote::argument(path, &mut self.line),
            None => self.line.push('?'),
        }
        self.line.push(' ');
        self.arguments(&failed.arguments)?;
        self.line.push('\n');
        Ok(())
    }

    /// `exited with 2 after 1.5 ms`
    pub(super) fn exit(&mut self, exit: &Exit<'_>) -> fmt::Result {
        let Styles { faint, warning, .. } = self.styles;
        match exit.ending {
            None => write!(self.line, "{faint}ended{faint:#}")?,
            Some(ExitStatus::Code(0)) => write!(self.line, "{faint}exited with 0{faint:#}")?,
            Some(ExitStatus::Code(code)) => write!(self.line, "{warning}exited with {code}{warning:#}")?,
            Some(ExitStatus::Signal { number, dumped }) => {
                write!(self.line, "{warning}killed by {}{warning:#}", signal_names::signal(number))?;
                self.line.push_str(if dumped { " (core dumped)" } else { "" });
            }
        }
        if let Some(duration) = exit.duration {
            write!(
                self.line,
                " {faint}after {}{faint:#}",
                duration_text(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
            )?;
        }
        self.line.push('\n');
        Ok(())
    }

    /// `forks 1235`
    pub(super) fn fork(&mut self, fork: &Fork<'_>) -> fmt::Result {
        let Styles { faint, .. } = self.styles;
        write!(self.line, "{faint}forks{faint:#} {}", fork.child)?;
        self.line.push('\n');
        Ok(())
    }

    fn arguments(&mut self, arguments: &ArgList<'_>) -> fmt::Result {
        for (index, argument) in arguments.list.iter().enumerate() {
            if index > 0 {
                self.line.push(' ');
            }
            shell_quote::argument(&argument.0, &mut self.line);
        }
        if arguments.truncated {
            let Styles { warning, .. } = self.styles;
            write!(self.line, " {warning}… cut")?;
            if let Some(count) = arguments.count {
                write!(self.line, ", {count} arguments")?;
            }
            write!(self.line, "{warning:#}")?;
        }
        Ok(())
    }
}
