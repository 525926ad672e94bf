//! The constants that userspace sets before it loads the programs.

use probe_common::SocketFields;

/// ctrace's own process, which is never traced.
#[unsafe(no_mangle)]
pub static OWN_PID: u32 = 0;

/// The process of a command that ctrace starts, which is ctrace's own until it executes a program; 0: none.
#[unsafe(no_mangle)]
pub static COMMAND: u32 = 0;

/// Payload bytes to capture of a call, at most `CALL_BYTES`.
#[unsafe(no_mangle)]
pub static MAX_BYTES: u32 = 0;

/// Wake the reader each time the ring's fill passes a multiple of two to this power.
#[unsafe(no_mangle)]
pub static WAKE_SHIFT: u32 = 0;

/// Not zero: each connection's beginning and end are reported.
#[unsafe(no_mangle)]
pub static CONNECTION_RECORDS: u32 = 0;

/// Not zero: calls are counted, and not reported.
#[unsafe(no_mangle)]
pub static SUPPRESS_CALLS: u32 = 0;

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

/// What is reported of programs that are executed: `WANT_` bits; 0: nothing.
#[unsafe(no_mangle)]
pub static EXECS: u32 = 0;

/// Offset of `filename` in the tracepoint `sched_process_exec` of this kernel.
#[unsafe(no_mangle)]
pub static EXEC_FILENAME: u32 = 0;

/// Offset of `pid` in the tracepoint `task_newtask` of this kernel.
#[unsafe(no_mangle)]
pub static NEWTASK_PID: u32 = 0;

/// Offset of `clone_flags` there.
#[unsafe(no_mangle)]
pub static NEWTASK_FLAGS: u32 = 0;

/// Offset of `exit_code` in this kernel's `task_struct`, as its BTF has it, or `NO_FIELD`; so the others
/// below.
#[unsafe(no_mangle)]
pub static TASK_EXIT_CODE: u32 = 0;

/// Offset of `signal` in `task_struct`.
#[unsafe(no_mangle)]
pub static TASK_SIGNAL: u32 = 0;

/// Offset of `live`, the number of living threads, in `signal_struct`.
#[unsafe(no_mangle)]
pub static SIGNAL_LIVE: u32 = 0;

/// Offset of `thread_pid` in `task_struct`.
#[unsafe(no_mangle)]
pub static TASK_PID: u32 = 0;

/// Offset of `level` in `pid`.
#[unsafe(no_mangle)]
pub static PID_LEVEL: u32 = 0;

/// Offset of `numbers` in `pid`.
#[unsafe(no_mangle)]
pub static PID_NUMBERS: u32 = 0;

/// Bytes of `upid`, of which `numbers` is an array; the id is what it begins with.
#[unsafe(no_mangle)]
pub static UPID_BYTES: u32 = 0;

/// Offset of `cred` in `task_struct`.
#[unsafe(no_mangle)]
pub static TASK_CRED: u32 = 0;

/// Offset of `euid` in `cred`.
#[unsafe(no_mangle)]
pub static CRED_EUID: u32 = 0;

/// Where fields of sockets are.
#[unsafe(no_mangle)]
pub static SOCKET_FIELDS: SocketFields = SocketFields {
    sk: 0,
    family: 0,
    local: 0,
    peer: 0,
    local6: 0,
    peer6: 0,
    local_port: 0,
    peer_port: 0,
    protocol: 0,
    namespace: 0,
    namespace_inode: 0,
    unix_address: 0,
    unix_peer: 0,
    unix_length: 0,
    unix_name: 0,
};
