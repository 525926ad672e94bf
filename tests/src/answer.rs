//! What commands other than traces answer, and the checks that every test makes of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::ctrace::Ctrace;
use crate::paths::ctrace_binary;
use crate::trace::Trace;

/// Runs `ctrace` to its end; it must succeed.
pub fn answer(arguments: &[&str]) -> Result<Trace> {
    let trace = Ctrace::run_to_end(arguments)?;
    ensure!(trace.code() == Some(0), "{arguments:?}: {:?}: {}", trace.code(), trace.stderr);
    Ok(trace)
}

/// Standard output, for a person.
pub fn text(trace: &Trace) -> String {
    String::from_utf8_lossy(&trace.stdout).into_owned()
}

/// Standard output, for a program.
pub fn json(trace: &Trace) -> Result<Value> {
    serde_json::from_slice(&trace.stdout).with_context(|| format!("no JSON: {}", text(trace)))
}

/// A member that must be a list.
pub fn list<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    value.get(name).and_then(Value::as_array).with_context(|| format!("{name} is no list in {value}"))
}

/// The same as nobody, who may not read other users' processes.
pub fn run_as_nobody(arguments: &[&str]) -> Result<Trace> {
    let directory = tempfile::Builder::new().prefix("ctrace-explain").tempdir_in("/tmp")?;
    let copy = directory.path().join("ctrace");
    fs::copy(ctrace_binary()?, &copy)?;
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755))?;
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(arguments)
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(Trace { stdout: output.stdout, stderr, status: output.status })
}

/// No byte that acts on a terminal.
pub fn check_harmless(trace: &Trace) -> Result<()> {
    let control = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
    ensure!(!text(trace).contains(control), "{:?}", text(trace));
    ensure!(!trace.stderr.contains(control), "{:?}", trace.stderr);
    Ok(())
}
