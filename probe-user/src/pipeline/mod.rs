//! Records of the ring → public records in a sink.
//!
//! Owns the joining of chunks to calls and of returns to entries, the totals of the summary, and `--limit`.
//! Everything from outside is passed in ([`Setup`]), so that recorded bytes give the same output anywhere.
//! Captured bytes are never lost, clocks and /proc are never read, and no record is dropped without being
//! counted.
mod connection;
mod uprobe;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use probe_common::{
    Call, Header, Lineage, Loss, LossCount, SOCKET_CLEARTEXT, TaskExit, UNATTRIBUTED_CLEARTEXT,
    UNATTRIBUTED_QUIC, UNATTRIBUTED_SENT, UNATTRIBUTED_TLS, UnattributedRecord,
};

use crate::decode::{DataRecord, FunctionRecord, TaskRecord};
use crate::event::Output;
use crate::event::{
    Body, CaptureVerdict, Cleartext, CloseReason, Context, Direction, Harmed, Library, Lost, Missed,
    Plaintext, ProcessContext, Record, StopReason, Summary, UnknownTls, UnknownTlsProtocol,
};
use crate::plan::ProcessCode;
use crate::plan::capture::Capture;

mod emitter;
pub mod exchange;
mod exec;
mod missed;
mod pending;
mod process_info;
mod reassembly;
pub mod requests;
pub mod stream;

pub use crate::clock::Clock;
use connection::cleartext::CleartextSockets;
use connection::lifecycle::ConnectionLifecycles;
use connection::unattributed::{Unattributed, UnattributedSockets};
use emitter::Emitter;
use exec::Execs;
pub use exec::Executions;
pub use missed::MissedCount;
pub use process_info::{ProcessImage, ProcessInfo, UnreadBytes};
use reassembly::CallAssembler;
pub use uprobe::calls::Symbolizer;
use uprobe::calls::{FunctionEmitter, Functions, ProbedFunction};
pub use uprobe::counters::Counter;
use uprobe::counters::CounterDeltas;
use uprobe::unread;

/// A hook, found by its number in [`Call::site`].
#[derive(Clone, Debug)]
pub struct Site {
    /// The library that contains it.
    pub library: Arc<Library>,
    /// The function, unless `callers` has a better name.
    pub function: String,
    /// The public function by the low 12 bits of the return address (load addresses are whole pages).
    pub callers: Vec<(u16, &'static str)>,
    /// What to read of the function's calls. None for functions that transfer bytes.
    pub reading: Option<Arc<Capture>>,
    /// When all probes of its object were set, in nanoseconds of `CLOCK_BOOTTIME`.
    pub complete_since: u64,
}

impl Site {
    fn function(&self, caller: u64) -> &str {
        let known = self.callers.iter().find(|(low, _)| u64::from(*low) == caller & 0xfff);
        known.map_or(&self.function, |(_, name)| name)
    }

    fn place(&self) -> Option<ProbedFunction> {
        let (object, function) = (Arc::clone(&self.library), self.function.as_str().into());
        Some(ProbedFunction { object, function, reading: self.reading.clone()? })
    }
}

/// What a pipeline is given from outside.
#[derive(Debug)]
pub struct Setup {
    /// The hooks by site.
    pub sites: HashMap<u32, Site>,
    /// Converts the kernel's times.
    pub clock: Clock,
    /// The sink for the records.
    pub sink: Box<dyn Output>,
    /// When the trace began.
    pub started: Timestamp,
    /// The number of calls, or of records of executions, after which it is [complete](Pipeline::is_complete).
    /// None: never.
    pub count: Option<u64>,
    /// Resolves the addresses of stacks to names. None: they are reported as addresses.
    pub symbols: Option<Box<dyn Symbolizer + Send>>,
    /// What to report about executions. None if they are not traced.
    pub executions: Option<Executions>,
}

/// The pipeline. Every error that it returns comes from its sink.
#[derive(Debug)]
pub struct Pipeline {
    join: CallAssembler,
    functions: Functions,
    totals: CounterDeltas,
    symbols: Option<Box<dyn Symbolizer + Send>>,
    execs: Execs,
    /// Whether executions are traced.
    has_execs: bool,
    report: Emitter,
    lifetimes: ConnectionLifecycles,
    unattributed: UnattributedSockets,
    cleartext: CleartextSockets,
    started: Timestamp,
    count: Option<u64>,
    undecodable: u64,
    attached_late: u64,
    missed: MissedCount,
    lost: Vec<(Loss, LossCount)>,
}

impl Pipeline {
    /// Creates an empty pipeline.
    pub fn new(Setup { sites, clock, sink, started, count, symbols, executions }: Setup) -> Self {
        Self {
            join: CallAssembler::new(reassembly::LIMITS),
            functions: Functions::new(),
            totals: CounterDeltas::default(),
            symbols,
            has_execs: executions.is_some(),
            execs: Execs::new(executions),
            report: Emitter::new(sites, clock, sink),
            lifetimes: ConnectionLifecycles::new(),
            unattributed: UnattributedSockets::new(),
            cleartext: CleartextSockets::new(),
            started,
            count,
            undecodable: 0,
            attached_late: 0,
            missed: MissedCount::default(),
            lost: Loss::ALL.map(|loss| (loss, LossCount::default())).to_vec(),
        }
    }

