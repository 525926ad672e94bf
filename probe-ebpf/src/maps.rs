//! The maps, and the constants that userspace sets before it loads the programs.
//!
//! Keys, values and sizes that both sides must know are defined in `probe-common`.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use probe_common::{
    ConnectionKey, ConnectionState, Loss, LossCount, NamespaceId, PID_NAMESPACES as MAX_PID_NAMESPACES,
    SCOPE_CGROUPS, SCOPE_THREADS, Scope,
};

/// Records for userspace. Its size is set when it is loaded.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(16 * 1024 * 1024, 0);

/// What was lost, by [`Loss`].
#[map]
pub static LOST: PerCpuArray<LossCount> = PerCpuArray::with_max_entries(Loss::ALL.len() as u32, 0);

/// Which filters are in use; one value.
#[map]
pub static SCOPE: Array<Scope> = Array::with_max_entries(1, 0);

/// Cgroups that are in scope or kept out of it, by id: `CGROUP_IN`, `CGROUP_OUT`.
#[map]
pub static CGROUPS: HashMap<u64, u8> = HashMap::with_max_entries(SCOPE_CGROUPS, BPF_F_NO_PREALLOC);

/// PID namespaces in scope.
#[map]
pub static PID_NAMESPACES: Array<NamespaceId> = Array::with_max_entries(MAX_PID_NAMESPACES, 0);

/// Threads in scope, by thread id; the values are flags, `THREAD_` of `probe-common`. Threads, not processes: the first thread of a process may end
/// before the others, and a thread that executes a program takes over the process's id.
#[map]
pub static THREADS: HashMap<u32, u8> = HashMap::with_max_entries(SCOPE_THREADS, BPF_F_NO_PREALLOC);

/// Threads in the middle of an mmap(2) of a file that is to be executable, while processes are held.
#[map]
pub static MAPPING: HashMap<u32, u8> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Processes that were stopped and not continued yet.
#[map]
pub static HELD: HashMap<u32, u8> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Not zero: processes with [`probe_common::THREAD_HOLD`] are held; one value.
#[map]
pub static HOLDING: Array<u32> = Array::with_max_entries(1, 0);

/// Calls that threads in scope are in the middle of, by pid and thread id as the kernel packs them.
#[map]
pub static CALLS: HashMap<u64, Frames> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Calls that goroutines in scope are in the middle of. One that never returns makes room for others at last.
#[map]
pub static GO_CALLS: LruHashMap<GoCall, Frame> = LruHashMap::with_max_entries(16_384, 0);

/// A call of a goroutine.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct GoCall {
    /// Its goroutine.
    pub goroutine: u64,
    /// Bytes between the end of its stack and the stack pointer at its entry.
    pub depth: u64,
    /// Its process.
    pub pid: u64,
}

/// Connections that are known. Nothing tells the end of one for certain (a handle is counted by
/// reference), so the one that was not used for longest makes room; should it go on, it is a new one.
#[map]
pub static CONNECTIONS: LruHashMap<ConnectionKey, ConnectionState> = LruHashMap::with_max_entries(65_536, 0);

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
    /// In no order.
    pub frames: [Frame; DEPTH],
}

/// A call between its entry and its return.
#[derive(Clone, Copy)]
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
}

/// A thread that has not called anything.
pub const NO_FRAMES: Frames = Frames {
    arguments: [0; 8],
    program: 0,
    frames: [Frame { stack: 0, cookie: 0, handle: 0, buffer: 0, length: 0 }; DEPTH],
};

/// ctrace's own process, which is never traced.
#[unsafe(no_mangle)]
pub static OWN_PID: u32 = 0;

/// Payload bytes to capture of a call, at most `CALL_BYTES`.
#[unsafe(no_mangle)]
pub static MAX_BYTES: u32 = 0;

/// Wake the reader each time the ring's fill passes a multiple of two to this power.
#[unsafe(no_mangle)]
pub static WAKE_SHIFT: u32 = 0;

/// Offset of `child_pid` in the tracepoint `sched_process_fork` of this kernel.
#[unsafe(no_mangle)]
pub static FORK_CHILD_PID: u32 = 0;

/// Offset of `old_pid` in the tracepoint `sched_process_exec` of this kernel.
#[unsafe(no_mangle)]
pub static EXEC_OLD_PID: u32 = 0;

/// Not zero: processes may be held; the kernel has what that needs.
#[unsafe(no_mangle)]
pub static HOLD: u32 = 0;
/// Offset of `group_dead` in the tracepoint `sched_process_exit` of this kernel, or `NO_FIELD`.
#[unsafe(no_mangle)]
pub static EXIT_GROUP_DEAD: u32 = 0;

/// Offset of `root` in the tracepoints `cgroup_mkdir` and `cgroup_rmdir` of this kernel.
#[unsafe(no_mangle)]
pub static CGROUP_ROOT: u32 = 0;

/// Offset of `level` there.
#[unsafe(no_mangle)]
pub static CGROUP_LEVEL: u32 = 0;

/// Offset of `id` there.
#[unsafe(no_mangle)]
pub static CGROUP_ID: u32 = 0;

/// Offset of `path` there.
#[unsafe(no_mangle)]
pub static CGROUP_PATH: u32 = 0;
