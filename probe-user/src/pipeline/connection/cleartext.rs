//! Connections without TLS, whose bytes are not shown.
//!
//! Owns how many there are, and which ports they are to. The kernel has judged by the bytes that processes in
//! scope transfer. A connection that turns to TLS, or that a call of a TLS library uses after all, counts no
//! more.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use probe_common::{UNATTRIBUTED_SENT, UnattributedRecord};

use crate::event::{Cleartext, Library};
use crate::pipeline::Site;

/// What stands for the system calls that move bytes without TLS.
pub(in crate::pipeline) fn system_calls() -> Site {
    let library =
        Library { name: "socket".to_owned(), path: String::new(), implementation: None, version: None };
    Site {
        library: Arc::new(library),
        function: "system call".to_owned(),
        callers: Vec::new(),
        reading: None,
        complete_since: 0,
    }
}

/// The name of a system call that moves bytes through sockets, by its number on x86-64.
pub(in crate::pipeline) fn system_call_name(number: u32) -> Option<&'static str> {
    Some(match number {
        0 => "read",
        1 => "write",
        19 => "readv",
        20 => "writev",
        40 => "sendfile",
        44 => "sendto",
        45 => "recvfrom",
        46 => "sendmsg",
        47 => "recvmsg",
        275 => "splice",
        299 => "recvmmsg",
        307 => "sendmmsg",
        327 => "preadv2",
        328 => "pwritev2",
        426 => "io_uring_enter",
        _ => return None,
    })
}

/// The most connections that can still turn to TLS. Those that were reported earlier count as they are.
const SOCKETS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// The first of the ports that the kernel chooses for clients (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: u16 = 32_768;
/// The most ports that are named.
const NAMED_PORTS: usize = 16;
/// How long a connection may be one that was joined in the middle of a record of TLS, in nanoseconds.
const DELAY: u64 = 1_000_000_000;

/// The connections so far.
#[derive(Debug)]
pub(in crate::pipeline) struct CleartextSockets {
    /// The port of the server by [`probe_common::SocketRecord::socket`].
    sockets: LruCache<u64, u16>,
    /// How many connections there were, by the port of the server.
    ports: BTreeMap<u16, u64>,
    /// When the first one was seen that counts, by the kernel's boot clock. None once that was told.
    first: Option<u64>,
    is_told: bool,
}

impl CleartextSockets {
    pub(in crate::pipeline) fn new() -> Self {
        Self { sockets: LruCache::sparse(SOCKETS), ports: BTreeMap::new(), first: None, is_told: false }
    }

    /// Adds the connection of a record with [`probe_common::UNATTRIBUTED_CLEARTEXT`].
    pub(in crate::pipeline) fn add(&mut self, record: &UnattributedRecord) {
        let port = server_port(record);
        let known = self.sockets.put(record.socket, port);
        if known.is_none() {
            *self.ports.entry(port).or_default() += 1;
            self.first = self.first.or(Some(record.header.time));
        }
    }

    /// Records that a connection has TLS.
    pub(in crate::pipeline) fn has_tls(&mut self, socket: u64) {
        let Some(port) = self.sockets.pop(&socket) else { return };
        if let Some(count) = self.ports.get_mut(&port) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.ports.remove(&port);
            }
        }
        if self.ports.is_empty() {
            self.first = None;
        }
    }

    /// The connections so far.
    pub(in crate::pipeline) fn total(&self) -> Cleartext {
        let mut by_count: Vec<(u64, u16)> = self.ports.iter().map(|(port, count)| (*count, *port)).collect();
        by_count.sort_unstable_by(|one, other| other.cmp(one));
        let mut ports: Vec<u16> = by_count.iter().take(NAMED_PORTS).map(|(_, port)| *port).collect();
        ports.sort_unstable();
        Cleartext { connections: by_count.iter().map(|(count, _)| count).sum(), ports }
    }

    /// The connections so far, once, as soon as it is certain that there are some. `now` is a time of the
    /// kernel's boot clock in nanoseconds.
    pub(in crate::pipeline) fn take_new(&mut self, now: u64) -> Option<Cleartext> {
        let is_certain = self.first.is_some_and(|first| first.saturating_add(DELAY) <= now);
        (is_certain && !std::mem::replace(&mut self.is_told, true)).then(|| self.total())
    }
}

/// The port that is not one of a client, as far as that is known: of two alike, the one of the end that has
/// not sent first.
fn server_port(record: &UnattributedRecord) -> u16 {
    let (local, peer) = ((record.ports >> 16) as u16, (record.ports & 0xffff) as u16);
    match (local < EPHEMERAL, peer < EPHEMERAL) {
        (true, false) => local,
        (false, true) => peer,
        _ if record.flags & UNATTRIBUTED_SENT != 0 => peer,
        _ => local,
    }
}

#[cfg(test)]
mod tests {
    use probe_common::{Header, UNATTRIBUTED_CLEARTEXT};
    use zerocopy::FromZeros as _;

    use super::*;

    fn record(socket: u64, (local, peer): (u16, u16), flags: u32) -> UnattributedRecord {
        UnattributedRecord {
            header: Header { time: 100 + socket, ..Header::new_zeroed() },
            socket,
            flags: flags | UNATTRIBUTED_CLEARTEXT,
            ports: u32::from(local) << 16 | u32::from(peer),
        }
    }

    #[test]
    fn the_port_is_that_of_the_server() {
        for (ports, flags, expected) in [
            ((8080, 40_000), 0, 8080),
            ((40_000, 80), UNATTRIBUTED_SENT, 80),
            // A server that talks first, and ports that say nothing.
            ((40_000, 25), 0, 25),
            ((50_051, 40_000), 0, 50_051),
            ((40_000, 50_051), UNATTRIBUTED_SENT, 50_051),
            ((5000, 6000), UNATTRIBUTED_SENT, 6000),
        ] {
            assert_eq!(server_port(&record(1, ports, flags)), expected, "{ports:?}");
        }
    }

    #[test]
    fn each_connection_counts_once_unless_it_turns_to_tls() {
        let mut sockets = CleartextSockets::new();
        assert_eq!((sockets.total(), sockets.take_new(u64::MAX)), (Cleartext::default(), None));
        for (socket, local) in [(1, 8080), (2, 80), (3, 8080), (3, 8080), (4, 5432)] {
            sockets.add(&record(socket, (local, 40_000), 0));
        }
        sockets.has_tls(4);
        sockets.has_tls(5);
        let expected = Cleartext { connections: 3, ports: vec![80, 8080] };
        assert_eq!(sockets.total(), expected);
        assert_eq!(sockets.take_new(100), None, "it may still be TLS");
        assert_eq!((sockets.take_new(101 + DELAY), sockets.take_new(u64::MAX)), (Some(expected), None));
    }

    #[test]
    fn what_was_forgotten_still_counts_and_the_most_used_ports_are_named() {
        let mut sockets = CleartextSockets::new();
        let many = SOCKETS.get() as u64 + 10;
        (0..many).for_each(|socket| sockets.add(&record(socket, (80, 40_000), 0)));
        sockets.has_tls(0);
        assert_eq!(sockets.total().connections, many);
        for port in 1..=100_u16 {
            for socket in 0..u64::from(port) {
                sockets.add(&record(1 << 32 | u64::from(port) << 16 | socket, (port, 40_000), 0));
            }
        }
        let ports = sockets.total().ports;
        assert_eq!((ports.len(), ports.first(), ports.last()), (NAMED_PORTS, Some(&80), Some(&100)));
    }
}