    /// Adds the hooks of an object that is attached later, by site.
    pub fn set_sites(&mut self, sites: impl IntoIterator<Item = (u32, Site)>) {
        self.report.sites.extend(sites);
    }

    /// Records that all probes of an object are set since this time of the kernel, by its sites.
    pub fn set_complete(&mut self, sites: Range<u32>, since: u64) {
        for site in sites {
            if let Some(site) = self.report.sites.get_mut(&site) {
                site.complete_since = since;
            }
        }
    }

    /// Replaces the library info of these hooks, for example once the version is known. Those of another
    /// library in the same file keep theirs.
    pub fn set_library(&mut self, sites: Range<u32>, library: &Arc<Library>) {
        for site in sites {
            let site = self.report.sites.get_mut(&site);
            if let Some(site) = site.filter(|site| site.library.implementation == library.implementation) {
                site.library = Arc::clone(library);
            }
        }
    }

    /// Handles a data record of the ring. `info` provides what is known about processes.
    pub fn data(&mut self, record: DataRecord<'_>, info: &mut dyn ProcessInfo) -> io::Result<()> {
        match record {
            DataRecord::Call { head, data } => self.call(head, data, info),
            DataRecord::FunctionEnter(record) => self.function(&record, Functions::enter, info),
            DataRecord::FunctionReturn(record) => self.function(&record, Functions::leave, info),
            DataRecord::FunctionStack(stack) => {
                self.functions.stack(stack, self.symbols.as_deref_mut());
                Ok(())
            }
            DataRecord::Program { head, data } => {
                // No other record says so, because the process is in scope already and only executions are
                // traced.
                self.end_process(&head.header, CloseReason::Exec, info)?;
                self.execution(|execs, report| execs.program(head, &data, info, report))
            }
            DataRecord::Part { head, data } => self.execution(|execs, _| {
                execs.part(head, &data);
                Ok(())
            }),
            DataRecord::Attempt { head, data } => {
                self.execution(|execs, report| execs.attempt(head, &data, info, report))
            }
            DataRecord::Ended(head) => self.execution(|execs, report| execs.ended(head, info, report)),
            DataRecord::Forked(head) => self.execution(|execs, report| execs.forked(head, info, report)),
            DataRecord::Socket(socket) => {
                if socket.flags & SOCKET_CLEARTEXT == 0 {
                    self.unattributed.used(socket.socket);
                    self.cleartext.has_tls(socket.socket);
                }
                match self.report.connections.socket(socket, info) {
                    Some(whole) => self.joined(socket.connection, whole),
                    None => Ok(()),
                }
            }
            DataRecord::Hello { head, data } => {
                if let Some(hello) = self.report.connections.hello(head, data) {
                    let origin = info.origin(&head.header);
                    self.unattributed.client_hello((head.socket, &head.header), hello, origin);
                }
                Ok(())
            }
            DataRecord::Unattributed(record) => {
                self.unattributed(record, info);
                Ok(())
            }
            DataRecord::Opened(opened) => self.opened(opened, info),
            DataRecord::Closed(closed) => self.closed(closed, info),
        }
    }

