//! Functions that transfer bytes: reports the transferred bytes, in one record or several.
//!
//! Two programs serve all such functions. The attach cookie describes where the arguments are.

use aya_ebpf::programs::ProbeContext;
use probe_common::{
    CALL_BYTES, CHUNK_BYTES, Call, CallShape, ConnectionKey, FLAG_TRANSMIT, Frame, IoDirection, KIND_CALL,
    LengthSource, Loss,
};

use super::frame::{self, ReturnContext};
use crate::{connection::identity, constants::MAX_BYTES, current::Current, emit, maps::CONNECTIONS, mem};

/// At the entry of a function: keeps the arguments.
#[inline(always)]
pub fn enter(ctx: &ProbeContext) -> Option<()> {
    let current = Current::in_scope()?;
    let frames = frame::frames_of(current)?;
    let regs = mem::registers(ctx.regs);
    frames.arguments[0] = regs.rdi;
    frames.arguments[1] = regs.rsi;
    frames.arguments[2] = regs.rdx;
    frames.arguments[3] = regs.rcx;
    frames.arguments[4] = regs.r8;
    frames.arguments[5] = regs.r9;
    let cookie = mem::cookie(ctx);
    let shape = CallShape::unpack(probe_common::arguments(cookie));
    if shape.calls.only_looks(frames.arguments[3]) {
        return None;
    }
    let frame = Frame {
        stack: frame::return_address(regs, cookie),
        cookie,
        handle: frames.arguments[usize::from(shape.handle & 7)],
        buffer: frames.arguments[usize::from(shape.buffer & 7)],
        length: match shape.length {
            LengthSource::Returned => 0,
            LengthSource::OutArgument(n) => frames.arguments[usize::from(n & 7)],
        },
        sends: frames.sends,
        entered: mem::now(),
    };
    frame::push_frame(current, frames, frame)
}

/// At the return of a function: reports what was transferred.
#[inline(always)]
pub fn leave(ctx: &impl ReturnContext) -> Option<()> {
    let current = Current::any();
    let (frame, program) = frame::take_frame(ctx, current)?;
    let returned = ctx.registers().rax as i32;
    if returned <= 0 {
        return None;
    }
    transferred(current, &frame, program, returned as u64, ctx.caller())
}

#[inline(always)]
fn transferred(current: Current, frame: &Frame, program: u32, returned: u64, caller: u64) -> Option<()> {
    let length = match frame.length {
        0 => returned,
        address => match mem::user(address) {
            Some(length) => length,
            None => {
                emit::lost(Loss::ReadFault, 0);
                return None;
            }
        },
    };
    if length == 0 {
        return None;
    }
    frame::note_pending_send(current, frame, length);
    report(current, frame, program, length, caller);
    Some(())
}

/// Reports the bytes that a call has transferred.
#[inline(always)]
pub fn report(current: Current, frame: &Frame, program: u32, length: u64, caller: u64) {
    if let Some(call) = build_record(current, frame, program, length, caller) {
        payload(call, frame.buffer);
    }
}

/// The record of a call, without payload so far. None if the call does not belong to a TLS connection.
#[inline(always)]
pub fn build_record(current: Current, frame: &Frame, program: u32, length: u64, caller: u64) -> Option<Call> {
    let key = ConnectionKey { handle: frame.handle, pid: current.pid(), program };
    let shape = CallShape::unpack(probe_common::arguments(frame.cookie));
    let max = mem::constant(&MAX_BYTES).min(CALL_BYTES);
    let mut call = Call {
        header: emit::header(KIND_CALL, current),
        connection: 0,
        number: 0,
        stream_offset: 0,
        length,
        entered: frame.entered,
        caller,
        site: probe_common::site(frame.cookie),
        flags: match shape.direction {
            IoDirection::Receive => 0,
            IoDirection::Transmit => FLAG_TRANSMIT,
        },
        captured: if length > max.into() { max } else { length as u32 },
        offset: 0,
        chunk: 0,
        reserved: 0,
    };
    let mut state = CONNECTIONS.get_ptr_mut(key);
    if state.is_none() {
        if !shape.calls.is_for_all() {
            return None;
        }
        identity::ensure_connection(key, probe_common::site(frame.cookie));
        state = CONNECTIONS.get_ptr_mut(key);
    }
    if let Some(state) = state {
        let state = mem::own(state);
        call.connection = state.id;
        call.flags |= state.flags as u32;
        call.number = mem::fetch_add(&raw mut state.calls, 1) + 1;
        let stream = match shape.direction {
            IoDirection::Receive => &raw mut state.received,
            IoDirection::Transmit => &raw mut state.transmitted,
        };
        call.stream_offset = mem::fetch_add(stream, length);
    }
    Some(call)
}

/// Emits the payload in chunks: the full ones first, then the rest.
#[inline(always)]
pub fn payload(mut call: Call, address: u64) {
    const CHUNK: u32 = CHUNK_BYTES as u32;
    let captured = call.captured;
    let mut full = captured / CHUNK;
    call.chunk = CHUNK;
    let mut round = 0;
    while round < CALL_BYTES / CHUNK {
        if full == 0 {
            break;
        }
        emit::call_chunk(&call, address + u64::from(call.offset));
        call.offset += CHUNK;
        full -= 1;
        round += 1;
    }
    call.chunk = captured % CHUNK;
    if call.chunk != 0 || captured == 0 {
        emit::call_chunk(&call, address + u64::from(call.offset));
    }
}
