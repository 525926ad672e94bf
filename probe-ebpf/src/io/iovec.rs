//! Functions that transfer several pieces of memory in one call, which are reported in one record.

use aya_ebpf::{bindings::pt_regs, programs::ProbeContext};
use probe_common::{BufferLayout, CHUNK_BYTES, Call, CallShape, Frame, Loss};

use super::{
    call,
    frame::{self, ReturnContext},
};
use crate::{
    current::Current,
    emit,
    maps::{CALLS, Frames},
    mem,
};

/// The most pieces of one call that are captured, which is also NSPR's limit, and the most bytes. More than
/// that is cut. Each piece and each chunk costs the verifier an iteration of a loop, and older verifiers
/// refuse a program with too many.
const PIECES: u64 = 16;
pub const GATHERED_BYTES: u32 = 256 * 1024;
/// The size of an address and a length.
const PIECE_BYTES: u64 = 16;
/// A value of [`Frame::length`] for bytes in a single piece. [`Frame::buffer`] is their address then, and not
/// that of a list of pieces.
const IN_ONE: u64 = u64::MAX;

/// At the entry of a function: keeps the address of the pieces.
#[inline(always)]
pub fn enter(ctx: &ProbeContext) -> Option<()> {
    let current = Current::in_scope()?;
    let frames = frame::frames_of(current)?;
    let regs = mem::registers(ctx.regs);
    let cookie = mem::cookie(ctx);
    let (buffer, length) = pieces(regs, BufferLayout::unpack(probe_common::arguments(cookie))?)?;
    let stack = frame::return_address(regs, cookie);
    let (handle, sends, entered) = (regs.rdi, frames.sends, mem::now());
    let frame = Frame { stack, cookie, handle, buffer, length, sends, entered };
    if is_inside(frames, &frame) {
        return None;
    }
    frame::push_frame(current, frames, frame)
}

/// The address of the pieces, and how many of their bytes to skip. They are read at the entry, because the
/// arguments may have been overwritten by the return.
#[inline(always)]
fn pieces(regs: &pt_regs, form: BufferLayout) -> Option<(u64, u64)> {
    match form {
        BufferLayout::IoVecFrom => Some((regs.rsi, regs.rcx)),
        BufferLayout::RustChunks => {
            let chunks = regs.rsi;
            match mem::user(chunks)? {
                0 => Some((mem::user(chunks.wrapping_add(8))?, IN_ONE)),
                list => Some((list, mem::user(chunks.wrapping_add(16))?)),
            }
        }
        BufferLayout::PtrLen => Some((regs.rsi, IN_ONE)),
        _ => Some((regs.rsi, 0)),
    }
}

/// Whether the call is part of another one with the same connection and direction, which reports the bytes:
/// s2n_send makes a list of one piece and calls s2n_sendv_with_offset.
#[inline(always)]
fn is_inside(frames: &Frames, frame: &Frame) -> bool {
    let direction = |frame: &Frame| CallShape::unpack(probe_common::arguments(frame.cookie)).direction;
    frames.frames.iter().any(|other| {
        other.stack > frame.stack && other.handle == frame.handle && direction(other) == direction(frame)
    })
}

/// At the return of a function.
#[inline(always)]
pub fn leave(ctx: &impl ReturnContext) -> Option<()> {
    let current = Current::any();
    let (frame, program) = frame::take_frame(ctx, current)?;
    let returned = ctx.registers().rax;
    let length = match BufferLayout::unpack(probe_common::arguments(frame.cookie)) {
        // The result is an `int` in NSPR and a `ssize_t` elsewhere, but none transfers 2 GiB.
        Some(BufferLayout::IoVec | BufferLayout::IoVecFrom) => i64::from(returned as i32),
        _ => returned as i64,
    };
    if length <= 0 {
        return None;
    }
    report(current, &frame, program, length as u64, ctx.caller())
}

#[inline(always)]
fn report(current: Current, frame: &Frame, program: u32, length: u64, caller: u64) -> Option<()> {
    frame::note_pending_send(current, frame, length);
    let mut call = call::build_record(current, frame, program, length, caller)?;
    if frame.length == IN_ONE {
        call::payload(call, frame.buffer);
        return None;
    }
    call.captured = call.captured.min(GATHERED_BYTES);
    let state = PiecesLeft::start(&raw mut mem::own(CALLS.get_ptr_mut(current.id)?).arguments, frame.length);
    call.captured = within_reach(frame, call.captured) as u32;
    emit_all(call, frame.buffer, state);
    Some(())
}

/// The address and the length of a piece.
#[inline(always)]
pub fn piece(list: u64, index: u64) -> Option<(u64, u64)> {
    let at = list.wrapping_add(index.wrapping_mul(PIECE_BYTES));
    let length: u64 = mem::user(at.wrapping_add(8))?;
    // `PRIOVec` has an `int` there, followed by undefined padding.
    Some((mem::user(at)?, length & 0xffff_ffff))
}