    /// Handles the record of a process that has ended or executes another program.
    pub fn task(&mut self, record: TaskRecord<'_>, info: &mut dyn ProcessInfo) -> io::Result<()> {
        match record {
            TaskRecord::Exit(TaskExit { header, .. }) => {
                self.execs.end(header.pid);
                self.unattributed.ended(header.pid);
                self.end_process(header, CloseReason::Exit, info)
            }
            TaskRecord::Exec(header) => {
                // The code that used its sockets is gone.
                self.unattributed.remove_process(header.pid);
                self.end_process(header, CloseReason::Exec, info)
            }
        }
    }

    fn execution(&mut self, take: impl FnOnce(&mut Execs, &mut Emitter) -> io::Result<()>) -> io::Result<()> {
        if self.is_full() { Ok(()) } else { take(&mut self.execs, &mut self.report) }
    }

    /// Emits the program of a process that has entered the scope, or that is in scope when the trace begins,
    /// unless it was reported already. `lineage` is what the BPF programs have recorded about the
    /// process.
    pub fn emit_existing(
        &mut self,
        pid: u32,
        lineage: &Lineage,
        info: &mut dyn ProcessInfo,
    ) -> io::Result<()> {
        self.execution(|execs, report| execs.emit_existing(pid, lineage, info, report))
    }

    /// Records the program of a process that is in scope when the trace begins, without reporting it.
    pub fn seed_silently(&mut self, pid: u32, lineage: &Lineage, info: &mut dyn ProcessInfo) {
        self.execs.seed_silently(pid, lineage, info);
    }

    /// Whether executions are traced.
    pub fn has_executions(&self) -> bool {
        self.has_execs
    }

    fn function(
        &mut self,
        record: &FunctionRecord<'_>,
        take: fn(
            &mut Functions,
            &FunctionRecord<'_>,
            &ProbedFunction,
            &Arc<ProcessContext>,
            &mut FunctionEmitter<'_>,
        ) -> io::Result<()>,
        info: &mut dyn ProcessInfo,
    ) -> io::Result<()> {
        let site = record.head.site;
        let Some(place) = self.report.sites.get(&site).and_then(Site::place) else {
            self.undecodable(&format_args!("no function has the number {site}"));
            return Ok(());
        };
        let origin = info.origin(&record.head.header);
        let completed = unread::complete(record, &place, info);
        let completed = completed.as_ref().map(unread::CompletedRecord::record);
        let record = completed.as_ref().unwrap_or(record);
        self.functions.unreadable += u64::from(record.head.faults.count_ones());
        let mut out = self.report.out(self.count);
        take(&mut self.functions, record, &place, &origin, &mut out)
    }

    fn end_process(
        &mut self,
        header: &Header,
        end: CloseReason,
        info: &mut dyn ProcessInfo,
    ) -> io::Result<()> {
        let pid = header.pid;
        self.execs.forget(pid);
        self.join.end_process(pid, &mut |piece| self.report.piece(&piece))?;
        self.end_connections(header, end);
        self.functions.end_process(pid, &mut self.report.out(self.count))?;
        if let Some(symbols) = &mut self.symbols {
            symbols.forget(pid);
        }
        info.forget(pid);
        Ok(())
    }

    fn call(&mut self, call: &Call, data: Plaintext<'_>, info: &mut dyn ProcessInfo) -> io::Result<()> {
        let emit = &mut |piece: reassembly::Segment<'_>| self.report.piece(&piece);
        if self.join.is_continuation(call) {
            return self.join.append(call, data, emit);
        }
        self.join.end_thread(&call.header, emit)?;
        if self.is_full() {
            return Ok(());
        }
        if !self.report.is_known(call) {
            self.undecodable(&format_args!("no hook has the number {}", call.site));
            return Ok(());
        }
        self.report.seen(call.connection, call.site, call.header.time);
        self.is_called(call)?;
        if !self.unattributed.is_empty() && !self.report.connections.has_socket(call.connection) {
            self.unattributed.remove_process(call.header.pid);
        }
        self.report.begin(call);
        let origin = info.origin(&call.header);
        self.join.begin(call, data, origin, &mut |piece| self.report.piece(&piece))
    }

    /// To be called regularly when the ring is empty: reports calls whose rest does not arrive.
    pub fn idle(&mut self, now: Instant) -> io::Result<()> {
        // If nothing was lost, the rest does arrive, however long its thread stands still.
        if self.lost.iter().any(|(_, count)| count.events > 0) {
            self.join.idle(now, &mut |piece| self.report.piece(&piece))?;
        }
        self.idle_connections(now)
    }

