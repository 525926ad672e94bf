//! The measured processes: the target program that takes commands, and what /proc says about any process.
//!
//! Owns the dialogue with `bench-tls` and the reading of /proc. Never measures time itself.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use ctrace_tests::program;

/// The target program.
pub(super) const PROGRAM: &str = "bench-tls";

/// A running target program; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct BenchTarget {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl BenchTarget {
    /// Starts it, and waits until it has opened its connections.
    pub(super) fn start() -> Result<Self> {
        let mut command = Command::new(program(PROGRAM)?);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {PROGRAM}"))?;
        let commands = process.stdin.take().context("no pipe to the target program")?;
        let answers = BufReader::new(process.stdout.take().context("no pipe from the target program")?);
        let mut target = Self { process, commands, answers };
        let first = target.answer()?;
        ensure!(first == "ready", "{PROGRAM} said {first:?} instead of \"ready\"");
        Ok(target)
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a command, and returns the numbers of the answer.
    pub(super) fn ask<const N: usize>(&mut self, command: &str) -> Result<[f64; N]> {
        writeln!(self.commands, "{command}").with_context(|| format!("{PROGRAM} has ended"))?;
        let answer = self.answer()?;
        let numbers: Result<Vec<f64>, _> = answer.split(' ').map(str::parse).collect();
        let numbers: Option<[f64; N]> = numbers.ok().and_then(|numbers| numbers.try_into().ok());
        numbers.with_context(|| format!("{PROGRAM} answered {answer:?} to {command:?}: not {N} numbers"))
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        let length =
            self.answers.read_line(&mut line).with_context(|| format!("cannot read from {PROGRAM}"))?;
        if length == 0 {
            bail!("{PROGRAM} ended without an answer");
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for BenchTarget {
    fn drop(&mut self) {
        // This fails only if the process has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// CPU time of the current threads of a process, in nanoseconds.
pub(super) fn cpu_ns(pid: u32) -> Result<f64> {
    let directory = format!("/proc/{pid}/task");
    let mut sum = 0.0;
    for entry in fs::read_dir(&directory).with_context(|| format!("cannot list {directory}"))? {
        let file = entry?.path().join("schedstat");
        // The thread has ended since it was listed.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let first = text.split(' ').next().and_then(|word| word.parse::<f64>().ok());
        sum += first.with_context(|| format!("no number at the beginning of {}", file.display()))?;
    }
    Ok(sum)
}

/// The peak memory of a process, in MiB.
pub(super) fn peak_memory_mib(pid: u32) -> Result<f64> {
    Ok(field(&format!("/proc/{pid}/status"), "VmHWM:")? / 1024.0)
}

/// How many bytes a process has written, to any file.
pub(super) fn written_bytes(pid: u32) -> Result<f64> {
    field(&format!("/proc/{pid}/io"), "wchar:")
}

/// The number that follows a word at the beginning of a line.
fn field(file: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse().ok());
    number.with_context(|| format!("{file} has no number {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_tells_of_this_process() {
        let own = std::process::id();
        // The kernel counts in ticks, so the value may still be 0; using the CPU here makes a tick pass.
        while cpu_ns(own).is_ok_and(|ns| ns == 0.0) {}
        assert!(cpu_ns(own).is_ok_and(|ns| ns > 0.0));
        assert!(peak_memory_mib(own).is_ok_and(|mib| mib > 0.1));
        assert!(written_bytes(own).is_ok());
        assert!(field("/proc/self/status", "NoSuchField:").is_err());
    }
}
