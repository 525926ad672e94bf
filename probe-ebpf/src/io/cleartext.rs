//! Bytes that pass sockets without TLS: reports them, and the connections that they belong to.
//!
//! A connection is a socket, whichever processes use it. So it is one connection after a fork, and after it
//! was passed to another process.

use probe_common::{
    CALL_BYTES, Call, ConnectionKey, ConnectionState, END_SOCKET_CLOSED, FLAG_FROM_START, FLAG_TRANSMIT,
    Header, IoDirection, KIND_CALL, KIND_CONNECTION_CLOSE, KIND_SOCKET, Loss, NO_SITE, SOCKET_CLEARTEXT,
    SOCKET_FROM_START, STAGE_CLEARTEXT, STAGE_DECODED, STAGE_IGNORED, SYSTEM_CALL_SITES, UNDECIDED_BYTES,
    UnattributedSocket,
};

use super::{call, iovec};
use crate::{
    connection::{identity, socket_address},
    constants::{CLEARTEXT, MAX_BYTES},
    current::Current,
    emit,
    maps::{NEXT_CONNECTION, TRANSFER, UNATTRIBUTED},
    mem::{self, Place},
};

/// The most pieces of one system call that are captured. Node.js sends three for each chunk of a body.
const PIECES: u64 = 128;

/// Flags of recv(2) and send(2) with which the transferred bytes are none of the stream: out-of-band data,
/// what is received again later, and reports of errors.
pub const OUTSIDE_OF_STREAM: u64 = 0x1 | 0x2 | 0x2000;

/// A flag of recv(2): the bytes are not wanted.
const MSG_TRUNC: u64 = 0x20;

/// Whether such bytes are wanted.
#[inline(always)]
pub fn enabled() -> bool {
    mem::constant(&CLEARTEXT) != 0
}

/// Whether the bytes of a socket are captured.
#[inline(always)]
pub fn is_captured(state: &UnattributedSocket) -> bool {
    state.stage == STAGE_CLEARTEXT || state.stage == STAGE_DECODED
}

/// The current transfer of a socket is to be captured.
#[inline(always)]
pub fn expect(current: Current, state: &mut UnattributedSocket) {
    state.expected = current.id;
}

/// Reports the bytes of a transfer that was [expected](expect).
#[inline(always)]
pub fn on_transfer(sock: u64, direction: IoDirection, bytes: u64, flags: u64) -> Option<()> {
    // An int, which is negative on failure.
    let bytes = bytes as i32;
    if bytes <= 0 || flags & OUTSIDE_OF_STREAM != 0 {
        return None;
    }
    let state = mem::own(UNATTRIBUTED.get_ptr_mut(sock)?);
    if state.expected != Current::any().id {
        return None;
    }
    state.expected = 0;
    let sent = u64::from(direction == IoDirection::Transmit);
    let system_call = mem::system_call()?;
    let Place { address, pieces } = system_call.place();
    // TCP drops the bytes then, instead of copying them.
    let is_copied = direction == IoDirection::Transmit || flags & MSG_TRUNC == 0;
    let address = if is_copied { address } else { 0 };
    emit_transfer(sock, bytes as u64, address, pieces, system_call.number & 0xffff | sent << 16);
    Some(())
}

/// Does it in a global function, which the verifier follows once for a program. `number` is that of the
/// system call, and above its lower 16 bits whether it has sent.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emit_transfer(sock: u64, bytes: u64, address: u64, pieces: u64, number: u64) -> u32 {
    let Some(socket) = UNATTRIBUTED.get_ptr_mut(sock) else { return 0 };
    let state = mem::own(socket);
    let direction = if number >> 16 != 0 { IoDirection::Transmit } else { IoDirection::Receive };
    let site = SYSTEM_CALL_SITES + (number as u32 & 0xffff);
    if state.connection.id == 0 {
        open(sock, state, (direction, bytes), site);
    }
    let connection = &mut state.connection;
    let (stream, flag) = match direction {
        IoDirection::Transmit => (&raw mut connection.transmitted, FLAG_TRANSMIT),
        IoDirection::Receive => (&raw mut connection.received, 0),
    };
    let stream_offset = mem::fetch_add(stream, bytes);
    let header = emit::header(KIND_CALL, Current::any());
    let max = mem::constant(&MAX_BYTES).min(CALL_BYTES);
    let is_over = stream_offset > UNDECIDED_BYTES && state.stage == STAGE_CLEARTEXT;
    let wanted = if bytes > max.into() { max } else { bytes as u32 };
    let call = Call {
        header,
        connection: connection.id,
        number: mem::fetch_add(&raw mut connection.calls, 1) + 1,
        stream_offset,
        length: bytes,
        entered: header.time,
        caller: 0,
        site,
        flags: flag | connection.flags as u32,
        captured: if address == 0 || is_over { 0 } else { wanted },
        offset: 0,
        chunk: 0,
        reserved: 0,
    };
    if pieces == 0 || call.captured == 0 {
        call::payload(call, address);
    } else {
        emit_pieces(call, address, pieces);
    }
    0
}

