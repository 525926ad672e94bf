//! Go's functions that transfer bytes. They take their arguments in different registers. A return is matched
//! to its entry by the goroutine, which may have moved to another thread and another stack in between.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, pt_regs},
    programs::ProbeContext,
};
use probe_common::{CallShape, Frame, GoCall, IoDirection, Loss, RecordHeader};

use super::call;
use crate::{
    connection::identity,
    current::{Current, goroutine_stack_address, goroutine_stack_depth},
    emit,
    maps::{GO_CALLS, GO_CONNECTIONS, GO_SENDS, GoWork},
    mem,
};

/// At the entry of `func (c *Conn) Read(b []byte) (n int, err error)` or `Write`. The receiver is in RAX, the
/// address of the bytes in RBX and their number in RCX (Go's internal ABI since 1.17).
#[inline(always)]
pub fn enter(ctx: &ProbeContext) -> Option<()> {
    let current = Current::in_scope()?;
    let regs = mem::registers(ctx.regs);
    let frame = Frame {
        stack: regs.rsp,
        cookie: mem::cookie(ctx),
        handle: regs.rax,
        buffer: regs.rbx,
        length: regs.rcx,
        sends: 0,
        entered: mem::now(),
    };
    let key = key(current, regs)?;
    // A function that needs more stack is entered again.
    let is_new = GO_CALLS.get_ptr(key).is_none();
    if GO_CALLS.insert(key, frame, 0).is_err() {
        emit::lost(Loss::ThreadsFull, 0);
    } else if is_new && sends(&frame) {
        GO_SENDS.insert(current.pid(), 0, BPF_NOEXIST.into()).ok();
        add_send(current, 1);
    }
    note_connection(current, regs, if sends(&frame) { key.depth } else { 0 })
}

/// Records that the goroutine works on the connection in RAX, so that a socket that it uses meanwhile is
/// attributed to the connection.
#[inline(always)]
fn note_connection(current: Current, regs: &pt_regs, sends_at: u64) -> Option<()> {
    let work = GoWork { key: identity::key(current, regs.rax)?, sends_at };
    GO_CONNECTIONS.insert(current.goroutine(regs.r14), work, 0).ok()
}

/// The goroutine has passed this many bytes to its socket. If these are all that its call sends, in one
/// record, the call is reported now: the process may get the answer on another thread and end before the call
/// returns.
#[inline(always)]
pub fn passed_to_socket(current: Current, goroutine: u64, work: &GoWork, bytes: u64) -> Option<()> {
    let depth = work.sends_at;
    if depth == 0 {
        return None;
    }
    let key = GoCall { goroutine, depth, pid: current.pid().into() };
    let frame = mem::copied(GO_CALLS.get_ptr(key)?);
    if !RecordHeader::is_whole(bytes, frame.length) {
        return None;
    }
    GO_CALLS.remove(key).ok()?;
    add_send(current, -1);
    let caller = mem::user(goroutine_stack_address(goroutine, depth)?).unwrap_or(0);
    call::report(current, &frame, work.key.program, frame.length, caller);
    Some(())
}

/// At a `ret` of such a function. `n` is in RAX.
#[inline(always)]
pub fn leave(ctx: &ProbeContext) -> Option<()> {
    let current = Current::any();
    let regs = mem::registers(ctx.regs);
    let key = key(current, regs)?;
    GO_CONNECTIONS.remove(current.goroutine(regs.r14)).ok();
    let frame = mem::copied(GO_CALLS.get_ptr(key)?);
    // Only the program that removes the entry reports the call: a place that was probed twice is hit twice.
    GO_CALLS.remove(key).ok()?;
    if sends(&frame) {
        add_send(current, -1);
    }
    let transferred = regs.rax as i64;
    if transferred <= 0 {
        return None;
    }
    let caller = mem::user(regs.rsp).unwrap_or(0);
    call::report(current, &frame, identity::program(current), transferred as u64, caller);
    Some(())
}

#[inline(always)]
fn sends(frame: &Frame) -> bool {
    let shape = CallShape::unpack(probe_common::arguments(frame.cookie));
    matches!(shape.direction, IoDirection::Transmit)
}

/// Adds to the number of calls that send in the current process.
#[inline(always)]
fn add_send(current: Current, difference: i64) {
    if let Some(count) = GO_SENDS.get_ptr_mut(current.pid()) {
        mem::add(count, difference as u64);
    }
}

/// Counts the calls that send as lost, because the program of the process ends inside of them.
#[inline(always)]
pub fn count_unfinished(current: Current) {
    if let Some(count) = GO_SENDS.get_ptr_mut(current.pid()) {
        emit::lost_calls(Loss::Unfinished, mem::copied(count));
        mem::set(count, 0);
    }
}

/// At the entry of a method that opens a connection.
#[inline(always)]
pub fn open(ctx: &ProbeContext) -> Option<()> {
    let (current, regs) = (Current::in_scope()?, mem::registers(ctx.regs));
    identity::open(ctx, current, regs.rax)?;
    note_connection(current, regs, 0)
}

/// At the entry of a method that closes a connection.
#[inline(always)]
pub fn close(ctx: &ProbeContext) -> Option<()> {
    let (current, regs) = (Current::in_scope()?, mem::registers(ctx.regs));
    // What the connection still sends inside this call does not mean that another one has the same handle.
    GO_CONNECTIONS.remove(current.goroutine(regs.r14)).ok();
    identity::close(ctx, current, regs.rax)
}

/// The key of a call: its goroutine (in R14), and its depth in the goroutine's stack.
#[inline(always)]
fn key(current: Current, regs: &pt_regs) -> Option<GoCall> {
    let goroutine = regs.r14;
    Some(GoCall { goroutine, depth: goroutine_stack_depth(goroutine, regs.rsp)?, pid: current.pid().into() })
}
