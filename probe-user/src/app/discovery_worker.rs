//! Inspects what processes map while they are traced, beside the event loop, so that a file system that does
//! not respond blocks nothing else.
//!
//! A library that other processes map already needs no work: its probes fire for every process in scope. Owns
//! the queue of what to inspect. Attaches nothing itself.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::child::exec_hold::HeldExec;
use crate::clock;
use crate::discovery::{Discovery, ObjectUse, ProgramStart, StartedProgram, Uninspected, Versioned};
use crate::plan::{ObjectHooks, ObjectId, ProcessCode, Skipped};
use crate::proc::inherited::inheritors;
use crate::proc::maps::Mapping;
use crate::proc::process::Proc;
use crate::proc::process_snapshot;
use crate::timeout::with_timeout;

/// The most requests that are queued. If there are more, everything is inspected once more later.
const QUEUE: usize = 4096;

/// How long the end of a trace waits for what is not inspected yet.
const SETTLING: Duration = Duration::from_millis(300);

/// How often a process is checked whose end was reported but which still has threads: the main thread may end
/// before the others.
const RELEASE_INTERVAL: Duration = Duration::from_secs(1);

/// An event of a process of the target, or of an attached object.
#[derive(Debug)]
pub(super) enum DiscoveryRequest {
    /// The process has entered the scope, or executes another program. The time is given for the latter.
    Process(u32, Option<Since>),
    /// The process has mapped a file as executable.
    Mapped(u32, Mapping, Since),
    /// The process has new code in memory without a file, which may be a copy of hooked code.
    CodeChanged(u32),
    /// The main thread of the process has ended.
    Ended(u32),
    /// Anything may have been missed: these are all processes in scope.
    All(Vec<u32>),
    /// An object could not be attached to.
    Failed(ObjectId),
    /// The file of an object was written to.
    Written(ObjectId),
    /// The trace has ended: to be answered with [`Response::Settled`].
    Settle,
    /// A probe in an object has harmed a process.
    Harmed(ObjectId),
    /// The process speaks TLS. It may be the child of another that was inspected.
    New(u32),
    /// The process speaks TLS of which no call is seen: to be answered with [`Response::Code`].
    Code(u32),
}

/// What led to an object, with the kernel's time in nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// A mapping.
    Mapped(u64),
    /// An exec.
    Executed(u64),
    /// The start of the process, which was found later.
    Started(u64),
}

impl Since {
    /// The time.
    pub(super) fn time(self) -> u64 {
        let (Self::Mapped(then) | Self::Executed(then) | Self::Started(then)) = self;
        then
    }

    /// The time that has passed since.
    pub(super) fn elapsed(self) -> Duration {
        Duration::from_nanos(clock::boot_time().saturating_sub(self.time()))
    }
}

/// What the event loop has to do.
#[derive(Debug)]
pub(super) enum Response {
    /// Attach to an object that a process maps, or may map later. Includes what led to it, unless it was
    /// held, ran before, or is not mapped yet.
    Attach(u32, ObjectHooks, Option<Since>),
    /// A process has mapped an object, and [`Response::Attach`] was sent for it before.
    Uses(ObjectUse),
    /// A process has ended before anybody could inspect what it had mapped.
    Uninspected(Uninspected),
    /// Report that something of a process cannot be seen.
    BlindSpot(u32, Skipped),
    /// From now on, report a library with its version.
    Version(Versioned),
    /// Let a held program go on: all of its objects were sent.
    Program {
        /// The process that executes it.
        pid: u32,
        /// The path of the executable, if the file is a program.
        executable: Option<PathBuf>,
        /// The program goes on when this is dropped.
        held: HeldExec,
    },
    /// No process seems to map some object any more. Forks are not reported, so send
    /// [`DiscoveryRequest::All`] to be sure.
    RecheckAll,
    /// A process has ended before what it had mapped was inspected. Processes that it forked may still map
    /// it.
    LeftBehind,
    /// Detach from objects that nobody uses any more.
    Detach(Vec<ObjectId>),
    /// Detach from objects because too many are attached to that no process maps.
    Evict(Vec<ObjectId>),
    /// What was requested before [`DiscoveryRequest::Settle`] is done, as far as it matters after the end.
    Settled {
        /// The patterns that have matched nothing.
        unmatched: Vec<String>,
    },
    /// What is known of the code of a process.
    Code(u32, ProcessCode),
    /// Detach at once from objects whose code a process is about to copy.
    Withdraw(Vec<ObjectId>),
}

