//! The event loop: ring → pipeline, until there is a reason to end.

use std::io;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use probe_common::{Header, Lineage, Loss, LossCount, SIGNAL_ENDS, SignalRecord};
use thiserror::Error;
use zerocopy::FromZeros as _;

use super::control::ControlEvent;
use super::discovery_worker::{Response, Settlement, Since};
use super::harm::{HarmCheck, HarmWatch};
use super::missed::{MissedProcess, MissedWatch};
use super::status;
use super::stop::StopSignals;
use super::target_tracker::{TargetTracker, TrackerEvent};
use crate::bpf::{Drained, Session, SessionError};
use crate::cli::{Trace, Verbosity};
use crate::clock;
use crate::decode::{ControlRecord, DataRecord, RingRecord, TaskRecord, decode};
use crate::discovery::{ObjectUse, Versioned};
use crate::enrich::ProcessInfoCache;
use crate::event::{StopReason, Summary};
use crate::pipeline::{Pipeline, ProcessInfo as _};
use crate::plan::{ObjectHooks, ObjectId, ProcessCode, Skipped};
use crate::proc::process::Proc;
use crate::stderr;

/// The ring is drained at least this often, even while there is other work.
const DRAINING: Duration = Duration::from_millis(5);
/// The interval for reading losses and checking the target.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// How often the target is checked even if no end was reported. The end of a process is reported before the
/// process has left /proc, and long before if it has much memory or many threads. The report can also be
/// lost.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the connections of ended processes are removed, if any process has ended.
const FORGETTING: Duration = Duration::from_secs(5);
/// How often the containers of counted calls are recorded. The container of a cgroup remains cached for only
/// a minute after it ends.
const NOTE_INTERVAL: Duration = Duration::from_secs(20);
/// The longest time that the ring is drained after the end. What the target did before the end is reported.
/// What cannot be read in this time is counted as lost.
const LAST_DRAIN: Duration = Duration::from_secs(5);
/// How long an empty ring is read until everything is detached: a program that is still copying a call would
/// lose its rest. Links to perf events may take minutes, long after the last program has run.
const DETACHING: Duration = Duration::from_millis(500);
/// The pause between two looks at an empty ring at the end.
const LAST_PAUSE: Duration = Duration::from_millis(1);

/// The event loop failed.
#[derive(Debug, Error)]
pub(super) enum EventLoopError {
    /// Records cannot be written.
    #[error(transparent)]
    Write(#[from] io::Error),
    /// The kernel's data cannot be read.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// The processes that already run a program when an exec trace begins, parents before their children.
#[derive(Debug)]
pub(super) enum InitialProcesses {
    /// Their programs are reported first.
    Report(Vec<u32>),
    /// Their programs are not reported.
    SeedOnly(Vec<u32>),
}

impl Default for InitialProcesses {
    fn default() -> Self {
        Self::SeedOnly(Vec::new())
    }
}

/// How a trace has ended.
#[derive(Debug)]
pub(super) struct TraceEnd {
    pub(super) summary: Summary,
    /// How many processes probes have harmed.
    pub(super) harmed: u64,
    /// The patterns that have matched nothing.
    pub(super) unmatched: Vec<String>,
}

/// A running trace.
pub(super) struct EventLoop<'a> {
    session: &'a mut Session,
    pipeline: Pipeline,
    info: ProcessInfoCache,
    watch: TargetTracker,
    verbosity: Verbosity,
    seeds: InitialProcesses,
    /// The control events since the last housekeeping, in the kernel's order.
    control: Vec<ControlEvent>,
    /// The signals since then that a probe may have caused.
    signals: Vec<SignalRecord>,
    harm: HarmWatch,
    missed: MissedWatch,
    /// How many objects were detached from to make room.
    evicted: usize,
    /// What is known of the code of processes that speak TLS of which no call is seen.
    codes: Vec<(u32, ProcessCode)>,
    /// Processes that have entered the scope, with the lineage that the kernel had for each at that time.
    entered: Vec<(u32, Lineage)>,
    proc: Proc,
    /// When the ring was last drained.
    drained: Instant,
    housekeeping: Instant,
    checked_alive: Instant,
    forgetting: Instant,
    noted_counts: Instant,
    /// The interval at which counters are reported, and the time of the next report. None: only at the end.
    interval: Option<(Duration, Instant)>,
    /// Whether requests are shown, so that connections whose requests are not are of interest.
    has_requests: bool,
    /// The losses that were reported so far.
    lost: Vec<(Loss, LossCount)>,
    /// Whether a process of the target has ended since connections were last removed.
    ended: bool,
    /// Whether the table of open calls was full since the calls of ended processes were last removed.
    full: bool,
}

impl<'a> EventLoop<'a> {
    pub(super) fn new(
        session: &'a mut Session,
        (pipeline, info): (Pipeline, ProcessInfoCache),
        (watch, harm, missed): (TargetTracker, HarmWatch, MissedWatch),
        verbosity: Verbosity,
        (seeds, trace): (InitialProcesses, &Trace),
    ) -> Self {
        let now = Instant::now();
        Self {
            session,
            pipeline,
            info,
            watch,
            verbosity,
            seeds,
            control: Vec::new(),
            signals: Vec::new(),
            harm,
            missed,
            evicted: 0,
            codes: Vec::new(),
            entered: Vec::new(),
            proc: Proc::default(),
            drained: now,
            housekeeping: now,
            checked_alive: now,
            forgetting: now,
            noted_counts: now,
            interval: trace.interval.map(|interval| (interval, now + interval)),
            has_requests: trace.requests.is_some(),
            lost: Loss::ALL.map(|loss| (loss, LossCount::default())).to_vec(),
            ended: false,
            full: false,
        }
    }

