//! The command of `ctrace … -- CMD`: started but held back, released when everything is attached, and waited
//! for.
//!
//! Owns the command's process from start to exit status. The code that runs in it before the command is in
//! [`crate::app::child`]. Never touches the command's standard streams.

use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use thiserror::Error;
use tokio::signal::unix::{self, SignalKind};

use super::launcher::{LAUNCHER_NAME, WATCHDOG_NAME};

/// This program, even if its file was renamed or replaced.
const OURSELVES: &str = "/proc/self/exe";

/// The command cannot be started or waited for.
#[derive(Debug, Error)]
pub enum CommandError {
    /// No process could be started for the command.
    #[error("no process can be started for the command {command:?}")]
    Start {
        /// The first word of the command.
        command: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The process cannot be signalled to begin.
    #[error("the process {pid} of the command cannot be told to begin")]
    LetGo {
        /// The id of the process.
        pid: u32,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The end of the process cannot be waited for.
    #[error("the end of the command (process {pid}) cannot be waited for")]
    Wait {
        /// The id of the process.
        pid: u32,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What a helper process waits for: a byte from us, or our end.
struct StartBarrier {
    /// Kept open until the other side has opened it through /proc/PID/fd.
    reader: PipeReader,
    writer: PipeWriter,
}

impl StartBarrier {
    fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self { reader, writer })
    }

    /// The descriptor's number, by which the helper finds it.
    fn name(&self) -> String {
        self.reader.as_raw_fd().to_string()
    }
}

/// A command that was started.
pub(in crate::app) struct CommandProcess {
    child: Child,
    /// Present until the command is released.
    gate: Option<StartBarrier>,
    warden: Option<Watchdog>,
    changes: Option<unix::Signal>,
}

impl CommandProcess {
    /// Starts a process that will become the command. To be called before signals are handled, and before
    /// anything in this process changes that the command should not inherit.
    pub(in crate::app) fn start(command: &[OsString]) -> Result<Self, CommandError> {
        let first = command.first().map_or_else(String::new, |word| word.to_string_lossy().into_owned());
        let failed = |source| CommandError::Start { command: first, source };
        let start = || -> io::Result<(Child, StartBarrier)> {
            let gate = StartBarrier::new()?;
            let child = Command::new(OURSELVES).arg0(LAUNCHER_NAME).arg(gate.name()).args(command).spawn()?;
            Ok((child, gate))
        };
        let (child, gate) = start().map_err(failed)?;
        Ok(Self { child, gate: Some(gate), warden: None, changes: None })
    }

    /// The id of the process, which it keeps as the command.
    pub(in crate::app) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts a helper that continues the processes in the table if this process is killed.
    pub(in crate::app) fn start_watchdog(&mut self, table: u32) {
        match Watchdog::start(table) {
            Ok(warden) => self.warden = Some(warden),
            Err(error) => tracing::warn!(
                "no process can be started that continues the command's processes if ctrace is killed while \
                 they are stopped: {error}"
            ),
        }
    }

    /// Lets the command begin.
    pub(in crate::app) fn release(&mut self) -> Result<(), CommandError> {
        let Some(mut gate) = self.gate.take() else { return Ok(()) };
        match gate.writer.write_all(b"\n") {
            // The process has already ended. Its status shows why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|source| CommandError::LetGo { pid: self.pid(), source }),
        }
    }

    /// Whether the command was released.
    pub(in crate::app) fn has_begun(&self) -> bool {
        self.gate.is_none()
    }

    /// Waits for the end of the command. Cancel safe.
    pub(in crate::app) async fn ended(&mut self) -> Result<ExitStatus, CommandError> {
        let pid = self.pid();
        let failed = |source| CommandError::Wait { pid, source };
        if self.changes.is_none() {
            self.changes = Some(unix::signal(SignalKind::child()).map_err(failed)?);
        }
        loop {
            if let Some(status) = self.child.try_wait().map_err(failed)? {
                return Ok(status);
            }
            if let Some(changes) = &mut self.changes {
                changes.recv().await;
            }
        }
    }

    /// The exit status if the process ended without being released. It has reported the reason itself.
    pub(in crate::app) fn ended_early(&mut self) -> Option<ExitStatus> {
        self.gate.as_ref()?;
        self.child.try_wait().ok().flatten()
    }

    /// Gives up a command that was not released: it does not begin, and its process ends.
    pub(in crate::app) fn abandon(&mut self) {
        self.gate.take();
    }

    /// Forwards a signal.
    pub(in crate::app) fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            // The id cannot be reused before the process is waited for.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for CommandProcess {
    fn drop(&mut self) {
        // Not released: the process ends when it sees that our end of the pipe is closed.
        if self.gate.take().is_some() {
            let _ = self.child.wait();
        }
    }
}

/// Whether a child of this process has ended, even if it was not waited for.
pub(in crate::app) fn has_ended(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let only_look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    pid.is_none_or(|pid| !matches!(waitid(WaitId::Pid(pid), only_look), Ok(None)))
}

/// The exit status that a shell would report for this end.
pub(in crate::app) fn exit_status(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| Some(128 + status.signal()?));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(u8::MAX)
}

/// A helper process that outlives this one for a moment.
struct Watchdog {
    child: Child,
    gate: Option<StartBarrier>,
}

impl Watchdog {
    fn start(table: u32) -> io::Result<Self> {
        let gate = StartBarrier::new()?;
        let mut command = Command::new(OURSELVES);
        command.arg0(WATCHDOG_NAME).args([gate.name(), table.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        Ok(Self { child: command.spawn()?, gate: Some(gate) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // A byte means that we continue the stopped processes ourselves. The end of the pipe without it means
        // that we were killed.
        if let Some(mut gate) = self.gate.take() {
            let _ = gate.writer.write_all(b"\n");
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_a_shell() {
        for (raw, expected) in [(0, 0), (7 << 8, 7), (255 << 8, 255), (9, 137), (15, 143), (0x8b, 139)] {
            assert_eq!(exit_status(ExitStatus::from_raw(raw)), expected, "{raw:#x}");
        }
    }
}