/// The event loop's end of the queue.
pub(super) struct DiscoveryHandle {
    requests: mpsc::Sender<DiscoveryRequest>,
    found: mpsc::Receiver<Response>,
    overflown: bool,
    /// Whether the trace has ended.
    ended: Arc<AtomicBool>,
}

impl DiscoveryHandle {
    /// Starts the worker with what discovery has cached so far. Programs that are held are inspected before
    /// everything else.
    pub(super) fn start(discovery: Discovery, programs: Option<mpsc::Receiver<HeldExec>>) -> Self {
        let (requests, received) = mpsc::channel(QUEUE);
        let (results, found) = mpsc::channel(QUEUE);
        let ended = Arc::<AtomicBool>::default();
        let worker = DiscoveryWorker {
            began: clock::boot_time(),
            ended: Arc::clone(&ended),
            discovery,
            leaving: BTreeSet::new(),
            recheck_at: None,
            rechecks_all: false,
            results,
        };
        tokio::spawn(worker.run(received, programs));
        Self { requests, found, overflown: false, ended }
    }

    /// Sends a request. If the queue is full, the request is returned.
    pub(super) fn send(&mut self, request: DiscoveryRequest) -> Result<(), DiscoveryRequest> {
        self.requests.try_send(request).map_err(|error| {
            self.overflown = true;
            error.into_inner()
        })
    }

    /// Whether requests were dropped and there is room again, so that it is time to send
    /// [`DiscoveryRequest::All`].
    pub(super) fn take_overflow(&mut self) -> bool {
        self.overflown && self.requests.capacity() > QUEUE / 2 && std::mem::take(&mut self.overflown)
    }

    /// Requests a full inspection because an event was missed elsewhere.
    pub(super) fn request_rescan(&mut self) {
        self.overflown = true;
    }

    /// Waits a little until what was mapped by the end of the trace is inspected.
    pub(super) async fn settle(&mut self) -> Settlement {
        self.ended.store(true, Ordering::Relaxed);
        let mut responses = Vec::new();
        if self.send(DiscoveryRequest::Settle).is_err() {
            return Settlement::Partial(responses);
        }
        let deadline = Instant::now() + SETTLING;
        loop {
            match timeout_at(deadline, self.next()).await {
                Ok(Response::Settled { unmatched }) => return Settlement::Whole { responses, unmatched },
                Ok(response) => responses.push(response),
                Err(_) => return Settlement::Partial(responses),
            }
        }
    }

