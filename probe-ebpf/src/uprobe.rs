//! The functions of `ctrace uprobe`: their arguments, return values, number of calls, and durations.
//!
//! What to read of a call is defined by a [`FunctionSpec`], whose index is the low half of the cookie.

use aya_ebpf::{bindings::BPF_NOEXIST, programs::ProbeContext};
use probe_common::{
    CountKey, FrameKey, FunctionEvent, FunctionFrame, FunctionSpec, FunctionStack, Header, Histogram,
    KIND_FUNCTION_ENTER, KIND_FUNCTION_RETURN, KIND_FUNCTION_STACK, Loss, REGISTERS, SPEC_COUNT, SPEC_ENTER,
    SPEC_GO, SPEC_LATENCY, SPEC_RETURN, SPEC_STACK, arguments, bucket, site, spec_index,
};

use crate::{
    current::{Current, goroutine_stack_depth},
    emit::{self, Values},
    io::frame::ReturnContext,
    maps::{COUNTS, FUNCTION_FRAMES, LATENCIES, NO_LATENCY, SPECS},
    mem,
};

/// The DWARF numbers of registers.
const RSP: usize = 7;
const R14: usize = 14;
/// The instruction pointer, at the end of the [`Registers`].
const RIP: usize = REGISTERS - 1;

/// The registers of the current thread.
type Registers = [u64; REGISTERS];

/// At the entry of a function.
#[inline(always)]
pub fn enter(ctx: &ProbeContext) -> Option<()> {
    let current = Current::in_scope()?;
    let cookie = mem::cookie(ctx);
    let spec = spec(cookie)?;
    if spec.flags & SPEC_COUNT != 0 {
        return count(site(cookie));
    }
    let registers = mem::register_file(mem::registers(ctx.regs));
    let key = key(current, spec, cookie, &registers, registers[RSP])?;
    let entered = mem::now();
    if spec.flags & SPEC_ENTER != 0 {
        if spec.flags & SPEC_STACK != 0 {
            stack(ctx, current, registers[RSP], entered);
        }
        let time = entered;
        let kind = KIND_FUNCTION_ENTER;
        let head = Head { current, kind, cookie, key: &key, spec, time, entered, registers: &registers };
        let values = Values { list: &spec.list, count: spec.arguments, room: spec.room };
        emit::function_call(&values, &registers, |function| head.write(function))?;
    }
    if spec.flags & SPEC_RETURN != 0
        && FUNCTION_FRAMES.insert(key, FunctionFrame { entered, cookie }, 0).is_err()
    {
        emit::lost(Loss::ThreadsFull, 0);
    }
    Some(())
}

/// At the return of a function.
#[inline(always)]
pub fn leave(ctx: &impl ReturnContext) -> Option<()> {
    end(mem::cookie(ctx), &mem::register_file(ctx.registers()), ctx.stack())
}

#[inline(always)]
fn end(cookie: u64, registers: &Registers, stack: u64) -> Option<()> {
    let current = Current::any();
    let spec = spec(cookie)?;
    let key = key(current, spec, cookie, registers, stack)?;
    let FunctionFrame { entered, cookie } = mem::copied(FUNCTION_FRAMES.get_ptr(key)?);
    // Only the program that removes the frame reports the call: a place that was probed twice is hit twice.
    FUNCTION_FRAMES.remove(key).ok()?;
    if spec.flags & SPEC_LATENCY != 0 {
        return latency(site(cookie), mem::now().saturating_sub(entered));
    }
    let time = mem::now();
    let kind = KIND_FUNCTION_RETURN;
    let head = Head { current, kind, cookie, key: &key, spec, time, entered, registers };
    let values = Values { list: core::slice::from_ref(&spec.returned), count: 1, room: spec.returned_room };
    emit::function_call(&values, registers, |function| head.write(function))?;
    Some(())
}

#[inline(always)]
fn spec(cookie: u64) -> Option<&'static FunctionSpec> {
    SPECS.get_ptr(spec_index(arguments(cookie))).map(mem::value)
}

/// The key of a call: its process and its position on the stack, because a program that switches stacks may
/// continue a call on another thread. In Go, it is the goroutine and the distance from the end of the stack,
/// because stacks are moved when they grow.
#[inline(always)]
fn key(
    current: Current,
    spec: &FunctionSpec,
    cookie: u64,
    registers: &Registers,
    stack: u64,
) -> Option<FrameKey> {
    if spec.flags & SPEC_GO == 0 {
        return Some(FrameKey { owner: 0, frame: stack, pid: current.pid(), site: site(cookie) });
    }
    let goroutine = registers[R14];
    let frame = goroutine_stack_depth(goroutine, stack)?;
    Some(FrameKey { owner: goroutine, frame, pid: current.pid(), site: site(cookie) })
}

/// The data for the head of a call's record.
struct Head<'a> {
    current: Current,
    kind: u32,
    cookie: u64,
    key: &'a FrameKey,
    spec: &'a FunctionSpec,
    time: u64,
    entered: u64,
    registers: &'a Registers,
}

impl Head<'_> {
    #[inline(always)]
    fn write(&self, function: &mut FunctionEvent) {
        function.header = Header { time: self.time, ..emit::header(self.kind, self.current) };
        function.frame = self.key.frame;
        function.goroutine = if self.spec.flags & SPEC_GO == 0 { 0 } else { self.key.owner };
        function.entered = self.entered;
        function.instruction = self.registers[RIP];
        function.site = site(self.cookie);
    }
}

/// Emits the call stack of the call with this entry time, by which userspace matches the two records.
#[inline(always)]
fn stack(ctx: &ProbeContext, current: Current, stack: u64, entered: u64) {
    emit::function_stack(|record: &mut FunctionStack| {
        record.header = Header { time: entered, ..emit::header(KIND_FUNCTION_STACK, current) };
        record.caller = mem::user(stack).unwrap_or(0);
        record.reserved = 0;
        record.count = mem::user_stack(ctx, &mut record.frames).unwrap_or(0);
    });
}

/// Counts a call.
#[inline(always)]
fn count(site: u32) -> Option<()> {
    let key = CountKey { cgroup: mem::cgroup(), site, reserved: 0 };
    let number = match COUNTS.get_ptr_mut(key) {
        Some(number) => number,
        None => {
            // Another thread may have been faster.
            COUNTS.insert(key, 0, BPF_NOEXIST.into()).ok();
            COUNTS.get_ptr_mut(key).or_else(full)?
        }
    };
    mem::add(number, 1);
    Some(())
}

/// Counts a call by its duration.
#[inline(always)]
fn latency(site: u32, nanoseconds: u64) -> Option<()> {
    let key = CountKey { cgroup: mem::cgroup(), site, reserved: 0 };
    let histogram: *mut Histogram = match LATENCIES.get_ptr_mut(key) {
        Some(histogram) => histogram,
        None => {
            LATENCIES.insert(key, mem::value(NO_LATENCY.get_ptr(0)?), BPF_NOEXIST.into()).ok();
            LATENCIES.get_ptr_mut(key).or_else(full)?
        }
    };
    let histogram = mem::own(histogram);
    mem::add(&raw mut histogram.total, nanoseconds);
    let bucket = histogram.buckets.get_mut(mem::opaque(bucket(nanoseconds)))?;
    mem::add(bucket, 1);
    Some(())
}

#[inline(always)]
fn full<T>() -> Option<T> {
    emit::lost(Loss::CountsFull, 0);
    None
}
