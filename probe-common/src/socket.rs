//! The socket of a connection.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Header;

/// [`Header::kind`] of a [`SocketRecord`].
pub const KIND_SOCKET: u32 = 7;

/// Size of an address: the path in a `sockaddr_un` is the longest of the supported ones.
pub const ADDRESS_BYTES: usize = 108;

/// A connection uses this socket from now on.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketRecord {
    /// Kind [`KIND_SOCKET`].
    pub header: Header,
    /// The id of the connection; see [`crate::Call::connection`].
    pub connection: u64,
    /// Identifies the socket, even if a later one has the same address in memory.
    pub socket: u64,
    /// The handle of the connection; see [`crate::ConnectionKey::handle`]. After a fork, several processes
    /// have a connection with the same handle and socket.
    pub handle: u64,
    /// Number of calls so far; see [`crate::ConnectionState::calls`], also for the two fields below.
    pub calls: u64,
    /// Bytes received so far.
    pub received: u64,
    /// Bytes sent so far.
    pub transmitted: u64,
    /// `SOCKET_` bits.
    pub flags: u32,
    /// The address family: an `AF_` constant of Linux' `sys/socket.h`.
    pub family: u16,
    /// The protocol: an `IPPROTO_` constant, or 0 for unix sockets.
    pub protocol: u16,
    /// The port of this end; 0 for unix sockets.
    pub local_port: u16,
    /// The port of the other end; 0 for unix sockets.
    pub peer_port: u16,
    /// How many bytes of `local` are valid: 4, 16, or the length of a path; 0 if it has no name.
    pub local_bytes: u16,
    /// How many bytes of `peer` are valid.
    pub peer_bytes: u16,
    /// The inode number of its network namespace; 0 if unknown.
    pub namespace: u32,
    /// Zero.
    pub reserved: u32,
    /// The address of this end: IPv4, IPv6, or the path of a unix socket (`sun_path`).
    pub local: [u8; ADDRESS_BYTES],
    /// The address of the other end.
    pub peer: [u8; ADDRESS_BYTES],
}

const _: () = assert!(size_of::<SocketRecord>() == 120 + 2 * ADDRESS_BYTES);

/// [`SocketRecord::flags`]: the socket was not seen within a call of the connection but after it, by a TLS
/// record of matching length.
pub const SOCKET_GUESSED: u32 = 1 << 0;
/// [`SocketRecord::flags`]: the process is the client: it sent the first handshake message.
pub const SOCKET_CLIENT: u32 = 1 << 1;
/// [`SocketRecord::flags`]: the process is the server: it answered the first handshake message.
pub const SOCKET_SERVER: u32 = 1 << 2;
/// [`SocketRecord::flags`]: the connection was traced from its creation on.
pub const SOCKET_FROM_START: u32 = 1 << 3;

/// [`SocketRecord::flags`]: the connection has no TLS, and its handle is the address of the socket.
pub const SOCKET_CLEARTEXT: u32 = 1 << 4;

/// `AF_UNIX`.
pub const FAMILY_UNIX: u16 = 1;
/// `AF_INET`.
pub const FAMILY_INET: u16 = 2;
/// `AF_INET6`.
pub const FAMILY_INET6: u16 = 10;

/// The offsets of fields in the kernel's socket structures, in bytes, from its BTF: the constant
/// `SOCKET_FIELDS` of the BPF programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketFields {
    /// `sk` in `socket`.
    pub sk: u32,
    /// `skc_family` in `sock_common`, which every `sock` starts with; likewise the fields below.
    pub family: u32,
    /// `skc_rcv_saddr`.
    pub local: u32,
    /// `skc_daddr`.
    pub peer: u32,
    /// `skc_v6_rcv_saddr`.
    pub local6: u32,
    /// `skc_v6_daddr`.
    pub peer6: u32,
    /// `skc_num`, in the byte order of the machine.
    pub local_port: u32,
    /// `skc_dport`, in network byte order; the other port follows it.
    pub peer_port: u32,
    /// `sk_protocol` in `sock`.
    pub protocol: u32,
    /// `skc_net`: the address of a `net`. This and the next field are 0 if unknown.
    pub namespace: u32,
    /// `ns.inum` in `net`.
    pub namespace_inode: u32,
    /// `addr` in `unix_sock`. This and the fields below are 0 if the kernel has no unix sockets.
    pub unix_address: u32,
    /// `peer` in `unix_sock`.
    pub unix_peer: u32,
    /// `len` in `unix_address`: the length of the name, including the family at its start.
    pub unix_length: u32,
    /// `name` in `unix_address`.
    pub unix_name: u32,
    /// `bytes_received` in `tcp_sock`. This and the fields below are 0 if unknown.
    pub tcp_received: u32,
    /// `rcv_nxt`: the number of the byte after the last received one.
    pub tcp_received_next: u32,
    /// `copied_seq`: the number of the byte after the last one that was read.
    pub tcp_read_next: u32,
    /// `bytes_acked`.
    pub tcp_acked: u32,
    /// `snd_una`: the number of the first byte that was not acknowledged.
    pub tcp_unacked: u32,
    /// `write_seq`: the number of the byte after the last written one.
    pub tcp_written_next: u32,
    /// `sk_type` in `sock`.
    pub socket_type: u32,
    /// `sk_socket` in `sock`. This and the next field are 0 if unknown.
    pub socket: u32,
    /// `vfs_inode.i_ino` in `socket_alloc`, which begins with a `socket`.
    pub socket_inode: u32,
}

