//! What processes map while they are traced is looked into as well, beside the stream: a file system that
//! does not answer holds up nothing.
//!
//! A library that others map already needs nothing: its probes fire for every process in scope. Owns the
//! queue of what is to be looked at. It attaches nothing itself.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::clock;
use crate::discovery::{Discovery, Versioned};
use crate::plan::{ObjectHooks, ObjectId, Skipped};
use crate::proc::maps::Mapping;
use crate::proc::process::Proc;

/// What waits for its turn at the most. When there is more, everything is looked at once more in the end.
const QUEUE: usize = 4096;

/// How often a process is looked for that has told of its end and still has threads: the first thread of a
/// process may end before the others.
const RELEASE_INTERVAL: Duration = Duration::from_secs(1);

/// Something has happened to a process of the target, or to what is attached.
#[derive(Debug)]
pub(super) enum Request {
    /// It has come into scope, or executes another program: then since when.
    Process(u32, Option<Since>),
    /// It has mapped a file executable and waits for [`Response::All`].
    Held(u32),
    /// It has mapped a file executable.
    Mapped(u32, Mapping, Since),
    /// Its first thread has ended.
    Ended(u32),
    /// Everything else may have happened: these are all there are.
    All(Vec<u32>),
    /// An object could not be attached to.
    Failed(ObjectId),
}

/// What led to an object, and when the kernel told of it, in nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// A mapping.
    Mapped(u64),
    /// The execution of a program.
    Executed(u64),
}

impl Since {
    /// How long ago that was.
    pub(super) fn elapsed(self) -> Duration {
        let (Self::Mapped(then) | Self::Executed(then)) = self;
        Duration::from_nanos(clock::boot_time().saturating_sub(then))
    }
}

/// What there is to do.
#[derive(Debug)]
pub(super) enum Response {
    /// Attach to an object that a process maps; what told of it, if the kernel did.
    Attach(u32, ObjectHooks, Option<Since>),
    /// A process has TLS that cannot be traced.
    Untraceable(u32, Skipped),
    /// Name a library with its version from now on.
    Version(Versioned),
    /// All objects of a process that waits were told of.
    All(u32),
    /// Nobody is known to map an object any more. Forks are not told: send [`Request::All`] to be sure.
    Doubt,
    /// A process has ended before what it had mapped was looked into: what it forked may map it still.
    Missed,
    /// Detach from objects that nobody maps any more.
    Detach(Vec<ObjectId>),
}

/// The end of the queue that the stream holds.
pub(super) struct DiscoveryHandle {
    news: mpsc::Sender<Request>,
    found: mpsc::Receiver<Response>,
    overflown: bool,
}

impl DiscoveryHandle {
    /// Goes on from what is known already.
    pub(super) fn start(discovery: Discovery) -> Self {
        let (news, received) = mpsc::channel(QUEUE);
        let (results, found) = mpsc::channel(QUEUE);
        let looker =
            DiscoveryWorker { discovery, leaving: BTreeSet::new(), look_again: None, doubts: false, results };
        tokio::spawn(looker.run(received));
        Self { news, found, overflown: false }
    }

    /// Tells. What finds no room is given back.
    pub(super) fn send(&mut self, news: Request) -> Result<(), Request> {
        self.news.try_send(news).map_err(|error| {
            self.overflown = true;
            error.into_inner()
        })
    }

    /// Whether news were dropped and there is room again: time to tell of [`Request::All`].
    pub(super) fn take_overflow(&mut self) -> bool {
        self.overflown && self.news.capacity() > QUEUE / 2 && std::mem::take(&mut self.overflown)
    }

    /// Something was missed elsewhere.
    pub(super) fn request_rescan(&mut self) {
        self.overflown = true;
    }

