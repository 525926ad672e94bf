//! Every byte that crosses between the BPF programs and userspace, and nothing else.
//!
//! Defines the records of the ring buffer, the attach cookie ([`cookie`], [`CallShape`]), the keys and values
//! of the shared maps, and the limits that both sides must agree on. It never reads memory, makes system
//! calls or allocates.
//!
//! Wire types hold integers and byte arrays only. The derives of zerocopy prove that they have no padding,
//! and the assertions next to them fix their sizes, so that a layout cannot change by accident.
#![no_std]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

mod buffer_layout;
mod connection;
mod exec;
mod exit;
mod function;
mod hello;
mod shape;
mod signal;
mod socket;
mod unattributed;

pub use buffer_layout::{BufferLayout, LentKey, MAX_MARK, message_mark, payload_address};
pub use connection::*;
pub use exec::*;
pub use exit::{MAX_SLOT_WORDS, ReturnSlot, StackBase, spec_index};
pub use function::{
    ArgumentSpec, BUCKETS, CAPTURE_BYTES, CAPTURE_LIBCXX_STRING, CAPTURE_NONE, CAPTURE_STRING, CountKey,
    FUNCTION_COUNTS, FUNCTION_FRAMES, FUNCTION_SPECS, FUNCTION_VALUES, FrameKey, FunctionEvent,
    FunctionFrame, FunctionSpec, FunctionStack, Histogram, KIND_FUNCTION_ENTER, KIND_FUNCTION_RETURN,
    KIND_FUNCTION_STACK, NO_REGISTER, Operand, REGISTERS, SIZE_CLASSES, SOURCE_CONSTANT, SOURCE_MEMORY,
    SOURCE_NONE, SOURCE_REGISTER, SPEC_COUNT, SPEC_ENTER, SPEC_GO, SPEC_LATENCY, SPEC_RETURN, SPEC_STACK,
    STACK_FRAMES, bucket, size_class,
};
pub use hello::{
    CLIENT_HELLO, HELLO_BYTES, HELLO_SENT, HelloChunk, HelloKey, HelloStart, HelloState, KIND_HELLO,
    SERVER_HELLO, hello_bytes,
};
pub use shape::{
    CallShape, Calls, IoDirection, LengthSource, MAX_PUSHED, arguments, behind_pushes, cookie, kind_of_call,
    pushed_bytes, site,
};
pub use signal::{KIND_SIGNAL, SIGILL, SIGNAL_CODE, SIGNAL_ENDS, SIGTRAP, SignalRecord};
pub use socket::{
    ADDRESS_BYTES, FAMILY_INET, FAMILY_INET6, FAMILY_UNIX, KIND_SOCKET, RecordHeader, SOCKET_CLEARTEXT,
    SOCKET_CLIENT, SOCKET_FROM_START, SOCKET_GUESSED, SOCKET_SERVER, SocketFields, SocketRecord,
};
pub use unattributed::{
    INODE_BATCH, INODE_FLOORS, KIND_UNATTRIBUTED, NEWEST_BATCH, STAGE_CLEARTEXT, STAGE_DECODED, STAGE_HELLO,
    STAGE_IGNORED, STAGE_RECEIVED, STAGE_RECORDS, UNATTRIBUTED_CLEARTEXT, UNATTRIBUTED_QUIC,
    UNATTRIBUTED_SENT, UNATTRIBUTED_SOCKETS, UNATTRIBUTED_TLS, UNATTRIBUTED_TRANSFERS, UNDECIDED_BYTES,
    UnattributedRecord, UnattributedSocket, is_quic_initial,
};

/// Limit of the payload bytes in one [`Call`] record. A TLS record holds at most 16 KiB of plaintext (RFC
/// 8446, section 5.1), so most calls need one chunk.
pub const CHUNK_BYTES: usize = 16 * 1024;

/// Limit of the captured payload bytes of one call; the rest is counted as truncated.
pub const CALL_BYTES: u32 = 1024 * 1024;

/// [`Header::kind`] of a [`Call`], followed by its payload.
pub const KIND_CALL: u32 = 1;
/// [`Header::kind`] of a [`TaskExit`].
pub const KIND_TASK_EXIT: u32 = 2;
/// [`Header::kind`] of a bare [`Header`]: the process executed another program. With [`KernelScope::watch`],
/// also for processes that are not in scope.
pub const KIND_TASK_EXEC: u32 = 3;
/// [`Header::kind`] of a [`CgroupEvent`]: a cgroup of the v2 hierarchy was created.
pub const KIND_CGROUP_CREATED: u32 = 4;
/// [`Header::kind`] of a [`CgroupEvent`]: a cgroup of the v2 hierarchy was removed.
pub const KIND_CGROUP_REMOVED: u32 = 5;

/// Size of a cgroup's path, including its NUL. A longer path is cut.
pub const CGROUP_PATH: usize = 512;

