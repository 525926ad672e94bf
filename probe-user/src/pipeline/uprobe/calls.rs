//! Entries and returns of functions → calls.
//!
//! Owns the calls that have not returned. Entry and return are separate records, matched by process (in Go:
//! goroutine) and stack position, so that recursion, nesting and longjmp are matched correctly. Memory never
//! exceeds the bound.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use probe_common::{FunctionEvent, Header, SPEC_ENTER};

use crate::clock::Clock;
use crate::decode::{FunctionRecord, Stack};
use crate::event::Output;
use crate::event::{
    Argument, Body, CallOutcome, Context, Library, Plaintext, ProcessContext, Record, StackFrame, Thread,
    Truncation, UprobeCall, Value,
};
use crate::pipeline::pending::{PendingBytes, PendingLimits, PendingTable};
use crate::plan::capture::{Capture, CapturedValue};
use crate::plan::value_type::Type;

/// How much waits for the returns of calls: as many calls as the kernel follows. The same holds for the
/// stacks that wait for the records of their calls.
const LIMITS: PendingLimits =
    PendingLimits { entries: probe_common::FUNCTION_FRAMES as usize, bytes: 32 << 20 };
/// The size of a stack frame. Its names are shared with other frames and not counted.
const FRAME: usize = size_of::<StackFrame>();

/// A probed function.
#[derive(Clone, Debug)]
pub(in crate::pipeline) struct ProbedFunction {
    pub(in crate::pipeline) object: Arc<Library>,
    pub(in crate::pipeline) function: Arc<str>,
    pub(in crate::pipeline) reading: Arc<Capture>,
}

/// What identifies a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    pid: u32,
    /// In Go, the goroutine; otherwise 0, because a call may return on another thread than it was entered on.
    owner: u64,
    frame: u64,
    site: u32,
}

impl Key {
    fn of(head: &FunctionEvent) -> Self {
        Self { pid: head.header.pid, owner: head.goroutine, frame: head.frame, site: head.site }
    }
}

/// A call that has not returned.
#[derive(Debug)]
struct PendingReturn {
    place: ProbedFunction,
    origin: Arc<ProcessContext>,
    head: FunctionEvent,
    captured: CapturedBytes,
    stack: Option<Vec<StackFrame>>,
}

impl PendingBytes for PendingReturn {
    fn bytes(&self) -> usize {
        self.captured.0.len() + self.stack.as_ref().map_or(0, |stack| stack.len() * FRAME)
    }
}

/// A stack whose call's record comes next from the same thread.
#[derive(Debug)]
struct PendingStack {
    /// The time of the call, because its record may be lost.
    time: u64,
    frames: Vec<StackFrame>,
}

impl PendingBytes for PendingStack {
    fn bytes(&self) -> usize {
        self.frames.len() * FRAME
    }
}

/// Captured bytes. Its `Debug` prints only their number.
struct CapturedBytes(Box<[u8]>);

impl std::fmt::Debug for CapturedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Plaintext::of(&self.0).fmt(f)
    }
}

/// Resolves addresses to names.
pub trait Symbolizer: std::fmt::Debug {
    /// The resolved frames of a stack of a process.
    fn resolve(&mut self, pid: u32, addresses: &[u64]) -> Vec<StackFrame>;

    /// Discards what is cached of a process that has ended or runs another program.
    fn forget(&mut self, pid: u32);
}

/// The pending calls, and the totals of those that were reported.
#[derive(Debug)]
pub(in crate::pipeline) struct Functions {
    waiting: PendingTable<Key, PendingReturn>,
    /// When records were last lost, as far as that was noticed.
    lost: Option<Timestamp>,
    /// By process and thread.
    stacks: PendingTable<(u32, u32), PendingStack>,
    /// The number of calls reported.
    pub(in crate::pipeline) calls: u64,
    /// The number of captured bytes reported.
    pub(in crate::pipeline) bytes: u64,
    /// The number of arguments that could not be read.
    pub(in crate::pipeline) unreadable: u64,
    /// The number of calls with a truncated argument.
    pub(in crate::pipeline) truncated: u64,
}

/// Where calls are reported to.
pub(in crate::pipeline) struct FunctionEmitter<'a> {
    pub(in crate::pipeline) clock: Clock,
    pub(in crate::pipeline) sink: &'a mut dyn Output,
    /// The most calls to report.
    pub(in crate::pipeline) count: Option<u64>,
}

impl Functions {
    pub(in crate::pipeline) fn new() -> Self {
        Self {
            waiting: PendingTable::new(LIMITS),
            lost: None,
            stacks: PendingTable::new(LIMITS),
            calls: 0,
            bytes: 0,
            unreadable: 0,
            truncated: 0,
        }
    }

