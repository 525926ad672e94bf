//! The maps.
//!
//! Keys, values and sizes that both sides share are defined in `probe-common`.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use probe_common::{
    ATTEMPT_ARGUMENT_BYTES, ATTEMPT_BYTES, Call, ConnectionKey, ConnectionState, CountKey, ExecFailure,
    FUNCTION_COUNTS, FUNCTION_FRAMES as MAX_FRAMES, FUNCTION_SPECS, Frame, FrameKey, FunctionFrame,
    FunctionSpec, GO_CALLS as MAX_GO_CALLS, GoCall, HelloKey, HelloState, Histogram,
    INODE_FLOORS as MAX_INODE_FLOORS, KernelScope, LINEAGES, LentKey, Lineage, Loss, LossCount, NamespaceId,
    OPEN_CALLS as MAX_OPEN_CALLS, OpenCall, PID_NAMESPACES as MAX_PID_NAMESPACES, SCOPE_CGROUPS,
    SCOPE_THREADS, SOCKETS as MAX_SOCKETS, SocketConnection, UNATTRIBUTED_SOCKETS, UnattributedSocket,
};
use zerocopy::{Immutable, IntoBytes};

/// Records for userspace. Userspace sets its size when it loads the object.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(16 * 1024 * 1024, 0);

/// The position in the ring up to which the reader was woken for an exec record. A single value.
#[map]
pub static WAKEUP_POS: Array<u64> = Array::with_max_entries(1, 0);

/// The counters of losses, by [`Loss`].
#[map]
pub static LOST: PerCpuArray<LossCount> = PerCpuArray::with_max_entries(Loss::ALL.len() as u32, 0);

/// The filters that are in use. A single value.
#[map]
pub static SCOPE: Array<KernelScope> = Array::with_max_entries(1, 0);

/// Cgroups that are included in or excluded from the scope, by id: `CGROUP_IN`, `CGROUP_OUT`.
#[map]
pub static CGROUPS: HashMap<u64, u8> = HashMap::with_max_entries(SCOPE_CGROUPS, BPF_F_NO_PREALLOC);

/// The PID namespaces in scope.
#[map]
pub static PID_NAMESPACES: Array<NamespaceId> = Array::with_max_entries(MAX_PID_NAMESPACES, 0);

/// Threads in scope, by thread id. The values are the `THREAD_` flags of `probe-common`. The keys are
/// threads, not processes, because the main thread of a process may end before the others, and a thread that
/// executes a program takes over the process's id.
#[map]
pub static THREADS: HashMap<u32, u8> = HashMap::with_max_entries(SCOPE_THREADS, BPF_F_NO_PREALLOC);

/// Nonzero once [`COMMAND`] has executed a program. A single value.
#[map]
pub static COMMAND_STARTED: Array<u32> = Array::with_max_entries(1, 0);

/// The state of threads in scope that have made calls, by process and thread id as the kernel packs them.
#[map]
pub static CALLS: HashMap<u64, Frames> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// The calls that have not returned, by process and position on the stack. The thread is not part of the key:
/// a program that switches stacks may continue a call on another thread. Userspace removes the calls of
/// processes that have ended.
#[map]
pub static OPEN_CALLS: HashMap<OpenCall, Frame> =
    HashMap::with_max_entries(MAX_OPEN_CALLS, BPF_F_NO_PREALLOC);

/// The calls that goroutines in scope are currently in. A server has one for each connection that waits for a
/// request. This is not an LRU map, which would evict calls without anyone counting them. Userspace removes
/// the calls of processes that have ended.
#[map]
pub static GO_CALLS: HashMap<GoCall, Frame> = HashMap::with_max_entries(MAX_GO_CALLS, BPF_F_NO_PREALLOC);

/// How many calls of [`GO_CALLS`] send, by process. What a process has sent in the last of them may be
/// answered on another thread, which then ends the process, before the call returns.
#[map]
pub static GO_SENDS: HashMap<u32, u64> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// The addresses of buffers that a library has lent until it is called with the number of transferred bytes,
/// and the connections of packets. Entries that are never used are evicted at some point.
#[map]
pub static LENT: LruHashMap<LentKey, u64> = LruHashMap::with_max_entries(16_384, 0);

/// The calls of a thread from within which the library passes bytes to its program. A proxy with one
/// connection inside another needs two, and there is one to spare.
#[map]
pub static CALLBACK_SCOPES: LruHashMap<u64, [Outer; 3]> = LruHashMap::with_max_entries(16_384, 0);

/// A call of a thread in [`CALLBACK_SCOPES`].
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Outer {
    /// The address of its return address. 0 if the entry is free.
    pub stack: u64,
    /// The handle of the connection.
    pub handle: u64,
}

/// What goroutines do on connections.
#[map]
pub static GO_CONNECTIONS: LruHashMap<Goroutine, GoWork> = LruHashMap::with_max_entries(16_384, 0);

/// The connection that a goroutine works on, inside a call of [`GO_CALLS`] or a handshake.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct GoWork {
    /// The connection.
    pub key: ConnectionKey,
    /// [`GoCall::depth`] of a call that sends. 0 if it is another one, or a handshake.
    pub sends_at: u64,
}

/// A goroutine.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Goroutine {
    /// The address of the goroutine.
    pub address: u64,
    /// Its process.
    pub pid: u64,
}

/// The live connections. No event reliably marks their end (a handle is reference-counted), so the least
/// recently used one is evicted. If that is still in use, it is counted as a new connection.
#[map]
pub static CONNECTIONS: LruHashMap<ConnectionKey, ConnectionState> = LruHashMap::with_max_entries(65_536, 0);

