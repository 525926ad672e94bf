//! The maps.
//!
//! Keys, values and sizes that both sides must know are defined in `probe-common`.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use probe_common::{
    ATTEMPT_ARGUMENT_BYTES, ATTEMPT_BYTES, ConnectionKey, ConnectionState, CountKey, ExecFailure,
    FUNCTION_COUNTS, FUNCTION_FRAMES as MAX_FRAMES, FUNCTION_SPECS, Frame, FrameKey, FunctionFrame,
    FunctionSpec, GO_CALLS as MAX_GO_CALLS, GoCall, HelloKey, HelloState, Histogram, KernelScope, LINEAGES,
    LentKey, Lineage, Loss, LossCount, NamespaceId, PID_NAMESPACES as MAX_PID_NAMESPACES, SCOPE_CGROUPS,
    SCOPE_THREADS, SOCKETS as MAX_SOCKETS, SocketConnection,
};
use zerocopy::{Immutable, IntoBytes};

/// Records for userspace. Its size is set when it is loaded.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(16 * 1024 * 1024, 0);

/// Up to where in the ring the reader was woken for a program; one value.
#[map]
pub static WAKEUP_POS: Array<u64> = Array::with_max_entries(1, 0);

/// What was lost, by [`Loss`].
#[map]
pub static LOST: PerCpuArray<LossCount> = PerCpuArray::with_max_entries(Loss::ALL.len() as u32, 0);

/// Which filters are in use; one value.
#[map]
pub static SCOPE: Array<KernelScope> = Array::with_max_entries(1, 0);

/// Cgroups that are in scope or kept out of it, by id: `CGROUP_IN`, `CGROUP_OUT`.
#[map]
pub static CGROUPS: HashMap<u64, u8> = HashMap::with_max_entries(SCOPE_CGROUPS, BPF_F_NO_PREALLOC);

/// PID namespaces in scope.
#[map]
pub static PID_NAMESPACES: Array<NamespaceId> = Array::with_max_entries(MAX_PID_NAMESPACES, 0);

/// Threads in scope, by thread id; the values are flags, `THREAD_` of `probe-common`. Threads, not processes:
/// the first thread of a process may end before the others, and a thread that executes a program takes over
/// the process's id.
#[map]
pub static THREADS: HashMap<u32, u8> = HashMap::with_max_entries(SCOPE_THREADS, BPF_F_NO_PREALLOC);

/// Not zero: [`COMMAND`] has executed a program; one value.
#[map]
pub static COMMAND_STARTED: Array<u32> = Array::with_max_entries(1, 0);

/// Threads in the middle of an mmap(2) of a file that is to be executable, while processes are held.
#[map]
pub static MAPPING: HashMap<u32, u8> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Processes that were stopped and not continued yet.
#[map]
pub static STOPPED: HashMap<u32, u8> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Not zero: processes with [`probe_common::THREAD_HOLD`] are held; one value.
#[map]
pub static STOP_ENABLED: Array<u32> = Array::with_max_entries(1, 0);

/// Calls that threads in scope are in the middle of, by pid and thread id as the kernel packs them.
#[map]
pub static CALLS: HashMap<u64, Frames> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Calls that goroutines in scope are in the middle of: a server has one for each connection that waits for a
/// request. Not one that makes room for others by itself, or calls would be missing that nobody counts;
/// userspace takes out those of processes that have ended.
#[map]
pub static GO_CALLS: HashMap<GoCall, Frame> = HashMap::with_max_entries(MAX_GO_CALLS, BPF_F_NO_PREALLOC);

/// Addresses of bytes that a library has lent out until it is called with the number of them that were moved,
/// and the connections of packets. What is never asked for makes room for others at last.
#[map]
pub static LENT: LruHashMap<LentKey, u64> = LruHashMap::with_max_entries(16_384, 0);

/// Calls of a thread that hand over bytes from inside: what a proxy needs for two connections in one another,
/// and one more.
#[map]
pub static CALLBACK_SCOPES: LruHashMap<u64, [Outer; 3]> = LruHashMap::with_max_entries(16_384, 0);

/// Such a call.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Outer {
    /// Where its return address is; 0: none.
    pub stack: u64,
    /// The connection's handle.
    pub handle: u64,
}

/// Connections that goroutines are about, inside a call of [`GO_CALLS`] or a handshake.
#[map]
pub static GO_CONNECTIONS: LruHashMap<Goroutine, ConnectionKey> = LruHashMap::with_max_entries(16_384, 0);

/// A goroutine.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Goroutine {
    /// Its address.
    pub address: u64,
    /// Its process.
    pub pid: u64,
}

