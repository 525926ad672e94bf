//! The BPF programs of the object file in one table: where each runs, its family, and when it is loaded.
//!
//! Loading and attaching iterate over this table, so no other file names a program. Nothing is loaded or
//! attached here.

use super::sys::AttachType;
use crate::plan::ProbeProgram::{
    self, BorrowBuffer, CallbackData, CallbackScope, Close, Function, FunctionAndReturn, GoClose, GoIo,
    GoOpen, Handshake, Io, IoAtEntry, IoVec, MarkTls, Open, OpenFirst, OpenIfNew, OpenOutArg, UnwrapPacket,
};
use crate::plan::program_set::ProgramFamily::{
    self, Cgroups, ClearSockets, ExecFailures, ExecRecords, Forks, Functions, Lineage, Signals, SocketCloses,
    Sockets, TaskExecs, TaskExits, Tls,
};

pub(super) struct BpfProgram {
    /// The name in the object file.
    pub(super) name: &'static str,
    pub(super) attach_point: AttachPoint,
    pub(super) family: ProgramFamily,
    pub(super) load: LoadTime,
}

/// Where a program runs.
pub(super) enum AttachPoint {
    /// At the offset of these hooks.
    Uprobe(&'static [ProbeProgram]),
    /// Where the function of these hooks returns to, if the kernel probes its return.
    Uretprobe(&'static [ProbeProgram]),
    /// At each exit of the function of these hooks, unless the kernel probes its return.
    Exits(&'static [ProbeProgram]),
    /// At the offset of these hooks and, for the calls that it keeps, where their function returns to, if the
    /// kernel probes its return and can be asked for each call.
    Session(&'static [ProbeProgram]),
    /// At tracepoints of a category.
    Tracepoint { category: &'static str, events: &'static [&'static str] },
    /// At a tracepoint, with the arguments of the tracepoint itself instead of a formatted record.
    RawTracepoint(&'static str),
    /// At the return of a kernel function.
    FunctionExit(&'static str),
}

/// When a program is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoadTime {
    /// When the session is loaded, if the session needs the family.
    AtStart,
    /// On another thread after the start, or when it is first attached if that is earlier. This is for
    /// programs that few files need, which are then attached to without waiting for the verifier.
    InBackground,
    /// When it is first attached. This is for programs that few traces need, that the verifier takes long
    /// for, or that do not load on every kernel. With logging enabled, they too are loaded at start, so that
    /// the verifier's steps are logged for all programs.
    OnDemand,
}

use AttachPoint::{Exits, FunctionExit, RawTracepoint, Session, Tracepoint, Uprobe, Uretprobe};
use LoadTime::{AtStart, InBackground, OnDemand};

const fn program(
    name: &'static str,
    family: ProgramFamily,
    load: LoadTime,
    attach_point: AttachPoint,
) -> BpfProgram {
    BpfProgram { name, attach_point, family, load }
}

const fn tracepoint(category: &'static str, events: &'static [&'static str]) -> AttachPoint {
    Tracepoint { category, events }
}

/// Programs of one family are attached in this order.
pub(super) const PROGRAMS: [BpfProgram; 68] = [
    // These consume what an entry program leaves behind, so they are attached before any entry.
    program("call_leave", Tls, AtStart, Exits(&[Io])),
    program("open_leave", Tls, AtStart, Exits(&[Open])),
    program("open_behind_leave", Tls, OnDemand, Exits(&[OpenOutArg])),
    program("handshake_leave", Tls, OnDemand, Exits(&[Handshake])),
    program("gather_leave", Tls, OnDemand, Exits(&[IoVec])),
    program("lent_leave", Tls, OnDemand, Exits(&[BorrowBuffer])),
    program("unpack_leave", Tls, OnDemand, Exits(&[UnwrapPacket])),
    program("go_leave", Tls, InBackground, Exits(&[GoIo])),
    program("function_leave", Functions, AtStart, Exits(&[FunctionAndReturn])),
    program("call_return", Tls, OnDemand, Uretprobe(&[Io])),
    program("open_return", Tls, OnDemand, Uretprobe(&[Open])),
    program("open_behind_return", Tls, OnDemand, Uretprobe(&[OpenOutArg])),
    program("handshake_return", Tls, OnDemand, Uretprobe(&[Handshake])),
    program("gather_return", Tls, OnDemand, Uretprobe(&[IoVec])),
    program("lent_return", Tls, OnDemand, Uretprobe(&[BorrowBuffer])),
    program("unpack_return", Tls, OnDemand, Uretprobe(&[UnwrapPacket])),
    program("function_return", Functions, OnDemand, Uretprobe(&[FunctionAndReturn])),
    program("call_session", Tls, OnDemand, Session(&[Io])),
    program("open_session", Tls, OnDemand, Session(&[Open])),
    program("open_behind_session", Tls, OnDemand, Session(&[OpenOutArg])),
    program("handshake_session", Tls, OnDemand, Session(&[Handshake])),
    program("gather_session", Tls, OnDemand, Session(&[IoVec])),
    program("lent_session", Tls, OnDemand, Session(&[BorrowBuffer])),
    program("unpack_session", Tls, OnDemand, Session(&[UnwrapPacket])),
    program("function_session", Functions, OnDemand, Session(&[FunctionAndReturn])),
    program(
        "call_enter",
        Tls,
        AtStart,
        Uprobe(&[Io, Open, OpenOutArg, Handshake, BorrowBuffer, UnwrapPacket]),
    ),
    program("gather_enter", Tls, OnDemand, Uprobe(&[IoVec])),
    program("whole_enter", Tls, OnDemand, Uprobe(&[IoAtEntry])),
    program("outer_enter", Tls, OnDemand, Uprobe(&[CallbackScope])),
    program("handed_enter", Tls, OnDemand, Uprobe(&[CallbackData])),
    program("open_enter", Tls, AtStart, Uprobe(&[OpenFirst])),
    program("open_once_enter", Tls, OnDemand, Uprobe(&[OpenIfNew])),
    program("close_enter", Tls, AtStart, Uprobe(&[Close])),
    program("cipher_enter", Tls, OnDemand, Uprobe(&[MarkTls])),
    program("go_enter", Tls, InBackground, Uprobe(&[GoIo])),
    program("go_open", Tls, InBackground, Uprobe(&[GoOpen])),
    program("go_close", Tls, InBackground, Uprobe(&[GoClose])),
    program("function_enter", Functions, AtStart, Uprobe(&[Function, FunctionAndReturn])),
    // Raw, because other tracepoints need a perf event, and the kernel waits when one is removed.
    program("task_exec", TaskExecs, AtStart, RawTracepoint("sched_process_exec")),
    program("task_exit", TaskExits, AtStart, RawTracepoint("sched_process_exit")),
    program("task_exec_record", ExecRecords, AtStart, tracepoint("sched", &["sched_process_exec"])),
    // Always loaded, because processes may enter the scope at any time.
    program("task_fork", Forks, AtStart, tracepoint("sched", &["sched_process_fork"])),
    program("cgroup_created", Cgroups, AtStart, tracepoint("cgroup", &["cgroup_mkdir"])),
    program("cgroup_removed", Cgroups, AtStart, tracepoint("cgroup", &["cgroup_rmdir"])),
    program("task_new", Lineage, AtStart, tracepoint("task", &["task_newtask"])),
    // Tracepoints of system calls cost every system call of the machine a little, so they are attached only
    // on request.
    program(
        "exec_exit",
        ExecFailures,
        AtStart,
        tracepoint("syscalls", &["sys_exit_execve", "sys_exit_execveat"]),
    ),
    program("exec_enter", ExecFailures, AtStart, tracepoint("syscalls", &["sys_enter_execve"])),
    program("exec_at_enter", ExecFailures, AtStart, tracepoint("syscalls", &["sys_enter_execveat"])),
    program("signal_delivered", Signals, AtStart, RawTracepoint("signal_deliver")),
    // These two tracepoints exist since Linux 6.3. Programs run in the order in which they are attached.
    program("socket_sent", Sockets, AtStart, RawTracepoint("sock_send_length")),
    program("socket_received", Sockets, AtStart, RawTracepoint("sock_recv_length")),
    program("socket_sent_in_clear", ClearSockets, AtStart, RawTracepoint("sock_send_length")),
    program("socket_received_in_clear", ClearSockets, AtStart, RawTracepoint("sock_recv_length")),
    // For older kernels: where sending and receiving return for each protocol.
    program("inet_sent", Sockets, OnDemand, FunctionExit("inet_sendmsg")),
    program("inet6_sent", Sockets, OnDemand, FunctionExit("inet6_sendmsg")),
    program("unix_sent", Sockets, OnDemand, FunctionExit("unix_stream_sendmsg")),
    program("inet_received", Sockets, OnDemand, FunctionExit("inet_recvmsg")),
    program("inet6_received", Sockets, OnDemand, FunctionExit("inet6_recvmsg")),
    program("unix_received", Sockets, OnDemand, FunctionExit("unix_stream_recvmsg")),
    program("inet_sent_page", Sockets, OnDemand, FunctionExit("inet_sendpage")),
    program("inet_sent_in_clear", ClearSockets, OnDemand, FunctionExit("inet_sendmsg")),
    program("inet6_sent_in_clear", ClearSockets, OnDemand, FunctionExit("inet6_sendmsg")),
    program("unix_sent_in_clear", ClearSockets, OnDemand, FunctionExit("unix_stream_sendmsg")),
    program("inet_received_in_clear", ClearSockets, OnDemand, FunctionExit("inet_recvmsg")),
    program("inet6_received_in_clear", ClearSockets, OnDemand, FunctionExit("inet6_recvmsg")),
    program("unix_received_in_clear", ClearSockets, OnDemand, FunctionExit("unix_stream_recvmsg")),
    program("inet_sent_page_in_clear", ClearSockets, OnDemand, FunctionExit("inet_sendpage")),
    program("socket_closed", SocketCloses, OnDemand, RawTracepoint("tcp_destroy_sock")),
];

/// The programs of a family.
pub(super) fn of(family: ProgramFamily) -> impl Iterator<Item = &'static BpfProgram> {
    PROGRAMS.iter().filter(move |program| program.family == family)
}

/// The programs of a hook, in the order in which they are attached: returns first, so that a call which is
/// entered in between is merely not reported.
pub(super) fn of_hook(hook: ProbeProgram) -> impl Iterator<Item = &'static BpfProgram> {
    PROGRAMS.iter().filter(move |program| program.is_of(hook))
}

/// Whether the object file's program of this name runs in files.
pub(super) fn is_in_files(name: &str) -> bool {
    PROGRAMS.iter().any(|program| program.name == name && program.attach_point.is_in_files())
}

impl BpfProgram {
    /// How the kernel must know it for links to many places.
    pub(super) fn attach_type(&self) -> AttachType {
        match self.attach_point {
            Session(_) => AttachType::UprobeSession,
            _ => AttachType::UprobeMulti,
        }
    }

    /// Whether it is one of the programs of a hook.
    pub(super) fn is_of(&self, hook: ProbeProgram) -> bool {
        self.attach_point.hooks().contains(&hook)
    }
}

impl AttachPoint {
    fn hooks(&self) -> &'static [ProbeProgram] {
        match self {
            Uprobe(hooks) | Uretprobe(hooks) | Exits(hooks) | Session(hooks) => hooks,
            Tracepoint { .. } | RawTracepoint(_) | FunctionExit(_) => &[],
        }
    }

    pub(super) fn is_in_files(&self) -> bool {
        !self.hooks().is_empty()
    }
}

#[cfg(test)]
mod tests;
