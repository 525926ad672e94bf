//! TLS and QUIC whose calls are not seen, and connections without TLS.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{ConnectionState, Header};

/// [`Header::kind`] of an [`UnattributedRecord`].
pub const KIND_UNATTRIBUTED: u32 = 24;

/// Entries of the map `UNATTRIBUTED`, unless bytes without TLS are captured. Then there are as many as
/// tracked connections ([`crate::SOCKETS`]).
pub const UNATTRIBUTED_SOCKETS: u32 = 16_384;

/// Entries of the map `INODE_FLOORS`: more than Linux supports CPUs.
pub const INODE_FLOORS: u32 = 16_384;
/// How many inode numbers the kernel gives to a CPU at a time (`LAST_INO_BATCH` in fs/inode.c). The key of
/// the map `INODE_FLOORS` is the number less one, divided by this.
pub const INODE_BATCH: u64 = 1024;
/// The key of the map `INODE_FLOORS` whose value is the newest batch at the start of the trace.
pub const NEWEST_BATCH: u64 = u64::MAX;

/// After how many transfers of application data without a call a socket is reported. In TLS 1.3, up to seven
/// belong to the handshake, which ends before the first call.
pub const UNATTRIBUTED_TRANSFERS: u64 = 16;

/// Value of the map `UNATTRIBUTED`: a socket whose bytes were transferred inside of no call that is probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnattributedSocket {
    /// The socket; see [`crate::SocketRecord::socket`].
    pub socket: u64,
    /// How many transfers of application data were inside of no call.
    pub transfers: u64,
    /// A `STAGE_` constant.
    pub stage: u64,
    /// The thread whose current transfer is to be captured, as the kernel packs process and thread id.
    pub expected: u64,
    /// The connection, if its bytes are captured.
    pub connection: ConnectionState,
}

/// [`UnattributedSocket::stage`]: a ClientHello has passed, or QUIC.
pub const STAGE_HELLO: u64 = 0;
/// [`UnattributedSocket::stage`]: records of TLS have passed, but no ClientHello, or calls use the socket.
pub const STAGE_RECORDS: u64 = 1;
/// [`UnattributedSocket::stage`]: bytes were received that are no records of TLS. They may be the rest of one
/// that is read in parts.
pub const STAGE_RECEIVED: u64 = 2;
/// [`UnattributedSocket::stage`]: bytes have passed that are no records of TLS, which was reported.
pub const STAGE_CLEARTEXT: u64 = 3;
/// [`UnattributedSocket::stage`]: the same, but nobody can decode them. Only userspace sets this.
pub const STAGE_IGNORED: u64 = 4;
/// [`UnattributedSocket::stage`]: the same, and their protocol is known. Only userspace sets this.
pub const STAGE_DECODED: u64 = 5;

/// How many bytes of a connection without TLS are captured while its protocol is not known, in both
/// directions together. A transfer that nobody can decode would fill the ring before that is noticed.
pub const UNDECIDED_BYTES: u64 = 8 << 20;

/// TLS data, QUIC or bytes without TLS pass through a socket inside of no call that is probed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnattributedRecord {
    /// Kind [`KIND_UNATTRIBUTED`].
    pub header: Header,
    /// The socket; see [`crate::SocketRecord::socket`].
    pub socket: u64,
    /// `UNATTRIBUTED_` bits.
    pub flags: u32,
    /// With [`UNATTRIBUTED_CLEARTEXT`] the port of the peer, and above it the local one. Zero otherwise.
    pub ports: u32,
}

const _: () = assert!(size_of::<UnattributedRecord>() == 64);

/// [`UnattributedRecord::flags`]: it is QUIC.
pub const UNATTRIBUTED_QUIC: u32 = 1 << 0;
/// [`UnattributedRecord::flags`]: the process has sent what led to the record. Without this flag, it has
/// received it.
pub const UNATTRIBUTED_SENT: u32 = 1 << 1;

/// [`UnattributedRecord::flags`]: the bytes are not TLS.
/// [`UNATTRIBUTED_SENT`] then says that the process has sent the first bytes that were seen.
pub const UNATTRIBUTED_CLEARTEXT: u32 = 1 << 2;
/// [`UnattributedRecord::flags`]: a connection that was reported as one without TLS has TLS.
pub const UNATTRIBUTED_TLS: u32 = 1 << 3;

/// Whether a datagram of this length starts with an Initial packet of QUIC version 1 (RFC 9000, section
/// 17.2.2) or 2 (RFC 9369, section 3). Only servers may send shorter ones, and these follow a client's.
pub fn is_quic_initial(begin: &[u8], length: u64) -> bool {
    /// RFC 9000, section 14.1.
    const LEAST: u64 = 1200;
    let [first, version @ ..] = *begin.first_chunk::<5>().unwrap_or(&[0; 5]);
    let is_initial = match u32::from_be_bytes(version) {
        1 => first & 0xf0 == 0xc0,
        0x6b33_43cf => first & 0xf0 == 0xd0,
        _ => false,
    };
    is_initial && length >= LEAST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_packets_of_both_versions_are_recognised() {
        for (begin, length, expected) in [
            // RFC 9001, appendix A.2; RFC 9369, appendix A.2.
            ([0xc0, 0, 0, 0, 1, 8, 0x83], 1200, true),
            ([0xd0, 0x6b, 0x33, 0x43, 0xcf, 8, 0x83], 1200, true),
            ([0xc0, 0, 0, 0, 1, 8, 0x83], 1199, false),
            // A handshake packet, a retry, version negotiation, a short header.
            ([0xe0, 0, 0, 0, 1, 8, 0x83], 1200, false),
            ([0xf0, 0, 0, 0, 1, 8, 0x83], 1200, false),
            ([0xc0, 0, 0, 0, 0, 8, 0x83], 1200, false),
            ([0x40, 0, 0, 0, 1, 8, 0x83], 1200, false),
        ] {
            assert_eq!(is_quic_initial(&begin, length), expected, "{begin:?}");
        }
        assert!(!is_quic_initial(&[0xc0, 0, 0], 1200));
    }
}
