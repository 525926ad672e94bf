//! Go's functions that move bytes. They have their arguments in registers of their own, and what joins a
//! return to its entry is the goroutine, which may go on on another thread and another stack.

use aya_ebpf::programs::ProbeContext;

use super::call;
use crate::{
    emit,
    maps::{GO_CALLS, GO_CONNECTIONS, Goroutine},
    mem,
    scope::Current,
};
use aya_ebpf::bindings::pt_regs;
use probe_common::{Frame, GoCall, Loss};

/// At the entry of `func (c *Conn) Read(b []byte) (n int, err error)` or `Write`: the receiver is in RAX, the
/// address of the bytes in RBX (Go's internal ABI, from 1.17 on).
#[inline(always)]
pub fn enter(ctx: &ProbeContext) -> Option<()> {
    let current = Current::in_scope()?;
    let regs = mem::registers(ctx.regs);
    let frame = Frame {
        stack: regs.rsp,
        cookie: mem::cookie(ctx),
        handle: regs.rax,
        buffer: regs.rbx,
        length: 0,
        sends: 0,
    };
    if GO_CALLS.insert(key(current, regs)?, frame, 0).is_err() {
        emit::lost(Loss::ThreadsFull, 0);
    }
    about(current, regs)
}

/// The goroutine is about the connection in RAX: what it sends meanwhile tells the connection's socket.
#[inline(always)]
fn about(current: Current, regs: &pt_regs) -> Option<()> {
    GO_CONNECTIONS.insert(goroutine(current, regs.r14), call::key(current, regs.rax)?, 0).ok()
}

/// The key of a goroutine.
#[inline(always)]
pub fn goroutine(current: Current, address: u64) -> Goroutine {
    Goroutine { address, pid: current.pid().into() }
}

/// At a `ret` of such a function: `n` is in RAX.
#[inline(always)]
pub fn leave(ctx: &ProbeContext) -> Option<()> {
    let current = Current::any();
    let regs = mem::registers(ctx.regs);
    let key = key(current, regs)?;
    let frame = mem::copied(GO_CALLS.get_ptr(key)?);
    // Who removes it reports it: a place that was probed twice is hit twice.
    GO_CALLS.remove(key).ok()?;
    GO_CONNECTIONS.remove(goroutine(current, regs.r14)).ok();
    let transferred = regs.rax as i64;
    if transferred <= 0 {
        return None;
    }
    let caller = mem::user(regs.rsp).unwrap_or(0);
    call::report(current, &frame, call::program(current), transferred as u64, caller);
    Some(())
}

/// At the entry of a method of a connection that begins.
#[inline(always)]
pub fn open(ctx: &ProbeContext) -> Option<()> {
    let (current, regs) = (Current::in_scope()?, mem::registers(ctx.regs));
    call::begin(ctx, current, regs.rax)?;
    about(current, regs)
}

/// At the entry of a method of a connection that ends.
#[inline(always)]
pub fn close(ctx: &ProbeContext) -> Option<()> {
    let (current, regs) = (Current::in_scope()?, mem::registers(ctx.regs));
    // What it says last, in here, is no sign of another one with the same handle.
    GO_CONNECTIONS.remove(goroutine(current, regs.r14)).ok();
    call::end(ctx, current, regs.rax)
}

/// What tells a call from others: its goroutine (in R14), and how deep in its stack it is.
#[inline(always)]
fn key(current: Current, regs: &pt_regs) -> Option<GoCall> {
    let goroutine = regs.r14;
    Some(GoCall { goroutine, depth: depth(goroutine, regs.rsp)?, pid: current.pid().into() })
}

/// Bytes between a stack pointer and the end of a goroutine's stack: they stay the same when the stack is
/// moved because it has to grow.
#[inline(always)]
pub fn depth(goroutine: u64, stack: u64) -> Option<u64> {
    // A goroutine begins with the bounds of its stack: the compiler has that in the prologue of each
    // function, which compares the stack pointer with what follows them.
    let end: u64 = mem::user(goroutine.wrapping_add(8))?;
    Some(end.wrapping_sub(stack))
}
