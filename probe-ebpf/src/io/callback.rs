//! Bytes that a library hands to its program by a call from inside of another one, which alone knows the
//! connection's handle.
//!
//! Nothing is to be seen of a return, where a probe would be in the way of C++'s exceptions. Which calls a
//! thread is in the middle of, its stack says: one whose return address is not above the stack pointer has
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
        // A free one, or else the outermost: should that not have ended, its bytes are counted as lost, and
        // not taken for another's.
        let rank = if other.stack == 0 { u64::MAX } else { other.stack };
        if rank > highest {
            (index, highest) = (at, rank);
        }
    }
    *calls.get_mut(index)? = entered;
    Some(())
}

/// At the call that hands over bytes.
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
    let frame = Frame { stack: 0, cookie: mem::cookie(ctx), handle, buffer, length: 0, sends: 0 };
    call::report(current, &frame, identity::program(current), length, 0);
    Some(())
}

/// The handle of the call that the thread is inside of.
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
