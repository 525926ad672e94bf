//! The constants that userspace sets before it loads the programs.

use probe_common::SocketFields;

/// The id of ctrace's own process, which is never traced.
#[unsafe(no_mangle)]
pub static OWN_PID: u32 = 0;

/// The process of the command that ctrace starts, or 0. It counts as ctrace's own until it executes a
/// program.
#[unsafe(no_mangle)]
pub static COMMAND: u32 = 0;

/// The payload bytes to capture per call, at most `CALL_BYTES`.
#[unsafe(no_mangle)]
pub static MAX_BYTES: u32 = 0;

/// The reader is woken each time the fill of the ring passes a multiple of two to this power.
#[unsafe(no_mangle)]
pub static WAKE_SHIFT: u32 = 0;

/// Nonzero if opens and closes of connections are reported.
#[unsafe(no_mangle)]
pub static CONNECTION_RECORDS: u32 = 0;

/// Nonzero if bytes are captured that pass sockets without TLS.
#[unsafe(no_mangle)]
pub static CLEARTEXT: u32 = 0;

/// Nonzero if calls are counted but not reported.
#[unsafe(no_mangle)]
pub static SUPPRESS_CALLS: u32 = 0;

/// The offset of `child_pid` in the tracepoint `sched_process_fork` of this kernel.
#[unsafe(no_mangle)]
pub static FORK_CHILD_PID: u32 = 0;

/// The offset of `old_pid` in the tracepoint `sched_process_exec` of this kernel.
#[unsafe(no_mangle)]
pub static EXEC_OLD_PID: u32 = 0;

/// `NO_FIELD` if the tracepoint `sched_process_exit` of this kernel has no `group_dead`.
#[unsafe(no_mangle)]
pub static EXIT_GROUP_DEAD: u32 = 0;

/// The offset of `root` in the tracepoints `cgroup_mkdir` and `cgroup_rmdir` of this kernel.
#[unsafe(no_mangle)]
pub static CGROUP_ROOT: u32 = 0;

/// The offset of `level` in these tracepoints.
#[unsafe(no_mangle)]
pub static CGROUP_LEVEL: u32 = 0;

/// The offset of `id` in these tracepoints.
#[unsafe(no_mangle)]
pub static CGROUP_ID: u32 = 0;

/// The offset of `path` in these tracepoints.
#[unsafe(no_mangle)]
pub static CGROUP_PATH: u32 = 0;

/// The `WANT_` bits of what is reported about executions, or 0.
#[unsafe(no_mangle)]
pub static EXECS: u32 = 0;

/// The offset of `filename` in the tracepoint `sched_process_exec` of this kernel.
#[unsafe(no_mangle)]
pub static EXEC_FILENAME: u32 = 0;

/// The offset of `pid` in the tracepoint `task_newtask` of this kernel.
#[unsafe(no_mangle)]
pub static NEWTASK_PID: u32 = 0;

/// The offset of `clone_flags` in this tracepoint.
#[unsafe(no_mangle)]
pub static NEWTASK_FLAGS: u32 = 0;

/// The offset of `exit_code` in `task_struct`, from the BTF of this kernel, or `NO_FIELD`. The same applies
/// to the constants below.
#[unsafe(no_mangle)]
pub static TASK_EXIT_CODE: u32 = 0;

/// The offset of `signal` in `task_struct`.
#[unsafe(no_mangle)]
pub static TASK_SIGNAL: u32 = 0;

/// The offset of `live`, the number of living threads, in `signal_struct`.
#[unsafe(no_mangle)]
pub static SIGNAL_LIVE: u32 = 0;

/// The offset of `group_leader` in `task_struct`.
#[unsafe(no_mangle)]
pub static TASK_LEADER: u32 = 0;

/// The offset of `flags` in `task_struct`.
#[unsafe(no_mangle)]
pub static TASK_FLAGS: u32 = 0;

/// The offset of `real_parent` in `task_struct`.
#[unsafe(no_mangle)]
pub static TASK_PARENT: u32 = 0;

/// The offset of `tgid` in `task_struct`.
#[unsafe(no_mangle)]
pub static TASK_TGID: u32 = 0;

/// The offset of `start_boottime` in `task_struct`.
#[unsafe(no_mangle)]
pub static TASK_STARTED: u32 = 0;

/// The offset of `thread_pid` in `task_struct`.
#[unsafe(no_mangle)]
pub static TASK_PID: u32 = 0;

/// The offset of `level` in `pid`.
#[unsafe(no_mangle)]
pub static PID_LEVEL: u32 = 0;

/// The offset of `numbers` in `pid`.
#[unsafe(no_mangle)]
pub static PID_NUMBERS: u32 = 0;

/// The size of `upid` in bytes. `numbers` is an array of these, and each begins with the id.
#[unsafe(no_mangle)]
pub static UPID_BYTES: u32 = 0;

/// The offset of `cred` in `task_struct`.
#[unsafe(no_mangle)]
pub static TASK_CRED: u32 = 0;

/// The offset of `euid` in `cred`.
#[unsafe(no_mangle)]
pub static CRED_EUID: u32 = 0;

/// The offsets of socket fields.
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
    tcp_received: 0,
    tcp_received_next: 0,
    tcp_read_next: 0,
    tcp_acked: 0,
    tcp_unacked: 0,
    tcp_written_next: 0,
    socket_type: 0,
    socket: 0,
    socket_inode: 0,
};
