//! The reasons from outside for which a trace ends.

use std::future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::launch::{self, Launch, LaunchError};
use crate::event::End;
use crate::sink::Stop;

/// Exit status after a second Ctrl-C: 128 + SIGINT, as shells have it.
const INTERRUPTED_TWICE: i32 = 130;

/// Waits for the first of them.
pub(super) struct Endings {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
    deadline: Option<Instant>,
    /// Standard output, if it is a pipe or a socket whose reader can go.
    reader: Option<AsyncFd<OwnedFd>>,
    /// A command that ctrace has started: its end is ours, and Ctrl-C is its.
    pub(super) command: Option<Launch>,
    /// Set by any of the signals, for code that cannot wait for them.
    signalled: Arc<AtomicBool>,
}

impl Endings {
    /// Starts to listen for signals. A second Ctrl-C ends the process at once, whatever it is doing.
    pub(super) fn new(command: Option<Launch>) -> io::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        // In this order: the first signal finds the flag unset and sets it, the second finds it set.
        signal_hook::flag::register_conditional_shutdown(
            signal_hook::consts::SIGINT,
            INTERRUPTED_TWICE,
            Arc::clone(&interrupted),
        )?;
        signal_hook::flag::register(signal_hook::consts::SIGINT, interrupted)?;
        let signalled = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
        {
            // Ctrl-C is the command's, which may go on.
            if signal != signal_hook::consts::SIGINT || command.is_none() {
                signal_hook::flag::register(signal, Arc::clone(&signalled))?;
            }
        }
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            deadline: None,
            reader: None,
            command,
            signalled,
        })
    }

    /// Ends after a time from now.
    pub(super) fn after(&mut self, duration: Option<Duration>) {
        self.deadline = duration.and_then(|duration| Instant::now().checked_add(duration));
    }

    /// Ends when nobody reads standard output any more, even if nothing is written to it.
    pub(super) fn watch_stdout(&mut self) {
        self.reader = watch(io::stdout().as_fd()).ok();
    }

    /// The same for standard error.
    pub(super) fn watch_stderr(&mut self) {
        self.reader = watch(io::stderr().as_fd()).ok();
    }

    /// The same reasons for a writer that waits for its reader.
    pub(super) fn stop(&self) -> Stop {
        let deadline = self.deadline.map(Instant::into_std);
        Stop { requested: Arc::clone(&self.signalled), deadline }
    }

    /// The first reason. Cancel safe.
    pub(super) async fn first(&mut self) -> End {
        let Self { interrupt, terminate, hangup, deadline, reader, command, signalled: _ } = self;
        let has_command = command.is_some();
        let signal = tokio::select! {
            // The terminal sends it to the command too, which decides what it means.
            _ = interrupt.recv(), if !has_command => return End::Interrupted,
            _ = terminate.recv() => Signal::TERM,
            _ = hangup.recv() => Signal::HUP,
            () = passed(*deadline) => return End::Duration,
            () = gone(reader.as_ref()) => return End::OutputClosed,
            () = ended(command.as_mut()) => return End::TargetEnded,
        };
        if let Some(command) = command {
            command.signal(signal);
        }
        End::Interrupted
    }

    /// Waits for the end of the command, if there is one, and has its exit status. A command that has not been
    /// let go does not begin; what it says then is not its own, unless it has ended before.
    pub(super) async fn command_status(&mut self) -> Result<Option<CommandEnd>, LaunchError> {
        let Some(mut command) = self.command.take() else { return Ok(None) };
        if let Some(status) = command.ended_early() {
            return Ok(Some(CommandEnd::Failed(launch::exit_status(status))));
        }
        command.abandon();
        loop {
            let signal = tokio::select! {
                status = command.ended() => {
                    return Ok(Some(CommandEnd::Ended(launch::exit_status(status?))));
                }
                _ = self.terminate.recv() => Signal::TERM,
                _ = self.hangup.recv() => Signal::HUP,
            };
            command.signal(signal);
        }
    }
}

/// How a command came to its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommandEnd {
    /// It could not begin, and has said why.
    Failed(u8),
    /// It was let go, or was not to begin.
    Ended(u8),
}

async fn ended(command: Option<&mut Launch>) {
    match command {
        // That it cannot be waited for is said when it is waited for at the end.
        Some(command) => drop(command.ended().await),
        None => future::pending().await,
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => future::pending().await,
    }
}

/// The write end of a pipe without readers is in error (poll(2), POLLERR).
async fn gone(reader: Option<&AsyncFd<OwnedFd>>) {
    match reader {
        Some(reader) if reader.ready(Interest::ERROR).await.is_ok() => {}
        _ => future::pending().await,
    }
}

/// A regular file cannot be watched, and its reader cannot go: epoll says EPERM.
fn watch(stdout: std::os::fd::BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let duplicate = stdout.try_clone_to_owned()?;
    #[expect(unsafe_code, reason = "tokio cannot see that an OwnedFd keeps its file descriptor")]
    // SAFETY: an OwnedFd has one file descriptor for all of its life.
    let watched = unsafe { AsyncFd::register_with_interest(duplicate, Interest::ERROR) };
    Ok(watched?)
}
