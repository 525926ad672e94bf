//! A running `ctrace`, the program under test.

use std::env;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use crate::child::{Child, PATIENCE};
use crate::paths::ctrace_binary;
use crate::trace::RunningTrace;

/// The kind of links that live suites shall use instead of ctrace's own choice: `perf` or `multi`.
pub(crate) const LINK_VARIABLE: &str = "CTRACE_PROBE_LINK";

/// A `ctrace` that has attached.
#[derive(Debug)]
pub struct Ctrace {
    child: Child,
}

impl Ctrace {
    /// Starts `ctrace` and waits until it reports that it traces.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let mut command = command(arguments)?;
        Self::attached(Child::start(&mut command)?, arguments)
    }

    /// `ctrace ssl -v -o json` with a selection.
    pub fn json(selection: &[&str]) -> Result<Self> {
        Self::start(&[&["ssl", "-v", "-o", "json"], selection].concat())
    }

    /// The same as [`Self::json`], with these variables in the environment.
    pub fn json_with(selection: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let arguments = [&["ssl", "-o", "json"], selection].concat();
        let mut command = command(&arguments)?;
        Self::attached(Child::start(command.envs(environment.iter().copied()))?, &arguments)
    }

    /// Starts `ctrace` with a standard output that the caller owns, to test what happens when that is closed.
    pub fn start_with_stdout(arguments: &[&str], stdout: impl Into<Stdio>) -> Result<Self> {
        let mut command = command(arguments)?;
        Self::attached(Child::start_with_stdout(&mut command, stdout)?, arguments)
    }

    /// Runs `ctrace` until it ends by itself.
    pub fn run_to_end(arguments: &[&str]) -> Result<RunningTrace> {
        Self::run_to_end_with(arguments, &[])
    }

    /// The same as [`Self::run_to_end`], with these variables in the environment.
    pub fn run_to_end_with(arguments: &[&str], environment: &[(&str, &str)]) -> Result<RunningTrace> {
        let mut command = command(arguments)?;
        let child = Child::start(command.envs(environment.iter().copied()))?;
        Self { child }.wait(PATIENCE)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child, for signals and pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Ends the trace with SIGINT, as Ctrl-C does.
    pub fn finish(self) -> Result<RunningTrace> {
        self.child.signal(Signal::INT)?;
        self.wait(PATIENCE)
    }

    /// Waits until `ctrace` ends by itself.
    pub fn wait(mut self, timeout: Duration) -> Result<RunningTrace> {
        let status = self.child.wait(timeout)?;
        let (stdout, stderr) = self.child.output()?;
        Ok(RunningTrace { stdout, stderr: stderr.join("\n"), status })
    }

    fn attached(mut child: Child, arguments: &[&str]) -> Result<Self> {
        let stderr = child.stderr.as_mut().context("ctrace has no standard error")?;
        stderr
            .wait("line beginning with \"tracing\"", PATIENCE, |line| line.starts_with("tracing"))
            .with_context(|| format!("ctrace {} did not attach", arguments.join(" ")))?;
        Ok(Self { child })
    }
}

fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(ctrace_binary()?);
    command.args(with_probe_link(arguments, env::var(LINK_VARIABLE).ok().as_deref()));
    Ok(command)
}

/// The arguments, with the kind of links that was asked for, unless they name one.
pub(crate) fn with_probe_link<'a>(arguments: &[&'a str], kind: Option<&'a str>) -> Vec<&'a str> {
    let (Some(kind), Some((command, options))) = (kind, arguments.split_first()) else {
        return arguments.to_vec();
    };
    let attaches = ["ssl", "uprobe"].contains(command)
        && !options.iter().any(|option| ["--read", "--probe-link"].contains(option));
    let link: &[&str] = if attaches { &["--probe-link", kind] } else { &[] };
    [&[*command], link, options].concat()
}

#[cfg(test)]
mod tests {
    use super::with_probe_link;

    #[test]
    fn the_kind_of_links_is_an_option_of_what_attaches() {
        let with = |arguments: &[&'static str]| with_probe_link(arguments, Some("perf")).join(" ");
        assert_eq!(with(&["ssl", "--all"]), "ssl --probe-link perf --all");
        assert_eq!(with(&["uprobe", "a:b", "--", "c"]), "uprobe --probe-link perf a:b -- c");
        assert_eq!(with(&["ssl", "--probe-link", "multi"]), "ssl --probe-link multi");
        assert_eq!(with(&["ssl", "--read", "-"]), "ssl --read -");
        assert_eq!(with(&["exec", "--all"]), "exec --all");
        assert_eq!(with(&[]), "");
        assert_eq!(with_probe_link(&["ssl", "--all"], None), ["ssl", "--all"]);
    }
}
