//! The command of `ctrace … -- CMD`: started stopped, let go when everything is attached, waited for.
//!
//! Owns the command's process from start to exit status. What runs in it before the command does is
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

/// This program, whatever its file is called by now.
const OURSELVES: &str = "/proc/self/exe";

/// The command cannot be started or waited for.
#[derive(Debug, Error)]
pub enum CommandError {
    /// No process for it.
    #[error("no process can be started for the command {command:?}")]
    Start {
        /// Its first word.
        command: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its process does not hear us.
    #[error("the process {pid} of the command cannot be told to begin")]
    LetGo {
        /// Its id.
        pid: u32,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its end cannot be waited for.
    #[error("the end of the command (process {pid}) cannot be waited for")]
    Wait {
        /// Its id.
        pid: u32,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What a process of ours waits for: a byte, or that we have ended.
struct StartBarrier {
    /// Open until the other side has opened it by /proc/PID/fd.
    reader: PipeReader,
    writer: PipeWriter,
}

impl StartBarrier {
    fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self { reader, writer })
    }

    /// How the other side finds it.
    fn name(&self) -> String {
        self.reader.as_raw_fd().to_string()
    }
}

/// A command that was started.
pub(in crate::app) struct CommandProcess {
    child: Child,
    /// There until the command is let go.
    gate: Option<StartBarrier>,
    warden: Option<Watchdog>,
    changes: Option<unix::Signal>,
}

impl CommandProcess {
    /// Starts a process that will be the command. To be called before signals are handled and before
    /// anything of this process changes that the command should not inherit.
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

    /// Its process, now and when it is the command.
    pub(in crate::app) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has processes continued that are stopped when this process is killed, by the table of those.
    pub(in crate::app) fn start_watchdog(&mut self, table: u32) {
        match Watchdog::start(table) {
            Ok(warden) => self.warden = Some(warden),
            Err(error) => tracing::warn!(
                "no process can be started that continues the command's processes if ctrace is killed while \
                 they are stopped: {error}"
            ),
        }
    }

    /// The command begins.
    pub(in crate::app) fn release(&mut self) -> Result<(), CommandError> {
        let Some(mut gate) = self.gate.take() else { return Ok(()) };
        match gate.writer.write_all(b"\n") {
            // It has ended already, and its status says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|source| CommandError::LetGo { pid: self.pid(), source }),
        }
    }

    /// Whether it was let go.
    pub(in crate::app) fn has_begun(&self) -> bool {
        self.gate.is_none()
    }

    /// Waits for its end. Cancel safe.
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

    /// Its exit status, if it has ended although nobody has let it go: it has said why.
    pub(in crate::app) fn ended_early(&mut self) -> Option<ExitStatus> {
        self.gate.as_ref()?;
        self.child.try_wait().ok().flatten()
    }

    /// A command that was not let go does not begin, and its process ends.
    pub(in crate::app) fn abandon(&mut self) {
        self.gate.take();
    }

    /// Passes a signal on.
    pub(in crate::app) fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            // Until it is waited for, its id is nobody else's.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for CommandProcess {
    fn drop(&mut self) {
        // Not let go: it ends when it sees our end of the pipe closed.
        if self.gate.take().is_some() {
            let _ = self.child.wait();
        }
    }
}

/// Whether a child of this process has ended, waited for or not.
pub(in crate::app) fn has_ended(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let only_look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    pid.is_none_or(|pid| !matches!(waitid(WaitId::Pid(pid), only_look), Ok(None)))
}

/// The exit status that a shell would have for a command that ended so.
pub(in crate::app) fn exit_status(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| Some(128 + status.signal()?));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(u8::MAX)
}

/// A process that outlives this one for a moment.
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
        // A byte: whoever is stopped is continued by us. The end of the pipe without it: we were killed.
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
