//! The sockets of connections, and the handshakes on these sockets.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use probe_common::{HelloChunk, SocketRecord as WireSocket};

use super::handshake::Handshakes;
use crate::event::{Connection, Direction, Socket, Tls, TlsInfo};
use crate::pipeline::ProcessInfo;

/// The most connections that are remembered: as many as the kernel's table has.
const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// The details of connections by connection id.
#[derive(Debug)]
pub(in crate::pipeline) struct ConnectionTable {
    entries: LruCache<u64, Entry>,
    handshakes: Handshakes,
    /// Connections that were first seen while only a part of the probes of their library was set.
    partial: LruCache<u64, ()>,
}

/// A connection whose socket was reported.
#[derive(Debug)]
struct Entry {
    socket: Socket,
    /// The kernel's number of the socket: [`WireSocket::socket`].
    number: u64,
    /// Until the cipher is known, a later hello on the socket may add details.
    tls: Option<Arc<Tls>>,
    /// The details that the last record of the connection had.
    reported: Option<Arc<Tls>>,
}

impl ConnectionTable {
    pub(in crate::pipeline) fn new() -> Self {
        let (entries, partial) = (LruCache::sparse(CONNECTIONS), LruCache::sparse(CONNECTIONS));
        Self { entries, handshakes: Handshakes::new(), partial }
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

    /// Whether the socket of a connection is known.
    pub(in crate::pipeline) fn has_socket(&self, connection: u64) -> bool {
        self.entries.contains(&connection)
    }

    /// The number of incomplete hellos that were evicted.
    pub(in crate::pipeline) fn evicted(&self) -> u64 {
        self.handshakes.evicted()
    }

    /// Records the socket of a connection.
    pub(in crate::pipeline) fn socket(&mut self, wire: &WireSocket, info: &mut dyn ProcessInfo) {
        let mut socket = Socket::of(wire);
        let role = self.handshakes.get(wire.socket).and_then(|(_, role)| role);
        socket.role = socket.role.or(role);
        if socket.role.is_none() {
            socket.role = info.role(wire.header.pid, wire.namespace, &socket);
        }
        let reported = self.entries.pop(&wire.connection).and_then(|entry| entry.reported);
        self.entries.put(wire.connection, Entry { socket, number: wire.socket, tls: None, reported });
    }

    /// Records that a connection was seen while only a part of the probes of its library was set.
    pub(in crate::pipeline) fn seen_in_part(&mut self, connection: u64) {
        self.partial.put(connection, ());
    }

    /// Removes a connection that was closed.
    pub(in crate::pipeline) fn forget(&mut self, connection: u64) {
        self.entries.pop(&connection);
        self.partial.pop(&connection);
    }

    /// Adds to a connection what its next record has of it.
    pub(in crate::pipeline) fn describe(&mut self, connection: Connection<'static>) -> Connection<'_> {
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