#[inline(always)]
fn emit_pieces(mut call: Call, list: u64, pieces: u64) -> Option<()> {
    let transfer = mem::own(TRANSFER.get_ptr_mut(0)?);
    call.captured = call.captured.min(iovec::GATHERED_BYTES);
    let mut there: u64 = 0;
    let mut index = 0;
    while index < PIECES && index < pieces && there < call.captured.into() {
        there += u64::from(length_of_piece(list, index));
        index += 1;
    }
    call.captured = call.captured.min(there as u32);
    transfer.call = call;
    iovec::PiecesLeft::start(&raw mut transfer.state, 0);
    let mut round = 0;
    while round < iovec::steps(PIECES) && emit_step(list) != 0 {
        round += 1;
    }
    Some(())
}

/// The length of a piece, in a global function, so that the verifier does not follow it for each piece. 0 if
/// it cannot be read.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn length_of_piece(list: u64, index: u64) -> u32 {
    match iovec::piece(list, index) {
        Some((_, length)) => length as u32,
        None => {
            emit::lost(Loss::ReadFault, 0);
            0
        }
    }
}

/// Emits what is next of the pieces, likewise. 0 if nothing is left.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emit_step(list: u64) -> u32 {
    let Some(transfer) = TRANSFER.get_ptr_mut(0).map(mem::own) else { return 0 };
    let state = iovec::PiecesLeft::of(&raw mut transfer.state);
    u32::from(iovec::emit_step(&mut transfer.call, list, state).is_some())
}

/// Opens the connection of a socket, whose first transfer this is.
#[inline(always)]
fn open(
    sock: u64,
    state: &mut UnattributedSocket,
    (direction, bytes): (IoDirection, u64),
    site: u32,
) -> Option<()> {
    let id = mem::fetch_add(NEXT_CONNECTION.get_ptr_mut(0)?, 1) + 1;
    // After the end of its peer's bytes, a unix socket may go on in the other direction.
    let is_new = state.transfers == 0
        && (socket_address::is_first_transfer(sock, direction, bytes)
            || socket_address::is_created_now(sock));
    state.transfers = 1;
    let flags = if is_new { FLAG_FROM_START } else { 0 };
    let key = ConnectionKey { handle: sock, pid: 0, program: 0 };
    (state.connection.id, state.connection.flags) = (id, flags.into());
    if identity::enabled() {
        emit::connection_open(&key, id, flags, site);
    }
    let mut entry = emit::socket()?;
    let record = mem::slot(&mut entry);
    record.header = emit::header(KIND_SOCKET, Current::any());
    (record.connection, record.socket, record.handle) = (id, state.socket, sock);
    (record.calls, record.received, record.transmitted) = (0, 0, 0);
    record.flags = SOCKET_CLEARTEXT | if is_new { SOCKET_FROM_START } else { 0 };
    socket_address::describe(record, sock);
    emit::submit(entry);
    Some(())
}

/// The connection of a socket of the map `UNATTRIBUTED` is over, because the socket is closed, or its bytes
/// are records of TLS from now on.
#[inline(always)]
pub fn end(state: &mut UnattributedSocket) {
    if state.connection.id == 0 {
        return;
    }
    if identity::enabled() {
        // Any thread may be running, so the header does not describe it.
        let header = Header {
            kind: KIND_CONNECTION_CLOSE,
            pid: 0,
            tid: 0,
            reserved: 0,
            time: mem::now(),
            cgroup: 0,
            comm: [0; 16],
        };
        emit::connection_close(header, &state.connection, (END_SOCKET_CLOSED, NO_SITE));
    }
    state.connection = ConnectionState { id: 0, calls: 0, received: 0, transmitted: 0, flags: 0, socket: 0 };
}

/// The peer of a unix socket sends no more. Most programs close it then, which no tracepoint shows.
#[inline(always)]
pub fn peer_closed(sock: u64) -> Option<()> {
    let state = mem::own(UNATTRIBUTED.get_ptr_mut(sock)?);
    if is_captured(state) && socket_address::is_unix(sock) {
        end(state);
    }
    Some(())
}

/// A socket is closed.
#[inline(always)]
pub fn socket_closed(sock: u64) -> Option<()> {
    let state = mem::own(UNATTRIBUTED.get_ptr_mut(sock)?);
    if is_captured(state) || state.stage == STAGE_IGNORED {
        end(state);
    }
    UNATTRIBUTED.remove(sock).ok();
    Some(())
}
