//! Functions that move bytes: what they transferred, in one record or several.
//!
//! Two programs serve every such function; the attach cookie says where its arguments are.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_NOEXIST, pt_regs},
    programs::{ProbeContext, RetProbeContext},
};
use aya_log_ebpf::debug;
use probe_common::{
    CALL_BYTES, CHUNK_BYTES, Call, CallShape, ConnectionKey, ConnectionState, Direction, FLAG_ENDED,
    FLAG_FROM_START, FLAG_TRANSMIT, Frame, KIND_CALL, Length, Loss,
};

use crate::{
    connection::lifecycle,
    emit,
    maps::{AMBIGUOUS, CALLS, CONNECTIONS, EMPTY_FRAMES, Frames, MAX_BYTES, NEXT_CONNECTION, PROGRAMS},
    mem,
    scope::Current,
};

/// A `call` instruction pushes the return address: at the return probe it has been popped again.
const RETURN_ADDRESS_BYTES: u64 = 8;

/// At entry: remembers the arguments.
#[inline(always)]
pub fn enter(ctx: &ProbeContext) -> Option<()> {
    let current = Current::in_scope()?;
    let frames = frames_of(current)?;
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
        stack: stack(regs, cookie),
        cookie,
        handle: frames.arguments[usize::from(shape.handle & 7)],
        buffer: frames.arguments[usize::from(shape.buffer & 7)],
        length: match shape.length {
            Length::Returned => 0,
            Length::OutArgument(n) => frames.arguments[usize::from(n & 7)],
        },
        sends: frames.sends,
    };
    push_frame(frames, frame)
}

/// Where the call's return address is. A hook may be behind what the function pushes first.
#[inline(always)]
pub fn stack(regs: &pt_regs, cookie: u64) -> u64 {
    regs.rsp.wrapping_add(probe_common::pushed_bytes(cookie))
}

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
    frames.program = program(current).into();
    Some(frames)
}

/// The number of the program that the process runs: it tells its handles from those of the one before.
#[inline(always)]
pub fn program(current: Current) -> u32 {
    PROGRAMS.get_ptr(current.pid()).map_or(0, |number| *mem::value(number))
}

