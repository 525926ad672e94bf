//! The reasons from outside for which a trace ends.

use std::future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{self, Duration};

use rustix::process::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::child::spawn::{self, CommandError, CommandProcess};
use crate::event::StopReason;
use crate::output::StopFlag;

/// The exit status after a second Ctrl-C: 128 + SIGINT, as shells use it.
const INTERRUPTED_TWICE: i32 = 130;

/// Waits for the first reason to stop.
pub(super) struct StopSignals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
    deadline: Option<Instant>,
    /// The destinations of the records, if each is a pipe or a socket whose reader can close it. Otherwise
    /// empty.
    readers: Vec<AsyncFd<OwnedFd>>,
    /// The command that ctrace has started. Its end ends the trace, and Ctrl-C is meant for it.
    pub(super) command: Option<CommandProcess>,
    /// Set by any signal that ends the trace, for code that cannot wait for signals.
    signalled: Arc<AtomicBool>,
    /// Set by Ctrl-C.
    interrupted: Arc<AtomicBool>,
}

impl StopSignals {
    /// Starts handling signals. A second Ctrl-C ends the process at once, whatever it is doing.
    pub(super) fn new(command: Option<CommandProcess>) -> io::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        // The order matters: the first signal finds the flag unset and sets it, the second finds it set.
        signal_hook::flag::register_conditional_shutdown(
            signal_hook::consts::SIGINT,
            INTERRUPTED_TWICE,
            Arc::clone(&interrupted),
        )?;
        signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted))?;
        let signalled = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
        {
            // Ctrl-C is meant for the command, which may go on.
            if signal != signal_hook::consts::SIGINT || command.is_none() {
                signal_hook::flag::register(signal, Arc::clone(&signalled))?;
            }
        }
        // When a file reaches its size limit, the write fails with an error, and the signal does not end the
        // process.
        signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            deadline: None,
            readers: Vec::new(),
            command,
            signalled,
            interrupted,
        })
    }

    /// Ends the trace after this time, counted from now.
    pub(super) fn after(&mut self, duration: Option<Duration>) {
        self.deadline = duration.and_then(|duration| Instant::now().checked_add(duration));
    }

    /// Ends the trace when all readers of the outputs have closed them, even if no record is written.
    pub(super) fn watch_readers(&mut self, outputs: &[impl AsFd]) {
        // An output that cannot be watched is never closed by a reader, so the trace goes on for it.
        let watched: io::Result<_> =
            outputs.iter().map(|output| watch(output.as_fd(), Interest::ERROR)).collect();
        self.readers = watched.unwrap_or_default();
    }

    /// The same reasons, as a flag for a writer that waits for its reader.
    pub(super) fn stop(&self) -> StopFlag {
        let deadline = self.deadline.map(Instant::into_std);
        let (signalled, interrupted) = (Arc::clone(&self.signalled), Arc::clone(&self.interrupted));
        let command = self.command.as_ref().map(CommandProcess::pid);
        StopFlag::when(move || {
            let passed = deadline.is_some_and(|deadline| time::Instant::now() >= deadline);
            // Ctrl-C is meant for the command. It is meant for us too if the command has ended.
            let left = || interrupted.load(Ordering::Relaxed) && command.is_some_and(spawn::has_ended);
            passed || signalled.load(Ordering::Relaxed) || left()
        })
    }

    /// Waits for the first reason. Cancel safe.
    pub(super) async fn recv(&mut self) -> StopReason {
        let Self { interrupt, terminate, hangup, deadline, readers, command, .. } = self;
        let is_commands = command.as_ref().is_some_and(CommandProcess::has_begun);
        let signal = tokio::select! {
            // The terminal sends Ctrl-C to the command as well. Once the command runs, it decides what to do.
            _ = interrupt.recv(), if !is_commands => return StopReason::Interrupted,
            _ = terminate.recv() => Signal::TERM,
            _ = hangup.recv() => Signal::HUP,
            () = deadline_passed(*deadline) => return StopReason::Duration,
            () = readers_closed(readers) => return StopReason::OutputClosed,
            () = ended(command.as_mut()) => return StopReason::TargetEnded,
        };
        if let Some(command) = command {
            command.signal(signal);
        }
        StopReason::Interrupted
    }

    /// Waits for the end of a command. If it was not released, it does not begin.
    pub(super) async fn end_of(&mut self, mut command: CommandProcess) -> Result<CommandEnd, CommandError> {
        if let Some(status) = command.ended_early() {
            return Ok(CommandEnd::Ended(spawn::exit_status(status)));
        }
        let end = if command.has_begun() { CommandEnd::Ended } else { CommandEnd::NotBegun };
        command.abandon();
        loop {
            let signal = tokio::select! {
                status = command.ended() => return Ok(end(spawn::exit_status(status?))),
                _ = self.terminate.recv() => Signal::TERM,
                _ = self.hangup.recv() => Signal::HUP,
            };
            command.signal(signal);
        }
    }
}

/// How a command got its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommandEnd {
    /// The command has ended, or could not begin and has reported the reason.
    Ended(u8),
    /// The command was never started.
    NotBegun(u8),
}

impl CommandEnd {
    /// The exit status of ctrace, which is that of the command. If the command's status means success, it
    /// does not hide a failure of the trace.
    pub(super) fn exit_status(self, failure: Option<u8>) -> u8 {
        match (self, failure) {
            (Self::Ended(0) | Self::NotBegun(_), Some(failure)) => failure,
            (Self::Ended(status) | Self::NotBegun(status), _) => status,
        }
    }
}

async fn ended(command: Option<&mut CommandProcess>) {
    match command {
        // If the wait fails, that is reported by the wait at the end.
        Some(command) => drop(command.ended().await),
        None => future::pending().await,
    }
}

async fn deadline_passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => future::pending().await,
    }
}

/// Once a pipe has no reader, its write end is in the error state (poll(2), POLLERR) and stays so.
async fn readers_closed(readers: &[AsyncFd<OwnedFd>]) {
    for reader in readers {
        if reader.ready(Interest::ERROR).await.is_err() {
            return future::pending().await;
        }
    }
    if readers.is_empty() {
        future::pending::<()>().await;
    }
}

/// Watches a duplicate of a descriptor. Fails with EPERM for a regular file, which epoll cannot watch and
/// which has no reader that could close it.
pub(super) fn watch(watched: BorrowedFd<'_>, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    let duplicate = watched.try_clone_to_owned()?;
    #[expect(unsafe_code, reason = "tokio cannot see that an OwnedFd keeps its file descriptor")]
    // SAFETY: an OwnedFd has one file descriptor for all of its life.
    let watched = unsafe { AsyncFd::register_with_interest(duplicate, interest) };
    Ok(watched?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_output_is_not_hidden_by_the_commands_0_and_hides_no_other_status() {
        let check = |end: CommandEnd, failure, expected| {
            assert_eq!(end.exit_status(failure), expected, "{end:?}, {failure:?}");
        };
        check(CommandEnd::Ended(0), None, 0);
        check(CommandEnd::Ended(0), Some(1), 1);
        check(CommandEnd::Ended(0), Some(4), 4);
        check(CommandEnd::Ended(7), None, 7);
        check(CommandEnd::Ended(7), Some(1), 7);
        check(CommandEnd::Ended(127), Some(1), 127);
        check(CommandEnd::NotBegun(130), None, 130);
        check(CommandEnd::NotBegun(130), Some(3), 3);
    }
}
