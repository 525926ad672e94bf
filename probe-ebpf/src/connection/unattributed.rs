//! TLS and QUIC that pass through sockets in scope, but not inside of any call that is probed.
//!
//! A thread whose TLS library is not probed, or does not exist as a library, still sends a ClientHello in the
//! clear. What follows it is counted here until a call of a probed function owns the socket.

use probe_common::{
    CLIENT_HELLO, IoDirection, KIND_UNATTRIBUTED, UNATTRIBUTED_QUIC, UNATTRIBUTED_SENT,
    UNATTRIBUTED_TRANSFERS, UnattributedRecord, UnattributedSocket, is_quic_initial,
};

use super::{hello::SocketTransfer, socket_address};
use crate::{current::Current, emit, maps::UNATTRIBUTED, mem};

/// `IPPROTO_UDP`.
const UDP: u16 = 17;

/// Starts counting for a socket.
#[inline(always)]
fn begin(transfer: &SocketTransfer) {
    let state = UnattributedSocket { socket: transfer.socket, transfers: 0 };
    // If there is no room, the socket that was used least recently is not counted any longer.
    UNATTRIBUTED.insert(transfer.sock, state, 0).ok();
}

/// A call owns the socket.
#[inline(always)]
pub fn end(transfer: &SocketTransfer) {
    UNATTRIBUTED.remove(transfer.sock).ok();
}

/// Counts a transfer that is inside of no call, from a ClientHello on. Once there were enough, that is
/// reported, once. `hello` is the result of
/// [`super::hello::inspect`].
#[inline(always)]
pub fn on_transfer(current: Current, transfer: &SocketTransfer, hello: u8) -> Option<()> {
    if hello == CLIENT_HELLO {
        begin(transfer);
        return Some(());
    }
    let header = transfer.header();
    if header.is_data() && header.is_valid() {
        let state = UNATTRIBUTED.get_ptr_mut(transfer.sock).map(mem::own)?;
        if state.socket == transfer.socket {
            state.transfers += 1;
            if state.transfers == UNATTRIBUTED_TRANSFERS {
                report(current, transfer, 0);
            }
        }
        return Some(());
    }
    if is_quic_initial(&transfer.begin, transfer.bytes) {
        let is_reported = |state: *mut UnattributedSocket| mem::own(state).socket == transfer.socket;
        if socket_address::protocol(transfer.sock)? == UDP
            && !UNATTRIBUTED.get_ptr_mut(transfer.sock).is_some_and(is_reported)
        {
            begin(transfer);
            report(current, transfer, UNATTRIBUTED_QUIC);
        }
    }
    Some(())
}

#[inline(always)]
fn report(current: Current, transfer: &SocketTransfer, flags: u32) {
    let sent = transfer.direction == IoDirection::Transmit;
    emit::record(UnattributedRecord {
        header: emit::header(KIND_UNATTRIBUTED, current),
        socket: transfer.socket,
        flags: if sent { flags | UNATTRIBUTED_SENT } else { flags },
        reserved: 0,
    });
}
