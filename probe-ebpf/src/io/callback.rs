//! Bytes that a library passes to its program by a callback from within another call, which alone has the
//! handle of the connection.
//!
//! Returns are not hooked, because a return probe would break C++ exceptions. Instead, the open outer calls
//! of a thread are determined from its stack: a call whose return address is not above the stack pointer has
//! ended.

use aya_ebpf::programs::ProbeContext;
use probe_common::{Frame, Loss};

use super::{call, frame};
use crate::{
    connection::identity,
    current::Current,
    emit,
    maps::{CALLBACK_SCOPES, Outer},
    mem,
};

const NONE: Outer = Outer { stack: 0, handle: 0 };

/// At the entry of the outer function.
#[inline(always)]
pub fn enter(ctx: &ProbeContext) -> Option<()> {
    let current = Current::in_scope()?;
    let regs = mem::registers(ctx.regs);
    let entered = Outer { stack: frame::return_address(regs, mem::cookie(ctx)), handle: regs.rdi };
    let Some(calls) = CALLBACK_SCOPES.get_ptr_mut(current.id) else {
        return CALLBACK_SCOPES.insert(current.id, [entered, NONE, NONE], 0).ok();
    };
    let calls = mem::own(calls);
    let (mut index, mut highest) = (0, 0);
    for (at, other) in calls.iter_mut().enumerate() {
        if other.stack <= entered.stack {
            other.stack = 0;
        }
        // A free entry, or else the outermost call. If that has not ended, its bytes are counted as lost, and
        // not attributed to another connection.
        let rank = if other.stack == 0 { u64::MAX } else { other.stack };
        if rank > highest {
            (index, highest) = (at, rank);
        }
    }
    *calls.get_mut(index)? = entered;
    Some(())
}

/// At the callback that passes bytes to the program.
#[inline(always)]
pub fn hand_over(ctx: &ProbeContext) -> Option<()> {
    let current = Current::in_scope()?;
    let regs = mem::registers(ctx.regs);
    let (buffer, length) = (regs.rdx, regs.rcx);
    if length == 0 {
        return None;
    }
    let Some(handle) = innermost(current, regs.rsp) else {
        emit::lost(Loss::Nesting, length);
        return None;
    };
    let (cookie, entered) = (mem::cookie(ctx), mem::now());
    let frame = Frame { stack: 0, cookie, handle, buffer, length: 0, sends: 0, entered };
    call::report(current, &frame, identity::program(current), length, 0);
    Some(())
}

/// The handle of the innermost outer call of the thread.
#[inline(always)]
fn innermost(current: Current, stack: u64) -> Option<u64> {
    let calls = mem::own(CALLBACK_SCOPES.get_ptr_mut(current.id)?);
    let mut found = Outer { stack: u64::MAX, handle: 0 };
    for call in calls.iter() {
        if call.stack > stack && call.stack < found.stack {
            found = *call;
        }
    }
    (found.handle != 0).then_some(found.handle)
}
