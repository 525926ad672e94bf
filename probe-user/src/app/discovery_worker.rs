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
use crate::discovery::{Discovery, ProgramStart, StartedProgram, Versioned};
use crate::plan::{ObjectHooks, ObjectId, Skipped};
use crate::proc::maps::Mapping;
use crate::proc::process::Proc;

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
    /// The trace has ended: to be answered with [`Response::Settled`].
    Settle,
    /// A probe in an object has harmed a process.
    Harmed(ObjectId),
}

/// What led to an object, with the kernel's time in nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// A mapping.
    Mapped(u64),
    /// An exec.
    Executed(u64),
}

impl Since {
    /// The time that has passed since.
    pub(super) fn elapsed(self) -> Duration {
        let (Self::Mapped(then) | Self::Executed(then)) = self;
        Duration::from_nanos(clock::boot_time().saturating_sub(then))
    }
}

/// What the event loop has to do.
#[derive(Debug)]
pub(super) enum Response {
    /// Attach to an object that a process maps. Includes what led to it, if the kernel reported that.
    Attach(u32, ObjectHooks, Option<Since>),
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
        /// How many objects were sent, or 1 if the program could not be inspected.
        objects: u64,
        /// The program goes on when this is dropped.
        held: HeldExec,
    },
    /// No process seems to map some object any more. Forks are not reported, so send
    /// [`DiscoveryRequest::All`] to be sure.
    RecheckAll,
    /// A process has ended before what it had mapped was inspected. Processes that it forked may still map
    /// it. So many processes and files are to be counted.
    Missed(u64),
    /// Detach from objects that no process maps any more.
    Detach(Vec<ObjectId>),
    /// What was requested before [`DiscoveryRequest::Settle`] is done, as far as it matters after the end.
    Settled,
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

    /// Waits a little until what was mapped by the end of the trace is inspected. Returns how many programs
    /// and libraries should have been attached to.
    pub(super) async fn settle(&mut self) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        if self.send(DiscoveryRequest::Settle).is_err() {
            return 1;
        }
        let deadline = Instant::now() + SETTLING;
        let mut late = 0;
        loop {
            match timeout_at(deadline, self.next()).await {
                Ok(Response::Attach(_, _, since)) => late += u64::from(since.is_some()),
                Ok(Response::Program { objects, held, .. }) => late += held.release(objects),
                Ok(Response::Missed(count)) => late += count,
                Ok(Response::Settled) => return late,
                Ok(_) => {}
                // There is at least one more.
                Err(_) => return late + 1,
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

/// The worker's end of the queue.
struct DiscoveryWorker {
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
                    self.results.send(Response::RecheckAll).await.map_err(|_| Disconnected)
                }
            };
            if going.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, request: DiscoveryRequest) -> Result<(), Disconnected> {
        let has_ended = self.ended.load(Ordering::Relaxed);
        match request {
            DiscoveryRequest::Process(..) | DiscoveryRequest::All(_) if has_ended => Ok(()),
            DiscoveryRequest::Mapped(_, mapping, _)
                if has_ended && self.discovery.has_inspected(&mapping) =>
            {
                Ok(())
            }
            DiscoveryRequest::Process(pid, since) => self.process(pid, since).await,
            DiscoveryRequest::Mapped(pid, mapping, since) => {
                let found = self.discovery.mapped(pid, &mapping).await;
                self.withdraw().await?;
                for object in found {
                    self.attach(pid, object, Some(since)).await?;
                }
                self.blind_spots(pid).await?;
                if let Some(count) = self.discovery.take_missed() {
                    self.results.send(Response::Missed(count)).await.map_err(|_| Disconnected)?;
                }
                self.versions(pid).await
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
            DiscoveryRequest::Failed(id) => {
                self.discovery.failed(id);
                Ok(())
            }
            DiscoveryRequest::Settle => self.results.send(Response::Settled).await.map_err(|_| Disconnected),
            DiscoveryRequest::Harmed(id) => {
                self.discovery.harmed(id);
                Ok(())
            }
        }
    }

    async fn process(&mut self, pid: u32, since: Option<Since>) -> Result<(), Disconnected> {
        let found = self.discovery.process(pid).await;
        self.withdraw().await?;
        for object in found {
            self.attach(pid, object, since).await?;
        }
        self.blind_spots(pid).await?;
        self.versions(pid).await
    }

    async fn program(&mut self, mut held: HeldExec) -> Result<(), Disconnected> {
        let tid = held.tid;
        let pid = Proc::default().thread_group(tid).unwrap_or(tid);
        let started = match held.take_file() {
            Some(file) => self.discovery.program(ProgramStart::Execve { pid, tid, file }).await,
            None => None,
        };
        // What could not be inspected, because its time was over and it has ended, counts as one.
        let count = started.as_ref().map_or(1, |started| started.objects.len() as u64);
        let StartedProgram { objects, executable, blind_spots, .. } = started.unwrap_or_default();
        self.withdraw().await?;
        for object in objects {
            self.attach(pid, object, None).await?;
        }
        for skipped in blind_spots {
            let pid = skipped.pid.unwrap_or(pid);
            self.results.send(Response::BlindSpot(pid, skipped)).await.map_err(|_| Disconnected)?;
        }
        let program = Response::Program { pid, executable, objects: count, held };
        self.results.send(program).await.map_err(|_| Disconnected)?;
        self.blind_spots(pid).await?;
        self.versions(pid).await
    }

    async fn blind_spots(&mut self, pid: u32) -> Result<(), Disconnected> {
        for skipped in self.discovery.take_blind_spots() {
            let pid = skipped.pid.unwrap_or(pid);
            self.results.send(Response::BlindSpot(pid, skipped)).await.map_err(|_| Disconnected)?;
        }
        Ok(())
    }

    /// Has the event loop detach from what a process is about to copy.
    async fn withdraw(&mut self) -> Result<(), Disconnected> {
        let ids = self.discovery.take_withdrawn();
        if ids.is_empty() {
            return Ok(());
        }
        self.results.send(Response::Withdraw(ids)).await.map_err(|_| Disconnected)
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

    async fn release_unused(&mut self) -> Result<(), Disconnected> {
        let ids = self.discovery.take_unused();
        if ids.is_empty() {
            return Ok(());
        }
        self.results.send(Response::Detach(ids)).await.map_err(|_| Disconnected)
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
