//! The command of `ctrace … -- CMD`: started but held back, released when everything is attached, and waited
//! for.
//!
//! Owns the command's process from start to exit status. The code that runs in it before the command is in
//! [`crate::app::child`]. Never touches the command's standard streams.

use std::ffi::{OsStr, OsString};
use std::io::{self, PipeReader, PipeWriter, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use thiserror::Error;
use tokio::signal::unix::{self, SignalKind};

use super::exec_hold::{Answering, ExecHold, HoldError};
use super::launcher::LAUNCHER_NAME;

/// This program, even if its file was renamed or replaced.
const OURSELVES: &str = "/proc/self/exe";

/// Where execvp(3) searches without `PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

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
    /// The process waits, and cannot be made to execute the command.
    #[error("the process {pid} cannot be made to execute the command")]
    Release {
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

/// Whether the command's programs may be held at their start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::app) enum HoldPolicy {
    /// They may.
    Allowed,
    /// They never are.
    Never,
}

/// A command that was started.
pub(in crate::app) struct CommandProcess {
    child: Child,
    /// Present until the command is released.
    gate: Option<StartBarrier>,
    /// The mount namespace in which its programs can be held, or why there is none.
    namespace: Result<CommandNamespace, Errno>,
    changes: Option<unix::Signal>,
}

impl CommandProcess {
    /// Starts a process that will become the command, in a mount namespace of its own if its programs may be
    /// held. To be called before signals are handled, and before anything in this process changes that the
    /// command should not inherit.
    pub(in crate::app) fn start(command: &[OsString], policy: HoldPolicy) -> Result<Self, CommandError> {
        let first = command.first().map_or_else(String::new, |word| word.to_string_lossy().into_owned());
        let failed = |source| CommandError::Start { command: first, source };
        let words = command.to_vec();
        let start = move || -> io::Result<(Child, StartBarrier)> {
            let gate = StartBarrier::new()?;
            let child = Command::new(OURSELVES).arg0(LAUNCHER_NAME).arg(gate.name()).args(words).spawn()?;
            Ok((child, gate))
        };
        let ((child, gate), namespace) = match policy {
            HoldPolicy::Allowed => CommandNamespace::start(start).map_err(failed)?,
            HoldPolicy::Never => (start().map_err(failed)?, Err(Errno::UnknownErrno)),
        };
        Ok(Self { child, gate: Some(gate), namespace, changes: None })
    }

    /// The id of the process, which it keeps as the command.
    pub(in crate::app) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Holds every program that the command executes from now on, each for at most `limit`.
    pub(in crate::app) fn hold(&self, limit: Duration) -> Result<ExecHold, HoldError> {
        let namespace = match &self.namespace {
            Ok(namespace) => namespace,
            Err(error) => return Err(HoldError::Namespace(io::Error::from(*error))),
        };
        namespace.hold(limit)
    }

    /// Lets the command begin.
    pub(in crate::app) fn release(&mut self) -> Result<(), CommandError> {
        let Some(mut gate) = self.gate.take() else { return Ok(()) };
        match gate.writer.write_all(b"\n") {
            // The process has already ended. Its status shows why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|source| CommandError::Release { pid: self.pid(), source }),
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

/// The file that the command's first word means, as execvp(3) finds it. None if there is none.
pub(in crate::app) fn program(command: &OsStr) -> Option<PathBuf> {
    let working = std::env::current_dir().ok()?;
    if command.as_bytes().contains(&b'/') {
        return Some(working.join(command));
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    std::env::split_paths(&path).map(|directory| working.join(directory).join(command)).find(|path| {
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

/// Whether a child of this process has ended, even if it was not waited for.
pub(in crate::app) fn has_ended(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    pid.is_none_or(|pid| !matches!(waitid(WaitId::Pid(pid), options), Ok(None)))
}

/// The exit status that a shell would report for this end.
pub(in crate::app) fn exit_status(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| Some(128 + status.signal()?));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(u8::MAX)
}

/// A thread in a mount namespace of its own, which the command shares. Closing the channel ends it.
struct CommandNamespace {
    orders: Sender<Order>,
}

/// To hold programs, at most so long, and how that began.
type Order = (Duration, Sender<Result<ExecHold, HoldError>>);

impl CommandNamespace {
    /// Starts the thread, and a process in its mount namespace. If there can be none of its own, the process
    /// is in that of ctrace, and the reason is returned with it.
    fn start<T: Send + 'static>(
        start: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<(T, Result<Self, Errno>)> {
        let (orders, received) = mpsc::channel();
        let (started, result) = mpsc::channel();
        let work = move || {
            let unshared = unshare(CloneFlags::CLONE_NEWNS);
            // The other side waits for it.
            let _ = started.send((start(), unshared));
            drop(started);
            if unshared.is_ok() {
                Self::serve(&received);
            }
        };
        thread::Builder::new().name("exec-hold".to_owned()).spawn(work)?;
        let (started, unshared) = result.recv().map_err(io::Error::other)?;
        Ok((started?, unshared.map(|()| Self { orders })))
    }

    fn serve(orders: &Receiver<Order>) {
        while let Ok((limit, began)) = orders.recv() {
            match Answering::start(limit) {
                Ok((answering, hold)) => {
                    if began.send(Ok(hold)).is_ok() {
                        answering.run();
                    }
                }
                Err(error) => drop(began.send(Err(error))),
            }
        }
    }

    fn hold(&self, limit: Duration) -> Result<ExecHold, HoldError> {
        let (began, result) = mpsc::channel();
        self.orders.send((limit, began)).map_err(|_| HoldError::Thread)?;
        result.recv().map_err(|_| HoldError::Thread)?
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
