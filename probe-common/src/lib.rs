//! Every byte that crosses between the BPF programs and userspace, and nothing else.
//!
//! Owns the wire records of the ring buffer, the attach cookie ([`cookie`], [`CallShape`]), the keys and
//! values of the shared maps, and the limits both sides must agree on. It never reads memory, makes
//! system calls or allocates.
//!
//! Wire types hold integers and byte arrays only. zerocopy's derives prove that they have no padding,
//! and the assertions beside them fix their sizes: a change of layout does not compile by accident.
#![no_std]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

mod buffer_layout;
mod connection;
mod exec;
mod function;
mod hello;
mod shape;
mod socket;

pub use buffer_layout::{BufferLayout, LentKey, MAX_MARK, message_mark, payload_address};
pub use connection::*;
pub use exec::*;
pub use function::{
    Argument, BUCKETS, CAPTURE_BYTES, CAPTURE_NONE, CAPTURE_STRING, CountKey, FUNCTION_COUNTS,
    FUNCTION_FRAMES, FUNCTION_SPECS, FUNCTION_VALUES, FrameKey, Function, FunctionFrame, FunctionSpec,
    FunctionStack, Histogram, KIND_FUNCTION_ENTER, KIND_FUNCTION_RETURN, KIND_FUNCTION_STACK, NO_REGISTER,
    Operand, REGISTERS, SIZE_CLASSES, SOURCE_CONSTANT, SOURCE_MEMORY, SOURCE_NONE, SOURCE_REGISTER,
    SPEC_COUNT, SPEC_ENTER, SPEC_GO, SPEC_LATENCY, SPEC_RETURN, SPEC_STACK, STACK_FRAMES, bucket, size_class,
};
pub use hello::{
    CLIENT_HELLO, HELLO_BYTES, HELLO_SENT, Hello, HelloKey, HelloStart, HelloState, KIND_HELLO, SERVER_HELLO,
    hello_bytes,
};
pub use shape::{
    CallShape, Calls, Direction, Length, MAX_PUSHED, arguments, behind_pushes, cookie, kind_of_call,
    pushed_bytes, site,
};
pub use socket::{
    ADDRESS_BYTES, FAMILY_INET, FAMILY_INET6, FAMILY_UNIX, KIND_SOCKET, RecordHeader, SOCKET_CLIENT,
    SOCKET_GUESSED, SOCKET_SERVER, Socket, SocketFields,
};

/// Payload bytes of one [`Call`] record at the most. One TLS record holds at most 16 KiB of plaintext
/// (RFC 8446, section 5.1), so that most calls need one chunk.
pub const CHUNK_BYTES: usize = 16 * 1024;

/// Payload bytes of one call at the most; what is beyond is counted as truncated.
pub const CALL_BYTES: u32 = 1024 * 1024;

/// [`Header::kind`] of a [`Call`] followed by its payload.
pub const KIND_CALL: u32 = 1;
/// [`Header::kind`] of a bare [`Header`]: the process (thread group) has ended.
pub const KIND_TASK_EXIT: u32 = 2;
/// [`Header::kind`] of a bare [`Header`]: the process executes another program. With [`Scope::watch`] also
/// for processes that are not in scope.
pub const KIND_TASK_EXEC: u32 = 3;
/// [`Header::kind`] of a [`CgroupEvent`]: a cgroup of the v2 hierarchy was made.
pub const KIND_CGROUP_MADE: u32 = 4;
/// [`Header::kind`] of a [`CgroupEvent`]: a cgroup of the v2 hierarchy was removed.
pub const KIND_CGROUP_GONE: u32 = 5;
/// [`Header::kind`] of a bare [`Header`]: the process has mapped a file executable and is stopped, until
/// userspace has looked at the file (only processes that ctrace itself has started).
pub const KIND_STOPPED: u32 = 6;

/// Bytes of a cgroup's path that are told, with the NUL after it. A longer one is cut.
pub const CGROUP_PATH: usize = 512;

/// What every record of the ring buffer begins with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// One of the `KIND_` constants. A reader counts a kind that it does not know and goes on.
    pub kind: u32,
    /// Process (thread group) id in the initial PID namespace.
    pub pid: u32,
    /// Thread id in the initial PID namespace.
    pub tid: u32,
    /// Zero.
    pub reserved: u32,
    /// Nanoseconds of `CLOCK_BOOTTIME` when the record was made.
    pub time: u64,
    /// Id of the thread's cgroup in the v2 hierarchy: the inode number of its directory.
    pub cgroup: u64,
    /// Name of the thread, padded with NUL (`TASK_COMM_LEN`).
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<Header>() == 48);