    /// Streams until the end, and reports the summary. If an output fails, the others are finished first.
    pub(super) async fn run(mut self, endings: &mut StopSignals) -> Result<TraceEnd, EventLoopError> {
        match self.stream(endings).await {
            Ok(end) => {
                let unattributed = self.pipeline.take_unattributed(u64::MAX);
                let settlement = self.watch.settle(unattributed, self.session).await;
                let unmatched = self.settle(settlement);
                let (summary, harmed) = self.finish(end)?;
                Ok(TraceEnd { summary, harmed, unmatched })
            }
            Err(EventLoopError::Write(error)) => {
                // The first failure is returned, so later ones are ignored.
                let _ = self.finish(StopReason::OutputFailed);
                Err(error.into())
            }
            Err(error) => Err(error),
        }
    }

    /// Streams until there is a reason to end.
    async fn stream(&mut self, endings: &mut StopSignals) -> Result<StopReason, EventLoopError> {
        self.watch.resync(self.session);
        match std::mem::take(&mut self.seeds) {
            InitialProcesses::Report(pids) => {
                if let Some(end) = self.existing(pids)? {
                    return Ok(end);
                }
            }
            InitialProcesses::SeedOnly(pids) => {
                for pid in pids {
                    let lineage = self.session.lineage(pid);
                    self.pipeline.seed_silently(pid, &lineage, &mut self.info);
                }
            }
        }
        loop {
            let end = tokio::select! {
                biased;
                end = endings.recv() => Some(end),
                occurrence = self.watch.next() => {
                    self.occurrence(occurrence);
                    // The ring is drained no matter how many tracker events there are.
                    if self.drained.elapsed() >= DRAINING { self.poll_ring()? } else { None }
                }
                () = self.session.wait() => self.poll_ring()?,
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    fn occurrence(&mut self, occurrence: TrackerEvent) {
        match occurrence {
            TrackerEvent::Found(Response::Attach(pid, object, since)) => self.attach(pid, &object, since),
            TrackerEvent::Found(Response::BlindSpot(pid, skipped)) => self.blind_spot(pid, &skipped),
            TrackerEvent::Found(Response::Version(Versioned { sites, library })) => {
                self.pipeline.set_library(sites, &library);
            }
            TrackerEvent::Found(Response::RecheckAll) => self.watch.resync(self.session),
            TrackerEvent::Found(Response::Uses(one)) => self.missed.mapped(one),
            TrackerEvent::Found(Response::Uninspected(process)) => self.missed.not_inspected(process),
            TrackerEvent::Found(Response::LeftBehind) => self.watch.request_resync(),
            // Nobody waits for it any more.
            TrackerEvent::Found(Response::Settled { .. }) => {}
            TrackerEvent::Found(Response::Code(pid, code)) => self.codes.push((pid, code)),
            TrackerEvent::Found(Response::Program { pid, executable, held }) => {
                if let Some(executable) = executable {
                    self.info.starting(pid, &executable);
                }
                drop(held);
            }
            TrackerEvent::Found(Response::Detach(objects)) => self.detach(objects),
            TrackerEvent::Found(Response::Evict(objects)) => {
                self.evicted += objects.len();
                self.detach(objects);
            }
            TrackerEvent::Written(objects) => {
                for object in objects {
                    self.session.detach_now(object);
                    if let Some(library) = self.harm.detached(object) {
                        status::written(&library, self.verbosity);
                    }
                    self.missed.detached(object);
                    self.watch.written(object);
                }
            }
            TrackerEvent::Found(Response::Withdraw(objects)) => {
                for object in objects {
                    self.session.detach_now(object);
                }
            }
            TrackerEvent::Mapped(events) if self.pipeline.has_executions() => {
                self.info.mapped(&events);
            }
            TrackerEvent::Mapped(events) => self.watch.mapped(events, self.session),
            TrackerEvent::Listed(listing) => self.watch.listed(&listing, self.session),
        }
    }

    /// After a full drain, emits `existing` records for processes that have entered the scope, so that exec
    /// records that were in the ring come first. A process that has executed something since is skipped,
    /// because it has an exec record of its own.
    fn entered(&mut self, drained: Drained) -> io::Result<Option<StopReason>> {
        let mut pids = Vec::new();
        if drained != Drained::Part {
            for (pid, lineage) in std::mem::take(&mut self.entered) {
                if self.session.lineage(pid).execution == lineage.execution {
                    pids.push(pid);
                }
            }
        }
        let entered = self.watch.take_entered();
        if self.pipeline.has_executions() {
            self.entered.extend(entered.into_iter().map(|pid| (pid, self.session.lineage(pid))));
        } else {
            // Nothing but /proc tells that a process has entered a container.
            for pid in entered {
                self.info.prime(pid);
            }
        }
        self.existing(pids)
    }

    /// Emits `existing` records for these processes, if executions are traced. Returns the reason to end, if
    /// there is one.
    fn existing(&mut self, pids: Vec<u32>) -> io::Result<Option<StopReason>> {
        if !self.pipeline.has_executions() {
            return Ok(None);
        }
        for pid in pids {
            let lineage = self.session.lineage(pid);
            match self.pipeline.emit_existing(pid, &lineage, &mut self.info) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(Some(StopReason::OutputClosed));
                }
                other => other?,
            }
        }
        Ok(self.pipeline.is_complete().then_some(StopReason::Count))
    }

    fn detach(&mut self, objects: Vec<ObjectId>) {
        for object in objects {
            self.session.detach(object);
            self.harm.detached(object);
            self.missed.detached(object);
        }
    }

    fn blind_spot(&mut self, pid: u32, skipped: &Skipped) {
        let origin = self.info.read_now(pid);
        status::blind_spot_later(&origin, skipped, self.verbosity);
    }

    fn attach(&mut self, pid: u32, object: &ObjectHooks, since: Option<Since>) {
        // It was written to after it was inspected.
        if !object.file.is_unchanged() {
            return self.watch.written(object.id);
        }
        // The sites first, because the first record may arrive before `attach` returns.
        self.pipeline.set_sites(super::sites(object, u64::MAX));
        self.harm.attached(object);
        let failed = self.session.attach(object);
        let took = since.map(|since| (since, since.elapsed()));
        status::failed(&failed);
        if failed.len() == object.hooks.len() {
            self.harm.detached(object.id);
            return self.watch.failed(object.id);
        }
        self.pipeline.attached_to(pid);
        let now = clock::boot_time();
        self.pipeline.set_complete(object.sites.clone(), now);
        self.missed.attached(object, now);
        if let Some(since) = since {
            self.missed.mapped(ObjectUse { pid, object: object.id, since: since.time() });
        }
        let origin = self.info.read_now(pid);
        status::attached_later(&origin, object, took, (self.session, self.verbosity));
    }

    /// Drains the ring. Returns the reason to end, if there is one.
    fn poll_ring(&mut self) -> Result<Option<StopReason>, EventLoopError> {
        self.drained = Instant::now();
        let drained = match self.drain() {
            Ok(drained) => drained,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(Some(StopReason::OutputClosed));
            }
            Err(error) => return Err(error.into()),
        };
        if self.pipeline.is_complete() {
            return Ok(Some(StopReason::Count));
        }
        match self.housekeeping(drained) {
            Err(EventLoopError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(Some(StopReason::OutputClosed))
            }
            other => other,
        }
    }

