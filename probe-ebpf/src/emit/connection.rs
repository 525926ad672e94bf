//! Records of opened and closed connections.

use aya_ebpf::maps::ring_buf::RingBufEntry;
use probe_common::{
    ConnectionClose, ConnectionKey, ConnectionOpen, ConnectionState, FLAG_FROM_START, Header,
    KIND_CONNECTION_OPEN, Loss, SocketRecord,
};

use super::{header, lost, submit};
use crate::{current::Current, maps::EVENTS, mem};

/// Emits that a connection was opened.
#[inline(always)]
pub fn connection_open(key: &ConnectionKey, connection: u64, flags: u32, site: u32) {
    let Some(mut entry) = EVENTS.reserve::<ConnectionOpen>(0) else { return lost(Loss::RingFull, 0) };
    let record = mem::slot(&mut entry);
    record.header = header(KIND_CONNECTION_OPEN, Current::any());
    (record.connection, record.handle, record.program) = (connection, key.handle, key.program);
    (record.site, record.flags, record.reserved) = (site, flags, 0);
    submit(entry);
}

/// Emits that a connection was closed, with the reason and the hook.
#[inline(always)]
pub fn connection_close(header: Header, state: &ConnectionState, (end, site): (u32, u32)) {
    let Some(mut entry) = EVENTS.reserve::<ConnectionClose>(0) else { return lost(Loss::RingFull, 0) };
    let record = mem::slot(&mut entry);
    record.header = header;
    (record.connection, record.calls) = (state.id, state.calls);
    (record.received, record.transmitted) = (state.received, state.transmitted);
    (record.site, record.end, record.reserved) = (site, end, 0);
    record.flags = state.flags as u32 & FLAG_FROM_START;
    submit(entry);
}

/// Reserves a record for the socket of a connection, to be passed to [`submit`]. None if there is no room.
/// This is not counted as a loss, because the next call reports the socket. (A closure to write the record
/// would become a separate function, for whose stack older verifiers have no room.)
#[inline(always)]
pub fn socket() -> Option<RingBufEntry<SocketRecord>> {
    EVENTS.reserve::<SocketRecord>(0)
}
