//! A process of the harness. Its output never waits for us to read it, and it is killed when dropped.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Seek as _};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::signals;

/// How long anything that ends by itself may take. A hang is a failure; a slow machine (emulated, or with
/// other work) is not.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// Lines of a pipe, as they arrive.
#[derive(Debug)]
pub struct OutputLines {
    receiver: Receiver<String>,
    seen: Vec<String>,
}

impl OutputLines {
    /// Reads a pipe on a thread of its own.
    pub fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                if sender.send(text).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Self { receiver, seen: Vec::new() }
    }

    /// Waits for the next line for which `wanted` holds. The error lists the lines that came instead.
    pub fn wait(
        &mut self,
        what: &str,
        timeout: Duration,
        mut wanted: impl FnMut(&str) -> bool,
    ) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no {what} within {timeout:?}; so far:\n{}", self.seen.join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("ended without {what}; it said:\n{}", self.seen.join("\n"))
                }
            }
        }
    }

    /// The lines that were waited for so far.
    pub fn seen(&self) -> &[String] {
        &self.seen
    }

    /// Everything until the pipe's end.
    pub fn rest(mut self) -> Vec<String> {
        self.seen.extend(self.receiver.iter());
        self.seen
    }
}

/// A process with its output: `stdout` is kept whole, `stderr` comes as lines.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    what: String,
    /// A file without a name. With a pipe we would measure how fast its reader is.
    stdout: Option<File>,
    /// Its standard error.
    pub stderr: Option<OutputLines>,
}

impl Child {
    /// Starts a command whose standard output is kept.
    pub fn start(command: &mut Command) -> Result<Self> {
        let file = tempfile::tempfile().context("no file for the output of a command")?;
        let mut child = Self::start_with_stdout(command, file.try_clone()?)?;
        child.stdout = Some(file);
        Ok(child)
    }

    /// Starts a command whose standard output goes elsewhere.
    pub fn start_with_stdout(command: &mut Command, stdout: impl Into<Stdio>) -> Result<Self> {
        Self::start_with_streams(command, Stdio::null(), stdout)
    }

    /// Starts a command whose standard input is given, and whose standard output goes elsewhere.
    pub fn start_with_streams(
        command: &mut Command,
        stdin: impl Into<Stdio>,
        stdout: impl Into<Stdio>,
    ) -> Result<Self> {
        signals::default_in_children()?;
        let what = format!("{command:?}");
        let mut process = command
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {what}"))?;
        let stderr = process.stderr.take().map(OutputLines::of);
        Ok(Self { process, what, stdout: None, stderr })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The pipe of its standard input, when it was asked for as a pipe.
    pub fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.process.stdin.take()
    }

    /// The pipe of its standard output, when it was asked for as a pipe and is not being kept.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.process.stdout.take()
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process id")?, signal)
            .with_context(|| format!("cannot signal {}", self.what))
    }

    /// Kills the process if it still runs.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().with_context(|| format!("cannot kill {}", self.what))
    }

    /// Waits until the process ends.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        // The standard library has no wait with a timeout. The step is short compared with what we wait for.
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("{} did not end within {timeout:?}", self.what)
    }

    /// Everything that the process wrote, once it has ended.
    pub fn output(&mut self) -> Result<(Vec<u8>, Vec<String>)> {
        let mut stdout = Vec::new();
        if let Some(mut file) = self.stdout.take() {
            file.rewind()?;
            file.read_to_end(&mut stdout)?;
        }
        Ok((stdout, self.stderr.take().map(OutputLines::rest).unwrap_or_default()))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // This fails only if the process has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
