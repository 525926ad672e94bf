//! The daemon of an engine: it can be started, killed and made to hang.
//!
//! Owns one process at a time, and the check whether it answers. Never waits without a limit.

use std::fmt;
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_mins(1);
/// Short compared with what we wait for.
const STEP: Duration = Duration::from_millis(10);

/// Calls `ask` until it returns a value, at most for `limit`.
pub fn wait_until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if begin.elapsed() > limit {
            bail!("no {what} within {limit:?}");
        }
        thread::sleep(STEP);
    }
}

/// How to start a daemon, and how to check that it answers.
pub(super) struct Daemon {
    /// The program and its arguments.
    command: Vec<String>,
    log: String,
    /// Succeeds when the daemon answers.
    question: Box<dyn Fn() -> bool + Send + Sync>,
    process: Mutex<Option<std::process::Child>>,
}

impl fmt::Debug for Daemon {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Daemon").field("command", &self.command).finish_non_exhaustive()
    }
}

impl Daemon {
    /// Describes a daemon and starts it.
    pub(super) fn new(
        command: Vec<String>,
        log: String,
        question: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<Self> {
        let daemon = Self { command, log, question: Box::new(question), process: Mutex::default() };
        daemon.start()?;
        Ok(daemon)
    }

    /// Starts the daemon (also after a kill), and waits until it answers.
    pub(super) fn start(&self) -> Result<()> {
        let (program, arguments) = self.command.split_first().context("a daemon without a program")?;
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run `{program}`: `cargo xtask setup` installs it"))?;
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        end(process.replace(child));
        let answer = wait_until("answer", PATIENCE, || {
            if let Some(status) = process.as_mut().and_then(|child| child.try_wait().transpose()) {
                bail!("it ended with {}", status?);
            }
            Ok((self.question)().then_some(()))
        });
        answer.with_context(|| format!("{program}; the end of its log:\n{}", self.tail()))
    }

    /// Kills the daemon, as a crash would.
    pub(super) fn kill(&self) -> Result<()> {
        let child = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        end(Some(child.context("the daemon does not run")?));
        Ok(())
    }

    /// Stops the daemon with SIGSTOP: its socket accepts connections, and nothing answers.
    pub(super) fn hang(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Continues a stopped daemon.
    pub(super) fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = process.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        kill_process(pid.context("the daemon does not run")?, signal).context("cannot signal the daemon")
    }

    fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        end(self.process.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn end(child: Option<std::process::Child>) {
    if let Some(mut child) = child {
        // This fails only if the daemon has already ended.
        let _ = child.kill();
        let _ = child.wait();
    }
}
