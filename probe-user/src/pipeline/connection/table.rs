//! The sockets of connections, and the handshakes on these sockets.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use probe_common::{Call, HelloChunk, SOCKET_CLEARTEXT, SOCKET_FROM_START, SocketRecord as WireSocket};

use super::handshake::Handshakes;
use super::shared::SharedConnections;
use crate::event::{CallPosition, Connection, Direction, Socket, Tls, TlsInfo, Traffic};
use crate::pipeline::ProcessInfo;

/// The most connections that are remembered: as many as the kernel's table has.
const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// The details of connections by connection id.
#[derive(Debug)]
pub(in crate::pipeline) struct ConnectionTable {
    entries: LruCache<u64, Entry>,
    handshakes: Handshakes,
    shared: SharedConnections,
    /// Connections that were first seen while only a part of the probes of their library was set.
    partial: LruCache<u64, ()>,
}

/// A connection whose socket was reported.
#[derive(Debug)]
struct Entry {
    socket: Socket,
    /// The kernel's number of the socket: [`WireSocket::socket`].
    number: u64,
    /// The connection's handle in the process that was seen first.
    handle: u64,
    from_start: bool,
    /// Whether it has no TLS.
    is_cleartext: bool,
    /// How far it has come, in all processes that use it.
    traffic: Traffic,
    /// Until the cipher is known, a later hello on the socket may add details.
    tls: Option<Arc<Tls>>,
    /// The details that the last record of the connection had.
    reported: Option<Arc<Tls>>,
}

impl ConnectionTable {
    pub(in crate::pipeline) fn new() -> Self {
        let (entries, partial) = (LruCache::sparse(CONNECTIONS), LruCache::sparse(CONNECTIONS));
        let shared = SharedConnections::new(CONNECTIONS);
        Self { entries, handshakes: Handshakes::new(), shared, partial }
    }

    /// Adds a part of a hello. See [`Handshakes::hello`].
    pub(in crate::pipeline) fn hello(
        &mut self,
        wire: &HelloChunk,
        data: &[u8],
    ) -> Option<(Direction, [u8; 32])> {
        self.handshakes.hello(wire, data)
    }

    /// What was seen of the handshake on a socket.
    pub(in crate::pipeline) fn handshake(&mut self, socket: u64) -> Option<Tls> {
        self.handshakes.get(socket).map(|(tls, _)| Tls::clone(tls))
    }

    /// The id of the connection that one in a record of the kernel is a part of; see [`SharedConnections`].
    pub(in crate::pipeline) fn whole(&mut self, connection: u64) -> u64 {
        self.shared.whole(connection).unwrap_or(connection)
    }

    /// Whether the socket of a connection is known.
    pub(in crate::pipeline) fn has_socket(&mut self, connection: u64) -> bool {
        let connection = self.whole(connection);
        self.entries.contains(&connection)
    }

    /// The address and the number of the socket of a connection without TLS.
    pub(in crate::pipeline) fn cleartext_socket(&self, connection: u64) -> Option<(u64, u64)> {
        let entry = self.entries.peek(&connection).filter(|entry| entry.is_cleartext)?;
        Some((entry.handle, entry.number))
    }

    /// The number of incomplete hellos that were evicted.
    pub(in crate::pipeline) fn evicted(&self) -> u64 {
        self.handshakes.evicted()
    }

    /// Records the socket of a connection. Returns the connection that it is a part of, if that is another
    /// one.
    pub(in crate::pipeline) fn socket(
        &mut self,
        wire: &WireSocket,
        info: &mut dyn ProcessInfo,
    ) -> Option<u64> {
        let traffic_of = |connection| self.entries.get(&connection).map(|entry: &Entry| entry.traffic);
        let is_cleartext = wire.flags & SOCKET_CLEARTEXT != 0;
        // One without TLS is a socket, whichever processes use it.
        if !is_cleartext && let Some(whole) = self.shared.join(wire, traffic_of) {
            return Some(whole);
        }
        let mut socket = Socket::of(wire);
        let role = self.handshakes.get(wire.socket).and_then(|(_, role)| role);
        socket.role = socket.role.or(role);
        if socket.role.is_none() {
            socket.role = info.role(wire.header.pid, wire.namespace, &socket);
        }
        let &WireSocket { calls, received, transmitted, .. } = wire;
        let mut traffic = Traffic { calls, received, transmitted };
        let previous = self.entries.pop(&wire.connection);
        if let Some(previous) = &previous {
            traffic = traffic.max(previous.traffic);
        }
        let entry = Entry {
            socket,
            number: wire.socket,
            handle: wire.handle,
            from_start: wire.flags & SOCKET_FROM_START != 0,
            is_cleartext,
            traffic,
            tls: None,
            reported: previous.and_then(|previous| previous.reported),
        };
        self.entries.put(wire.connection, entry);
        None
    }

    /// Records that a connection was seen while only a part of the probes of its library was set.
    pub(in crate::pipeline) fn seen_in_part(&mut self, connection: u64) {
        let connection = self.whole(connection);
        self.partial.put(connection, ());
    }

    /// Removes a connection that nobody uses any more.
    pub(in crate::pipeline) fn forget(&mut self, connection: u64) {
        if let Some(entry) = self.entries.pop(&connection) {
            self.shared.forget(entry.number, entry.handle);
        }
        self.partial.pop(&connection);
    }

    /// Where a call belongs on its connection.
    pub(in crate::pipeline) fn position(&mut self, call: &Call) -> CallPosition {
        let connection = self.whole(call.connection);
        let mut unknown = Traffic::default();
        let traffic = self.entries.peek_mut(&connection).map_or(&mut unknown, |entry| &mut entry.traffic);
        self.shared.position(call, traffic)
    }

    /// Adds to a connection what its next record has of it. The id may be that of a part.
    pub(in crate::pipeline) fn describe(&mut self, mut connection: Connection<'static>) -> Connection<'_> {
        if let Some(whole) = self.shared.whole(connection.id) {
            connection.id = whole;
            if let Some(entry) = self.entries.peek(&whole) {
                connection.from_start = entry.from_start;
            }
        }
        let partial_attach = self.partial.contains(&connection.id);
        let connection = Connection { partial_attach, ..connection };
        let Some(entry) = self.entries.get_mut(&connection.id) else { return connection };
        if entry.tls.as_ref().is_none_or(|tls| tls.cipher.is_none())
            && let Some((tls, role)) = self.handshakes.get(entry.number)
        {
            entry.tls = Some(Arc::clone(tls));
            entry.socket.role = entry.socket.role.or(role);
        }
        let is_first = entry.reported != entry.tls;
        if is_first {
            entry.reported.clone_from(&entry.tls);
        }
        Connection {
            socket: Some(Cow::Borrowed(&entry.socket)),
            tls: entry.tls.as_deref().map(|tls| TlsInfo { tls: Cow::Borrowed(tls), is_first }),
            ..connection
        }
    }
}