    /// Adds to the kernel's counters of losses what only the pipeline knows.
    pub fn add_losses(&self, sums: &mut [(Loss, LossCount)]) {
        for (_, sum) in sums.iter_mut().filter(|(loss, _)| *loss == Loss::ArgumentFault) {
            sum.events = sum.events.saturating_add(self.functions.unreadable);
        }
    }

    /// Takes the counters of losses, each a sum since the start, and reports what is new.
    pub fn lost(&mut self, now: Timestamp, sums: &[(Loss, LossCount)]) -> io::Result<()> {
        for &(loss, sum) in sums {
            let Some((_, seen)) = self.lost.iter_mut().find(|(known, _)| *known == loss) else { continue };
            let count = LossCount {
                events: sum.events.saturating_sub(seen.events),
                bytes: sum.bytes.saturating_sub(seen.bytes),
            };
            if count != LossCount::default() {
                *seen = sum;
                if matches!(loss, Loss::RingFull | Loss::ThreadsFull) {
                    self.functions.lost(now);
                }
                let body = Body::Lost(Lost { loss, count });
                self.report.sink.write(&Record { context: Context::of_trace(now), body })?;
            }
        }
        Ok(())
    }

    fn unattributed(&mut self, record: &UnattributedRecord, info: &mut dyn ProcessInfo) {
        if record.flags & UNATTRIBUTED_CLEARTEXT != 0 {
            return self.cleartext.add(record);
        }
        if record.flags & UNATTRIBUTED_TLS != 0 {
            return self.cleartext.has_tls(record.socket);
        }
        if record.flags & UNATTRIBUTED_QUIC == 0 {
            return self.unattributed.has_data(record.socket);
        }
        let is_sent = record.flags & UNATTRIBUTED_SENT != 0;
        let direction = if is_sent { Direction::Transmit } else { Direction::Receive };
        let origin = info.origin(&record.header);
        self.unattributed.quic((record.socket, &record.header), direction, origin);
    }

    /// The processes that speak TLS or QUIC for the first time, whose code is to be inspected while they run.
    pub fn take_new_unattributed(&mut self) -> Vec<u32> {
        self.unattributed.take_new()
    }

    /// The processes whose code is to be inspected, because they speak TLS or QUIC of which no call is seen.
    /// `now` is a time of the kernel's boot clock in nanoseconds.
    pub fn take_unattributed(&mut self, now: u64) -> Vec<u32> {
        self.unattributed.take_due(now)
    }

    /// The connections without TLS so far, once, as soon as it is certain that there are some. `now` is a
    /// time of the kernel's boot clock in nanoseconds.
    pub fn take_cleartext(&mut self, now: u64) -> Option<Cleartext> {
        self.cleartext.take_new(now)
    }

    /// The sockets without TLS of which the sink has found out whether it wants their bytes: address and
    /// number of each.
    pub fn take_verdicts(&mut self) -> Vec<((u64, u64), CaptureVerdict)> {
        let verdicts = self.report.sink.take_verdicts();
        let connections = &self.report.connections;
        let of_socket = |(connection, verdict)| Some((connections.cleartext_socket(connection)?, verdict));
        verdicts.into_iter().filter_map(of_socket).collect()
    }

    /// Records that an object of a process was attached to late, which explains calls that were not seen.
    pub fn attached_to(&mut self, pid: u32) {
        self.unattributed.remove_process(pid);
    }

    /// Reports what a process speaks of which no call is seen, now that its code was inspected. Returns what
    /// was reported.
    pub fn code_inspected(
        &mut self,
        pid: u32,
        code: ProcessCode,
    ) -> io::Result<Option<(Arc<ProcessContext>, UnknownTls)>> {
        let Some((socket, found, reason)) = self.unattributed.inspected(pid, code) else { return Ok(None) };
        let Unattributed { header, process, protocol, role, .. } = found;
        let tls = (protocol == UnknownTlsProtocol::Tls).then(|| self.report.connections.handshake(socket));
        let unknown = UnknownTls { protocol, role, tls: tls.flatten(), reason };
        let context = self.report.context(&header, &process);
        self.report.sink.write(&Record { context, body: Body::UnknownTls(unknown.clone()) })?;
        Ok(Some((process, unknown)))
    }