/// Connections that are known. No event is certain to end one (a handle is counted by
/// reference), so the one that was not used for longest makes room; should it go on, it is a new one.
#[map]
pub static CONNECTIONS: LruHashMap<ConnectionKey, ConnectionState> = LruHashMap::with_max_entries(65_536, 0);

/// Which connections are on sockets of TCP, by the addresses of the sockets; only where the ends of
/// connections are reported.
#[map]
pub static SOCKETS: LruHashMap<u64, SocketConnection> = LruHashMap::with_max_entries(MAX_SOCKETS, 0);

/// Hellos that have gone through their sockets in part: there are some as long as handshakes begin.
#[map]
pub static HELLOS: LruHashMap<HelloKey, HelloState> = LruHashMap::with_max_entries(16_384, 0);

/// The number of connections so far.
#[map]
pub static NEXT_CONNECTION: Array<u64> = Array::with_max_entries(1, 0);

/// Processes in scope that have executed another program: a number that no program before it had.
/// Looked at once a thread, and where a connection is opened.
#[map]
pub static PROGRAMS: HashMap<u32, u32> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// The number of programs so far.
#[map]
pub static NEXT_PROGRAM: Array<u64> = Array::with_max_entries(1, 0);

/// What to do at the hooks of `ctrace uprobe`, by the low half of their cookies.
#[map]
pub static SPECS: Array<FunctionSpec> = Array::with_max_entries(FUNCTION_SPECS, 0);

/// Calls of such functions that have not returned. No event says that one was left by longjmp or with its
/// thread, so the oldest makes room.
#[map]
pub static FUNCTION_FRAMES: LruHashMap<FrameKey, FunctionFrame> = LruHashMap::with_max_entries(MAX_FRAMES, 0);

/// Numbers of calls.
#[map]
pub static COUNTS: PerCpuHashMap<CountKey, u64> =
    PerCpuHashMap::with_max_entries(FUNCTION_COUNTS, BPF_F_NO_PREALLOC);

/// Times of calls.
#[map]
pub static LATENCIES: PerCpuHashMap<CountKey, Histogram> =
    PerCpuHashMap::with_max_entries(FUNCTION_COUNTS, BPF_F_NO_PREALLOC);

/// A histogram without calls: too large for the stack of a program.
#[map]
pub static NO_LATENCY: Array<Histogram> = Array::with_max_entries(1, 0);

/// Where processes come from and what they run, by their ids; only where executions are reported. Of all
/// processes: one that is not in scope may be the parent of one that is. A process that has no room is
/// forgotten, and then /proc is asked.
#[map]
pub static LINEAGE: LruHashMap<u32, Lineage> = LruHashMap::with_max_entries(LINEAGES, 0);

/// Threads in scope in the middle of an execve(2), by their ids; only where failures are reported.
#[map]
pub static ATTEMPTS: HashMap<u32, ExecPointers> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Where an [`ExecFailure`] is put together: its length is known only then.
#[map]
pub static ATTEMPT: PerCpuArray<AttemptRoom> = PerCpuArray::with_max_entries(1, 0);

/// The arguments of an execve(2) that is under way.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ExecPointers {
    /// Address of the path.
    pub path: u64,
    /// Address of the addresses of the arguments.
    pub arguments: u64,
    /// What `ExecFailure::flags` begins with.
    pub flags: u64,
}

/// An [`ExecFailure`] with room for all that may follow it.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub struct AttemptRoom {
    /// The record.
    pub attempt: ExecFailure,
    /// What follows it. The last argument has room for all of it wherever it begins.
    pub bytes: [u8; ATTEMPT_BYTES + ATTEMPT_ARGUMENT_BYTES],
}

/// Calls that one thread can be in the middle of. Two layers of TLS in one another (a proxy that speaks
/// TLS) need two; the rest is for threads that switch stacks.
pub const DEPTH: usize = 4;

/// What a thread is in the middle of.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Frames {
    /// Arguments of the call that is being entered: the verifier allows an index that comes from the
    /// cookie into a map's value, not into the context.
    pub arguments: [u64; 8],
    /// The number of the program that the thread runs ([`PROGRAMS`]), 0 without.
    pub program: u64,
    /// TLS records that the thread has sent inside of calls.
    pub sends: u64,
    /// Handle of a call that has sent data which no socket has got yet, 0 without.
    pub unsent: u64,
    /// Bytes of that call; [`AMBIGUOUS`] if other connections have sent data, too.
    pub unsent_bytes: u64,
    /// In no order.
    pub frames: [Frame; DEPTH],
}

/// [`Frames::unsent_bytes`]: nobody knows whose data comes next.
pub const AMBIGUOUS: u64 = u64::MAX;

/// A thread that has not called anything: too large for the stack of a program. One value, of zeros.
#[map]
pub static EMPTY_FRAMES: Array<Frames> = Array::with_max_entries(1, 0);
