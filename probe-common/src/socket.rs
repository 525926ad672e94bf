//! Which socket a connection is on.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Header;

/// [`Header::kind`] of a [`Socket`].
pub const KIND_SOCKET: u32 = 7;

/// Bytes of an address: those of the path in a `sockaddr_un`, the longest of those that are told.
pub const ADDRESS_BYTES: usize = 108;

/// A connection is on this socket from here on.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Socket {
    /// Kind [`KIND_SOCKET`].
    pub header: Header,
    /// [`crate::Call::connection`].
    pub connection: u64,
    /// What tells the socket from others, those that are at the same address later among them.
    pub socket: u64,
    /// `SOCKET_` bits.
    pub flags: u32,
    /// `AF_`, as in Linux' `sys/socket.h`.
    pub family: u16,
    /// `IPPROTO_`, 0 for unix sockets.
    pub protocol: u16,
    /// Ports; 0 for unix sockets.
    pub local_port: u16,
    /// See [`Socket::local_port`].
    pub peer_port: u16,
    /// Valid bytes of `local`: 4, 16, or those of a path; 0: it has no name.
    pub local_bytes: u16,
    /// The same of `peer`.
    pub peer_bytes: u16,
    /// Its network namespace: inode number; 0: not known.
    pub namespace: u32,
    /// Zero.
    pub reserved: u32,
    /// The address of this end: IPv4, IPv6, or the path of a unix socket (`sun_path`).
    pub local: [u8; ADDRESS_BYTES],
    /// The address of the other end.
    pub peer: [u8; ADDRESS_BYTES],
}

const _: () = assert!(size_of::<Socket>() == 88 + 2 * ADDRESS_BYTES);

/// [`Socket::flags`]: not seen within a call of the connection, but after it: a TLS record of a fitting
/// length.
pub const SOCKET_GUESSED: u32 = 1 << 0;
/// [`Socket::flags`]: the process is the client: it has sent the first message of the handshake.
pub const SOCKET_CLIENT: u32 = 1 << 1;
/// [`Socket::flags`]: the process is the server: it has answered it.
pub const SOCKET_SERVER: u32 = 1 << 2;

/// `AF_UNIX`.
pub const FAMILY_UNIX: u16 = 1;
/// `AF_INET`.
pub const FAMILY_INET: u16 = 2;
/// `AF_INET6`.
pub const FAMILY_INET6: u16 = 10;

/// Where fields of the kernel's sockets are, in bytes, as its BTF tells; the constant `SOCKET_FIELDS` of the
/// programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketFields {
    /// `sk` in `socket`.
    pub sk: u32,
    /// `skc_family` in `sock_common`, with which each `sock` begins; so those below.
    pub family: u32,
    /// `skc_rcv_saddr`
    pub local: u32,
    /// `skc_daddr`
    pub peer: u32,
    /// `skc_v6_rcv_saddr`
    pub local6: u32,
    /// `skc_v6_daddr`
    pub peer6: u32,
    /// `skc_num`, in the machine's byte order
    pub local_port: u32,
    /// `skc_dport`, in the network's byte order; the other port follows it
    pub peer_port: u32,
    /// `sk_protocol` in `sock`.
    pub protocol: u32,
    /// `skc_net`: address of a `net`; this and the one below are 0 if that is not known.
    pub namespace: u32,
    /// `ns.inum` in `net`.
    pub namespace_inode: u32,
    /// `addr` in `unix_sock`; this and those below are 0 without unix sockets.
    pub unix_address: u32,
    /// `peer` in `unix_sock`.
    pub unix_peer: u32,
    /// `len` in `unix_address`: bytes of the name, with the family it begins with.
    pub unix_length: u32,
    /// `name` in `unix_address`.
    pub unix_name: u32,
}

/// What a TLS record begins with: its type, its version, and the length of the rest (RFC 8446, section 5.1;
/// DTLS 1.2 has its length elsewhere, RFC 6347, section 4.1, and is told by its version alone).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader(pub [u8; 5]);

/// Type of a record of the handshake.
const HANDSHAKE: u8 = 22;
/// Type of a record of data.
const DATA: u8 = 23;
/// Plaintext of a record at the most.
const RECORD_BYTES: u64 = 1 << 14;
/// Bytes that encryption adds: a tag at the least; at the most an explicit IV, a MAC and padding of old
/// cipher suites.
const ADDED_BYTES: (u64, u64) = (16, 96);

impl RecordHeader {
    /// Whether this is what it seems to be.
    pub fn is_valid(self) -> bool {
        let [kind, major, minor, high, _] = self.0;
        let over_stream = major == 3 && minor <= 4 && high <= 0x48;
        let over_datagrams = major == 0xfe && minor >= 0xfc;
        matches!(kind, 20..=25) && (over_stream || over_datagrams)
    }

    /// Whether the record is a part of the handshake.
    pub fn is_handshake(self) -> bool {
        self.0[0] == HANDSHAKE
    }

    /// Whether the record is of data, or of what looks like it: with TLS 1.3, everything that is encrypted.
    pub fn is_data(self) -> bool {
        self.0[0] == DATA
    }

    /// Whether the record is one of DTLS.
    pub fn is_of_datagrams(self) -> bool {
        self.0[1] == 0xfe
    }

    /// Bytes of the rest of the record.
    pub fn length(self) -> u32 {
        let [.., high, low] = self.0;
        u32::from(u16::from_be_bytes([high, low]))
    }

    /// Whether this can be the first record of so many bytes of plaintext.
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
        // TLS 1.3 adds a type and a tag; with 20 KiB the first record is full.
        let record = |length: u16| RecordHeader([23, 3, 3, length.to_be_bytes()[0], length.to_be_bytes()[1]]);
        assert!(record(117).carries(100) && record(16_384 + 17).carries(20_480));
        assert!(!record(100).carries(100) && !record(300).carries(100) && !record(117).carries(200));
        assert!(!RecordHeader([22, 3, 3, 0, 117]).carries(100));
    }
}