    /// Reports that a probe has harmed the process of a signal's record.
    pub fn harmed(&mut self, header: &Header, harmed: Harmed, info: &mut dyn ProcessInfo) -> io::Result<()> {
        let origin = info.origin(header);
        let context = self.report.context(header, &origin);
        self.report.sink.write(&Record { context, body: Body::Harmed(harmed) })
    }

    /// Reports that a process had mapped a file before it was attached to. The header has the process, and
    /// when that ended.
    pub fn missed(&mut self, header: &Header, process: &ProcessContext, missed: Missed) -> io::Result<()> {
        let context = self.report.context(header, process);
        self.missed.add(&context, &missed);
        self.report.sink.write(&Record { context, body: Body::Missed(missed) })
    }

    /// Whether `count` calls were reported with all of their segments, or the sink needs no more.
    pub fn is_complete(&self) -> bool {
        self.is_full() && self.join.is_empty() || self.report.sink.is_complete()
    }

    /// Tells the sink that no record came for a while, and what time it is.
    pub fn pause(&mut self, now: Timestamp) -> io::Result<()> {
        self.report.sink.pause(now)
    }

    /// Whether no more calls are to be begun.
    fn is_full(&self) -> bool {
        self.count
            .is_some_and(|count| self.report.calls + self.functions.calls + self.report.records >= count)
    }

    /// Flushes the sink. To be called when the stream pauses.
    pub fn flush(&mut self) -> io::Result<()> {
        self.report.sink.flush()
    }

    /// Reports what is still pending, and the summary, which is also returned. If the reader has closed its
    /// end meanwhile, that is the end of the output and not an error.
    pub fn finish(mut self, now: Timestamp, end: StopReason) -> io::Result<Summary> {
        self.log_evictions();
        let rest = if end == StopReason::OutputClosed { Ok(()) } else { self.end_all() };
        let Emitter { calls, executions, bytes, truncated, ref mut sink, .. } = self.report;
        let mut summary = Summary {
            time: now,
            started: self.started,
            end,
            calls: calls + self.functions.calls,
            executions: self.has_execs.then_some(executions),
            bytes: bytes.saturating_add(self.functions.bytes),
            truncated: truncated + self.functions.truncated,
            lost: self.lost,
            undecodable: self.undecodable,
            attached_late: self.attached_late.saturating_add(self.missed.late()),
            missed: self.missed.total(),
            cleartext: self.cleartext.total(),
            requests: None,
        };
        // Even if the rest could not be written, an output that was begun is finished.
        let finished = sink.finish(&mut summary);
        if end == StopReason::OutputClosed {
            return Ok(summary);
        }
        match rest.and(finished) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                summary.end = StopReason::OutputClosed;
                Ok(summary)
            }
            other => other.map(|()| summary),
        }
    }

    /// Says which limits of memory were reached, because then records have less than they could have.
    fn log_evictions(&self) {
        let (calls, functions) = (self.join.evicted(), self.functions.evicted());
        let (programs, hellos) = (self.execs.evicted(), self.report.connections.evicted());
        if [calls, functions, programs, hellos].iter().any(|count| *count > 0) {
            tracing::info!(
                "limits of memory were reached: evicted {calls} calls before their last bytes, {functions} calls \
                 of functions before their returns, the arguments of {programs} programs and {hellos} hellos"
            );
        }
    }

    fn end_all(&mut self) -> io::Result<()> {
        self.join.end_all(&mut |piece| self.report.piece(&piece))?;
        self.emit_closes(|_| None)?;
        self.emit_waiting_opens(None)?;
        self.functions.end_all(&mut self.report.out(self.count))
    }

    /// Counts a record of the ring that could not be decoded.
    pub fn undecodable(&mut self, why: &dyn fmt::Display) {
        if self.undecodable == 0 {
            tracing::warn!(
                "a record of the kernel was not understood: {why}; this is a bug of ctrace; further ones are \
                 only counted"
            );
        }
        self.undecodable = self.undecodable.saturating_add(1);
    }

    /// Counts programs and libraries that were in use before they were attached to, but are in no record.
    pub fn attached_late(&mut self, count: u64) {
        self.attached_late = self.attached_late.saturating_add(count);
    }
}
