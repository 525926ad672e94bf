//! Entries and returns of functions → calls.
//!
//! Owns the calls that have not returned. Entry and return are records of their own, joined by thread and
//! place on the stack (in Go: goroutine), so that recursion, nesting and longjmp join right. It never holds
//! more than its bound.

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

/// Calls that wait for their return, at the most: as many as the kernel follows.
const WAITING: usize = probe_common::FUNCTION_FRAMES as usize;
/// Bytes that are kept for them, at the most.
const WAITING_BYTES: usize = 32 << 20;
/// Bytes of a frame of a stack, with names that others share.
const FRAME: usize = size_of::<StackFrame>();

/// What is known of a probed function.
#[derive(Clone, Debug)]
pub(in crate::pipeline) struct ProbedFunction {
    pub(in crate::pipeline) object: Arc<Library>,
    pub(in crate::pipeline) function: Arc<str>,
    pub(in crate::pipeline) reading: Arc<Capture>,
}

/// What tells a call from others.
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

/// A call that has begun.
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
    /// Bytes that it keeps beside itself.
    fn bytes(&self) -> usize {
        self.captured.0.len() + self.stack.as_ref().map_or(0, |stack| stack.len() * FRAME)
    }
}

/// Captured bytes; its `Debug` prints only their number.
struct CapturedBytes(Box<[u8]>);

impl std::fmt::Debug for CapturedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Plaintext::of(&self.0).fmt(f)
    }
}

/// What turns addresses into names.
pub trait Symbolizer: std::fmt::Debug {
    /// The places of a stack of a process.
    fn resolve(&mut self, pid: u32, addresses: &[u64]) -> Vec<StackFrame>;

    /// The process has ended, or is another program now.
    fn forget(&mut self, pid: u32);
}

/// The calls that wait, and the totals of those that were reported.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Functions {
    waiting: HashMap<Key, PendingReturn>,
    /// [`PendingReturn::bytes`] of all of them.
    kept: usize,
    began: u64,
    /// When records were lost last, as far as that was noticed.
    lost: Option<Timestamp>,
    /// The stacks of calls whose record comes next, by thread, each with the time of its call: that record
    /// may be lost.
    stacks: HashMap<(u32, u32), (u64, Vec<StackFrame>)>,
    /// Calls reported.
    pub(in crate::pipeline) calls: u64,
    /// Captured bytes reported.
    pub(in crate::pipeline) bytes: u64,
    /// Of the calls, those of which an argument was cut.
    pub(in crate::pipeline) truncated: u64,
}

/// Where calls are reported to.
pub(in crate::pipeline) struct FunctionEmitter<'a> {
    pub(in crate::pipeline) clock: Clock,
    pub(in crate::pipeline) sink: &'a mut dyn Output,
    /// No more calls than this.
    pub(in crate::pipeline) count: Option<u64>,
}

impl Functions {
    /// Keeps a stack for the record that comes next from its thread.
    pub(in crate::pipeline) fn stack(
        &mut self,
        stack: Stack<'_>,
        symbols: Option<&mut (dyn Symbolizer + Send + '_)>,
    ) {
        let Header { pid, tid, time, .. } = stack.head.header;
        let mut addresses = stack.frames.to_vec();
        // Frame pointers lead from an entry to the caller's caller: the caller has not been left behind yet.
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

    /// Records were lost: the returns of calls that began before may have been among them.
    pub(in crate::pipeline) fn lost(&mut self, now: Timestamp) {
        self.lost = Some(now);
    }

    /// A call has begun.
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

    /// A call has returned.
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
        // One that does not wait was reported when there was no room, or its beginning was lost.
        if self.waiting.get(&key).is_none_or(|waiting| waiting.head.entered != record.head.entered) {
            return Ok(());
        }
        let Some(waiting) = self.waiting.remove(&key) else { return Ok(()) };
        self.kept -= waiting.bytes();
        let began = FunctionRecord::kept(&waiting.head, &waiting.captured.0);
        self.report(&began, &waiting.place, &waiting.origin, waiting.stack.as_deref(), end, out)
    }

    /// A process has ended, or is another program now: its calls do not return.
    pub(in crate::pipeline) fn end_process(
        &mut self,
        pid: u32,
        out: &mut FunctionEmitter<'_>,
    ) -> io::Result<()> {
        self.stacks.retain(|(of, _), _| *of != pid);
        self.end(|key| key.pid == pid, out)
    }

    /// The trace has ended.
    pub(in crate::pipeline) fn end_all(&mut self, out: &mut FunctionEmitter<'_>) -> io::Result<()> {
        self.end(|_| true, out)
    }

    fn end(&mut self, of: impl Fn(&Key) -> bool, out: &mut FunctionEmitter<'_>) -> io::Result<()> {
        let ended = self.take(|key, _| of(key));
        ended.iter().try_for_each(|call| self.report_unreturned(call, out))
    }

    /// Reports the older half: whether they return will not be known.
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

    /// Takes calls out, oldest first.
    fn take(&mut self, of: impl Fn(&Key, &PendingReturn) -> bool) -> Vec<PendingReturn> {
        let mut taken: Vec<PendingReturn> =
            self.waiting.extract_if(|key, call| of(key, call)).map(|(_, call)| call).collect();
        taken.sort_by_key(|call| call.age);
        self.kept -= taken.iter().map(PendingReturn::bytes).sum::<usize>();
        taken
    }

    /// Reports a call that has not returned, unless its return was lost.
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

/// The arguments that capture bytes.
fn capturing(reading: &Capture) -> impl Iterator<Item = usize> {
    let shown = reading.arguments.iter().enumerate();
    shown.filter(|(_, shown)| captures_bytes(shown.kind)).map(|(index, _)| index)
}

fn captures_bytes(kind: Type) -> bool {
    matches!(kind, Type::Str | Type::Bytes(_))
}

/// Argument `index` of those that were read; `captures` of them have captured bytes so far.
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