    /// The next response. Cancel safe.
    pub(super) async fn next(&mut self) -> Response {
        match self.found.recv().await {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }
}

/// What was found after the end of the trace.
#[derive(Debug)]
pub(super) enum Settlement {
    /// Everything that was mapped by then.
    Whole {
        /// What was found.
        responses: Vec<Response>,
        /// The patterns that have matched nothing.
        unmatched: Vec<String>,
    },
    /// There is at least one file more.
    Partial(Vec<Response>),
}

/// The worker's end of the queue.
struct DiscoveryWorker {
    /// When the trace began, in nanoseconds of `CLOCK_BOOTTIME`.
    began: u64,
    /// Whether the trace has ended. Then only what was never inspected matters.
    ended: Arc<AtomicBool>,
    discovery: Discovery,
    /// Processes whose main thread has ended while other threads still run.
    leaving: BTreeSet<u32>,
    recheck_at: Option<Instant>,
    /// Whether all processes are being inspected again before objects are released.
    rechecks_all: bool,
    results: mpsc::Sender<Response>,
}

impl DiscoveryWorker {
    /// Runs until the event loop has ended.
    async fn run(
        mut self,
        mut received: mpsc::Receiver<DiscoveryRequest>,
        mut programs: Option<mpsc::Receiver<HeldExec>>,
    ) {
        loop {
            let due = self.discovery.due().filter(|_| !self.rechecks_all).map(Instant::from_std);
            // What processes map is more urgent, and is inspected meanwhile.
            let has_early = !self.ended.load(Ordering::Relaxed) && self.discovery.start_early();
            let going = tokio::select! {
                biased;
                held = next_program(&mut programs) => self.program(held).await,
                request = received.recv() => match request {
                    Some(request) => self.take(request).await,
                    None => return,
                },
                () = at(self.recheck_at) => {
                    self.recheck_leaving();
                    Ok(())
                }
                () = at(due) => {
                    self.rechecks_all = true;
                    self.send(Response::RecheckAll).await
                }
                found = self.discovery.early(), if has_early => self.early(found).await,
            };
            if going.is_err() || self.evict().await.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, request: DiscoveryRequest) -> Result<(), Disconnected> {
        let has_ended = self.ended.load(Ordering::Relaxed);
        match request {
            DiscoveryRequest::Process(..) | DiscoveryRequest::All(_) if has_ended => Ok(()),
            DiscoveryRequest::Process(pid, since) => self.process(pid, since).await,
            DiscoveryRequest::Mapped(pid, mapping, since) => {
                if has_ended && self.discovery.uses_inspected(pid, &mapping, since.time()).await {
                    self.uses().await?;
                    return self.blind_spots(pid).await;
                }
                self.mapped(pid, &mapping, since).await
            }
            DiscoveryRequest::CodeChanged(pid) => {
                let found = self.discovery.code_changed(pid).await;
                self.withdraw().await?;
                for object in found {
                    self.attach(pid, object, None).await?;
                }
                self.blind_spots(pid).await
            }
            DiscoveryRequest::Ended(pid) => {
                self.ended(pid);
                Ok(())
            }
            DiscoveryRequest::All(pids) => {
                let proc = Proc::default();
                self.discovery.forget_dead(|pid| proc.process(pid).is_some());
                for pid in pids {
                    self.process(pid, None).await?;
                }
                if std::mem::take(&mut self.rechecks_all) { self.release_unused().await } else { Ok(()) }
            }
            DiscoveryRequest::Failed(id) | DiscoveryRequest::Written(id) => {
                self.discovery.failed(id);
                Ok(())
            }
            DiscoveryRequest::Settle => self.settle().await,
            DiscoveryRequest::New(pid) => match self.discovery.code_of(pid) {
                ProcessCode::Unknown if Proc::default().process(pid).is_some() => {
                    self.process(pid, None).await
                }
                _ => Ok(()),
            },
            DiscoveryRequest::Code(pid) => {
                let is_probed = self.discovery.code_of(pid) == ProcessCode::Probed;
                if !is_probed && Proc::default().process(pid).is_some() {
                    self.process(pid, None).await?;
                }
                let code = self.discovery.code_of(pid);
                self.results.send(Response::Code(pid, code)).await.map_err(|_| Disconnected)
            }
            DiscoveryRequest::Harmed(id) => {
                self.discovery.harmed(id);
                Ok(())
            }
        }
    }

    async fn mapped(&mut self, pid: u32, mapping: &Mapping, since: Since) -> Result<(), Disconnected> {
        let found = self.discovery.mapped(pid, mapping, since.time()).await;
        self.withdraw().await?;
        for object in found {
            self.attach_late(pid, object, since).await?;
        }
        self.uses().await?;
        self.blind_spots(pid).await?;
        if self.discovery.take_left_behind() {
            self.send(Response::LeftBehind).await?;
        }
        self.versions(pid).await
    }

    /// Reports which processes have mapped what was hooked before.
    async fn uses(&mut self) -> Result<(), Disconnected> {
        for one in self.discovery.take_uses() {
            self.send(Response::Uses(one)).await?;
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), Disconnected> {
        for one in self.discovery.take_uninspected() {
            self.send(Response::Uninspected(one)).await?;
        }
        self.send(Response::Settled { unmatched: self.discovery.unmatched() }).await
    }

    async fn send(&self, response: Response) -> Result<(), Disconnected> {
        self.results.send(response).await.map_err(|_| Disconnected)
    }

    /// Inspects a process. If the kernel did not report when it has mapped its files, its start counts, if
    /// that was during the trace.
    async fn process(&mut self, pid: u32, since: Option<Since>) -> Result<(), Disconnected> {
        let found = self.discovery.process(pid).await;
        self.withdraw().await?;
        let started = || process_snapshot::started(pid).filter(|time| *time >= self.began);
        let since = match found.as_slice() {
            [] => None,
            [..] => since.or_else(|| started().map(Since::Started)),
        };
        for object in found {
            match since {
                Some(since) => self.attach_late(pid, object, since).await?,
                None => self.attach(pid, object, None).await?,
            }
        }
        self.uses().await?;
        self.blind_spots(pid).await?;
        self.versions(pid).await
    }

    async fn early(&mut self, found: Vec<ObjectHooks>) -> Result<(), Disconnected> {
        for object in found {
            let Some(pid) = object.available_to.first().copied() else { continue };
            self.attach(pid, object, None).await?;
            self.versions(pid).await?;
        }
        Ok(())
    }

    async fn program(&mut self, mut held: HeldExec) -> Result<(), Disconnected> {
        let tid = held.tid;
        let pid = Proc::default().thread_group(tid).unwrap_or(tid);
        let started = match held.take_file() {
            Some(file) => self.discovery.program(ProgramStart::Execve { pid, tid, file }).await,
            None => None,
        };
        let StartedProgram { objects, executable, blind_spots, .. } = started.unwrap_or_default();
        self.withdraw().await?;
        for object in objects {
            self.attach(pid, object, None).await?;
        }
        for skipped in blind_spots {
            let pid = skipped.pid.unwrap_or(pid);
            self.send(Response::BlindSpot(pid, skipped)).await?;
        }
        self.send(Response::Program { pid, executable, held }).await?;
        self.uses().await?;
        self.blind_spots(pid).await?;
        self.versions(pid).await
    }

    async fn blind_spots(&mut self, pid: u32) -> Result<(), Disconnected> {
        for skipped in self.discovery.take_blind_spots() {
            let pid = skipped.pid.unwrap_or(pid);
            self.send(Response::BlindSpot(pid, skipped)).await?;
        }
        Ok(())
    }

    /// Has the event loop detach from what a process is about to copy.
    async fn withdraw(&mut self) -> Result<(), Disconnected> {
        let ids = self.discovery.take_withdrawn();
        if ids.is_empty() {
            return Ok(());
        }
        self.send(Response::Withdraw(ids)).await
    }

    async fn attach(&self, pid: u32, object: ObjectHooks, since: Option<Since>) -> Result<(), Disconnected> {
        self.send(Response::Attach(pid, object, since)).await
    }

    /// Has an object attached to that a process has mapped since then, and counts the processes that have
    /// inherited it.
    async fn attach_late(&self, pid: u32, object: ObjectHooks, since: Since) -> Result<(), Disconnected> {
        let (id, inode) = (object.id, object.file.inode());
        // Before it is attached to, because processes that are forked later inherit the probes as well.
        let heirs = with_timeout(move || inheritors(pid, inode)).await.unwrap_or_default();
        self.attach(pid, object, Some(since)).await?;
        for (heir, started) in heirs {
            let since = started.max(since.time());
            self.send(Response::Uses(ObjectUse { pid: heir, object: id, since })).await?;
        }
        Ok(())
    }

    async fn versions(&mut self, pid: u32) -> Result<(), Disconnected> {
        for library in self.discovery.versions(pid).await {
            self.send(Response::Version(library)).await?;
        }
        Ok(())
    }

    async fn release_unused(&mut self) -> Result<(), Disconnected> {
        let ids = self.discovery.take_unused();
        if ids.is_empty() {
            return Ok(());
        }
        self.send(Response::Detach(ids)).await
    }

    async fn evict(&mut self) -> Result<(), Disconnected> {
        let ids = self.discovery.take_excess();
        if ids.is_empty() {
            return Ok(());
        }
        self.send(Response::Evict(ids)).await
    }

    fn ended(&mut self, pid: u32) {
        if Proc::default().threads(pid).iter().any(|thread| *thread != pid) {
            self.leaving.insert(pid);
            self.recheck_at.get_or_insert_with(|| Instant::now() + RELEASE_INTERVAL);
        } else {
            self.leaving.remove(&pid);
            self.discovery.ended(pid);
        }
    }

    fn recheck_leaving(&mut self) {
        self.recheck_at = None;
        for pid in self.leaving.clone() {
            self.ended(pid);
        }
    }
}

/// The event loop has ended.
struct Disconnected;

/// The next program that is held. Cancel safe.
async fn next_program(programs: &mut Option<mpsc::Receiver<HeldExec>>) -> HeldExec {
    if let Some(held) = programs.as_mut()
        && let Some(held) = held.recv().await
    {
        return held;
    }
    // Nothing is held, or no longer.
    std::future::pending().await
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