    /// What there is to do next. Cancel safe.
    pub(super) async fn next(&mut self) -> Response {
        match self.found.recv().await {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }
}

/// The other end.
struct DiscoveryWorker {
    discovery: Discovery,
    /// Processes whose first thread has ended, and others have not.
    leaving: BTreeSet<u32>,
    look_again: Option<Instant>,
    /// Whether everything is being looked at before objects are let go.
    doubts: bool,
    results: mpsc::Sender<Response>,
}

impl DiscoveryWorker {
    /// Until the stream has gone.
    async fn run(mut self, mut received: mpsc::Receiver<Request>) {
        loop {
            let due = self.discovery.due().filter(|_| !self.doubts).map(Instant::from_std);
            let going = tokio::select! {
                news = received.recv() => match news {
                    Some(news) => self.take(news).await,
                    None => return,
                },
                () = at(self.look_again) => {
                    self.look_again();
                    Ok(())
                }
                () = at(due) => {
                    self.doubts = true;
                    self.results.send(Response::Doubt).await.map_err(|_| Disconnected)
                }
            };
            if going.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, news: Request) -> Result<(), Disconnected> {
        match news {
            Request::Process(pid, since) => self.process(pid, since).await,
            Request::Held(pid) => {
                self.process(pid, None).await?;
                self.results.send(Response::All(pid)).await.map_err(|_| Disconnected)
            }
            Request::Mapped(pid, mapping, since) => {
                for object in self.discovery.mapped(pid, &mapping).await {
                    self.attach(pid, object, Some(since)).await?;
                }
                self.untraceable(pid).await?;
                if self.discovery.take_missed() {
                    self.results.send(Response::Missed).await.map_err(|_| Disconnected)?;
                }
                self.versions(pid).await
            }
            Request::Ended(pid) => {
                self.ended(pid);
                Ok(())
            }
            Request::All(pids) => {
                let proc = Proc::default();
                self.discovery.forget_dead(|pid| proc.process(pid).is_some());
                for pid in pids {
                    self.process(pid, None).await?;
                }
                if std::mem::take(&mut self.doubts) { self.let_go().await } else { Ok(()) }
            }
            Request::Failed(id) => {
                self.discovery.failed(id);
                Ok(())
            }
        }
    }

    async fn process(&mut self, pid: u32, since: Option<Since>) -> Result<(), Disconnected> {
        for object in self.discovery.process(pid).await {
            self.attach(pid, object, since).await?;
        }
        self.untraceable(pid).await?;
        self.versions(pid).await
    }

    async fn untraceable(&mut self, pid: u32) -> Result<(), Disconnected> {
        for skipped in self.discovery.take_untraceable() {
            self.results.send(Response::Untraceable(pid, skipped)).await.map_err(|_| Disconnected)?;
        }
        Ok(())
    }

    async fn attach(&self, pid: u32, object: ObjectHooks, since: Option<Since>) -> Result<(), Disconnected> {
        self.results.send(Response::Attach(pid, object, since)).await.map_err(|_| Disconnected)
    }

    async fn versions(&mut self, pid: u32) -> Result<(), Disconnected> {
        for library in self.discovery.versions(pid).await {
            self.results.send(Response::Version(library)).await.map_err(|_| Disconnected)?;
        }
        Ok(())
    }

    async fn let_go(&mut self) -> Result<(), Disconnected> {
        let ids = self.discovery.take_unused();
        if ids.is_empty() {
            return Ok(());
        }
        self.results.send(Response::Detach(ids)).await.map_err(|_| Disconnected)
    }

    fn ended(&mut self, pid: u32) {
        if Proc::default().threads(pid).iter().any(|thread| *thread != pid) {
            self.leaving.insert(pid);
            self.look_again.get_or_insert_with(|| Instant::now() + RELEASE_INTERVAL);
        } else {
            self.leaving.remove(&pid);
            self.discovery.ended(pid);
        }
    }

    fn look_again(&mut self) {
        self.look_again = None;
        for pid in self.leaving.clone() {
            self.ended(pid);
        }
    }
}

/// The stream has gone.
struct Disconnected;

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
