//! Connections that several processes use after a fork.
//!
//! The BPF programs count per process: each process's part of such a connection has an id of its own there,
//! and its calls and bytes are counted from 0. Parts with the same socket and the same handle are joined to
//! one connection: that of the part that was seen first. What the others move is placed behind what was moved
//! before. That is their place in the stream, because after a fork only one process can go on with a
//! direction: each has a copy of the keys and of the record number, and the peer accepts each number once.

use std::num::NonZeroUsize;

use lru::LruCache;
use probe_common::{Call, FLAG_TRANSMIT, SOCKET_FROM_START, SOCKET_GUESSED, SocketRecord};

use crate::event::{CallPosition, Traffic};

/// The parts that are joined, by their ids, and where another part would belong.
#[derive(Debug)]
pub(super) struct SharedConnections {
    parts: LruCache<u64, Part>,
    /// By socket and handle: the id of the connection that was seen first, and its process.
    first: LruCache<(u64, u64), (u64, u32)>,
}

/// What one process does on a connection that several use.
#[derive(Debug)]
struct Part {
    /// The id of the connection.
    whole: u64,
    /// How far the part's own counts have come.
    seen: Traffic,
    /// What is added to its own counts, modulo 2^64.
    shift: Traffic,
}

impl SharedConnections {
    pub(super) fn new(entries: NonZeroUsize) -> Self {
        Self { parts: LruCache::sparse(entries), first: LruCache::sparse(entries) }
    }

    /// The id of the connection that one in a record of the kernel is a part of: itself, unless it was joined
    /// to another one.
    pub(super) fn whole(&mut self, connection: u64) -> Option<u64> {
        if self.parts.is_empty() {
            return None; // the usual case, without hashing
        }
        self.parts.get(&connection).map(|part| part.whole)
    }

    /// Returns the id of the connection that one belongs to whose socket is now known, if that is another
    /// one. `traffic` returns how far a connection has come.
    pub(super) fn join(
        &mut self,
        wire: &SocketRecord,
        traffic: impl FnOnce(u64) -> Option<Traffic>,
    ) -> Option<u64> {
        if wire.flags & SOCKET_GUESSED != 0 {
            return None;
        }
        let key = (wire.socket, wire.handle);
        let first = self.first.get(&key).copied();
        let is_new = wire.calls == 0 && wire.flags & SOCKET_FROM_START == 0;
        match first.filter(|&(first, pid)| first != wire.connection && pid != wire.header.pid) {
            Some((whole, _)) if is_new || self.whole(wire.connection) == Some(whole) => {
                let seen = traffic(whole)?;
                let part = |seen| Part { whole, seen, shift: Traffic::default() };
                self.parts.get_or_insert(whole, || part(seen));
                self.parts.get_or_insert(wire.connection, || part(Traffic::default()));
                Some(whole)
            }
            other => {
                if self.whole(wire.connection).is_some_and(|whole| whole != wire.connection) {
                    self.parts.pop(&wire.connection);
                }
                if other.is_none() {
                    self.first.put(key, (wire.connection, wire.header.pid));
                }
                None
            }
        }
    }

    /// Where a call of a connection belongs. `whole` is how far the connection has come, which the call
    /// advances.
    pub(super) fn position(&mut self, call: &Call, whole: &mut Traffic) -> CallPosition {
        let end = call.stream_offset.saturating_add(call.length);
        let position = CallPosition { call: call.number, stream_offset: call.stream_offset };
        let is_transmit = call.flags & FLAG_TRANSMIT != 0;
        let part = if self.parts.is_empty() { None } else { self.parts.get_mut(&call.connection) };
        let Some(Part { seen, shift, .. }) = part else {
            let (received, transmitted) = if is_transmit { (0, end) } else { (end, 0) };
            *whole = whole.max(Traffic { calls: call.number, received, transmitted });
            return position;
        };
        let advance = |whole: &mut u64, seen: &mut u64, shift: &mut u64, end: u64| {
            // Calls of several threads may come in another order.
            if end > *seen {
                *shift = whole.wrapping_sub(*seen);
                *whole = end.wrapping_add(*shift);
                *seen = end;
            }
            *shift
        };
        let calls = advance(&mut whole.calls, &mut seen.calls, &mut shift.calls, call.number);
        let bytes = if is_transmit {
            advance(&mut whole.transmitted, &mut seen.transmitted, &mut shift.transmitted, end)
        } else {
            advance(&mut whole.received, &mut seen.received, &mut shift.received, end)
        };
        CallPosition {
            call: position.call.wrapping_add(calls),
            stream_offset: position.stream_offset.wrapping_add(bytes),
        }
    }

    /// Removes what was kept to join further parts.
    pub(super) fn forget(&mut self, socket: u64, handle: u64) {
        self.first.pop(&(socket, handle));
    }
}

#[cfg(test)]
mod tests;
