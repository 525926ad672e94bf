//! Threads and processes as they begin and end: maintains the set of threads in scope, and reports them.

use aya_ebpf::programs::{RawTracePointContext, TracePointContext};
use probe_common::{KIND_TASK_EXEC, KIND_TASK_EXIT, Loss, NO_FIELD, TaskExit, WANT_PROGRAMS};

use super::exec;
use crate::{
    connection::identity,
    constants::{
        EXEC_OLD_PID, EXIT_GROUP_DEAD, FORK_CHILD_PID, SIGNAL_LIVE, TASK_FLAGS, TASK_LEADER, TASK_PARENT,
        TASK_SIGNAL, TASK_STARTED, TASK_TGID,
    },
    current::Current,
    emit::{self, Notice},
    io,
    maps::{ATTEMPTS, CALLS, GO_SENDS, PROGRAMS, THREADS},
    mem,
    scope::{self, flags_of},
};

/// `PF_FORKNOEXEC` of linux/sched.h.
const PF_FORKNOEXEC: u32 = 0x40;

/// `sched_process_fork`: a thread in the set creates another one, in the same process or in a new one.
#[inline(always)]
pub fn fork(ctx: &TracePointContext) -> Option<()> {
    let flags = flags_of(Current::any().tid())?;
    let child = mem::field(ctx, mem::constant(&FORK_CHILD_PID))?;
    follow(child, flags);
    Some(())
}

/// The tracepoint `sched_process_exec`: `(struct task_struct *, pid_t old_pid, struct linux_binprm *)`.
#[inline(always)]
pub fn exec(ctx: &RawTracePointContext) -> Option<()> {
    executed(ctx.arg::<u64>(1) as u32, None)
}

/// The same tracepoint with its record, which has the path of the program, for traces of executions.
#[inline(always)]
pub fn exec_with_record(ctx: &TracePointContext) -> Option<()> {
    executed(mem::field(ctx, mem::constant(&EXEC_OLD_PID))?, Some(ctx))
}

/// The executing thread, which had the id `old`, has taken over the id of its process's main thread.
#[inline(always)]
fn executed(old: u32, record: Option<&TracePointContext>) -> Option<()> {
    let current = Current::any();
    current.mark_command_started();
    let filter = scope::filter()?;
    let flags = flags_of(old);
    if let Some(flags) = flags
        && old != current.tid()
    {
        // No thread has that id any more, and the next one to get it is not in scope.
        THREADS.remove(old).ok();
        follow(current.tid(), flags);
    }
    // The open calls of the thread were stored under its previous id.
    CALLS.remove(current.id & !u64::from(u32::MAX) | u64::from(old)).ok();
    let in_scope = Current::in_scope().is_some();
    if in_scope {
        io::go::count_unfinished(current);
        identity::start_program(current);
    }
    if record.is_some() {
        exec::record_lineage(current, old);
    }
    if filter.leaves_at_exec != 0 {
        THREADS.remove(current.tid()).ok();
    }
    // If programs are admitted one by one, it is not decided yet whether this one is in scope.
    if let Some(ctx) = record
        && in_scope
        && filter.leaves_at_exec == 0
    {
        exec::emit_exec(ctx, current);
    } else if filter.watch != 0 && !current.is_own() {
        emit::task(KIND_TASK_EXEC, current, Notice::Now);
    } else if in_scope {
        emit::task(KIND_TASK_EXEC, current, Notice::Soon);
    }
    Some(())
}

/// The tracepoint `sched_process_exit` of a thread: `(struct task_struct *, bool group_dead)`, the latter
/// since Linux 6.16.
#[inline(always)]
pub fn exit(ctx: &RawTracePointContext) -> Option<()> {
    let current = Current::any();
    if is_last(ctx, current) {
        let in_scope = Current::in_scope().is_some();
        if exec::wanted(WANT_PROGRAMS) {
            if in_scope {
                exec::emit_exit(current);
            }
            exec::forget(current);
        }
        if in_scope {
            io::go::count_unfinished(current);
            emit_exit(current);
        }
        GO_SENDS.remove(current.pid()).ok();
        PROGRAMS.remove(current.pid()).ok();
    }
    io::frame::count_unfinished(current);
    // Whether in scope now or not: the thread may have been in scope, and left it with its cgroup.
    CALLS.remove(current.id).ok();
    THREADS.remove(current.tid()).ok();
    if exec::wanted(WANT_PROGRAMS) {
        ATTEMPTS.remove(current.tid()).ok();
    }
    Some(())
}

#[inline(always)]
fn emit_exit(current: Current) {
    let Fork { time, parent } = fork_without_exec().unwrap_or(Fork { time: 0, parent: 0 });
    let header = emit::header(KIND_TASK_EXIT, current);
    emit::record(TaskExit { header, forked: time, parent, reserved: 0 });
}

/// How the current process began.
struct Fork {
    time: u64,
    parent: u32,
}

/// None if the current process has executed a program since it was forked, or if that is not known. All
/// threads of a process are asked for its main thread, because each is marked like a process without an exec.
#[inline(always)]
fn fork_without_exec() -> Option<Fork> {
    let offset = mem::constant(&TASK_LEADER);
    if offset == NO_FIELD {
        return None;
    }
    let leader: u64 = mem::kernel(mem::task() + u64::from(offset))?;
    let flags: u32 = mem::kernel(leader + u64::from(mem::constant(&TASK_FLAGS)))?;
    if flags & PF_FORKNOEXEC == 0 {
        return None;
    }
    let parent: u64 = mem::kernel(leader + u64::from(mem::constant(&TASK_PARENT)))?;
    Some(Fork {
        time: mem::kernel(leader + u64::from(mem::constant(&TASK_STARTED)))?,
        parent: mem::kernel(parent + u64::from(mem::constant(&TASK_TGID)))?,
    })
}

/// Whether the process ends with this thread. Kernels before 6.16 do not say. There it is the last living
/// thread that ends the process. If BTF does not say where the number of living threads is, the end of the
/// main thread counts as that of the process, although others may go on for a while.
#[inline(always)]
fn is_last(ctx: &RawTracePointContext, current: Current) -> bool {
    match mem::constant(&EXIT_GROUP_DEAD) {
        NO_FIELD => no_thread_lives().unwrap_or(current.pid() == current.tid()),
        _ => ctx.arg::<u64>(1) as u8 != 0,
    }
}

/// Whether the current thread's process has no living thread any more. Two threads that end at the same time
/// may both get the answer yes.
#[inline(always)]
fn no_thread_lives() -> Option<bool> {
    let offset = mem::constant(&TASK_SIGNAL);
    if offset == NO_FIELD {
        return None;
    }
    let signal: u64 = mem::kernel(mem::task() + u64::from(offset))?;
    let live: u32 = mem::kernel(signal + u64::from(mem::constant(&SIGNAL_LIVE)))?;
    Some(live == 0)
}

#[inline(always)]
fn follow(thread: u32, flags: u8) {
    if THREADS.insert(thread, flags, 0).is_err() {
        emit::lost(Loss::ScopeFull, 0);
    }
}