/// A chunk of what one call transferred; [`Call::chunk`] payload bytes follow it.
///
/// The record in the ring may be longer than header and payload: its room is one of a few fixed sizes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Call {
    /// Kind [`KIND_CALL`].
    pub header: Header,
    /// Number of the connection, unique in one session, from 1. 0: not known, because the table of
    /// connections was full; then [`Call::number`] and [`Call::stream_offset`] mean nothing.
    pub connection: u64,
    /// Number of the call on its connection, both directions counted together, from 1.
    pub number: u64,
    /// Bytes that the connection transferred in this direction before this call, since it was opened
    /// or, without [`FLAG_FROM_START`], since it was first seen.
    pub stream_offset: u64,
    /// Bytes that the call transferred.
    pub length: u64,
    /// Where the probed function returns to (a virtual address of the process), 0 if not known.
    pub caller: u64,
    /// The hook that was hit: [`site`] of its cookie.
    pub site: u32,
    /// `FLAG_` bits.
    pub flags: u32,
    /// Bytes of the call that are captured, in all of its chunks.
    pub captured: u32,
    /// Offset of this chunk in the call.
    pub offset: u32,
    /// Payload bytes in this chunk.
    pub chunk: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Call>() == 112);

/// [`Call::flags`]: the call sent data; without it, it received.
pub const FLAG_TRANSMIT: u32 = 1 << 0;
/// [`Call::flags`]: the connection was seen from its creation on.
pub const FLAG_FROM_START: u32 = 1 << 1;
/// [`Call::flags`]: the payload of this chunk could not be read from the process; `chunk` is 0 then.
pub const FLAG_FAULT: u32 = 1 << 2;
/// [`Call::flags`]: the end of the connection was told already ([`ConnectionClose`]).
pub const FLAG_ENDED: u32 = 1 << 3;

/// A cgroup of the v2 hierarchy was made or removed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CgroupEvent {
    /// Kind [`KIND_CGROUP_MADE`] or [`KIND_CGROUP_GONE`]; the process is who did it.
    pub header: Header,
    /// Its id: the inode number of its directory.
    pub id: u64,
    /// Its depth below the root of the hierarchy, whose level is 0.
    pub level: u32,
    /// Zero.
    pub reserved: u32,
    /// Its path in the hierarchy, ended by NUL.
    pub path: [u8; CGROUP_PATH],
}

const _: () = assert!(size_of::<CgroupEvent>() == 64 + CGROUP_PATH);

/// A way of losing something: index into the per-CPU map `LOST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Loss {
    /// The ring buffer had no room for a chunk.
    RingFull = 0,
    /// The payload could not be read from the process (page not resident, or unmapped).
    ReadFault = 1,
    /// The table of threads was full: the call is not reported.
    ThreadsFull = 2,
    /// More calls were nested on one thread than are followed: an outer one is not reported.
    Nesting = 3,
    /// The table of connections was full: the call is reported without connection and offset.
    ConnectionsFull = 4,
    /// The table of threads in scope was full: a new thread of a selected process is not followed.
    ScopeFull = 5,
    /// An argument of a probed function, or what it points to, could not be read: the call is reported
    /// without it.
    ArgumentFault = 6,
    /// The table of counted functions was full: a call is not counted.
    CountsFull = 7,
}

impl Loss {
    /// All of them, in the order of their indices.
    pub const ALL: [Self; 8] = [
        Self::RingFull,
        Self::ReadFault,
        Self::ThreadsFull,
        Self::Nesting,
        Self::ConnectionsFull,
        Self::ScopeFull,
        Self::ArgumentFault,
        Self::CountsFull,
    ];
}

/// Value of the map `LOST`: what was lost in one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LossCount {
    /// Records or calls.
    pub events: u64,
    /// Payload bytes.
    pub bytes: u64,
}

/// Entries of the map `GO_CALLS`.
pub const GO_CALLS: u32 = 262_144;

/// Key of the map `GO_CALLS`: a call of a goroutine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GoCall {
    /// Its goroutine.
    pub goroutine: u64,
    /// Bytes between the end of its stack and the stack pointer at its entry.
    pub depth: u64,
    /// Its process.
    pub pid: u64,
}

