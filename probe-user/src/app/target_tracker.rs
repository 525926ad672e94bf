//! What comes and goes while a trace runs: cgroups, programs and mappings decide what is in scope, and what
//! is looked into.
//!
//! Owns the order in which the kernel's word becomes a change of the scope: nothing here takes time, so that
//! the ring is drained meanwhile. Files are looked into by [`DiscoveryHandle`], runtimes are asked on threads
//! of their own.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::control::ControlEvent;
use super::discovery_worker::{DiscoveryHandle, Request, Response, Since};
use crate::bpf::{MmapEvents, Session, SessionError};
use crate::container::runtime::RuntimeSocket;
use crate::container::runtime::{Listing, RuntimePoller};
use crate::decode::ExecMmap;
use crate::discovery::Discovery;
use crate::probe::Probe;
use crate::proc::Device;
use crate::proc::maps::{Mapping, Range};
use crate::proc::process::Proc;
use crate::scope::{ScopeChange, ScopeDelta, Target};

/// How often everything is looked at once more at the most, because something was missed.
const RESYNC_DELAY: Duration = Duration::from_secs(2);

/// How often the processes that are in scope are looked at for what is excluded by name or user: neither is
/// told when it changes.
const JUDGED: Duration = Duration::from_secs(1);

/// Something has happened beside the stream.
#[derive(Debug)]
pub(super) enum TrackerEvent {
    /// There is something to attach to, or to detach from.
    Found(Response),
    /// Files were mapped.
    Mapped(Vec<crate::decode::MmapEvent>),
    /// Runtimes have answered.
    Listed(Listing),
}

/// What is selected, as it changes.
pub(super) struct TargetTracker {
    target: Target,
    follower: DiscoveryHandle,
    /// Whether what processes map is looked into.
    looks: bool,
    /// Processes that have come into scope since these were taken last.
    entered: Vec<u32>,
    mappings: Option<MmapEvents>,
    runtimes: RuntimePoller,
    catch_up_after: Instant,
    /// Whether a process of the target has ended since this was taken last.
    ended: bool,
    /// When those in scope are looked at again that may have become what is excluded.
    judge_after: Instant,
    /// Why something cannot be kept out.
    failure: Option<SessionError>,
}

impl TargetTracker {
    /// Goes on from what was found.
    pub(super) fn new(
        probe: &Probe,
        target: Target,
        discovery: Discovery,
        mappings: Option<MmapEvents>,
        sockets: Vec<RuntimeSocket>,
    ) -> Self {
        Self {
            target,
            follower: DiscoveryHandle::start(discovery),
            looks: probe.looks_into_files(),
            entered: Vec::new(),
            mappings,
            runtimes: RuntimePoller::new(sockets),
            catch_up_after: Instant::now(),
            ended: false,
            judge_after: Instant::now(),
            failure: None,
        }
    }

    /// What is selected.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Looks for what began before the kernel told of it.
    pub(super) fn resync(&mut self, session: &mut Session) {
        let change = self.target.rescan();
        self.apply_scope_delta(change, session);
        let mut pids: BTreeSet<u32> = self.target.processes.iter().map(|process| process.pid).collect();
        // /proc does not tell that an orphan descends from a process that was selected; the kernel's set
        // does.
        let proc = Proc::default();
        let is_process = |id: &u32| proc.thread_group(*id) == Some(*id);
        pids.extend(session.followed().into_iter().filter(is_process));
        let pids = pids.into_iter().collect();
        self.tell(Request::All(pids));
    }

    /// Why what is excluded cannot be kept out: then nothing may be traced any more.
    pub(super) fn take_failure(&mut self) -> Option<SessionError> {
        self.failure.take()
    }

    /// Whether a process of the target has ended since this was asked last.
    pub(super) fn take_ended(&mut self) -> bool {
        std::mem::take(&mut self.ended)
    }

