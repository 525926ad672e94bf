//! The addresses of a socket, and the identity by which it differs from a later socket at the same place.

use probe_common::{
    ADDRESS_BYTES, FAMILY_INET, FAMILY_INET6, FAMILY_UNIX, INODE_BATCH, IoDirection, NEWEST_BATCH,
    SOCKET_REPORTED, SOCKET_STAGES, SocketRecord,
};

use crate::{constants::SOCKET_FIELDS, maps::INODE_FLOORS, mem};

/// `IPPROTO_TCP`.
const TCP: u16 = 6;

/// The identity of a socket, made of its address, its peer and both ports. Another socket at the same address
/// has another identity.
#[inline(always)]
pub fn identity(sock: u64) -> Option<u64> {
    /// An odd number, so that different inputs give different results.
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let fields = mem::socket_fields(&SOCKET_FIELDS);
    let peer: u64 = mem::kernel(sock + u64::from(fields.peer))?;
    let ports: u32 = mem::kernel(sock + u64::from(fields.peer_port))?;
    // A socket that still has a peer but no port of its own has been reset by the peer. The bytes read now
    // were received before.
    if ports != 0 && ports >> 16 == 0 {
        return None;
    }
    let peer = if ports == 0 { inode(sock).unwrap_or(peer) } else { peer };
    let mixed = (sock ^ peer.rotate_left(32)).wrapping_mul(MIX).rotate_left(29) ^ u64::from(ports);
    Some(mixed.wrapping_mul(MIX) & !SOCKET_STAGES | SOCKET_REPORTED)
}

/// The number of a socket's inode, which distinguishes sockets without ports.
#[inline(always)]
fn inode(sock: u64) -> Option<u64> {
    let fields = mem::socket_fields(&SOCKET_FIELDS);
    if fields.socket_inode == 0 {
        return None;
    }
    let socket: u64 = mem::kernel(sock + u64::from(fields.socket))?;
    mem::kernel(socket + u64::from(fields.socket_inode))
}

/// Whether a transfer is the first one of a TCP socket: nothing else was read or written. Segments arrive
/// meanwhile, so that a new connection may be taken for an old one, but never the other way round.
#[inline(always)]
pub fn is_first_transfer(sock: u64, direction: IoDirection, bytes: u64) -> bool {
    let Some((read, written)) = transferred(sock) else { return false };
    let (of_sent, of_read) = match direction {
        IoDirection::Transmit => (bytes, 0),
        IoDirection::Receive => (0, bytes),
    };
    // A SYN and a FIN count as a byte.
    read.wrapping_sub(of_read).wrapping_add(1) <= 2 && written.wrapping_sub(of_sent) <= 1
}

/// How many bytes of a TCP socket were read and written so far.
#[inline(always)]
fn transferred(sock: u64) -> Option<(u64, u64)> {
    let fields = mem::socket_fields(&SOCKET_FIELDS);
    if fields.tcp_received == 0 || protocol(sock)? != TCP {
        return None;
    }
    let at = |field: u32| sock + u64::from(field);
    let [next, read]: [u32; 2] =
        [mem::kernel(at(fields.tcp_received_next))?, mem::kernel(at(fields.tcp_read_next))?];
    let received: u64 = mem::kernel(at(fields.tcp_received))?;
    let [unacked, written]: [u32; 2] =
        [mem::kernel(at(fields.tcp_unacked))?, mem::kernel(at(fields.tcp_written_next))?];
    let acked: u64 = mem::kernel(at(fields.tcp_acked))?;
    Some((
        received.wrapping_sub(next.wrapping_sub(read).into()),
        acked.wrapping_add(written.wrapping_sub(unacked).into()),
    ))
}

/// Whether a unix socket was created after the trace had begun.
#[inline(always)]
pub fn is_created_now(sock: u64) -> bool {
    let number = if is_unix(sock) { inode(sock).unwrap_or(0) } else { 0 };
    let (Some(newest), true) = (INODE_FLOORS.get_ptr(NEWEST_BATCH), number != 0) else { return false };
    let batch = (number - 1) / INODE_BATCH;
    let is_known = |floor: *const u64| number > mem::copied(floor);
    batch > mem::copied(newest) || INODE_FLOORS.get_ptr(batch).is_some_and(is_known)
}

/// Whether a socket is one between processes of this machine.
#[inline(always)]
pub fn is_unix(sock: u64) -> bool {
    let family: Option<u16> = mem::kernel(sock + u64::from(mem::socket_fields(&SOCKET_FIELDS).family));
    family == Some(FAMILY_UNIX)
}

