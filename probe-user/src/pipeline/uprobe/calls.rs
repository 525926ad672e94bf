//! Entries and returns of functions → calls.
//!
//! Owns the calls that have not returned. Entry and return are separate records, matched by thread (in Go:
//! goroutine) and stack position, so that recursion, nesting and longjmp are matched correctly. Memory never
//! exceeds the bound.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use probe_common::{FunctionEvent, Header, SPEC_ENTER};

use crate::clock::Clock;
use crate::decode::{FunctionRecord, Stack};
use crate::event::Output;
use crate::event::{
    Argument, CallOutcome, Library, Plaintext, ProcessContext, Record, StackFrame, Thread, Truncation,
    UprobeCall, Value,
};
use crate::plan::capture::{Capture, CapturedValue};
use crate::plan::value_type::Type;

/// The most calls that wait for their return: as many as the kernel follows.
const WAITING: usize = probe_common::FUNCTION_FRAMES as usize;
/// The most bytes that are kept for these calls.
const WAITING_BYTES: usize = 32 << 20;
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
    /// The thread, or in Go the goroutine.
    owner: u64,
    frame: u64,
    site: u32,
}

impl Key {
    fn of(head: &FunctionEvent) -> Self {
        let Header { pid, tid, .. } = head.header;
        let owner = if head.goroutine == 0 { tid.into() } else { head.goroutine };
        Self { pid, owner, frame: head.frame, site: head.site }
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
    /// Larger for calls that began later.
    age: u64,
}

impl PendingReturn {
    /// The heap bytes of the call.
    fn bytes(&self) -> usize {
        self.captured.0.len() + self.stack.as_ref().map_or(0, |stack| stack.len() * FRAME)
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
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Functions {
    waiting: HashMap<Key, PendingReturn>,
    /// The sum of [`PendingReturn::bytes`] over all pending calls.
    kept: usize,
    began: u64,
    /// When records were last lost, as far as that was noticed.
    lost: Option<Timestamp>,
    /// The stacks of calls whose record comes next, by thread. Each has the time of its call, because that
    /// record may be lost.
    stacks: HashMap<(u32, u32), (u64, Vec<StackFrame>)>,
    /// The number of calls reported.
    pub(in crate::pipeline) calls: u64,
    /// The number of captured bytes reported.
    pub(in crate::pipeline) bytes: u64,
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
        self.stacks.insert((pid, tid), (time, frames));
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
        let stack = self.stacks.remove(&(pid, tid)).filter(|(of, _)| *of == time).map(|(_, frames)| frames);
        if place.reading.returned.is_none() {
            let stack = stack.as_deref();
            return self.report(record, place, origin, stack, CallOutcome::NotRequested, out);
        }
        self.began += 1;
        let waiting = PendingReturn {
            place: place.clone(),
            origin: Arc::clone(origin),
            head: *record.head,
            captured: CapturedBytes(record.packed(capturing(&place.reading))),
            stack,
            age: self.began,
        };
        self.kept += waiting.bytes();
        if let Some(left) = self.waiting.insert(Key::of(record.head), waiting) {
            self.kept -= left.bytes();
            self.report_unreturned(&left, out)?;
        }
        let is_full = self.waiting.len() > WAITING || self.kept > WAITING_BYTES;
        if is_full { self.make_room(out) } else { Ok(()) }
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
        self.kept -= waiting.bytes();
        let began = FunctionRecord::kept(&waiting.head, &waiting.captured.0);
        self.report(&began, &waiting.place, &waiting.origin, waiting.stack.as_deref(), end, out)
    }

    /// Ends the calls of a process that has ended or runs another program: they will not return.
    pub(in crate::pipeline) fn end_process(
        &mut self,
        pid: u32,
        out: &mut FunctionEmitter<'_>,
    ) -> io::Result<()> {
        self.stacks.retain(|(of, _), _| *of != pid);
        self.end(|key| key.pid == pid, out)
    }

    /// Ends all pending calls at the end of the trace.
    pub(in crate::pipeline) fn end_all(&mut self, out: &mut FunctionEmitter<'_>) -> io::Result<()> {
        self.end(|_| true, out)
    }

    fn end(&mut self, of: impl Fn(&Key) -> bool, out: &mut FunctionEmitter<'_>) -> io::Result<()> {
        let ended = self.take(|key, _| of(key));
        ended.iter().try_for_each(|call| self.report_unreturned(call, out))
    }

    /// Reports the older half of the pending calls. Whether these return will not be known.
    fn make_room(&mut self, out: &mut FunctionEmitter<'_>) -> io::Result<()> {
        let mut ages: Vec<u64> = self.waiting.values().map(|call| call.age).collect();
        let middle = ages.len() / 2;
        let Some((_, limit, _)) = (middle > 0).then(|| ages.select_nth_unstable(middle)) else {
            return Ok(());
        };
        let limit = *limit;
        let old = self.take(|_, call| call.age < limit);
        old.iter().try_for_each(|call| self.left(call, CallOutcome::ReturnMissed, out))
    }

    /// Removes calls, oldest first.
    fn take(&mut self, of: impl Fn(&Key, &PendingReturn) -> bool) -> Vec<PendingReturn> {
        let mut taken: Vec<PendingReturn> =
            self.waiting.extract_if(|key, call| of(key, call)).map(|(_, call)| call).collect();
        taken.sort_by_key(|call| call.age);
        self.kept -= taken.iter().map(PendingReturn::bytes).sum::<usize>();
        taken
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
        let call = UprobeCall {
            time: out.clock.timestamp(record.head.entered),
            origin: Cow::Borrowed(origin),
            thread: Thread { id: tid, comm },
            goroutine: Some(record.head.goroutine).filter(|goroutine| *goroutine != 0),
            object: Cow::Borrowed(&place.object),
            function: Cow::Borrowed(&place.function),
            arguments,
            end,
            stack: stack.map(<[StackFrame]>::to_vec),
        };
        out.sink.write(&Record::Uprobe(call))
    }
}

/// The indexes of the arguments that capture bytes.
fn capturing(reading: &Capture) -> impl Iterator<Item = usize> {
    let shown = reading.arguments.iter().enumerate();
    shown.filter(|(_, shown)| captures_bytes(shown.kind)).map(|(index, _)| index)
}

fn captures_bytes(kind: Type) -> bool {
    matches!(kind, Type::Str | Type::Bytes(_))
}

/// Argument `index` of a record. `captures` counts the arguments before it that have captured bytes.
fn argument<'a>(
    record: &FunctionRecord<'a>,
    index: usize,
    shown: CapturedValue,
    captures: &mut usize,
) -> Argument<'a> {
    let number = *captures;
    *captures += usize::from(captures_bytes(shown.kind));
    let raw = record.head.values.get(index).copied().unwrap_or(0);
    let extent = if record.is_cut(index) { Truncation::Cut } else { Truncation::None };
    let bytes = || record.captured(index, number);
    let value = match shown.kind {
        _ if record.is_faulty(index) => Value::Unreadable,
        Type::Int(_) => Value::Signed(raw.cast_signed()),
        Type::Uint(_) => Value::Unsigned(raw),
        Type::Hex | Type::Ptr | Type::Skip => Value::Hex(raw),
        Type::Bool => Value::Bool(raw != 0),
        Type::Str => bytes().map_or(Value::Unreadable, |data| Value::Text(data, extent)),
        Type::Bytes(_) => bytes().map_or(Value::Unreadable, |data| Value::Bytes(data, extent)),
    };
    Argument { index: shown.index, kind: shown.kind.to_string(), value }
}
