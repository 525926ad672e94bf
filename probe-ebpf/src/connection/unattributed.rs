//! Bytes that pass through sockets in scope, but not inside of any call that is probed: TLS, QUIC, or
//! neither.
//!
//! A thread whose TLS library is not probed, or does not exist as a library, still sends a ClientHello in the
//! clear. What follows it is counted here until a call of a probed function owns the socket. A connection on
//! which a process sends bytes that are no records of TLS is reported once, and once more if it turns to TLS.

use probe_common::{
    CLIENT_HELLO, ConnectionState, FLAG_FROM_START, IoDirection, KIND_UNATTRIBUTED, RecordHeader,
    STAGE_CLEARTEXT, STAGE_DECODED, STAGE_HELLO, STAGE_IGNORED, STAGE_RECEIVED, STAGE_RECORDS,
    UNATTRIBUTED_CLEARTEXT, UNATTRIBUTED_QUIC, UNATTRIBUTED_SENT, UNATTRIBUTED_TLS, UNATTRIBUTED_TRANSFERS,
    UnattributedRecord, UnattributedSocket, is_quic_initial,
};

use super::{hello::SocketTransfer, socket_address};
use crate::{current::Current, emit, io::cleartext, maps::UNATTRIBUTED, mem};

/// `IPPROTO_TCP`.
const TCP: u16 = 6;
/// `IPPROTO_UDP`.
const UDP: u16 = 17;

/// Starts to follow a socket.
#[inline(always)]
fn begin(transfer: &SocketTransfer, stage: u64) {
    let connection = ConnectionState { id: 0, calls: 0, received: 0, transmitted: 0, flags: 0, socket: 0 };
    let socket = UnattributedSocket { socket: transfer.socket, transfers: 0, stage, expected: 0, connection };
    // If there is no room, the socket that was used least recently is not followed any longer.
    UNATTRIBUTED.insert(transfer.sock, socket, 0).ok();
}

/// A call owns the socket.
#[inline(always)]
pub fn end(transfer: &SocketTransfer) {
    if !cleartext::enabled() {
        UNATTRIBUTED.remove(transfer.sock).ok();
        return;
    }
    // Its records that pass outside of calls are not taken for bytes without TLS.
    if let Some(state) = UNATTRIBUTED.get_ptr_mut(transfer.sock) {
        cleartext::end(mem::own(state));
    }
    begin(transfer, STAGE_RECORDS);
}

/// Follows a transfer that is inside of no call. `hello` is the result of [`super::hello::inspect`].
#[inline(always)]
pub fn on_transfer(current: Current, transfer: &SocketTransfer, hello: u8) -> Option<()> {
    let header = transfer.header();
    match UNATTRIBUTED.get_ptr_mut(transfer.sock).map(mem::own) {
        Some(state) if state.socket == transfer.socket && is_cleartext(transfer, hello, state) => {
            if cleartext::is_captured(state) {
                cleartext::expect(current, state);
            }
            Some(())
        }
        Some(state) if state.socket == transfer.socket => {
            if header.is_valid() {
                on_records(current, transfer, hello, state);
            } else if state.stage == STAGE_RECEIVED && transfer.direction == IoDirection::Transmit {
                state.stage = STAGE_CLEARTEXT;
                report_cleartext(current, transfer, 0);
            }
            Some(())
        }
        _ if hello == CLIENT_HELLO => {
            begin(transfer, STAGE_HELLO);
            Some(())
        }
        _ if header.is_valid() => {
            begin(transfer, STAGE_RECORDS);
            Some(())
        }
        _ => on_first(current, transfer),
    }
}

/// Whether a socket whose bytes are captured has not turned to TLS with this transfer. What looks like a
/// record may be something else, such as a packet of MySQL. So only a ClientHello counts, or on a connection
/// that was joined in the middle a transfer that is exactly one record, or its header.
#[inline(always)]
fn is_cleartext(transfer: &SocketTransfer, hello: u8, state: &UnattributedSocket) -> bool {
    const HEADER: u64 = size_of::<RecordHeader>() as u64;
    if !cleartext::enabled() || !cleartext::is_captured(state) && state.stage != STAGE_IGNORED {
        return false;
    }
    let header = transfer.header();
    let is_certain = state.stage == STAGE_DECODED || state.connection.flags & u64::from(FLAG_FROM_START) != 0;
    let is_record = transfer.bytes == HEADER || transfer.bytes == HEADER + u64::from(header.length());
    hello != CLIENT_HELLO && (is_certain || !header.is_valid() || !is_record)
}

/// Counts records of TLS from a ClientHello on. Once there were enough, that is reported, once.
#[inline(always)]
fn on_records(current: Current, transfer: &SocketTransfer, hello: u8, state: &mut UnattributedSocket) {
    if cleartext::is_captured(state) || state.stage == STAGE_IGNORED {
        cleartext::end(state);
        report(current, transfer, UNATTRIBUTED_TLS, 0);
    }
    if hello == CLIENT_HELLO {
        (state.stage, state.transfers) = (STAGE_HELLO, 0);
    } else if state.stage != STAGE_HELLO {
        state.stage = STAGE_RECORDS;
    } else if transfer.header().is_data() {
        state.transfers += 1;
        if state.transfers == UNATTRIBUTED_TRANSFERS {
            report(current, transfer, sent(transfer), 0);
        }
    }
}

/// Handles the first bytes of a socket that are no records of TLS.
#[inline(always)]
fn on_first(current: Current, transfer: &SocketTransfer) -> Option<()> {
    if cleartext::enabled() && socket_address::is_stream(transfer.sock) {
        begin(transfer, STAGE_CLEARTEXT);
        cleartext::expect(current, mem::own(UNATTRIBUTED.get_ptr_mut(transfer.sock)?));
        return Some(());
    }
    let protocol = socket_address::protocol(transfer.sock)?;
    if protocol == UDP && is_quic_initial(&transfer.begin, transfer.bytes) {
        begin(transfer, STAGE_HELLO);
        report(current, transfer, UNATTRIBUTED_QUIC | sent(transfer), 0);
    }
    if protocol == TCP {
        if transfer.direction == IoDirection::Transmit {
            begin(transfer, STAGE_CLEARTEXT);
            report_cleartext(current, transfer, UNATTRIBUTED_SENT);
        } else {
            begin(transfer, STAGE_RECEIVED);
        }
    }
    Some(())
}

#[inline(always)]
fn report_cleartext(current: Current, transfer: &SocketTransfer, first: u32) {
    if let Some(ports) = socket_address::ports(transfer.sock) {
        report(current, transfer, UNATTRIBUTED_CLEARTEXT | first, ports);
    }
}

#[inline(always)]
fn sent(transfer: &SocketTransfer) -> u32 {
    if transfer.direction == IoDirection::Transmit { UNATTRIBUTED_SENT } else { 0 }
}

#[inline(always)]
fn report(current: Current, transfer: &SocketTransfer, flags: u32, ports: u32) {
    emit::record(UnattributedRecord {
        header: emit::header(KIND_UNATTRIBUTED, current),
        socket: transfer.socket,
        flags,
        ports,
    });
}
