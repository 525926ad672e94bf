//! The reasons from outside for which a trace ends.

use std::future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::event::End;
use crate::sink::Stop;

/// Exit status after a second Ctrl-C: 128 + SIGINT, as shells have it.
const INTERRUPTED_TWICE: i32 = 130;

/// Waits for the first of them.
pub(super) struct Endings {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    deadline: Option<Instant>,
    /// Standard output, if it is a pipe or a socket whose reader can go.
    reader: Option<AsyncFd<OwnedFd>>,
    /// Set by any of the signals, for code that cannot wait for them.
    signalled: Arc<AtomicBool>,
}

impl Endings {
    /// Starts to listen for signals. A second Ctrl-C ends the process at once, whatever it is doing.
    pub(super) fn new() -> io::Result<Self> {
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
            signal_hook::flag::register(signal, Arc::clone(&signalled))?;
        }
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            deadline: None,
            reader: None,
            signalled,
        })
    }

    /// Ends after a time from now.
    pub(super) fn after(mut self, duration: Option<Duration>) -> Self {
        self.deadline = duration.and_then(|duration| Instant::now().checked_add(duration));
        self
    }

    /// Ends when nobody reads standard output any more, even if nothing is written to it.
    pub(super) fn watching_stdout(mut self) -> Self {
        self.reader = watch(io::stdout().as_fd()).ok();
        self
    }

    /// The same reasons for a writer that waits for its reader.
    pub(super) fn stop(&self) -> Stop {
        let deadline = self.deadline.map(Instant::into_std);
        Stop { requested: Arc::clone(&self.signalled), deadline }
    }

    /// The first reason. Cancel safe.
    pub(super) async fn first(&mut self) -> End {
        let Self { interrupt, terminate, hangup, deadline, reader, signalled: _ } = self;
        tokio::select! {
            _ = interrupt.recv() => End::Interrupted,
            _ = terminate.recv() => End::Interrupted,
            _ = hangup.recv() => End::Interrupted,
            () = passed(*deadline) => End::Duration,
            () = gone(reader.as_ref()) => End::OutputClosed,
        }
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
