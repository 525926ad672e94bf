//! The first messages of a TLS connection, which are in the clear: ClientHello and ServerHello.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Header, RecordHeader};

/// [`Header::kind`] of a [`HelloChunk`].
pub const KIND_HELLO: u32 = 8;

/// Limit of the bytes of a hello that are emitted, including record headers. A hello with post-quantum keys
/// and a ticket has about 2 KiB.
pub const HELLO_BYTES: u32 = 4096;

/// Bytes of a hello as they passed through a socket. [`HelloChunk::bytes`] bytes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HelloChunk {
    /// Kind [`KIND_HELLO`].
    pub header: Header,
    /// The socket; see [`crate::SocketRecord::socket`].
    pub socket: u64,
    /// `HELLO_` bits.
    pub flags: u32,
    /// How many bytes follow.
    pub bytes: u32,
    /// How many bytes of the hello were emitted before; 0 at its start.
    pub offset: u32,
    /// The length of the TLS record, if its header was received by a separate system call before the hello
    /// starts. 0: the bytes start with the header.
    pub record: u32,
}

const _: () = assert!(size_of::<HelloChunk>() == 72);

/// [`HelloChunk::flags`]: the process sent it. Without this flag, it received it.
pub const HELLO_SENT: u32 = 1 << 0;

/// Type of the message with which a client starts the handshake (RFC 8446, section 4).
pub const CLIENT_HELLO: u8 = 1;
/// Type of the server's answer to it.
pub const SERVER_HELLO: u8 = 2;

/// The start of a handshake message: its type, its length and, in a hello, a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloStart(pub [u8; 6]);

impl HelloStart {
    /// The length of the whole hello. None if it is not one; encrypted bytes look like one once in a billion.
    pub fn length(self) -> Option<u32> {
        /// Version, random number and three more fields.
        const LEAST: u16 = 38;
        let [kind, highest, high, low, major, minor] = self.0;
        let length = u16::from_be_bytes([high, low]);
        let is_hello = matches!(kind, CLIENT_HELLO | SERVER_HELLO) && highest == 0 && length >= LEAST;
        (is_hello && major == 3 && minor <= 4).then_some(u32::from(length) + 4)
    }
}

/// How many bytes from the start of a hello on to emit: the hello, and the headers of the records that it is
/// split into.
pub fn hello_bytes(length: u32, record: u32) -> u32 {
    /// The headers of several records, in case the hello is split.
    const HEADERS: u32 = 8 * 5;
    const _: () = assert!(size_of::<RecordHeader>() == 5);
    let all = if length > record { length + HEADERS } else { length };
    if all > HELLO_BYTES { HELLO_BYTES } else { all }
}

/// Key of the map `HELLOS`: the address of a socket, with the direction in its lowest bit.
pub type HelloKey = u64;

/// Value of the map `HELLOS`: a hello that has passed through its socket only in part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HelloState {
    /// The socket; see [`crate::SocketRecord::socket`].
    pub socket: u64,
    /// How many bytes have passed.
    pub seen: u32,
    /// How many bytes to emit; 0 if only the header of a record has passed.
    pub wanted: u32,
    /// The length of that record.
    pub record: u32,
    /// Zero.
    pub reserved: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hellos_are_told_from_other_messages() {
        for (bytes, length) in [
            ([1, 0, 2, 0, 3, 3], Some(516)),
            ([2, 0, 0, 76, 3, 3], Some(80)),
            ([1, 0, 0, 37, 3, 3], None),
            ([1, 1, 2, 0, 3, 3], None),
            ([11, 0, 2, 0, 3, 3], None),
            ([1, 0, 2, 0, 2, 3], None),
            ([2, 0, 2, 0, 3, 5], None),
            ([0; 6], None),
            ([0xff; 6], None),
        ] {
            assert_eq!(HelloStart(bytes).length(), length, "{bytes:?}");
        }
    }

    #[test]
    fn a_hello_is_told_up_to_a_limit() {
        assert_eq!(hello_bytes(516, 516), 516);
        assert_eq!(hello_bytes(516, 2000), 516);
        assert_eq!(hello_bytes(516, 100), 556);
        assert_eq!(hello_bytes(60_000, 16_384), HELLO_BYTES);
    }
}
