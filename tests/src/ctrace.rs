//! A running `ctrace`, the program under test.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use crate::child::{Child, PATIENCE};
use crate::paths::ctrace_binary;
use crate::trace::RunningTrace;

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

    /// `ctrace ssl -o json` with a selection.
    pub fn json(selection: &[&str]) -> Result<Self> {
        Self::start(&[&["ssl", "-o", "json"], selection].concat())
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
    command.args(arguments);
    Ok(command)
}