/// The start of every record in the ring buffer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// One of the `KIND_` constants. A reader skips and counts kinds that it does not support.
    pub kind: u32,
    /// The process (thread group) id in the initial PID namespace.
    pub pid: u32,
    /// The thread id in the initial PID namespace.
    pub tid: u32,
    /// Zero.
    pub reserved: u32,
    /// The time of the record, in nanoseconds of `CLOCK_BOOTTIME`.
    pub time: u64,
    /// The id of the thread's cgroup in the v2 hierarchy: the inode number of its directory.
    pub cgroup: u64,
    /// The name of the thread, padded with NUL (`TASK_COMM_LEN`).
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<Header>() == 48);

/// A chunk of the data that one call moved. [`Call::chunk`] payload bytes follow.
///
/// The record in the ring may be longer than header and payload, because the reserved sizes are fixed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Call {
    /// Kind [`KIND_CALL`].
    pub header: Header,
    /// The id of the connection, unique in one session, from 1. 0 if unknown because the table of connections
    /// was full; [`Call::number`] and [`Call::stream_offset`] are then meaningless.
    pub connection: u64,
    /// The number of the call on its connection, counting both directions, from 1.
    pub number: u64,
    /// How many bytes the connection moved in this direction before this call, since it was opened or,
    /// without [`FLAG_FROM_START`], since it was first seen.
    pub stream_offset: u64,
    /// How many bytes the call moved.
    pub length: u64,
    /// When the call began, in nanoseconds of the boot clock. The header has the time of the return.
    pub entered: u64,
    /// The return address of the probed function (a virtual address of the process), or 0 if unknown.
    pub caller: u64,
    /// The hook that was hit: [`site`] of its cookie.
    pub site: u32,
    /// `FLAG_` bits.
    pub flags: u32,
    /// How many bytes of the call were captured, in all of its chunks.
    pub captured: u32,
    /// The offset of this chunk in the call.
    pub offset: u32,
    /// The number of payload bytes in this chunk.
    pub chunk: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Call>() == 120);

/// [`Call::site`] of bytes that a system call has moved through a socket without TLS: the number of the call
/// is added to it. Hooks have smaller numbers.
pub const SYSTEM_CALL_SITES: u32 = 0xffff_0000;

/// The system call of a [`Call::site`]. None if it is that of a hook, or [`NO_SITE`].
pub fn system_call_of(site: u32) -> Option<u32> {
    site.checked_sub(SYSTEM_CALL_SITES).filter(|_| site != NO_SITE)
}

/// [`Call::flags`]: the call sent data. Without this flag, it received.
pub const FLAG_TRANSMIT: u32 = 1 << 0;
/// [`Call::flags`]: the connection was traced from its creation on.
pub const FLAG_FROM_START: u32 = 1 << 1;
/// [`Call::flags`]: the payload of this chunk could not be read from the process; `chunk` is then 0.
pub const FLAG_FAULT: u32 = 1 << 2;
/// [`Call::flags`]: a [`ConnectionClose`] was already emitted for the connection.
pub const FLAG_ENDED: u32 = 1 << 3;

/// A process (thread group) exited.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TaskExit {
    /// Kind [`KIND_TASK_EXIT`].
    pub header: Header,
    /// If the process has executed no program since it was forked: when that was, in nanoseconds of
    /// `CLOCK_BOOTTIME`. Else, or if it is unknown: 0.
    pub forked: u64,
    /// The parent of such a process; the process that has adopted it, if the parent has ended.
    pub parent: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<TaskExit>() == 64);

/// A cgroup of the v2 hierarchy was created or removed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CgroupEvent {
    /// Kind [`KIND_CGROUP_CREATED`] or [`KIND_CGROUP_REMOVED`]; the process is the one that did it.
    pub header: Header,
    /// The id of the cgroup: the inode number of its directory.
    pub id: u64,
    /// The depth of the cgroup below the root of the hierarchy, which has level 0.
    pub level: u32,
    /// Zero.
    pub reserved: u32,
    /// The path of the cgroup in the hierarchy, ending with a NUL.
    pub path: [u8; CGROUP_PATH],
}

const _: () = assert!(size_of::<CgroupEvent>() == 64 + CGROUP_PATH);

/// A cause of loss: index into the per-CPU map `LOST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Loss {
    /// The ring buffer had no space for a chunk.
    RingFull = 0,
    /// The payload could not be read from the process (page not resident, or unmapped).
    ReadFault = 1,
    /// The table of threads was full: the call is not reported.
    ThreadsFull = 2,
    /// Calls were nested more deeply on one thread than is tracked: an outer one is not reported.
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
    /// A process, or a thread, ended inside of a call that sends. What it had sent by then is not known.
    Unfinished = 8,
}

impl Loss {
    /// All causes, in the order of their indices.
    pub const ALL: [Self; 9] = [
        Self::RingFull,
        Self::ReadFault,
        Self::ThreadsFull,
        Self::Nesting,
        Self::ConnectionsFull,
        Self::ScopeFull,
        Self::ArgumentFault,
        Self::CountsFull,
        Self::Unfinished,
    ];
}

/// Value of the map `LOST`: the amount lost for one cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LossCount {
    /// The number of records or calls.
    pub events: u64,
    /// The number of payload bytes.
    pub bytes: u64,
}