    /// The number of pending calls and stacks that were evicted.
    pub(in crate::pipeline) fn evicted(&self) -> u64 {
        self.waiting.evicted().saturating_add(self.stacks.evicted())
    }

    /// Keeps a stack for the next record of its thread.
    pub(in crate::pipeline) fn stack(
        &mut self,
        stack: Stack<'_>,
        symbols: Option<&mut (dyn Symbolizer + Send + '_)>,
    ) {
        let Header { pid, tid, time, .. } = stack.head.header;
        let mut addresses = stack.frames.to_vec();
        // At the entry of a function, frame pointers lead to the caller's caller, because the frame of the
        // function is not set up yet. So the caller is inserted.
        if stack.head.caller != 0 && addresses.get(1) != Some(&stack.head.caller) && !addresses.is_empty() {
            addresses.insert(1, stack.head.caller);
        }
        let frames = match symbols {
            Some(symbols) => symbols.resolve(pid, &addresses),
            None => addresses
                .into_iter()
                .map(|address| StackFrame { address, object: None, function: None })
                .collect(),
        };
        self.stacks.insert((pid, tid), PendingStack { time, frames });
        while self.stacks.evict().is_some() {}
    }

    /// Records that records were lost: the returns of calls that began earlier may be among them.
    pub(in crate::pipeline) fn lost(&mut self, now: Timestamp) {
        self.lost = Some(now);
    }

    /// Handles the entry of a call.
    pub(in crate::pipeline) fn enter(
        &mut self,
        record: &FunctionRecord<'_>,
        place: &ProbedFunction,
        origin: &Arc<ProcessContext>,
        out: &mut FunctionEmitter<'_>,
    ) -> io::Result<()> {
        let Header { pid, tid, time, .. } = record.head.header;
        let stack =
            self.stacks.remove(&(pid, tid)).filter(|stack| stack.time == time).map(|stack| stack.frames);
        if place.reading.returned.is_none() {
            let stack = stack.as_deref();
            return self.report(record, place, origin, stack, CallOutcome::NotRequested, out);
        }
        let waiting = PendingReturn {
            place: place.clone(),
            origin: Arc::clone(origin),
            head: *record.head,
            captured: CapturedBytes(record.packed(capturing(&place.reading))),
            stack,
        };
        if let Some(left) = self.waiting.insert(Key::of(record.head), waiting) {
            self.report_unreturned(&left, out)?;
        }
        if self.waiting.is_over() { self.make_room(out) } else { Ok(()) }
    }

    /// Handles the return of a call.
    pub(in crate::pipeline) fn leave(
        &mut self,
        record: &FunctionRecord<'_>,
        place: &ProbedFunction,
        origin: &Arc<ProcessContext>,
        out: &mut FunctionEmitter<'_>,
    ) -> io::Result<()> {
        let value = place.reading.returned.filter(|shown| shown.kind != Type::Skip);
        let mut captures = 0;
        let value = value.map(|shown| argument(record, 0, shown, &mut captures));
        let duration = record.head.header.time.saturating_sub(record.head.entered);
        let end = CallOutcome::Returned { value, duration };
        if place.reading.spec.flags & SPEC_ENTER == 0 {
            return self.report(record, place, origin, None, end, out);
        }
        let key = Key::of(record.head);
        // A call that is not pending was reported early to make room, or its entry was lost.
        if self.waiting.get(&key).is_none_or(|waiting| waiting.head.entered != record.head.entered) {
            return Ok(());
        }
        let Some(waiting) = self.waiting.remove(&key) else { return Ok(()) };
        let began = FunctionRecord::kept(&waiting.head, &waiting.captured.0);
        self.report(&began, &waiting.place, &waiting.origin, waiting.stack.as_deref(), end, out)
    }

    /// Ends the calls of a process that has ended or runs another program: they will not return.
    pub(in crate::pipeline) fn end_process(
        &mut self,
        pid: u32,
        out: &mut FunctionEmitter<'_>,
    ) -> io::Result<()> {
        self.stacks.take_where(|(of, _), _| *of == pid);
        self.end(|key| key.pid == pid, out)
    }

    /// Ends all pending calls at the end of the trace.
    pub(in crate::pipeline) fn end_all(&mut self, out: &mut FunctionEmitter<'_>) -> io::Result<()> {
        self.end(|_| true, out)
    }

    fn end(&mut self, of: impl Fn(&Key) -> bool, out: &mut FunctionEmitter<'_>) -> io::Result<()> {
        let ended = self.waiting.take_where(|key, _| of(key));
        ended.iter().try_for_each(|call| self.report_unreturned(call, out))
    }

    /// Reports the older half of the pending calls. Whether these return will not be known.
    fn make_room(&mut self, out: &mut FunctionEmitter<'_>) -> io::Result<()> {
        for _ in 0..self.waiting.len() / 2 {
            let Some(oldest) = self.waiting.evict_oldest() else { break };
            self.left(&oldest, CallOutcome::ReturnMissed, out)?;
        }
        Ok(())
    }

    /// Reports a pending call as one that never returned, or, if records were lost since it began, as one
    /// whose return may have been missed.
    fn report_unreturned(&mut self, call: &PendingReturn, out: &mut FunctionEmitter<'_>) -> io::Result<()> {
        let began = out.clock.timestamp(call.head.entered);
        let end = if self.lost.is_some_and(|lost| began <= lost) {
            CallOutcome::ReturnMissed
        } else {
            CallOutcome::NeverReturned
        };
        self.left(call, end, out)
    }

    fn left(
        &mut self,
        call: &PendingReturn,
        end: CallOutcome<'_>,
        out: &mut FunctionEmitter<'_>,
    ) -> io::Result<()> {
        let record = FunctionRecord::kept(&call.head, &call.captured.0);
        self.report(&record, &call.place, &call.origin, call.stack.as_deref(), end, out)
    }

    fn report(
        &mut self,
        record: &FunctionRecord<'_>,
        place: &ProbedFunction,
        origin: &ProcessContext,
        stack: Option<&[StackFrame]>,
        end: CallOutcome<'_>,
        out: &mut FunctionEmitter<'_>,
    ) -> io::Result<()> {
        if out.count.is_some_and(|count| self.calls >= count) {
            return Ok(());
        }
        let Header { tid, comm, .. } = record.head.header;
        let mut captures = 0;
        let read = |(index, shown): (usize, &CapturedValue)| argument(record, index, *shown, &mut captures);
        let entered = place.reading.spec.flags & SPEC_ENTER != 0;
        let arguments: Option<Vec<_>> =
            entered.then(|| place.reading.arguments.iter().enumerate().map(read).collect());
        self.calls += 1;
        let returned = match &end {
            CallOutcome::Returned { value: Some(value), .. } => Some(value),
            _ => None,
        };
        let mut cut = false;
        for argument in arguments.iter().flatten().chain(returned) {
            if let Value::Text(Plaintext(data), extent) | Value::Bytes(Plaintext(data), extent) =
                &argument.value
            {
                self.bytes = self.bytes.saturating_add(data.len() as u64);
                cut |= *extent == Truncation::Cut;
            }
        }
        self.truncated += u64::from(cut);
        let time = out.clock.timestamp(record.head.entered);
        let context = Context::of_thread(time, origin, Thread { id: tid, comm });
        let body = Body::Uprobe(UprobeCall {
            goroutine: Some(record.head.goroutine).filter(|goroutine| *goroutine != 0),
            object: Cow::Borrowed(&place.object),
            function: Cow::Borrowed(&place.function),
            arguments,
            end,
            stack: stack.map(<[StackFrame]>::to_vec),
        });
        out.sink.write(&Record { context, body })
    }
}

/// The indexes of the arguments that capture bytes.
fn capturing(reading: &Capture) -> impl Iterator<Item = usize> {
    let shown = reading.arguments.iter().enumerate();
    shown.filter(|(_, shown)| shown.kind.captures_bytes()).map(|(index, _)| index)
}

/// Argument `index` of a record. `captures` counts the arguments before it that have captured bytes.
fn argument<'a>(
    record: &FunctionRecord<'a>,
    index: usize,
    shown: CapturedValue,
    captures: &mut usize,
) -> Argument<'a> {
    let number = *captures;
    *captures += usize::from(shown.kind.captures_bytes());
    let raw = record.head.values.get(index).copied().unwrap_or(0);
    let extent = if record.is_cut(index) { Truncation::Cut } else { Truncation::None };
    let bytes = || record.captured(index, number);
    let value = match shown.kind {
        _ if record.is_faulty(index) => Value::Unreadable,
        Type::Int(_) => Value::Signed(raw.cast_signed()),
        Type::Uint(_) => Value::Unsigned(raw),
        Type::Hex | Type::Ptr | Type::Skip => Value::Hex(raw),
        Type::Bool => Value::Bool(raw != 0),
        Type::Float(4) => Value::Single(f32::from_bits(u32::try_from(raw).unwrap_or(u32::MAX))),
        Type::Float(_) => Value::Double(f64::from_bits(raw)),
        Type::Str | Type::Text(_) => bytes().map_or(Value::Unreadable, |data| Value::Text(data, extent)),
        Type::Bytes(_) => bytes().map_or(Value::Unreadable, |data| Value::Bytes(data, extent)),
    };
    Argument { index: shown.index, kind: shown.kind.to_string(), value }
}