/// The connections on TCP sockets, by the address of the socket. Only used if closes are reported.
#[map]
pub static SOCKETS: LruHashMap<u64, SocketConnection> = LruHashMap::with_max_entries(MAX_SOCKETS, 0);

/// Hellos that have passed through their socket in part. There are only as many as handshakes in progress.
#[map]
pub static HELLOS: LruHashMap<HelloKey, HelloState> = LruHashMap::with_max_entries(16_384, 0);

/// Sockets that no call has used so far, by the address of the socket.
#[map]
pub static UNATTRIBUTED: LruHashMap<u64, UnattributedSocket> =
    LruHashMap::with_max_entries(UNATTRIBUTED_SOCKETS, 0);

/// The last inode number before the trace by batch of numbers, and the newest batch by [`NEWEST_BATCH`].
#[map]
pub static INODE_FLOORS: HashMap<u64, u64> = HashMap::with_max_entries(MAX_INODE_FLOORS, BPF_F_NO_PREALLOC);

/// The transfer of a socket whose bytes are being emitted.
#[map]
pub static TRANSFER: PerCpuArray<GatheredTransfer> = PerCpuArray::with_max_entries(1, 0);

/// A transfer in several pieces of memory.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct GatheredTransfer {
    /// Its record.
    pub call: Call,
    /// The room of [`crate::io::iovec::PiecesLeft`].
    pub state: [u64; 8],
}

/// The number of connections so far.
#[map]
pub static NEXT_CONNECTION: Array<u64> = Array::with_max_entries(1, 0);

/// The number of the current program of processes in scope that have executed another program. No earlier
/// program has the same number. It is looked up once per thread, and where a connection is opened.
#[map]
pub static PROGRAMS: HashMap<u32, u32> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// The number of programs so far.
#[map]
pub static NEXT_PROGRAM: Array<u64> = Array::with_max_entries(1, 0);

/// The capture specs of the hooks of `ctrace uprobe`, by the low half of their cookies.
#[map]
pub static SPECS: Array<FunctionSpec> = Array::with_max_entries(FUNCTION_SPECS, 0);

/// Calls of these functions that have not returned. No event reports that a call was left by longjmp or ended
/// with its thread, so the oldest entries are evicted.
#[map]
pub static FUNCTION_FRAMES: LruHashMap<FrameKey, FunctionFrame> = LruHashMap::with_max_entries(MAX_FRAMES, 0);

/// The numbers of calls.
#[map]
pub static COUNTS: PerCpuHashMap<CountKey, u64> =
    PerCpuHashMap::with_max_entries(FUNCTION_COUNTS, BPF_F_NO_PREALLOC);

/// The durations of calls.
#[map]
pub static LATENCIES: PerCpuHashMap<CountKey, Histogram> =
    PerCpuHashMap::with_max_entries(FUNCTION_COUNTS, BPF_F_NO_PREALLOC);

/// An empty histogram, which is too large for the stack of a program.
#[map]
pub static NO_LATENCY: Array<Histogram> = Array::with_max_entries(1, 0);

/// The ancestry and the program of processes, by process id. Only used if executions are reported. It
/// contains all processes, because one outside the scope may be the parent of one inside. If a process was
/// evicted, userspace asks /proc.
#[map]
pub static LINEAGE: LruHashMap<u32, Lineage> = LruHashMap::with_max_entries(LINEAGES, 0);

/// Threads in scope that are inside an execve(2), by thread id. Only used if failures are reported.
#[map]
pub static ATTEMPTS: HashMap<u32, ExecPointers> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Where an [`ExecFailure`] is assembled, because its length is known only at the end.
#[map]
pub static ATTEMPT: PerCpuArray<AttemptRoom> = PerCpuArray::with_max_entries(1, 0);

/// The arguments of an execve(2) in progress.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ExecPointers {
    /// The address of the path.
    pub path: u64,
    /// The address of the array of argument addresses.
    pub arguments: u64,
    /// The initial value of `ExecFailure::flags`.
    pub flags: u64,
}

/// An [`ExecFailure`] with room for everything that may follow it.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub struct AttemptRoom {
    /// The record.
    pub attempt: ExecFailure,
    /// The bytes that follow. The last argument fits in full wherever it begins.
    pub bytes: [u8; ATTEMPT_BYTES + ATTEMPT_ARGUMENT_BYTES],
}

/// How many of its latest calls a thread remembers. Two layers of TLS, as in a proxy that speaks TLS, need
/// two. The rest is for threads that switch stacks.
pub const DEPTH: usize = 4;

/// The state of a thread.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Frames {
    /// The arguments of the call that is being entered. They are copied here because the verifier does not
    /// allow an index that comes from the cookie into the context, but does into a map's value.
    pub arguments: [u64; 8],
    /// The number of the program that the thread runs ([`PROGRAMS`]), or 0.
    pub program: u64,
    /// The number of TLS records that the thread has sent from inside calls.
    pub sends: u64,
    /// The handle of a call whose sent data has not reached a socket yet, or 0.
    pub unsent: u64,
    /// The number of bytes of that call, or [`AMBIGUOUS`] if other connections have sent data too.
    pub unsent_bytes: u64,
    /// The latest calls, in no particular order. They show which call a socket or an inner call belongs to; a
    /// call's own return finds it in [`OPEN_CALLS`].
    pub frames: [Frame; DEPTH],
}

/// A value of [`Frames::unsent_bytes`]: it is unclear whose data is sent next.
pub const AMBIGUOUS: u64 = u64::MAX;

/// The state of a thread that has not called anything, which is too large for the stack of a program. A
/// single value of zeros.
#[map]
pub static EMPTY_FRAMES: Array<Frames> = Array::with_max_entries(1, 0);
