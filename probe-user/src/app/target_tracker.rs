//! Tracks the selection while a trace runs: cgroups, programs and mappings decide what is in scope and which
//! files are inspected.
//!
//! Owns the order in which the kernel's events become changes of the scope. Nothing here takes long, so that
//! the ring is drained meanwhile: files are inspected by [`DiscoveryHandle`], and runtimes are queried on
//! separate threads.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::child::exec_hold::ExecHold;
use super::code_watch::CodeWatch;
use super::control::ControlEvent;
use super::discovery_worker::{DiscoveryHandle, DiscoveryRequest, Response, Settlement, Since};
use super::stop;
use super::undecided::UndecidedMappings;
use super::unreported::UnreportedPrograms;
use crate::bpf::{MmapEvents, Session, SessionError};
use crate::container::runtime::RuntimeSocket;
use crate::container::runtime::{Listing, RuntimePoller};
use crate::decode::ExecMmap;
use crate::discovery::{Discovery, FileChanges, Uninspected};
use crate::plan::ObjectId;
use crate::probe::Probe;
use crate::proc::Device;
use crate::proc::maps::{Mapping, Range};
use crate::proc::process::Proc;
use crate::scope::{ScopeChange, ScopeDelta, Target};

/// The shortest interval between full scans after something was missed.
const RESYNC_DELAY: Duration = Duration::from_secs(2);

/// How often the processes in scope are matched against exclusions by name or user again, because a change of
/// either is not reported.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Something has happened outside the ring.
#[derive(Debug)]
pub(super) enum TrackerEvent {
    /// There is something to attach to or to detach from.
    Found(Response),
    /// Files were mapped.
    Mapped(Vec<crate::decode::MmapEvent>),
    /// Runtimes have replied.
    Listed(Listing),
    /// The files of these objects were written to.
    Written(Vec<ObjectId>),
}

/// The selection, as it changes.
pub(super) struct TargetTracker {
    target: Target,
    follower: DiscoveryHandle,
    changes: WatchedChanges,
    /// Whether the files that processes map are inspected.
    inspects_files: bool,
    /// Processes that have entered the scope since [`Self::take_entered`] was last called.
    entered: Vec<u32>,
    mappings: Option<MmapEvents>,
    undecided: UndecidedMappings,
    unreported: UnreportedPrograms,
    code: CodeWatch,
    /// Holds the command's programs. None if there is no command, or if none is held.
    hold: Option<ExecHold>,
    runtimes: RuntimePoller,
    catch_up_after: Instant,
    /// Whether a process of the target has ended since [`Self::take_ended`] was last called.
    ended: bool,
    /// When the processes in scope are next matched against the exclusions.
    recheck_after: Instant,
    /// Why something cannot be excluded.
    failure: Option<SessionError>,
}

impl TargetTracker {
    /// Continues from what was found at the start. Programs that `hold` holds go on when they are
    /// attached to.
    pub(super) fn new(
        probe: &Probe,
        (target, discovery): (Target, Discovery),
        mappings: Option<MmapEvents>,
        sockets: Vec<RuntimeSocket>,
        mut hold: Option<ExecHold>,
    ) -> Self {
        let programs = hold.as_mut().and_then(ExecHold::take_programs);
        let changes = WatchedChanges::new(discovery.changes());
        Self {
            target,
            follower: DiscoveryHandle::start(discovery, programs),
            changes,
            inspects_files: probe.inspects_files(),
            entered: Vec::new(),
            mappings,
            undecided: UndecidedMappings::default(),
            unreported: UnreportedPrograms::default(),
            code: CodeWatch::default(),
            hold,
            runtimes: RuntimePoller::new(sockets),
            catch_up_after: Instant::now(),
            ended: false,
            recheck_after: Instant::now(),
            failure: None,
        }
    }

    /// What processes had mapped by the end of the trace, and nobody has attached to, and what is known of
    /// the code of these processes. Waits a little.
    pub(super) async fn settle(&mut self, pids: Vec<u32>, session: &mut Session) -> Settlement {
        if !self.inspects_files {
            return Settlement::Whole { responses: Vec::new(), unmatched: Vec::new() };
        }
        self.inspect_code(pids);
        let mapped = self.take_mapped();
        self.mapped(mapped, session);
        self.follower.settle().await
    }

    /// Lets all programs go on that are held, and holds no more.
    pub(super) fn end_hold(&mut self) {
        self.hold = None;
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Searches for what began before the kernel reported it.
    pub(super) fn resync(&mut self, session: &mut Session) {
        let change = self.target.rescan();
        self.apply_scope_delta(change, session);
        let mut pids: BTreeSet<u32> = self.target.processes.iter().map(|process| process.pid).collect();
        // /proc does not show that an orphan descends from a selected process. The kernel's set does.
        let proc = Proc::default();
        let is_process = |id: &u32| proc.thread_group(*id) == Some(*id);
        pids.extend(session.followed().into_iter().filter(is_process));
        let pids = pids.into_iter().collect();
        self.request(DiscoveryRequest::All(pids));
    }

    /// Why something cannot be excluded. If there is an error, nothing may be traced any longer.
    pub(super) fn take_failure(&mut self) -> Option<SessionError> {
        self.failure.take()
    }

    /// Whether a process of the target has ended since the last call.
    pub(super) fn take_ended(&mut self) -> bool {
        std::mem::take(&mut self.ended)
    }

    /// The processes that have entered the scope since the last call.
    pub(super) fn take_entered(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.entered)
    }

