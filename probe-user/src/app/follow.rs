//! Processes that execute another program while they are traced: what they map is looked into as well.
//!
//! A library that others map already needs nothing: its probes fire for every process in scope.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::report;
use crate::cli::Verbosity;
use crate::discover::Discovery;
use crate::plan::ObjectHooks;

/// When a process is looked into after it has executed a program: when the dynamic linker has mapped what
/// the program is linked against, and when an interpreter has loaded its first modules.
const LOOKS: [Duration; 4] =
    [Duration::from_millis(5), Duration::from_millis(50), Duration::from_millis(300), Duration::from_secs(2)];

/// Processes and objects that wait for their turn. What does not fit is not looked into.
const QUEUE: usize = 1024;

/// Why a process is to be looked into.
enum Request {
    /// It executes another program.
    Executed(u32),
    /// It has mapped code, and waits.
    Held(u32),
}

/// What comes of it.
pub(super) enum Found {
    /// An object that is not attached to yet.
    Object(ObjectHooks),
    /// All objects of a process that waits were told of.
    All(u32),
}

/// Looks into processes beside the stream, so that a file system that does not answer holds up nothing.
pub(super) struct Follower {
    requests: mpsc::Sender<Request>,
    found: mpsc::Receiver<Found>,
    verbosity: Verbosity,
}

impl Follower {
    /// Starts with what is known already, and looks once more into some processes.
    pub(super) fn start(
        discovery: Discovery,
        verbosity: Verbosity,
        again: impl IntoIterator<Item = u32>,
    ) -> Self {
        let now = Instant::now();
        let due = (0..).zip(again).map(|(counter, pid)| ((now, counter), pid)).collect();
        let (requests, asked) = mpsc::channel(QUEUE);
        let (results, found) = mpsc::channel(QUEUE);
        tokio::spawn(look(discovery, due, asked, results));
        Self { requests, found, verbosity }
    }

    /// A process executes another program.
    pub(super) fn executed(&self, pid: u32) {
        if self.requests.try_send(Request::Executed(pid)).is_err() {
            tracing::warn!("too many programs are started at once: process {pid} is not looked into");
        }
    }

    /// A process has mapped code and waits for [`Found::All`]. False if it waits in vain.
    pub(super) fn held(&self, pid: u32) -> bool {
        self.requests.try_send(Request::Held(pid)).is_ok()
    }

    /// What was found next. Cancel safe.
    pub(super) async fn next(&mut self) -> Found {
        match self.found.recv().await {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }

    /// Says that an object has been attached to.
    pub(super) fn attached(&self, object: &ObjectHooks) {
        report::attached_later(object, self.verbosity);
    }
}

/// `due` is by time; the counter keeps apart what is due at the same instant.
async fn look(
    mut discovery: Discovery,
    mut due: BTreeMap<(Instant, u64), u32>,
    mut requests: mpsc::Receiver<Request>,
    results: mpsc::Sender<Found>,
) {
    let mut counter = due.len() as u64;
    loop {
        let first = due.first_key_value().map(|(key, _)| *key);
        tokio::select! {
            biased;
            request = requests.recv() => match request {
                Some(Request::Executed(pid)) => for delay in LOOKS {
                    counter += 1;
                    due.insert((Instant::now() + delay, counter), pid);
                },
                Some(Request::Held(pid)) => {
                    if tell(&mut discovery, pid, &results).await.is_err() || results.send(Found::All(pid)).await.is_err() {
                        return;
                    }
                }
                None => return,
            },
            () = at(first.map(|(instant, _)| instant)) => {
                let Some((_, pid)) = due.pop_first() else { continue };
                if tell(&mut discovery, pid, &results).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Looks into a process. An error when nobody wants to know.
async fn tell(
    discovery: &mut Discovery,
    pid: u32,
    results: &mpsc::Sender<Found>,
) -> Result<(), mpsc::error::SendError<Found>> {
    for object in discovery.more(pid).await {
        results.send(Found::Object(object)).await?;
    }
    Ok(())
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
