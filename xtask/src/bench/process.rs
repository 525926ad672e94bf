//! The measured processes: the target program that takes commands, and what /proc says about any process.
//!
//! Owns the dialogues with target programs and the reading of /proc. Never measures time itself.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use ctrace_tests::program;

/// The target program.
pub(super) const PROGRAM: &str = "bench-tls";
/// The tick in which the kernel reports CPU times to programs: USER_HZ is 100 on every architecture that
/// ctrace supports.
const TICK_MS: f64 = 10.0;

/// A program that answers each line on its standard input with one line.
#[derive(Debug)]
pub(super) struct Dialogue {
    process: Child,
    /// None once its input has been closed.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    name: String,
}

impl Dialogue {
    /// Starts it, and waits until it says that it is ready.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let commands = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().context("no pipe from the target program")?);
        let mut new = Self { process, commands, answers, name };
        let first = new.answer()?;
        ensure!(first == "ready", "{} said {first:?} instead of \"ready\"", new.name);
        Ok(new)
    }

    /// Sends a line, and returns the answer.
    pub(super) fn ask(&mut self, command: &str) -> Result<String> {
        let commands = self.commands.as_mut().with_context(|| format!("{} has no input", self.name))?;
        writeln!(commands, "{command}").with_context(|| format!("{} has ended", self.name))?;
        self.answer()
    }

    /// Closes its input, and waits until it has ended by itself.
    pub(super) fn end(&mut self) {
        self.commands = None;
        // This fails only if the process has been waited for already.
        let _ = self.process.wait();
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        let length =
            self.answers.read_line(&mut line).with_context(|| format!("cannot read from {}", self.name))?;
        if length == 0 {
            bail!("{} ended without an answer", self.name);
        }
        Ok(line.trim_end().to_owned())
    }
}

/// A running target program; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct BenchTarget(Dialogue);

impl BenchTarget {
    /// Starts it, and waits until it has opened its connections.
    pub(super) fn start() -> Result<Self> {
        Ok(Self(Dialogue::start(&mut Command::new(program(PROGRAM)?))?))
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.0.process.id()
    }

    /// Sends a command, and returns the numbers of the answer.
    pub(super) fn ask<const N: usize>(&mut self, command: &str) -> Result<[f64; N]> {
        let answer = self.0.ask(command)?;
        let numbers: Result<Vec<f64>, _> = answer.split(' ').map(str::parse).collect();
        let numbers: Option<[f64; N]> = numbers.ok().and_then(|numbers| numbers.try_into().ok());
        numbers.with_context(|| format!("{PROGRAM} answered {answer:?} to {command:?}: not {N} numbers"))
    }
}

impl Drop for BenchTarget {
    fn drop(&mut self) {
        // This fails only if the process has already ended.
        let _ = self.0.process.kill();
        let _ = self.0.process.wait();
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

/// CPU time of a process in milliseconds, with that of its threads that have ended; a multiple of the clock's
/// tick.
pub(super) fn cpu_ms(pid: u32) -> Result<f64> {
    let file = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let ticks = cpu_ticks(&text).with_context(|| format!("no CPU time in {file}"))?;
    Ok(ticks * TICK_MS)
}

/// User and system time of a /proc/PID/stat. The name of the program, in brackets, may contain anything.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(|word| word.parse::<f64>().ok());
    Some(times.next()?? + times.next()??)
}

/// The memory of a process that is resident, in MiB.
pub(super) fn memory_mib(pid: u32) -> Result<f64> {
    Ok(field(&format!("/proc/{pid}/status"), "VmRSS:")? / 1024.0)
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
        assert!(memory_mib(own).is_ok_and(|mib| mib > 0.1));
        assert!(cpu_ms(own).is_ok());
    }

    #[test]
    fn cpu_time_is_found_after_any_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 150 25 0 0";
        assert_eq!(cpu_ticks(&format!("77 (name) {fields}")), Some(175.0));
        assert_eq!(cpu_ticks(&format!("77 (a) S 1 (b c) {fields}")), Some(175.0));
        assert_eq!(cpu_ticks("77 (name) S 1 2"), None);
        assert_eq!(cpu_ticks(""), None);
    }
}
