//! A running `ctrace`, the program under test.

use std::env;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use crate::child::{Child, PATIENCE};
use crate::paths::ctrace_binary;
use crate::trace::RunningTrace;

/// Choices that live suites shall make instead of ctrace: the variable that has one, and its option.
const CHOICES: [(&str, &str); 2] =
    [("CTRACE_PROBE_LINK", "--probe-link"), (RETURN_PROBE_VARIABLE, "--return-probe")];
/// The variable that has the way of probing returns.
pub const RETURN_PROBE_VARIABLE: &str = "CTRACE_RETURN_PROBE";

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
    command.args(with_choices(arguments, |variable| env::var(variable).ok()));
    Ok(command)
}

/// The arguments, with what the environment chooses, unless they choose it themselves.
pub(crate) fn with_choices(arguments: &[&str], of: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let Some((command, options)) = arguments.split_first() else { return Vec::new() };
    let has = |option: &str| options.iter().any(|found| found.split('=').next() == Some(option));
    let mut all = vec![(*command).to_owned()];
    if ["ssl", "requests", "uprobe"].contains(command) && !has("--read") {
        for (variable, option) in CHOICES {
            if let Some(value) = of(variable).filter(|_| !has(option)) {
                all.extend([option.to_owned(), value]);
            }
        }
    }
    all.extend(options.iter().map(|option| (*option).to_owned()));
    all
}

#[cfg(test)]
mod tests {
    use super::with_choices;

    #[test]
    fn choices_are_options_of_what_attaches() {
        let with = |arguments: &[&str], choices: &[(&str, &str)]| {
            let of = |variable: &str| {
                let found = choices.iter().find(|(name, _)| *name == variable);
                found.map(|(_, value)| (*value).to_owned())
            };
            with_choices(arguments, of).join(" ")
        };
        let perf = [("CTRACE_PROBE_LINK", "perf")];
        assert_eq!(with(&["ssl", "--all"], &perf), "ssl --probe-link perf --all");
        assert_eq!(with(&["uprobe", "a:b", "--", "c"], &perf), "uprobe --probe-link perf a:b -- c");
        assert_eq!(with(&["ssl", "--probe-link", "multi"], &perf), "ssl --probe-link multi");
        assert_eq!(with(&["ssl", "--read", "-"], &perf), "ssl --read -");
        assert_eq!(with(&["requests", "--all"], &perf), "requests --probe-link perf --all");
        assert_eq!(with(&["exec", "--all"], &perf), "exec --all");
        assert_eq!(with(&[], &perf), "");
        assert_eq!(with(&["ssl", "--all"], &[]), "ssl --all");
        let both = [("CTRACE_PROBE_LINK", "perf"), ("CTRACE_RETURN_PROBE", "kernel")];
        assert_eq!(with(&["ssl", "--all"], &both), "ssl --probe-link perf --return-probe kernel --all");
        assert_eq!(with(&["ssl", "--return-probe=exit"], &both), "ssl --probe-link perf --return-probe=exit");
    }
}
