//! What this process needs before it does anything: some open files, a thread, an event loop, a place from
//! where it sees what it is to trace.
//!
//! Asked for first, because the event loop's own parts panic where they do not get them.

use std::io;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};

use crate::cli::Action;
use crate::proc::view::{self, Blind};

/// Files that are open at the same time at the least: those of the event loop, of a look at the machine (a
/// directory, a process's files, sockets of container runtimes), and some to spare. A trace needs more.
const FILES: usize = 32;

/// What is needed before anything can be done is not to be had.
#[derive(Debug, Error)]
pub enum Shortage {
    /// The limit of open files.
    #[error(
        "too few files may be open at the same time: the limit is {limit}, and some of them are open \
         already; raise it before ctrace is started (ulimit -n 65536; docker run --ulimit nofile=65536; \
         LimitNOFILE=65536 of systemd)"
    )]
    Files {
        /// How many may be open.
        limit: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The limit of processes, or memory.
    #[error(
        "no thread can be started; raise the limit of processes (ulimit -u; pids.max of the cgroup: docker \
         run --pids-limit, TasksMax= of systemd), or give it more memory"
    )]
    Thread(#[source] io::Error),
    /// Something else.
    #[error(
        "no event loop can be made; ctrace needs epoll, eventfd and signals: does a security profile forbid \
         them?"
    )]
    EventLoop(#[source] io::Error),
}

/// The event loop that everything runs in.
pub fn event_loop() -> Result<Runtime, Shortage> {
    open_some(FILES).map_err(|source| Shortage::Files { limit: limit(), source })?;
    // It ends before anything is done that threads must not see half of.
    thread::Builder::new().spawn(|| ()).map_err(Shortage::Thread)?.join().unwrap_or_default();
    // A thread that looks into files is kept: that no other can be started later is no reason to stop.
    let kept = Duration::from_hours(24);
    Builder::new_current_thread().enable_all().thread_keep_alive(kept).build().map_err(Shortage::EventLoop)
}

/// Whether what is traced can be seen from here. Who only asks what would be done is told, and answered.
pub(super) fn can_see(action: Action) -> Result<(), Blind> {
    let seen = view::rights().and_then(|()| view::processes());
    match seen {
        Err(blind) if action != Action::Run && blind != Blind::NoProc => tracing::warn!("{blind}"),
        other => other?,
    }
    Ok(())
}

/// Opens so many files, and closes them again.
fn open_some(count: usize) -> io::Result<()> {
    let pipes: io::Result<Vec<_>> = (0..count.div_ceil(2)).map(|_| io::pipe()).collect();
    pipes.map(drop)
}

fn limit() -> String {
    getrlimit(Resource::Nofile).current.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
}
