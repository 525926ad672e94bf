//! The calls that have not returned: a frame is pushed at the entry and taken at the return.
//!
//! A call is identified by its process and its position on the stack, never by its thread: a program that
//! switches stacks may enter several calls on one thread, and continue one on another thread.

use aya_ebpf::{
    EbpfContext,
    bindings::pt_regs,
    programs::{ProbeContext, RetProbeContext},
};
use probe_common::{CallShape, Frame, IoDirection, Loss, OpenCall, ReturnSlot};

use crate::{
    connection::identity,
    current::Current,
    emit,
    maps::{AMBIGUOUS, CALLS, EMPTY_FRAMES, Frames, OPEN_CALLS},
    mem,
};

/// The size of the return address, which a `call` instruction pushes. At the return probe it has been popped
/// again.
pub const RETURN_ADDRESS_BYTES: u64 = 8;

/// The address of the call's return address. The hook may come after instructions that push registers.
#[inline(always)]
pub fn return_address(regs: &pt_regs, cookie: u64) -> u64 {
    regs.rsp.wrapping_add(probe_common::pushed_bytes(cookie))
}

/// The calls that the current thread is in.
#[inline(always)]
pub fn frames_of(current: Current) -> Option<&'static mut Frames> {
    if let Some(frames) = CALLS.get_ptr_mut(current.id) {
        return Some(mem::own(frames));
    }
    if CALLS.insert(current.id, mem::value(EMPTY_FRAMES.get_ptr(0)?), 0).is_err() {
        emit::lost(Loss::ThreadsFull, 0);
        return None;
    }
    let frames = mem::own(CALLS.get_ptr_mut(current.id)?);
    frames.program = identity::program(current).into();
    Some(frames)
}

/// A probe at the return of a function: the kernel's return probe, or a probe at one of its exits.
pub trait ReturnContext: EbpfContext {
    /// The registers.
    fn registers(&self) -> &'static pt_regs;
    /// The address of the call's return address.
    fn stack(&self) -> u64;
    /// The return address, or 0 if it cannot be read.
    fn caller(&self) -> u64;
}

impl ReturnContext for RetProbeContext {
    #[inline(always)]
    fn registers(&self) -> &'static pt_regs {
        mem::registers(self.regs)
    }

    #[inline(always)]
    fn stack(&self) -> u64 {
        self.registers().rsp.wrapping_sub(RETURN_ADDRESS_BYTES)
    }

    /// The kernel has set the instruction pointer to the return address.
    #[inline(always)]
    fn caller(&self) -> u64 {
        self.registers().rip
    }
}

impl ReturnContext for ProbeContext {
    #[inline(always)]
    fn registers(&self) -> &'static pt_regs {
        mem::registers(self.regs)
    }

    #[inline(always)]
    fn stack(&self) -> u64 {
        exit_stack(self.registers(), mem::cookie(self))
    }

    #[inline(always)]
    fn caller(&self) -> u64 {
        mem::user(self.stack()).unwrap_or(0)
    }
}

/// The address of the call's return address at an exit with this cookie.
#[inline(always)]
fn exit_stack(regs: &pt_regs, cookie: u64) -> u64 {
    // Both are read before one is chosen: the verifier does not allow a choice between addresses in the
    // context.
    let (stack_pointer, frame_pointer) = (mem::opaque(regs.rsp as usize), mem::opaque(regs.rbp as usize));
    let slot = ReturnSlot::unpack(probe_common::arguments(cookie));
    slot.address(stack_pointer as u64, frame_pointer as u64)
}

/// Stores the frame where the return will find it. None is stored if the call is part of another one.
#[inline(always)]
pub fn push_frame(current: Current, frames: &mut Frames, frame: Frame) -> Option<()> {
    let mut unused = None;
    let mut inner = None;
    for (index, other) in frames.frames.iter().enumerate() {
        // A public function may be built on another: SSL_read_early_data calls SSL_read_ex, and LibreSSL's
        // SSL_read_ex calls SSL_read. The outer call reports what both transfer.
        if other.stack > frame.stack && other.handle == frame.handle && other.buffer == frame.buffer {
            return None;
        }
        // A public function may jump to another one, as gnutls_record_send does to gnutls_record_send2.
        if other.stack == frame.stack
            && other.handle == frame.handle
            && other.buffer == frame.buffer
            && probe_common::kind_of_call(other.cookie) == probe_common::kind_of_call(frame.cookie)
        {
            return None;
        }
        // The same place was hit twice, or the call was left by longjmp. The frame is free again.
        if other.stack == 0 || other.stack == frame.stack {
            unused = Some(index);
        } else if other.stack < frame.stack {
            inner = Some(index);
        }
    }
    // A frame deeper than this one is not a caller of it. It was left by longjmp, or is on another stack, as
    // all of them are if none is deeper.
    let index = unused.or(inner).unwrap_or(0);
    *frames.frames.get_mut(index)? = frame;
    if OPEN_CALLS.insert(OpenCall::at(frame.stack, current.pid()), frame, 0).is_err() {
        emit::lost(Loss::ThreadsFull, 0);
    }
    Some(())
}

/// Removes and returns the frame of the returning call, with the number of the program that made it. None if
/// it was not entered at the hook of this probe.
#[inline(always)]
pub fn take_frame(ctx: &impl ReturnContext, current: Current) -> Option<(Frame, u32)> {
    let stack = ctx.stack();
    let key = OpenCall::at(stack, current.pid());
    let frame = mem::copied(OPEN_CALLS.get_ptr(key)?);
    if probe_common::site(frame.cookie) != probe_common::site(mem::cookie(ctx)) {
        return None;
    }
    // Only the program that removes the frame reports the call: a place that was probed twice is hit twice.
    OPEN_CALLS.remove(key).ok()?;
    let frames = frames_of(current)?;
    for other in &mut frames.frames {
        if other.stack == stack {
            other.stack = 0;
        }
    }
    Some((frame, frames.program as u32))
}

/// Counts the calls that send as lost in which the current thread ends.
#[inline(always)]
pub fn count_unfinished(current: Current) {
    let Some(frames) = CALLS.get_ptr(current.id) else { return };
    for frame in &mem::value(frames).frames {
        let shape = CallShape::unpack(probe_common::arguments(frame.cookie));
        // A call that has returned, on this thread or another one, is not open.
        if frame.stack != 0
            && matches!(shape.direction, IoDirection::Transmit)
            && OPEN_CALLS.get_ptr(OpenCall::at(frame.stack, current.pid())).is_some()
        {
            emit::lost(Loss::Unfinished, 0);
        }
    }
}

/// Remembers a call whose sent data has not reached a socket yet, because its caller will send it.
#[inline(always)]
pub fn note_pending_send(current: Current, frame: &Frame, length: u64) -> Option<()> {
    let shape = CallShape::unpack(probe_common::arguments(frame.cookie));
    if matches!(shape.direction, IoDirection::Receive) {
        return None;
    }
    let frames = mem::own(CALLS.get_ptr_mut(current.id)?);
    if frames.sends != frame.sends {
        return None;
    }
    if frames.unsent == 0 {
        (frames.unsent, frames.unsent_bytes) = (frame.handle, length);
    } else if frames.unsent != frame.handle {
        frames.unsent_bytes = AMBIGUOUS;
    }
    Some(())
}