    /// Processes that have come into scope since this was asked last.
    pub(super) fn take_entered(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.entered)
    }

    /// What is told of mappings by now.
    pub(super) fn take_mapped(&mut self) -> Vec<crate::decode::MmapEvent> {
        self.mappings.as_mut().map(MmapEvents::take).unwrap_or_default()
    }

    /// The next occurrence. Cancel safe.
    pub(super) async fn next(&mut self) -> TrackerEvent {
        let Self { follower, mappings, runtimes, .. } = self;
        tokio::select! {
            biased;
            found = follower.next() => TrackerEvent::Found(found),
            mapped = mapped(mappings.as_mut()) => TrackerEvent::Mapped(mapped),
            listing = runtimes.next() => TrackerEvent::Listed(listing),
        }
    }

    /// Files were mapped: those that processes in scope have mapped are looked into.
    pub(super) fn mapped(&mut self, events: Vec<crate::decode::MmapEvent>, session: &mut Session) {
        // One process maps several files at once.
        let mut known = HashMap::new();
        for event in events {
            match event {
                crate::decode::MmapEvent::Mapped(mapped) => {
                    let pid = mapped.pid;
                    let is_in = || self.target.contains(pid) || session.follows(pid);
                    if *known.entry(pid).or_insert_with(is_in) {
                        let (pid, mapping, since) = parts(mapped);
                        self.tell(Request::Mapped(pid, mapping, since));
                    }
                }
                crate::decode::MmapEvent::Executes { .. } => {}
                crate::decode::MmapEvent::Lost(_) => self.follower.request_rescan(),
            }
        }
    }

    /// The runtimes have answered: containers that were not known have names and labels now.
    pub(super) fn listed(&mut self, listing: &Listing, session: &mut Session) {
        let change = self.target.on_runtime_listing(listing);
        self.apply_scope_delta(change, session);
    }

    /// The kernel tells of processes and cgroups.
    pub(super) fn on_control_events(&mut self, events: Vec<ControlEvent>, session: &mut Session) {
        for event in events {
            let change = match event {
                ControlEvent::Executed { pid, time } => {
                    let change = self.target.executed(pid);
                    if self.looks && (self.target.contains(pid) || session.follows(pid)) {
                        self.tell(Request::Process(pid, Some(Since::Executed(time))));
                    }
                    change
                }
                ControlEvent::Ended { pid } => {
                    self.ended = true;
                    self.tell(Request::Ended(pid));
                    continue;
                }
                ControlEvent::Held { pid } => {
                    if self.follower.send(Request::Held(pid)).is_err() {
                        session.resume(pid);
                    }
                    continue;
                }
                ControlEvent::CgroupMade { id, path } => self.target.cgroup_made(path.as_bytes(), id),
                ControlEvent::CgroupGone { id } => self.target.cgroup_gone(id),
            };
            self.apply_scope_delta(change, session);
        }
    }

    /// Does what waits for its time: asks the runtimes, and makes up for what was missed.
    pub(super) fn look_after(&mut self, now: Instant, session: &mut Session) {
        if self.target.needs_listing() {
            self.runtimes.ask();
        }
        if now >= self.judge_after && self.target.judges() {
            self.judge_after = now + JUDGED;
            let proc = Proc::default();
            let is_process = |id: &u32| proc.thread_group(*id) == Some(*id);
            let pids: Vec<u32> = session.followed().into_iter().filter(is_process).collect();
            let change = self.target.judge(&pids);
            self.apply_scope_delta(change, session);
        }
        if now >= self.catch_up_after && self.follower.take_overflow() {
            self.resync(session);
            self.catch_up_after = Instant::now() + RESYNC_DELAY;
        }
    }

    /// Records were lost: anything may have happened.
    pub(super) fn request_resync(&mut self) {
        self.follower.request_rescan();
    }

    /// An object could not be attached to.
    pub(super) fn failed(&mut self, id: crate::plan::ObjectId) {
        self.tell(Request::Failed(id));
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
            self.tell(Request::Process(process.pid, None));
        }
    }

    /// When there is no room, everything is looked at later.
    fn tell(&mut self, news: Request) {
        if self.looks {
            drop(self.follower.send(news));
        }
    }
}

fn warn(error: &SessionError) {
    tracing::warn!("something that has started since is not traced: {error}");
}

/// The mapping as /proc/PID/maps shows it.
fn parts(mapped: ExecMmap) -> (u32, Mapping, Since) {
    let ExecMmap { pid, address, length, offset, inode, device, path, time, tid: _ } = mapped;
    let range = Range { start: address, end: address.saturating_add(length), offset };
    let device = Device { major: device.0, minor: device.1 };
    (pid, Mapping { ranges: vec![range], device, inode, path }, Since::Mapped(time))
}

async fn mapped(mappings: Option<&mut MmapEvents>) -> Vec<crate::decode::MmapEvent> {
    match mappings {
        Some(mappings) => mappings.next().await,
        None => std::future::pending().await,
    }
}