/// Value of the map `GO_CALLS`, and of others within the kernel: a call between its entry and its return.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Frame {
    /// Stack pointer at entry: what joins return to entry, however calls nest or unwind. 0: unused.
    pub stack: u64,
    /// Attach cookie.
    pub cookie: u64,
    /// The connection's handle.
    pub handle: u64,
    /// Address of the bytes.
    pub buffer: u64,
    /// Address of the transferred length, if the shape has one.
    pub length: u64,
    /// What its thread had sent at entry.
    pub sends: u64,
}

/// Key of the map `CONNECTIONS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConnectionKey {
    /// The library's handle (`SSL *`), a virtual address of the process.
    pub handle: u64,
    /// Process id in the initial PID namespace.
    pub pid: u32,
    /// Number of the program that the process has executed since it is in scope, 0 without: a program
    /// does not go on with the connections of the one before it, nor of an ended process with its id.
    pub program: u32,
}

/// Value of the map `CONNECTIONS`. The kernel side alone writes it; fields change atomically, because
/// one thread may read while another writes the same connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConnectionState {
    /// [`Call::connection`].
    pub id: u64,
    /// Calls so far, in both directions.
    pub calls: u64,
    /// Bytes received so far.
    pub received: u64,
    /// Bytes sent so far.
    pub transmitted: u64,
    /// [`FLAG_FROM_START`], [`FLAG_ENDED`].
    pub flags: u64,
    /// What tells the [`Socket`] that was reported last from others, 0 without; its lowest bits are
    /// [`SOCKET_REPORTED`] and [`SOCKET_STAGES`].
    pub socket: u64,
}

/// [`ConnectionState::socket`]: one was reported.
pub const SOCKET_REPORTED: u64 = 1 << 0;
/// [`ConnectionState::socket`]: it was seen inside of a call of the connection.
pub const SOCKET_CONFIRMED: u64 = 1 << 1;
/// [`ConnectionState::socket`]: its handshake is over.
pub const SOCKET_ESTABLISHED: u64 = 1 << 2;
/// The bits that say how a socket was seen, and not which one it is.
pub const SOCKET_STAGES: u64 = SOCKET_CONFIRMED | SOCKET_ESTABLISHED;

/// A namespace: value of the map `PID_NAMESPACES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NamespaceId {
    /// Device of the namespace file system in the kernel's own encoding (major << 20 | minor).
    pub device: u64,
    /// Inode number of the namespace file.
    pub inode: u64,
}

/// Value of the map `CGROUPS`: the cgroup, with all below it, is in scope.
pub const CGROUP_IN: u8 = 1;
/// Value of the map `CGROUPS`: the cgroup, with all below it, is not in scope, whatever else says it is.
pub const CGROUP_OUT: u8 = 2;

/// Flag in a value of the map `THREADS`: the thread is in scope.
pub const THREAD_IN: u8 = 1;
/// Flag in a value of the map `THREADS`: ctrace has started the process; it is held when it maps code,
/// whether it is in scope or not.
pub const THREAD_HOLD: u8 = 2;
/// Offset of a tracepoint's field that the kernel does not have.
pub const NO_FIELD: u32 = u32::MAX;

/// Cgroups that a scope may hold, those that it keeps out among them.
pub const SCOPE_CGROUPS: u32 = 4096;

/// Threads that a scope may hold.
pub const SCOPE_THREADS: u32 = 65_536;

/// PID namespaces that a scope may hold.
pub const PID_NAMESPACES: u32 = 8;

/// The one value of the map `SCOPE`: which of the filters are in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Scope {
    /// Not zero: everything is in scope but what a cgroup keeps out.
    pub all: u32,
    /// Bit n: the map `CGROUPS` holds cgroups of level n (the root of the hierarchy is level 0).
    pub cgroup_levels: u32,
    /// Valid entries of the map `PID_NAMESPACES`.
    pub pid_namespaces: u32,
    /// Not zero: the map `THREADS` is in use.
    pub threads: u32,
    /// Not zero: every exec on the machine is told, and every cgroup that comes or goes.
    pub watch: u32,
    /// Not zero: a process that executes another program leaves the map `THREADS`; userspace decides
    /// whether it comes back.
    pub leaves_at_exec: u32,
}
