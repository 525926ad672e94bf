//! Runs the commands that answer a question (`ps`, `inspect`, `doctor`, …), and checks what every answer must
//! hold.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::ctrace::Ctrace;
use crate::nobody::Nobody;
use crate::trace::RunningTrace;

/// Runs `ctrace` to its end; it must succeed.
pub fn answer(arguments: &[&str]) -> Result<RunningTrace> {
    let trace = Ctrace::run_to_end(arguments)?;
    ensure!(trace.code() == Some(0), "{arguments:?}: {:?}: {}", trace.code(), trace.stderr);
    Ok(trace)
}

/// Standard output as text.
pub fn text(trace: &RunningTrace) -> String {
    String::from_utf8_lossy(&trace.stdout).into_owned()
}

/// Standard output as JSON.
pub fn json(trace: &RunningTrace) -> Result<Value> {
    serde_json::from_slice(&trace.stdout).with_context(|| format!("no JSON: {}", text(trace)))
}

/// A member that must be a list.
pub fn list<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    value.get(name).and_then(Value::as_array).with_context(|| format!("{name} is no list in {value}"))
}

/// Runs `ctrace` as the user nobody, who may not read other users' processes.
pub fn run_as_nobody(arguments: &[&str]) -> Result<RunningTrace> {
    Nobody::new()?.run(arguments)
}

/// Checks that the output has no byte that acts on a terminal.
pub fn check_harmless(trace: &RunningTrace) -> Result<()> {
    let control = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
    ensure!(!text(trace).contains(control), "{:?}", text(trace));
    ensure!(!trace.stderr.contains(control), "{:?}", trace.stderr);
    Ok(())
}