    /// The processes that have ended since the last call and whose mappings were not reported.
    pub(super) fn take_unreported(&mut self, now: Instant) -> Vec<Uninspected> {
        if self.inspects_files { self.unreported.take(now) } else { Vec::new() }
    }

    /// The same at the end of the trace, with the last events.
    pub(super) fn take_last_unreported(&mut self, events: Vec<ControlEvent>) -> Vec<Uninspected> {
        if !self.inspects_files {
            return Vec::new();
        }
        for event in self.take_mapped() {
            match event {
                crate::decode::MmapEvent::Mapped(mapped) => self.unreported.mapped(mapped.pid, mapped.time),
                crate::decode::MmapEvent::Lost(_) => self.unreported.lost(),
                _ => {}
            }
        }
        for event in events {
            match event {
                ControlEvent::Executed { pid, time } => self.unreported.executed(pid, time),
                ControlEvent::Ended { pid } => self.unreported.ended(pid, Instant::now()),
                _ => {}
            }
        }
        self.unreported.take_all()
    }

    /// The mapping events that are available by now.
    pub(super) fn take_mapped(&mut self) -> Vec<crate::decode::MmapEvent> {
        self.mappings.as_mut().map(MmapEvents::take).unwrap_or_default()
    }

    /// Waits for the next event. Cancel safe.
    pub(super) async fn next(&mut self) -> TrackerEvent {
        let Self { follower, changes, mappings, runtimes, .. } = self;
        tokio::select! {
            biased;
            written = changes.next() => TrackerEvent::Written(written),
            found = follower.next() => TrackerEvent::Found(found),
            mapped = mapped(mappings.as_mut()) => TrackerEvent::Mapped(mapped),
            listing = runtimes.next() => TrackerEvent::Listed(listing),
        }
    }

    /// Sends the files that processes in scope have mapped to be inspected.
    pub(super) fn mapped(&mut self, events: Vec<crate::decode::MmapEvent>, session: &mut Session) {
        // One process often maps several files in a row.
        let (mut in_scope, now) = (HashMap::new(), Instant::now());
        for event in events {
            match event {
                crate::decode::MmapEvent::Mapped(mapped) => {
                    let pid = mapped.pid;
                    self.unreported.mapped(pid, mapped.time);
                    let is_in = || self.target.contains(pid) || session.follows(pid);
                    let mapped = if *in_scope.entry(pid).or_insert_with(is_in) {
                        Some(mapped)
                    } else {
                        self.undecided.add(mapped, now)
                    };
                    self.request_mapped(mapped);
                }
                crate::decode::MmapEvent::Anonymous { pid } => {
                    let is_in = || self.target.contains(pid) || session.follows(pid);
                    if *in_scope.entry(pid).or_insert_with(is_in) {
                        self.code.changed(pid, now);
                    }
                }
                crate::decode::MmapEvent::Executes { .. } => {}
                crate::decode::MmapEvent::Lost(_) => {
                    self.unreported.lost();
                    self.follower.request_rescan();
                }
            }
        }
    }

    /// Applies a listing of the runtimes, after which more containers have names and labels.
    pub(super) fn listed(&mut self, listing: &Listing, session: &mut Session) {
        let change = self.target.on_runtime_listing(listing);
        self.apply_scope_delta(change, session);
    }

    /// Applies the kernel's reports about processes and cgroups.
    pub(super) fn on_control_events(&mut self, events: Vec<ControlEvent>, session: &mut Session) {
        for event in events {
            let change = match event {
                ControlEvent::Executed { pid, time } => {
                    self.unreported.executed(pid, time);
                    self.code.ended(pid);
                    let change = self.target.executed(pid);
                    if self.inspects_files && (self.target.contains(pid) || session.follows(pid)) {
                        self.request(DiscoveryRequest::Process(pid, Some(Since::Executed(time))));
                    }
                    change
                }
                ControlEvent::Ended { pid } => {
                    self.ended = true;
                    self.code.ended(pid);
                    let now = Instant::now();
                    self.unreported.ended(pid, now);
                    let mapped = self.undecided.ended(pid, now);
                    self.request_mapped(mapped);
                    self.request(DiscoveryRequest::Ended(pid));
                    continue;
                }
                ControlEvent::CgroupCreated { id, path } => self.target.cgroup_created(path.as_bytes(), id),
                ControlEvent::CgroupRemoved { id } => self.target.cgroup_removed(id),
            };
            self.apply_scope_delta(change, session);
        }
    }

