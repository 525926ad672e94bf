//! Connections as they begin and end: records of them, where they are wanted.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{ConnectionKey, Header};

/// [`Header::kind`] of a [`ConnectionOpen`].
pub const KIND_CONNECTION_OPEN: u32 = 18;
/// [`Header::kind`] of a [`ConnectionClose`].
pub const KIND_CONNECTION_CLOSE: u32 = 19;

/// Entries of the map `SOCKETS`: as many connections as are known.
pub const SOCKETS: u32 = 65_536;

/// [`ConnectionOpen::site`], [`ConnectionClose::site`]: no hook's.
pub const NO_SITE: u32 = u32::MAX;

/// A connection begins, or is seen for the first time. One that was prepared twice and not used in between is
/// told twice.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConnectionOpen {
    /// Kind [`KIND_CONNECTION_OPEN`].
    pub header: Header,
    /// [`crate::Call::connection`].
    pub connection: u64,
    /// [`ConnectionKey::handle`]; the process is the header's.
    pub handle: u64,
    /// [`ConnectionKey::program`].
    pub program: u32,
    /// The hook that was hit: it has the library; or [`NO_SITE`].
    pub site: u32,
    /// [`crate::FLAG_FROM_START`] or 0.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ConnectionOpen>() == 80);

impl ConnectionOpen {
    /// Where the kernel counts what goes over it.
    pub fn key(&self) -> ConnectionKey {
        ConnectionKey { handle: self.handle, pid: self.header.pid, program: self.program }
    }
}

/// A connection has ended.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConnectionClose {
    /// Kind [`KIND_CONNECTION_CLOSE`]. With [`END_SOCKET_CLOSED`] the process and the time alone mean
    /// something: a socket goes when nobody in particular runs.
    pub header: Header,
    /// [`crate::Call::connection`].
    pub connection: u64,
    /// [`crate::ConnectionState::calls`]; so those below.
    pub calls: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub transmitted: u64,
    /// The hook that was hit, or [`NO_SITE`].
    pub site: u32,
    /// [`crate::FLAG_FROM_START`] or 0.
    pub flags: u32,
    /// How: an `END_`.
    pub end: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ConnectionClose>() == 96);

/// [`ConnectionClose::end`]: a function of the library has ended it.
pub const END_CLOSED: u32 = 1;
/// [`ConnectionClose::end`]: its handle is another connection's.
pub const END_HANDLE_REUSED: u32 = 2;
/// [`ConnectionClose::end`]: its socket was closed.
pub const END_SOCKET_CLOSED: u32 = 3;

/// Value of the map `SOCKETS`, by the address of a socket: the connection that is on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketConnection {
    /// It.
    pub key: ConnectionKey,
    /// [`crate::Socket::socket`]: should the connection be on another one by now, the end of this one is not
    /// its.
    pub socket: u64,
}