/// Whether a unix socket or its peer has a name. If none has one, they are a pair (socketpair(2)) by which a
/// program talks with its own parts.
#[inline(always)]
fn has_name(sock: u64) -> bool {
    let fields = mem::socket_fields(&SOCKET_FIELDS);
    let address = |sock: u64| mem::kernel(sock + u64::from(fields.unix_address)).unwrap_or(0_u64);
    let peer: u64 = mem::kernel(sock + u64::from(fields.unix_peer)).unwrap_or(0);
    fields.unix_name != 0 && (address(sock) != 0 || peer != 0 && address(peer) != 0)
}

/// Whether a socket is one of TCP, or of a stream between a client and a server on this machine.
#[inline(always)]
pub fn is_stream(sock: u64) -> bool {
    /// `SOCK_STREAM`.
    const STREAM: u16 = 1;
    let fields = mem::socket_fields(&SOCKET_FIELDS);
    let family: Option<u16> = mem::kernel(sock + u64::from(fields.family));
    match family {
        Some(FAMILY_INET | FAMILY_INET6) => protocol(sock) == Some(TCP),
        Some(FAMILY_UNIX) if fields.socket_type != 0 => {
            let kind: Option<u16> = mem::kernel(sock + u64::from(fields.socket_type));
            kind == Some(STREAM) && has_name(sock)
        }
        _ => false,
    }
}

/// The protocol of a socket: an `IPPROTO_` constant.
#[inline(always)]
pub fn protocol(sock: u64) -> Option<u16> {
    mem::kernel(sock + u64::from(mem::socket_fields(&SOCKET_FIELDS).protocol))
}

/// The port of the peer, and above it the local one.
#[inline(always)]
pub fn ports(sock: u64) -> Option<u32> {
    let fields = mem::socket_fields(&SOCKET_FIELDS);
    let local: u16 = mem::kernel(sock + u64::from(fields.local_port))?;
    let peer: u16 = mem::kernel(sock + u64::from(fields.peer_port))?;
    Some(u32::from(local) << 16 | u32::from(u16::from_be(peer)))
}

/// Writes the addresses of a socket to the record.
#[inline(always)]
pub fn describe(record: &mut SocketRecord, sock: u64) -> Option<()> {
    let fields = mem::socket_fields(&SOCKET_FIELDS);
    let at = |field: u32| sock + u64::from(field);
    (record.local_port, record.peer_port, record.local_bytes, record.peer_bytes) = (0, 0, 0, 0);
    (record.family, record.protocol) = (0, 0);
    (record.namespace, record.reserved) = (0, 0);
    record.family = mem::kernel(at(fields.family))?;
    if fields.namespace_inode != 0 {
        let namespace: u64 = mem::kernel(at(fields.namespace))?;
        record.namespace = mem::kernel(namespace + u64::from(fields.namespace_inode))?;
    }
    if record.family == FAMILY_UNIX {
        if fields.unix_name != 0 {
            record.local_bytes = unix_name(&mut record.local, sock).unwrap_or(0);
            let peer: u64 = mem::kernel(at(fields.unix_peer))?;
            record.peer_bytes = unix_name(&mut record.peer, peer).unwrap_or(0);
        }
        return Some(());
    }
    let (bytes, local, peer) = match record.family {
        FAMILY_INET => (4, fields.local, fields.peer),
        FAMILY_INET6 => (16, fields.local6, fields.peer6),
        _ => return None,
    };
    record.protocol = protocol(sock)?;
    record.local_port = mem::kernel(at(fields.local_port))?;
    record.peer_port = u16::from_be(mem::kernel(at(fields.peer_port))?);
    if mem::copy_kernel(&mut record.local, at(local), bytes) {
        record.local_bytes = bytes as u16;
    }
    if mem::copy_kernel(&mut record.peer, at(peer), bytes) {
        record.peer_bytes = bytes as u16;
    }
    Some(())
}

/// Writes the path that a unix socket is bound to. Returns its length.
#[inline(always)]
fn unix_name(to: &mut [u8; ADDRESS_BYTES], sock: u64) -> Option<u16> {
    /// The size of the family, with which a name begins.
    const FAMILY: u32 = 2;
    let fields = mem::socket_fields(&SOCKET_FIELDS);
    if sock == 0 {
        return None;
    }
    let address: u64 = mem::kernel(sock + u64::from(fields.unix_address))?;
    if address == 0 {
        return None;
    }
    let length: u32 = mem::kernel(address + u64::from(fields.unix_length))?;
    let length = length.checked_sub(FAMILY)?.min(ADDRESS_BYTES as u32);
    let name = address + u64::from(fields.unix_name) + u64::from(FAMILY);
    mem::copy_kernel(to, name, length).then_some(length as u16)
}