    /// Does what is due: queries the runtimes, and repeats what was missed.
    pub(super) fn on_timer(&mut self, now: Instant, session: &mut Session) {
        if let Some(query) = self.target.missing_facts() {
            self.runtimes.poll(&query);
        }
        if now >= self.recheck_after && self.target.rechecks_processes() {
            self.recheck_after = now + RECHECK_INTERVAL;
            let proc = Proc::default();
            let is_process = |id: &u32| proc.thread_group(*id) == Some(*id);
            let pids: Vec<u32> = session.followed().into_iter().filter(is_process).collect();
            let change = self.target.recheck(&pids);
            self.apply_scope_delta(change, session);
        }
        for pid in self.code.take_due(now) {
            self.request(DiscoveryRequest::CodeChanged(pid));
        }
        if now >= self.catch_up_after && self.follower.take_overflow() {
            self.resync(session);
            self.catch_up_after = Instant::now() + RESYNC_DELAY;
        }
    }

    /// Requests a full scan, because records were lost and anything may have been missed.
    pub(super) fn request_resync(&mut self) {
        self.follower.request_rescan();
    }

    /// Records that an object could not be attached to.
    pub(super) fn failed(&mut self, id: ObjectId) {
        self.request(DiscoveryRequest::Failed(id));
    }

    /// Records that the file of an object was written to.
    pub(super) fn written(&mut self, id: ObjectId) {
        self.request(DiscoveryRequest::Written(id));
    }

    /// Requests that these processes are inspected, unless they were.
    pub(super) fn inspect_new(&mut self, pids: Vec<u32>) {
        for pid in pids {
            self.request(DiscoveryRequest::New(pid));
        }
    }

    /// Requests what is known of the code of these processes.
    pub(super) fn inspect_code(&mut self, pids: Vec<u32>) {
        for pid in pids {
            self.request(DiscoveryRequest::Code(pid));
        }
    }

    /// Records that a probe in an object has harmed a process.
    pub(super) fn harmed(&mut self, id: ObjectId) {
        self.request(DiscoveryRequest::Harmed(id));
    }

    fn apply_scope_delta(&mut self, ScopeDelta { scope, processes }: ScopeDelta, session: &mut Session) {
        for change in scope {
            match (session.change(&change), change) {
                (Ok(()), _) => {}
                (Err(error), ScopeChange::ExcludeCgroup(_)) => self.failure = Some(error),
                (Err(error), _) => warn(&error),
            }
        }
        for process in processes {
            self.entered.push(process.pid);
            self.request(DiscoveryRequest::Process(process.pid, None));
        }
    }

    /// Sends the files that a process in scope has mapped to be inspected.
    fn request_mapped(&mut self, mapped: impl IntoIterator<Item = ExecMmap>) {
        for mapped in mapped {
            let (pid, mapping, since) = parts(mapped);
            self.request(DiscoveryRequest::Mapped(pid, mapping, since));
        }
    }

    /// Sends a request. If there is no room, everything is inspected later.
    fn request(&mut self, request: DiscoveryRequest) {
        if self.inspects_files {
            drop(self.follower.send(request));
        }
    }
}

/// The changes of hooked files, as events.
struct WatchedChanges {
    changes: FileChanges,
    /// None if no file can be watched.
    ready: Option<AsyncFd<OwnedFd>>,
}

impl WatchedChanges {
    fn new(changes: FileChanges) -> Self {
        let ready = changes.descriptor().and_then(|events| {
            let watched = stop::watch(events, Interest::READABLE);
            watched.inspect_err(|error| tracing::warn!("files that change are not noticed: {error}")).ok()
        });
        Self { changes, ready }
    }

    /// Waits for the next change. Cancel safe.
    async fn next(&mut self) -> Vec<ObjectId> {
        let Some(ready) = &self.ready else { return std::future::pending().await };
        loop {
            let Ok(mut guard) = ready.readable().await else { return std::future::pending().await };
            guard.clear_ready();
            let written = self.changes.take();
            if !written.is_empty() {
                return written;
            }
        }
    }
}

fn warn(error: &SessionError) {
    tracing::warn!("a process or container that started during the trace is not traced: {error}");
}

/// The mapping in the form in which /proc/PID/maps shows it.
fn parts(mapped: ExecMmap) -> (u32, Mapping, Since) {
    let ExecMmap { pid, address, length, offset, inode, device, path, time, tid: _ } = mapped;
    let range = Range { start: address, end: address.saturating_add(length), offset };
    let device = Device { major: device.0, minor: device.1 };
    (pid, Mapping { ranges: vec![range], replaced: None, device, inode, path }, Since::Mapped(time))
}

async fn mapped(mappings: Option<&mut MmapEvents>) -> Vec<crate::decode::MmapEvent> {
    match mappings {
        Some(mappings) => mappings.next().await,
        None => std::future::pending().await,
    }
}
