//! Go's functions that move bytes. They have their arguments in registers of their own, and what joins a
//! return to its entry is the goroutine, which may go on on another thread and another stack.

use aya_ebpf::{bindings::pt_regs, programs::ProbeContext};
use probe_common::{Frame, GoCall, Loss};

use super::call;
use crate::{
    connection::identity,
    current::{Current, goroutine_stack_depth},
    emit,
    maps::{GO_CALLS, GO_CONNECTIONS},
    mem,
};

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
    note_connection(current, regs)
}

/// The goroutine is about the connection in RAX: the socket that it uses meanwhile is the connection's.
#[inline(always)]
fn note_connection(current: Current, regs: &pt_regs) -> Option<()> {
    GO_CONNECTIONS.insert(current.goroutine(regs.r14), identity::key(current, regs.rax)?, 0).ok()
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
    GO_CONNECTIONS.remove(current.goroutine(regs.r14)).ok();
    let transferred = regs.rax as i64;
    if transferred <= 0 {
        return None;
    }
    let caller = mem::user(regs.rsp).unwrap_or(0);
    call::report(current, &frame, identity::program(current), transferred as u64, caller);
    Some(())
}

/// At the entry of a method of a connection that begins.
#[inline(always)]
pub fn open(ctx: &ProbeContext) -> Option<()> {
    let (current, regs) = (Current::in_scope()?, mem::registers(ctx.regs));
    identity::open(ctx, current, regs.rax)?;
    note_connection(current, regs)
}

/// At the entry of a method of a connection that ends.
#[inline(always)]
pub fn close(ctx: &ProbeContext) -> Option<()> {
    let (current, regs) = (Current::in_scope()?, mem::registers(ctx.regs));
    // What it says last, in here, is no sign of another one with the same handle.
    GO_CONNECTIONS.remove(current.goroutine(regs.r14)).ok();
    identity::close(ctx, current, regs.rax)
}

/// The key of a call: its goroutine (in R14), and how deep in its stack it is.
#[inline(always)]
fn key(current: Current, regs: &pt_regs) -> Option<GoCall> {
    let goroutine = regs.r14;
    Some(GoCall { goroutine, depth: goroutine_stack_depth(goroutine, regs.rsp)?, pid: current.pid().into() })
}
