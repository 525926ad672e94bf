//! Whether a process is the client or the server of a connection: the server's port is that of a listening
//! socket.

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::event::{Endpoint, Role, Socket, Transport};
use crate::proc::process::read_bounded;

/// Limit of the network namespaces that are cached.
const NAMESPACES: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// How long a cached list may be used to conclude that nobody listens on a port.
const FRESH: Duration = Duration::from_secs(1);
/// Limit of the bytes that are read of the kernel's list of sockets. Listening ones come first, 150 bytes
/// each.
const LIST: u64 = 256 << 10;
/// The first of the ports that the kernel chooses for clients (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: u16 = 32_768;
/// The state of a listening socket (`TCP_LISTEN` in `net/tcp_states.h`).
const LISTENING: &[u8] = b"0A";

/// The listening ports of network namespaces.
#[derive(Debug)]
pub(super) struct Listeners {
    /// By the inode number of the namespace.
    namespaces: LruCache<u32, ListeningPorts>,
}

#[derive(Debug)]
struct ListeningPorts {
    ports: HashSet<u16>,
    read: Instant,
}

impl Listeners {
    pub(super) fn new() -> Self {
        Self { namespaces: LruCache::sparse(NAMESPACES) }
    }

    /// Whether a process is the client or the server of a TCP connection. None if that is not certain.
    pub(super) fn role(&mut self, pid: u32, namespace: u32, socket: &Socket) -> Option<Role> {
        let (Some(local), Some(peer)) = (&socket.local, &socket.peer) else { return None };
        let (Some(local_port), Some(peer_port)) = (local.port, peer.port) else { return None };
        if socket.transport != Some(Transport::Tcp) {
            return None;
        }
        let listens = |ports: &HashSet<u16>| ports.contains(&local_port);
        let cached = self.namespaces.get(&namespace);
        let cached = cached.filter(|cached| listens(&cached.ports) || cached.read.elapsed() < FRESH);
        let ports = match cached {
            Some(cached) => &cached.ports,
            None => self.read(namespace, pid)?,
        };
        if listens(ports) {
            return Some(Role::Server);
        }
        // That nobody listens on the local port is not enough, because the listening socket may have been
        // closed by now. So the ports must also look like a client's.
        let peer_listens = is_own(local, peer) && ports.contains(&peer_port);
        let is_client = local_port >= EPHEMERAL && (peer_port < EPHEMERAL || peer_listens);
        is_client.then_some(Role::Client)
    }

    fn read(&mut self, namespace: u32, pid: u32) -> Option<&HashSet<u16>> {
        // The process may have exited, or have changed its namespace.
        let places = [format!("/proc/{pid}"), "/proc/self".to_owned()].map(PathBuf::from);
        let is_in = |proc: &PathBuf| {
            proc.join("ns/net").metadata().is_ok_and(|inode| inode.ino() == u64::from(namespace))
        };
        let proc = places.iter().find(|proc| is_in(proc))?;
        let mut ports = HashSet::new();
        for list in ["net/tcp", "net/tcp6"] {
            // A kernel without IPv6 does not have the second list.
            ports.extend(listening(&read_bounded(&proc.join(list), LIST).unwrap_or_default()));
        }
        self.namespaces.put(namespace, ListeningPorts { ports, read: Instant::now() });
        self.namespaces.peek(&namespace).map(|cached| &cached.ports)
    }
}

/// Whether the peer is in the same network namespace.
fn is_own(local: &Endpoint, peer: &Endpoint) -> bool {
    let is_loopback = || peer.address.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    local.address == peer.address || is_loopback()
}

/// The ports of the listening sockets at the start of a list (`/proc/net/tcp` in proc_net_tcp(5)).
fn listening(list: &[u8]) -> impl Iterator<Item = u16> {
    let lines = list.split(|byte| *byte == b'\n').skip(1);
    lines.map_while(|line| {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty()).skip(1);
        let (local, state) = (fields.next()?, fields.nth(1)?);
        let port = local.rsplit(|byte| *byte == b':').next().filter(|_| state == LISTENING)?;
        u16::from_str_radix(std::str::from_utf8(port).ok()?, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_ports_come_first() {
        let list = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n\
            0: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
            1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
            2: 0100007F:01BB 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0\n";
        assert_eq!(listening(list).collect::<Vec<_>>(), [443, 8080]);
        assert_eq!(listening(b"").count(), 0);
    }
}