/// The number of bytes in the pieces that are read, at most `wanted`.
#[inline(always)]
fn within_reach(frame: &Frame, wanted: u32) -> u64 {
    let end = frame.length.saturating_add(wanted.into());
    let mut there: u64 = 0;
    let mut index = 0;
    while index < PIECES {
        if there >= end {
            return wanted.into();
        }
        let Some((_, length)) = piece(frame.buffer, index) else {
            emit::lost(Loss::ReadFault, 0);
            break;
        };
        there += length;
        index += 1;
    }
    there.saturating_sub(frame.length).min(wanted.into())
}

/// What remains to be emitted. It is kept in a map, in the room for arguments that the thread needs only at
/// an entry. The verifier does not track values there, so it need not check an iteration of the loop once for
/// each path through the previous iterations.
#[derive(Clone, Copy)]
pub struct PiecesLeft(*mut [u64; 8]);

impl PiecesLeft {
    /// The number of pieces that were begun.
    const INDEX: usize = 1;
    /// The number of bytes to skip at the beginning.
    const SKIP: usize = 2;
    /// The address of what is left of the current piece, and below that its length.
    const ADDRESS: usize = 3;
    const LEFT: usize = 4;
    /// The number of bytes that were emitted.
    const OFFSET: usize = 5;
    /// The number of bytes to emit in this iteration.
    const CHUNK: usize = 6;

    /// Nothing is emitted so far, and `skip` bytes are to be left out. `room` is in the value of a map that
    /// nobody else uses meanwhile.
    #[inline(always)]
    pub fn start(room: *mut [u64; 8], skip: u64) -> Self {
        let state = Self(room);
        state.set(Self::INDEX, 0);
        state.set(Self::LEFT, 0);
        state.set(Self::OFFSET, 0);
        state.set(Self::SKIP, skip);
        state
    }

    /// What was [started](Self::start) in this room.
    #[inline(always)]
    pub fn of(room: *mut [u64; 8]) -> Self {
        Self(room)
    }

    #[inline(always)]
    fn get(self, field: usize) -> u64 {
        mem::copied(&raw const mem::own(self.0)[field])
    }

    #[inline(always)]
    fn set(self, field: usize, value: u64) {
        mem::own(self.0)[field] = value;
    }

    /// Begins the next piece. None if it cannot be read.
    #[inline(always)]
    fn next(self, list: u64) -> Option<()> {
        let index = self.get(Self::INDEX);
        let (address, length) = piece(list, index)?;
        let skip = self.get(Self::SKIP);
        let skipped = if skip < length { skip } else { length };
        self.set(Self::INDEX, index + 1);
        self.set(Self::SKIP, skip - skipped);
        self.set(Self::ADDRESS, address.wrapping_add(skipped));
        self.set(Self::LEFT, length - skipped);
        Some(())
    }
}

/// The most steps that emit the bytes of `PIECES` pieces: one for each piece and each chunk.
pub const fn steps(pieces: u64) -> u64 {
    pieces + GATHERED_BYTES as u64 / CHUNK_BYTES as u64
}

#[inline(always)]
fn emit_all(mut call: Call, list: u64, state: PiecesLeft) {
    let mut round = 0;
    while round < steps(PIECES) {
        round += 1;
        if emit_step(&mut call, list, state).is_none() {
            break;
        }
    }
}

/// Emits as many of the next bytes as are in one piece and fit into one chunk. None if nothing is left.
#[inline(always)]
pub fn emit_step(call: &mut Call, list: u64, state: PiecesLeft) -> Option<()> {
    const CHUNK: u64 = CHUNK_BYTES as u64;
    if state.get(PiecesLeft::LEFT) == 0 && call.captured != 0 {
        state.next(list)?;
    }
    let wanted = u64::from(call.captured).saturating_sub(state.get(PiecesLeft::OFFSET));
    let left = state.get(PiecesLeft::LEFT);
    state.set(PiecesLeft::CHUNK, if left < wanted { left } else { wanted });
    if state.get(PiecesLeft::CHUNK) > CHUNK {
        state.set(PiecesLeft::CHUNK, CHUNK);
    }
    call.offset = state.get(PiecesLeft::OFFSET) as u32;
    call.chunk = state.get(PiecesLeft::CHUNK) as u32;
    if call.chunk != 0 || call.captured == 0 {
        emit::call_chunk(call, state.get(PiecesLeft::ADDRESS));
    }
    let chunk = state.get(PiecesLeft::CHUNK);
    let offset = state.get(PiecesLeft::OFFSET) + chunk;
    if offset >= u64::from(call.captured) {
        return None;
    }
    state.set(PiecesLeft::OFFSET, offset);
    state.set(PiecesLeft::ADDRESS, state.get(PiecesLeft::ADDRESS).wrapping_add(chunk));
    state.set(PiecesLeft::LEFT, state.get(PiecesLeft::LEFT) - chunk);
    Some(())
}
