//! Traces of shells that run scripts.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::child::Child;
use crate::ctrace::Ctrace;
use crate::trace::RunningTrace;

/// How long a trace may take to end after its target.
const ENDING: Duration = Duration::from_mins(1);

/// Runs a script in a shell that ctrace follows, with JSON as its output, and returns the trace.
pub fn trace_shell(options: &[&str], script: &str) -> Result<RunningTrace> {
    let mut shell = Command::new("sh");
    shell.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut shell = Child::start_with_streams(&mut shell, Stdio::piped(), Stdio::null())?;
    let mut stdin = shell.take_stdin().context("no standard input")?;
    let pid = shell.id().to_string();
    let (command, rest) = options.split_first().context("no command")?;
    let arguments = [&[*command, "-o", "json", "--wait", "--pid", &pid], rest].concat();
    let ctrace = Ctrace::start(&arguments)?;
    stdin.write_all(script.as_bytes())?;
    drop(stdin);
    ctrace.wait(ENDING)
}

/// How many lines have this part.
pub fn count_lines(text: &str, part: &str) -> usize {
    text.lines().filter(|line| line.contains(part)).count()
}