/// The header of a TLS record: its type, its version, and the length of the rest (RFC 8446, section 5.1).
/// DTLS 1.2 has the length elsewhere (RFC 6347, section 4.1), so a DTLS header is recognised by type and
/// version alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader(pub [u8; 5]);

/// Type of a handshake record.
const HANDSHAKE: u8 = 22;
/// Type of an application data record.
const DATA: u8 = 23;
/// Limit of the plaintext in a record.
const RECORD_BYTES: u64 = 1 << 14;
/// How many bytes encryption adds: at least a tag; at most an explicit IV, a MAC and the padding of old
/// cipher suites.
const ADDED_BYTES: (u64, u64) = (16, 96);

impl RecordHeader {
    /// Whether this is a plausible record header.
    pub fn is_valid(self) -> bool {
        let [kind, major, minor, high, _] = self.0;
        let over_stream = major == 3 && minor <= 4 && high <= 0x48;
        let over_datagrams = major == 0xfe && minor >= 0xfc;
        matches!(kind, 20..=25) && (over_stream || over_datagrams)
    }

    /// Whether the record is a handshake record.
    pub fn is_handshake(self) -> bool {
        self.0[0] == HANDSHAKE
    }

    /// Whether the record is application data, as far as its header shows: in TLS 1.3 all encrypted records
    /// look so.
    pub fn is_data(self) -> bool {
        self.0[0] == DATA
    }

    /// Whether the record is a DTLS record.
    pub fn is_of_datagrams(self) -> bool {
        self.0[1] == 0xfe
    }

    /// The length of the rest of the record.
    pub fn length(self) -> u32 {
        let [.., high, low] = self.0;
        u32::from(u16::from_be_bytes([high, low]))
    }

    /// Whether this many bytes can be one whole record with so much plaintext and nothing else.
    pub fn is_whole(bytes: u64, plaintext: u64) -> bool {
        let (least, most) = ADDED_BYTES;
        let ciphertext = bytes.saturating_sub(size_of::<Self>() as u64);
        plaintext != 0
            && plaintext <= RECORD_BYTES
            && ciphertext >= plaintext + least
            && ciphertext <= plaintext + most
    }

    /// Whether this can be the first record for this many bytes of plaintext.
    pub fn carries(self, plaintext: u64) -> bool {
        let [kind, major, _, high, low] = self.0;
        let length = u64::from(u16::from_be_bytes([high, low]));
        let plaintext = if plaintext > RECORD_BYTES { RECORD_BYTES } else { plaintext };
        let (least, most) = ADDED_BYTES;
        kind == DATA && major == 3 && length >= plaintext + least && length <= plaintext + most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_told_from_other_bytes() {
        for (bytes, valid) in [
            ([22, 3, 1, 2, 0], true),
            ([23, 3, 3, 0x40, 0x11], true),
            ([22, 0xfe, 0xfd, 0, 0], true),
            ([22, 3, 5, 2, 0], false),
            ([23, 3, 3, 0x49, 0], false),
            (*b"GET /", false),
            ([0; 5], false),
        ] {
            assert_eq!(RecordHeader(bytes).is_valid(), valid, "{bytes:?}");
        }
    }

    #[test]
    fn a_record_fits_its_plaintext() {
        // TLS 1.3 adds a type and a tag; of 20 KiB, the first record takes as much as it can hold.
        let record = |length: u16| RecordHeader([23, 3, 3, length.to_be_bytes()[0], length.to_be_bytes()[1]]);
        assert!(record(117).carries(100) && record(16_384 + 17).carries(20_480));
        assert!(RecordHeader::is_whole(122, 100) && !RecordHeader::is_whole(105, 100));
        assert!(!RecordHeader::is_whole(22, 0) && !RecordHeader::is_whole(16_500, 16_500));
        assert!(!record(100).carries(100) && !record(300).carries(100) && !record(117).carries(200));
        assert!(!RecordHeader([22, 3, 3, 0, 117]).carries(100));
    }
}
