//! Executions as text: a line each.

use std::fmt::{self, Write as _};

use jiff::tz::TimeZone;

use super::uprobe::duration as duration_text;
use super::{Styles, container, time};
use crate::event::{ArgList, Exec, ExecContext, ExecFailed, Exit, ExitStatus, Fork};
use crate::output::{Tree, signal_names};
use crate::terminal::{escape, shell_quote};

/// Steps of indentation that are shown at the most.
const DEEPEST: u32 = 40;

/// How the lines look, and where they go.
pub(super) struct Lines<'a> {
    pub(super) styles: &'a Styles,
    pub(super) zone: &'a TimeZone,
    pub(super) tree: Tree,
    pub(super) line: &'a mut String,
}

impl Lines<'_> {
    /// `15:04:05.123456 web ls[1234] ls -la 'a b'  /usr/bin/ls`
    pub(super) fn exec(&mut self, exec: &Exec<'_>) -> fmt::Result {
        self.begin(&exec.actor, exec.actor.depth)?;
        let Styles { faint, .. } = self.styles;
        if exec.existing {
            write!(self.line, "{faint}runs{faint:#} ")?;
        }
        self.arguments(&exec.arguments)?;
        let executable = exec.actor.origin.process.executable.as_ref().map(|file| file.path.as_bytes());
        let first = exec.arguments.list.first().map(|argument| &*argument.0);
        // What the first argument says already is not said again.
        let given = exec.path.as_deref();
        let files = [executable.filter(|path| Some(*path) != first && Some(*path) != given), given];
        let files = files.into_iter().flatten().filter(|path| Some(*path) != first);
        for path in files {
            write!(self.line, "  {faint}")?;
            escape::name(path, self.line);
            write!(self.line, "{faint:#}")?;
        }
        for variable in exec.environment.iter().flat_map(|environment| &environment.list) {
            write!(self.line, "\n    {faint}")?;
            shell_quote::argument(&variable.0, self.line);
            write!(self.line, "{faint:#}")?;
        }
        self.line.push('\n');
        Ok(())
    }

    /// `15:04:05.123456 web sh[1234] ENOENT /bin/nothing nothing x`
    pub(super) fn failed(&mut self, failed: &ExecFailed<'_>) -> fmt::Result {
        self.begin(&failed.actor, failed.actor.depth.saturating_add(1))?;
        let Styles { warning, .. } = self.styles;
        write!(self.line, "{warning}{}{warning:#} ", signal_names::error(failed.error))?;
        match &failed.path {
            Some(path) => shell_quote::argument(path, self.line),
            None => self.line.push('?'),
        }
        self.line.push(' ');
        self.arguments(&failed.arguments)?;
        self.line.push('\n');
        Ok(())
    }

    /// `15:04:05.123456 web ls[1234] exited with 2 after 1.5 ms`
    pub(super) fn exit(&mut self, exit: &Exit<'_>) -> fmt::Result {
        self.begin(&exit.actor, exit.actor.depth)?;
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

    /// `15:04:05.123456 web sh[1234] forks 1235`
    pub(super) fn fork(&mut self, fork: &Fork<'_>) -> fmt::Result {
        self.begin(&fork.actor, fork.actor.depth)?;
        let Styles { faint, .. } = self.styles;
        write!(self.line, "{faint}forks{faint:#} {}", fork.child)?;
        self.line.push('\n');
        Ok(())
    }

    fn begin(&mut self, actor: &ExecContext<'_>, depth: u32) -> fmt::Result {
        let Self { styles: Styles { who, faint, .. }, zone, tree, line } = self;
        write!(line, "{faint}{}{faint:#} {who}", time(actor.time, zone))?;
        container(&actor.origin.container, line);
        line.push(' ');
        if *tree == Tree::Indented {
            for _ in 0..depth.min(DEEPEST) {
                line.push_str("  ");
            }
        }
        escape::name(actor.thread.name(), line);
        write!(line, "[{}]{who:#} ", actor.origin.process.pid)
    }

    fn arguments(&mut self, arguments: &ArgList<'_>) -> fmt::Result {
        for (index, argument) in arguments.list.iter().enumerate() {
            if index > 0 {
                self.line.push(' ');
            }
            shell_quote::argument(&argument.0, self.line);
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