    fn drain(&mut self) -> io::Result<Drained> {
        let mut result = Ok(());
        let Self { session, pipeline, info, watch, missed, control, signals, .. } = self;
        let drained = session.drain(|bytes| {
            let record = match decode(bytes) {
                Ok(record) => record,
                Err(error) => {
                    pipeline.undecodable(&error);
                    return ControlFlow::Continue(());
                }
            };
            control.extend(ControlEvent::of(&record));
            result = match record {
                RingRecord::Control(ControlRecord::Signal(signal)) => {
                    signals.push(*signal);
                    Ok(())
                }
                RingRecord::Control(_) => Ok(()),
                RingRecord::Task(task) => {
                    if let TaskRecord::Exit(exit) = task {
                        missed.ended(exit);
                    }
                    pipeline.task(task, info)
                }
                RingRecord::Data(data) => {
                    // The mappings of a program precede its exec record.
                    if pipeline.has_executions() && matches!(data, DataRecord::Program { .. }) {
                        info.mapped(&watch.take_mapped());
                    }
                    pipeline.data(data, info)
                }
            };
            if result.is_err() || pipeline.is_complete() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        result?;
        self.on_signals()?;
        self.watch.inspect_new(self.pipeline.take_new_unattributed());
        self.on_codes()?;
        let session = &self.session;
        self.pipeline.emit_closes(|key| session.connection(key))?;
        Ok(drained)
    }

    /// Detaches from what has harmed a process, and reports it.
    fn on_signals(&mut self) -> io::Result<()> {
        for signal in std::mem::take(&mut self.signals) {
            let Some((harmed, objects)) = self.harm.of_signal(&signal) else {
                if signal.flags & SIGNAL_ENDS != 0 {
                    self.harm.count(HarmCheck::ByOther);
                }
                continue;
            };
            for object in objects {
                self.session.detach_now(object);
                self.watch.harmed(object);
            }
            self.harm.count(HarmCheck::ByProbe);
            status::harmed(&signal, &harmed);
            self.pipeline.harmed(&signal.header, harmed, &mut self.info)?;
            self.pipeline.flush()?;
        }
        Ok(())
    }

    /// Reports the processes that speak TLS of which no call is seen.
    fn on_codes(&mut self) -> io::Result<()> {
        for (pid, code) in std::mem::take(&mut self.codes) {
            if let Some((origin, unknown)) = self.pipeline.code_inspected(pid, code)? {
                status::unknown_tls(&origin, &unknown, self.verbosity);
            }
        }
        Ok(())
    }

    /// Does the work that is not tied to single records: flushes, losses, timers, and whether the target has
    /// ended.
    fn housekeeping(&mut self, drained: Drained) -> Result<Option<StopReason>, EventLoopError> {
        let now = Instant::now();
        if drained != Drained::Part {
            self.pipeline.idle(now)?;
            self.pipeline.pause(Timestamp::now())?;
            self.emit_missed()?;
            self.pipeline.flush()?;
        }
        for (socket, verdict) in self.pipeline.take_verdicts() {
            self.session.judge(socket, verdict);
        }
        let events = std::mem::take(&mut self.control);
        self.note_counts(now, &events)?;
        self.watch.on_control_events(events, self.session);
        self.watch.on_timer(now, self.session);
        if let Some(error) = self.watch.take_failure() {
            return Err(error.into());
        }
        if let Some((interval, next)) = &mut self.interval
            && now >= *next
        {
            *next = now + *interval;
            self.report_counts()?;
            self.pipeline.flush()?;
        }
        if let Some(end) = self.entered(drained)? {
            return Ok(Some(end));
        }
        if now.duration_since(self.housekeeping) < HOUSEKEEPING {
            return Ok(None);
        }
        self.housekeeping = now;
        stderr::flush_repeated();
        for process in self.watch.take_unreported(now) {
            self.missed.not_inspected(process);
        }
        self.watch.inspect_code(self.pipeline.take_unattributed(clock::boot_time()));
        if self.has_requests
            && let Some(cleartext) = self.pipeline.take_cleartext(clock::boot_time())
        {
            status::cleartext(&cleartext, self.verbosity);
        }
        let lost = self.report_losses()?;
        // A lost record may have been about the end of a process.
        let ended = self.watch.take_ended() || lost;
        self.ended |= ended;
        if ended || now.duration_since(self.checked_alive) >= ALIVE_INTERVAL {
            self.checked_alive = now;
            // The kernel's set first, because scanning /proc takes long.
            if !self.session.follows_threads()? && !self.watch.target().any_alive() {
                return Ok(Some(StopReason::TargetEnded));
            }
        }
        if (self.ended || self.full) && now.duration_since(self.forgetting) >= FORGETTING {
            self.forgetting = now;
            let proc = &self.proc;
            let has_ended = |pid| proc.process(pid).is_none();
            if std::mem::take(&mut self.ended) {
                self.session.forget(has_ended);
            }
            if std::mem::take(&mut self.full) {
                self.session.forget_calls(has_ended);
            }
        }
        Ok(None)
    }

    /// Records the containers of the counters before these can no longer be determined, and frees the
    /// kernel's entries of removed cgroups.
    fn note_counts(&mut self, now: Instant, events: &[ControlEvent]) -> Result<(), EventLoopError> {
        let removed = |event: &ControlEvent| match event {
            ControlEvent::CgroupRemoved { id } => Some(*id),
            _ => None,
        };
        let mut removed = events.iter().filter_map(removed).peekable();
        if removed.peek().is_none() && now.duration_since(self.noted_counts) < NOTE_INTERVAL {
            return Ok(());
        }
        self.noted_counts = now;
        self.pipeline.note_counted(&self.session.counted()?, &mut self.info);
        for cgroup in removed {
            self.session.forget_counted(cgroup);
            self.pipeline.forget_counted(cgroup);
        }
        Ok(())
    }

    fn report_counts(&mut self) -> Result<(), EventLoopError> {
        let counted = self.session.counted()?;
        Ok(self.pipeline.counted(Timestamp::now(), &counted, &mut self.info)?)
    }

    /// Reports new losses. Returns whether there were any.
    fn report_losses(&mut self) -> Result<bool, EventLoopError> {
        let mut lost = self.session.lost()?;
        self.pipeline.add_losses(&mut lost);
        let any = lost != self.lost;
        if any {
            // The lost records may include the end of a process, whose id may have been reused since.
            self.info.distrust();
            let has_grown = |of: Loss| {
                let events = |losses: &[(Loss, LossCount)]| {
                    losses.iter().find(|(loss, _)| *loss == of).map(|(_, count)| count.events)
                };
                events(&lost) != events(&self.lost)
            };
            // Other kinds of loss affect only calls, not control events.
            if has_grown(Loss::RingFull) {
                self.watch.request_resync();
            }
            self.full |= has_grown(Loss::ThreadsFull);
            self.pipeline.lost(Timestamp::now(), &lost)?;
            self.lost = lost;
        }
        Ok(any)
    }

    /// Emits records of what was missed. To be called when the ring is empty.
    fn emit_missed(&mut self) -> io::Result<()> {
        for MissedProcess { pid, end, time, missed } in self.missed.take(clock::boot_time()) {
            if let Some(end) = end {
                let origin = self.info.origin(&end);
                self.info.forget(pid);
                self.pipeline.missed(&Header { time, tid: pid, ..end }, &origin, missed)?;
            } else {
                let comm = self.info.comm(pid).unwrap_or_default();
                let origin = self.info.read_now(pid);
                let mut header = Header { pid, tid: pid, time, ..Header::new_zeroed() };
                header.comm.iter_mut().zip(comm).for_each(|(to, byte)| *to = byte);
                self.pipeline.missed(&header, &origin, missed)?;
            }
        }
        Ok(())
    }

    /// Records what was not attached to, because the trace has ended.
    /// Returns the patterns that have matched nothing.
    fn settle(&mut self, settlement: Settlement) -> Vec<String> {
        let (responses, unmatched) = match settlement {
            Settlement::Whole { responses, unmatched } => (responses, unmatched),
            Settlement::Partial(responses) => {
                self.pipeline.attached_late(1);
                (responses, Vec::new())
            }
        };
        for response in responses {
            match response {
                Response::Attach(pid, object, since) => {
                    self.missed.not_attached(&object);
                    if let Some(since) = since {
                        self.missed.mapped(ObjectUse { pid, object: object.id, since: since.time() });
                    }
                }
                Response::Uses(one) => self.missed.mapped(one),
                Response::Uninspected(process) => self.missed.not_inspected(process),
                Response::Code(pid, code) => self.codes.push((pid, code)),
                Response::BlindSpot(pid, skipped) => self.blind_spot(pid, &skipped),
                _ => {}
            }
        }
        unmatched
    }

    /// Reports everything that is left, and finishes every output that still works.
    fn finish(mut self, end: StopReason) -> Result<(Summary, u64), EventLoopError> {
        self.watch.end_hold();
        // Otherwise a busy target could keep the drain going forever.
        self.session.close()?;
        let (end, failure) = match self.drain_rest(end) {
            Ok(end) => (end, None),
            Err(EventLoopError::Write(error)) => (StopReason::OutputFailed, Some(error)),
            Err(error) => return Err(error),
        };
        for process in self.watch.take_last_unreported(std::mem::take(&mut self.control)) {
            self.missed.not_inspected(process);
        }
        let (end, failure) = match (self.emit_missed(), failure) {
            (Err(error), None) if error.kind() == io::ErrorKind::BrokenPipe => {
                (StopReason::OutputClosed, None)
            }
            (Err(error), None) => (StopReason::OutputFailed, Some(error)),
            (_, failure) => (end, failure),
        };
        let (harmed, others) = self.harm.counts();
        status::other_signals(others, self.verbosity);
        status::evicted(self.evicted, self.verbosity);
        let finished = self.pipeline.finish(Timestamp::now(), end);
        match failure {
            Some(error) => Err(error.into()),
            None => Ok((finished?, harmed)),
        }
    }

    /// Reports what has happened until now. Returns the final reason to end.
    fn drain_rest(&mut self, mut end: StopReason) -> Result<StopReason, EventLoopError> {
        let begin = Instant::now();
        let until = begin + LAST_DRAIN;
        while !matches!(end, StopReason::OutputClosed | StopReason::Count) && Instant::now() < until {
            // Asked before the drain, because a program may finish its record in between.
            let is_detached = self.session.is_detached();
            match self.drain() {
                Ok(Drained::Nothing) if is_detached || begin.elapsed() > DETACHING => break,
                Ok(Drained::Nothing) => thread::sleep(LAST_PAUSE),
                Ok(_) if self.pipeline.is_complete() => end = StopReason::Count,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => end = StopReason::OutputClosed,
                Err(error) => return Err(error.into()),
            }
        }
        if Instant::now() >= until {
            self.session.discard();
        }
        if end != StopReason::OutputClosed {
            match self.report_losses().and_then(|_| self.report_counts()) {
                Err(EventLoopError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    end = StopReason::OutputClosed;
                }
                other => other?,
            }
        }
        Ok(end)
    }
}
