//! Checks what this process needs to start: some open files, a thread, an event loop, and a view of the
//! processes that it is to trace.
//!
//! This is checked first, because parts of the event loop panic if they cannot get these.

use std::io;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};

use crate::cli::Action;
use crate::proc::view::{self, Blind};

/// How many files must at least be possible to have open at the same time: those of the event loop and of the
/// search for processes (a directory, a process's files, sockets of container runtimes), and some to spare. A
/// trace needs more.
const FILES: usize = 32;

/// Something that is needed to start is not available.
#[derive(Debug, Error)]
pub enum Shortage {
    /// The limit of open files is too low.
    #[error(
        "too many open files: the limit is {limit}; raise it before starting ctrace (ulimit -n 65536; docker \
         run --ulimit nofile=65536; LimitNOFILE=65536 of systemd)"
    )]
    Files {
        /// The limit.
        limit: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// No thread can be started, because of the limit of processes or of memory.
    #[error(
        "could not start a thread; raise the limit of processes (ulimit -u; pids.max of the cgroup: docker \
         run --pids-limit, TasksMax= of systemd), or give ctrace more memory"
    )]
    Thread(#[source] io::Error),
    /// No event loop can be created.
    #[error(
        "could not create the event loop; ctrace needs epoll, eventfd and signals: check whether a security \
         profile forbids them"
    )]
    EventLoop(#[source] io::Error),
}

/// Creates the event loop that everything runs in.
pub fn event_loop() -> Result<Runtime, Shortage> {
    open_some(FILES).map_err(|source| Shortage::Files { limit: limit(), source })?;
    // The thread has ended before anything is done that a second thread must not see half done.
    thread::Builder::new().spawn(|| ()).map_err(Shortage::Thread)?.join().unwrap_or_default();
    // The threads that inspect files are kept, so that it does not matter if no other thread can be started
    // later.
    let kept = Duration::from_hours(24);
    Builder::new_current_thread().enable_all().thread_keep_alive(kept).build().map_err(Shortage::EventLoop)
}

/// Checks whether the processes to trace are visible from here. If the user only asks what would be done,
/// this is merely a warning.
pub(super) fn check_visibility(action: Action) -> Result<(), Blind> {
    let seen = view::rights().and_then(|()| view::processes());
    match seen {
        Err(blind) if action != Action::Run && blind != Blind::NoProc => tracing::warn!("{blind}"),
        other => other?,
    }
    Ok(())
}

/// Opens `count` files and closes them again.
fn open_some(count: usize) -> io::Result<()> {
    let pipes: io::Result<Vec<_>> = (0..count.div_ceil(2)).map(|_| io::pipe()).collect();
    pipes.map(drop)
}

fn limit() -> String {
    getrlimit(Resource::Nofile).current.map_or_else(|| "fs.file-max".to_owned(), |limit| limit.to_string())
}