/// Entries of the map `GO_CALLS`.
pub const GO_CALLS: u32 = 262_144;

/// Key of the map `GO_CALLS`: a call in a goroutine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GoCall {
    /// The goroutine.
    pub goroutine: u64,
    /// The distance from the end of its stack to the stack pointer at the entry, in bytes.
    pub depth: u64,
    /// The process id.
    pub pid: u64,
}

/// Value of the map `GO_CALLS` and of maps internal to the kernel side: a call between its entry and its
/// return.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Frame {
    /// The stack pointer at the entry, which joins the return to the entry, however calls nest or unwind. 0:
    /// unused.
    pub stack: u64,
    /// The attach cookie.
    pub cookie: u64,
    /// The connection's handle.
    pub handle: u64,
    /// The address of the buffer.
    pub buffer: u64,
    /// The address of the number of moved bytes, if the shape has one.
    pub length: u64,
    /// The number of bytes that the thread had sent at the entry.
    pub sends: u64,
    /// The time of the entry, in nanoseconds of the boot clock.
    pub entered: u64,
}

/// Limit of the calls that have not returned and are tracked at the same time.
pub const OPEN_CALLS: u32 = 65_536;

/// Key of the map `OPEN_CALLS`: a call that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OpenCall {
    /// [`Frame::stack`].
    pub stack: u64,
    /// The process id.
    pub pid: u64,
}

impl OpenCall {
    /// The call of a process whose return address is at `stack`.
    pub fn at(stack: u64, pid: u32) -> Self {
        Self { stack, pid: pid.into() }
    }
}

/// Key of the map `CONNECTIONS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConnectionKey {
    /// The library's handle of the connection (`SSL *`), a virtual address of the process.
    pub handle: u64,
    /// The process id in the initial PID namespace.
    pub pid: u32,
    /// How many programs the process has executed since it came into scope. A program does not continue the
    /// connections of the previous program, or of an exited process with the same id.
    pub program: u32,
}

/// Value of the map `CONNECTIONS`. Only the kernel side writes it. Fields change atomically, because one
/// thread may read while another writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConnectionState {
    /// [`Call::connection`].
    pub id: u64,
    /// The number of calls so far, in both directions.
    pub calls: u64,
    /// The number of bytes received so far.
    pub received: u64,
    /// The number of bytes sent so far.
    pub transmitted: u64,
    /// [`FLAG_FROM_START`], [`FLAG_ENDED`].
    pub flags: u64,
    /// Identifies the [`SocketRecord`] that was reported last; 0 if none was. The lowest bits are
    /// [`SOCKET_REPORTED`] and [`SOCKET_STAGES`].
    pub socket: u64,
}

/// [`ConnectionState::socket`]: the socket was reported.
pub const SOCKET_REPORTED: u64 = 1 << 0;
/// [`ConnectionState::socket`]: the socket was seen inside of a call of the connection.
pub const SOCKET_CONFIRMED: u64 = 1 << 1;
/// [`ConnectionState::socket`]: the handshake on the socket is complete.
pub const SOCKET_ESTABLISHED: u64 = 1 << 2;
/// The bits that record evidence for a socket, not its identity.
pub const SOCKET_STAGES: u64 = SOCKET_CONFIRMED | SOCKET_ESTABLISHED;

/// Value of the map `PID_NAMESPACES`: a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NamespaceId {
    /// The device of the namespace file system in the kernel's own encoding (major << 20 | minor).
    pub device: u64,
    /// The inode number of the namespace file.
    pub inode: u64,
}

/// Value of the map `CGROUPS`: the cgroup and everything below it are in scope.
pub const CGROUP_IN: u8 = 1;
/// Value of the map `CGROUPS`: the cgroup and everything below it are out of scope, whatever else includes
/// them.
pub const CGROUP_OUT: u8 = 2;

/// Flag in a value of the map `THREADS`: the thread is in scope.
pub const THREAD_IN: u8 = 1;
/// Offset of a tracepoint field that the kernel does not have.
pub const NO_FIELD: u32 = u32::MAX;

/// Limit of the cgroups in a scope, including excluded ones.
pub const SCOPE_CGROUPS: u32 = 4096;

/// Limit of the threads in a scope.
pub const SCOPE_THREADS: u32 = 65_536;

/// Limit of the PID namespaces in a scope.
pub const PID_NAMESPACES: u32 = 8;

/// The only value of the map `SCOPE`: which filters are in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KernelScope {
    /// Not zero: everything is in scope except for excluded cgroups.
    pub all: u32,
    /// Bit n is set if the map `CGROUPS` contains cgroups of level n (the root of the hierarchy is level 0).
    pub cgroup_levels: u32,
    /// How many entries of the map `PID_NAMESPACES` are valid.
    pub pid_namespaces: u32,
    /// Not zero: the map `THREADS` is in use.
    pub threads: u32,
    /// Not zero: every exec on the machine is reported, and every cgroup that is created or removed.
    pub watch: u32,
    /// Not zero: a process that executes another program leaves the map `THREADS`; userspace decides whether
    /// it is added again.
    pub leaves_at_exec: u32,
}