/// Puts the frame where its return will find it; nowhere if the call is a part of another one.
#[inline(always)]
pub fn push_frame(frames: &mut Frames, frame: Frame) -> Option<()> {
    let mut unused = None;
    let mut inner = None;
    for (index, other) in frames.frames.iter().enumerate() {
        // A public function that is built on another: SSL_read_early_data calls SSL_read_ex, and
        // LibreSSL's SSL_read_ex calls SSL_read. The outer one reports what both transfer.
        if other.stack > frame.stack && other.handle == frame.handle && other.buffer == frame.buffer {
            return None;
        }
        // A public function that jumps to another one, as gnutls_record_send does to gnutls_record_send2.
        if other.stack == frame.stack
            && other.handle == frame.handle
            && other.buffer == frame.buffer
            && probe_common::kind_of_call(other.cookie) == probe_common::kind_of_call(frame.cookie)
        {
            return None;
        }
        // The same place hit twice, or a call that was left by longjmp: its frame is free again.
        if other.stack == 0 || other.stack == frame.stack {
            unused = Some(index);
        } else if other.stack < frame.stack {
            inner = Some(index);
        }
    }
    // A frame deeper than this one is no caller of it: left by longjmp, or on another stack.
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

/// At return: reports what was transferred.
#[inline(always)]
pub fn leave(ctx: &RetProbeContext) -> Option<()> {
    let current = Current::any();
    let (frame, program) = entered(ctx, current)?;
    let regs = mem::registers(ctx.regs);
    // The kernel has set the instruction pointer to where the function returns to: the caller.
    transferred(current, &frame, program, regs.rax, regs.rip)
}

/// The same at a `ret`, for a function that is not hooked where it begins.
#[inline(always)]
pub fn on_ret(ctx: &ProbeContext) -> Option<()> {
    let current = Current::any();
    let regs = mem::registers(ctx.regs);
    let (frame, program) = entered_at(current, regs.rsp)?;
    // Who calls it matters for internal functions alone.
    transferred(current, &frame, program, regs.rax, 0)
}

#[inline(always)]
fn transferred(current: Current, frame: &Frame, program: u32, returned: u64, caller: u64) -> Option<()> {
    let returned = returned as i32;
    if returned <= 0 {
        return None;
    }
    let length = match frame.length {
        0 => returned as u64,
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
    note_pending_send(current, frame, length);
    report(current, frame, program, length, caller);
    Some(())
}

/// Remembers a call that has sent data and no socket has got it yet: the caller passes it on.
#[inline(always)]
pub fn note_pending_send(current: Current, frame: &Frame, length: u64) -> Option<()> {
    let shape = CallShape::unpack(probe_common::arguments(frame.cookie));
    if matches!(shape.direction, Direction::Receive) {
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

/// Reports what a call has transferred.
#[inline(always)]
pub fn report(current: Current, frame: &Frame, program: u32, length: u64, caller: u64) {
    if let Some(call) = build_record(current, frame, program, length, caller) {
        payload(call, frame.buffer);
    }
}

/// The frame of the call that returns, which is taken out, and the number of the program that made it.
#[inline(always)]
pub fn entered(ctx: &RetProbeContext, current: Current) -> Option<(Frame, u32)> {
    entered_at(current, mem::registers(ctx.regs).rsp.wrapping_sub(RETURN_ADDRESS_BYTES))
}

/// The same, of the call whose return address is at `stack`.
#[inline(always)]
pub fn entered_at(current: Current, stack: u64) -> Option<(Frame, u32)> {
    let frames = mem::own(CALLS.get_ptr_mut(current.id)?);
    let program = frames.program as u32;
    let frame = frames.frames.iter_mut().find(|frame| frame.stack == stack)?;
    frame.stack = 0;
    Some((*frame, program))
}

/// The call's record, without payload yet; none if it is not of a TLS connection.
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
        caller,
        site: probe_common::site(frame.cookie),
        flags: match shape.direction {
            Direction::Receive => 0,
            Direction::Transmit => FLAG_TRANSMIT,
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
        ensure_connection(key, probe_common::site(frame.cookie));
        state = CONNECTIONS.get_ptr_mut(key);
    }
    if let Some(state) = state {
        let state = mem::own(state);
        call.connection = state.id;
        call.flags |= state.flags as u32;
        call.number = mem::fetch_add(&raw mut state.calls, 1) + 1;
        let stream = match shape.direction {
            Direction::Receive => &raw mut state.received,
            Direction::Transmit => &raw mut state.transmitted,
        };
        call.stream_offset = mem::fetch_add(stream, length);
    }
    Some(call)
}

/// Gives a connection its number that is seen first in its middle, at a hook.
#[inline(always)]
pub fn ensure_connection(key: ConnectionKey, site: u32) {
    // Another thread may have been faster: the connection is the one that it made.
    assign_id(key, 0, BPF_NOEXIST.into(), site);
    if CONNECTIONS.get_ptr(key).is_none() {
        emit::lost(Loss::ConnectionsFull, 0);
    }
}

/// The number of a new connection; none if it has no room, or is there already where it must not be.
#[inline(always)]
fn assign_id(key: ConnectionKey, flags: u32, how: u64, site: u32) -> Option<u64> {
    let id = mem::fetch_add(NEXT_CONNECTION.get_ptr_mut(0)?, 1) + 1;
    let state = ConnectionState { id, flags: flags.into(), ..NEW_CONNECTION };
    CONNECTIONS.insert(key, state, how).ok()?;
    lifecycle::emit_open(&key, id, flags, site);
    Some(id)
}

const NEW_CONNECTION: ConnectionState =
    ConnectionState { id: 0, calls: 0, received: 0, transmitted: 0, flags: 0, socket: 0 };

/// At the return of a function that makes a connection's handle.
#[inline(always)]
pub fn opened(ctx: &RetProbeContext) -> Option<()> {
    begin(ctx, Current::in_scope()?, mem::registers(ctx.regs).rax)
}

/// The same at a `ret`, for a function that is not hooked where it begins.
#[inline(always)]
pub fn opened_at_end(ctx: &ProbeContext) -> Option<()> {
    begin(ctx, Current::in_scope()?, mem::registers(ctx.regs).rax)
}

/// At the entry of a function that prepares the connection in its first argument.
#[inline(always)]
pub fn open_first(ctx: &ProbeContext) -> Option<()> {
    begin(ctx, Current::in_scope()?, mem::registers(ctx.regs).rdi)
}

/// At the entry of a function that says of the connection in its first argument, more than once, that it
/// begins: as long as it has received nothing it is the same one. rustls's servers may send before the client
/// has answered.
#[inline(always)]
pub fn open_once(ctx: &ProbeContext) -> Option<()> {
    let current = Current::in_scope()?;
    let handle = mem::registers(ctx.regs).rdi;
    match CONNECTIONS.get_ptr_mut(key(current, handle)?) {
        Some(state) if is_at_its_beginning(mem::own(state)) => None,
        _ => begin(ctx, current, handle),
    }
}

#[inline(always)]
fn is_at_its_beginning(state: &ConnectionState) -> bool {
    state.received == 0 && state.flags & u64::from(FLAG_ENDED) == 0
}

/// At the return of a function that puts a connection's handle where its first argument points to.
#[inline(always)]
pub fn opened_behind_first(ctx: &RetProbeContext) -> Option<()> {
    let current = Current::any();
    let (frame, _) = entered(ctx, current)?;
    begin(ctx, current, mem::user(frame.handle)?)
}

/// At the entry of a function that ends the connection in its first argument: the next with its handle is
/// another.
#[inline(always)]
pub fn close_first(ctx: &ProbeContext) -> Option<()> {
    end(ctx, Current::in_scope()?, mem::registers(ctx.regs).rdi)
}

/// At the entry of a function that encrypts or decrypts: the calls that it is a part of are of TLS
/// connections.
#[inline(always)]
pub fn ciphers(ctx: &ProbeContext) -> Option<()> {
    let current = Current::in_scope()?;
    let frames = mem::own(CALLS.get_ptr_mut(current.id)?);
    let stack = mem::registers(ctx.regs).rsp;
    for frame in &frames.frames {
        let shape = CallShape::unpack(probe_common::arguments(frame.cookie));
        if frame.stack > stack && !shape.calls.is_for_all() {
            let key =
                ConnectionKey { handle: frame.handle, pid: current.pid(), program: frames.program as u32 };
            if CONNECTIONS.get_ptr(key).is_none() {
                ensure_connection(key, probe_common::site(frame.cookie));
            }
        }
    }
    Some(())
}

/// A connection with this handle begins.
#[inline(always)]
pub fn begin(ctx: &impl EbpfContext, current: Current, handle: u64) -> Option<()> {
    let key = key(current, handle)?;
    let site = lifecycle::site(ctx);
    if lifecycle::reuse_or_close(&key, site) {
        return Some(());
    }
    let Some(id) = assign_id(key, FLAG_FROM_START, 0, site) else {
        emit::lost(Loss::ConnectionsFull, 0);
        return None;
    };
    debug!(ctx, "process {} opens connection {}", key.pid, id);
    Some(())
}

/// The connection with this handle ends.
#[inline(always)]
pub fn end(ctx: &impl EbpfContext, current: Current, handle: u64) -> Option<()> {
    let key = key(current, handle)?;
    lifecycle::emit_close(&key, lifecycle::site(ctx));
    CONNECTIONS.remove(key).ok();
    Some(())
}

/// What tells the connection with this handle from others.
#[inline(always)]
pub fn key(current: Current, handle: u64) -> Option<ConnectionKey> {
    (handle != 0).then(|| ConnectionKey { handle, pid: current.pid(), program: program(current) })
}

/// Emits the payload in chunks: full ones, then the rest.
#[inline(always)]
pub fn payload(mut call: Call, address: u64) {
    const CHUNK: u32 = CHUNK_BYTES as u32;
    let captured = call.captured;
    let mut full = captured / CHUNK;
    // Its own loop with a constant size: verified once for all sixty-four, instead of per size.
    call.chunk = CHUNK;
    let mut round = 0;
    while round < CALL_BYTES / CHUNK {
        if full == 0 {
            break;
        }
        emit::full_chunk(&call, address + u64::from(call.offset));
        call.offset += CHUNK;
        full -= 1;
        round += 1;
    }
    call.chunk = captured % CHUNK;
    if call.chunk != 0 || captured == 0 {
        emit::chunk(&call, address + u64::from(call.offset));
    }
}
