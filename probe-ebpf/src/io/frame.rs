//! The calls that threads are currently in: a frame is pushed at the entry and taken at the return.

use aya_ebpf::{bindings::pt_regs, programs::RetProbeContext};
use probe_common::{CallShape, Frame, IoDirection, Loss};

use crate::{
    connection::identity,
    current::Current,
    emit,
    maps::{AMBIGUOUS, CALLS, EMPTY_FRAMES, Frames},
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

/// Stores the frame where the return will find it. None is stored if the call is part of another one.
#[inline(always)]
pub fn push_frame(frames: &mut Frames, frame: Frame) -> Option<()> {
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
    // A frame deeper than this one is not a caller of it. It was left by longjmp, or is on another stack.
    let index = match (unused, inner) {
        (Some(index), _) => index,
        (None, inner) => {
            emit::lost(Loss::Nesting, 0);
            inner?
        }
    };
    *frames.frames.get_mut(index)? = frame;
    Some(())
}

/// Removes and returns the frame of the returning call, with the number of the program that made it.
#[inline(always)]
pub fn take_frame(ctx: &RetProbeContext, current: Current) -> Option<(Frame, u32)> {
    take_frame_at(current, mem::registers(ctx.regs).rsp.wrapping_sub(RETURN_ADDRESS_BYTES))
}

/// Like [`take_frame`], for the call whose return address is at `stack`.
#[inline(always)]
pub fn take_frame_at(current: Current, stack: u64) -> Option<(Frame, u32)> {
    let frames = mem::own(CALLS.get_ptr_mut(current.id)?);
    let program = frames.program as u32;
    let frame = frames.frames.iter_mut().find(|frame| frame.stack == stack)?;
    frame.stack = 0;
    Some((*frame, program))
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
