//! Records of the opening and closing of connections, if these are requested.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{ConnectionKey, Header, system_call_of};

/// [`Header::kind`] of a [`ConnectionOpen`].
pub const KIND_CONNECTION_OPEN: u32 = 18;
/// [`Header::kind`] of a [`ConnectionClose`].
pub const KIND_CONNECTION_CLOSE: u32 = 19;

/// Entries of the map `SOCKETS`: as many as there are tracked connections.
pub const SOCKETS: u32 = 65_536;

/// [`ConnectionOpen::site`] and [`ConnectionClose::site`] of a record that no hook caused.
pub const NO_SITE: u32 = u32::MAX;

/// A connection was opened, or was seen for the first time. One that was set up twice without use in between
/// is reported twice.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConnectionOpen {
    /// Kind [`KIND_CONNECTION_OPEN`].
    pub header: Header,
    /// The id of the connection; see [`crate::Call::connection`].
    pub connection: u64,
    /// The handle of the connection; see [`ConnectionKey::handle`]. The process is that of the header.
    pub handle: u64,
    /// See [`ConnectionKey::program`].
    pub program: u32,
    /// The hook that was hit, which identifies the library, or [`NO_SITE`].
    pub site: u32,
    /// [`crate::FLAG_FROM_START`] or 0.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ConnectionOpen>() == 80);

impl ConnectionOpen {
    /// The key of the connection's counters in the kernel. One without TLS belongs to no process, and its
    /// counters are elsewhere.
    pub fn key(&self) -> ConnectionKey {
        let pid = if system_call_of(self.site).is_some() { 0 } else { self.header.pid };
        ConnectionKey { handle: self.handle, pid, program: self.program }
    }
}

/// A connection was closed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConnectionClose {
    /// Kind [`KIND_CONNECTION_CLOSE`]. With [`END_SOCKET_CLOSED`], only process and time are meaningful,
    /// because any thread may be running when a socket is released.
    pub header: Header,
    /// The id of the connection; see [`crate::Call::connection`].
    pub connection: u64,
    /// Number of calls; see [`crate::ConnectionState::calls`], also for the fields below.
    pub calls: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub transmitted: u64,
    /// The hook that was hit, or [`NO_SITE`].
    pub site: u32,
    /// [`crate::FLAG_FROM_START`] or 0.
    pub flags: u32,
    /// How it was closed: an `END_` constant.
    pub end: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ConnectionClose>() == 96);

/// [`ConnectionClose::end`]: a function of the library closed it.
pub const END_CLOSED: u32 = 1;
/// [`ConnectionClose::end`]: its handle now belongs to another connection.
pub const END_HANDLE_REUSED: u32 = 2;
/// [`ConnectionClose::end`]: its socket was closed.
pub const END_SOCKET_CLOSED: u32 = 3;

/// Value of the map `SOCKETS`, by the address of a socket: the connection that uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketConnection {
    /// The connection.
    pub key: ConnectionKey,
    /// The socket; see [`crate::SocketRecord::socket`]. If the connection has moved to another socket since,
    /// closing this one does not close the connection.
    pub socket: u64,
}
