//! Records of connections that begin and end.

use probe_common::{
    ConnectionClose, ConnectionKey, ConnectionOpen, ConnectionState, FLAG_FROM_START, Header,
    KIND_CONNECTION_OPEN, Loss,
};

use super::{header, lost, submit};
use crate::{maps::EVENTS, mem, scope::Current};

/// Emits that a connection begins.
#[inline(always)]
pub fn opened(key: &ConnectionKey, connection: u64, flags: u32, site: u32) {
    let Some(mut entry) = EVENTS.reserve::<ConnectionOpen>(0) else { return lost(Loss::RingFull, 0) };
    let record = mem::slot(&mut entry);
    record.header = header(KIND_CONNECTION_OPEN, Current::any());
    (record.connection, record.handle, record.program) = (connection, key.handle, key.program);
    (record.site, record.flags, record.reserved) = (site, flags, 0);
    submit(entry);
}

/// Emits that a connection has ended, in which way and at which hook.
#[inline(always)]
pub fn closed(header: Header, state: &ConnectionState, (end, site): (u32, u32)) {
    let Some(mut entry) = EVENTS.reserve::<ConnectionClose>(0) else { return lost(Loss::RingFull, 0) };
    let record = mem::slot(&mut entry);
    record.header = header;
    (record.connection, record.calls) = (state.id, state.calls);
    (record.received, record.transmitted) = (state.received, state.transmitted);
    (record.site, record.end, record.reserved) = (site, end, 0);
    record.flags = state.flags as u32 & FLAG_FROM_START;
    submit(entry);
}
