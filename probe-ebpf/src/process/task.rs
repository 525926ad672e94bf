//! Threads and processes as they come and go: keeps the set of threads in scope or held, and reports them.

use aya_ebpf::programs::TracePointContext;
use probe_common::{KIND_TASK_EXEC, KIND_TASK_EXIT, Loss, NO_FIELD, THREAD_HOLD, WANT_PROGRAMS};

use super::{exec, stop_on_mmap};
use crate::{
    connection::identity,
    constants::{EXEC_OLD_PID, EXIT_GROUP_DEAD, FORK_CHILD_PID, SIGNAL_LIVE, TASK_SIGNAL},
    current::Current,
    emit::{self, Notice},
    maps::{ATTEMPTS, CALLS, PROGRAMS, THREADS},
    mem,
    scope::{self, flags_of},
};

/// `sched_process_fork`: a thread in the set makes another, in the same process or a new one.
#[inline(always)]
pub fn fork(ctx: &TracePointContext) -> Option<()> {
    let flags = flags_of(Current::any().tid())?;
    let child = mem::field(ctx, mem::constant(&FORK_CHILD_PID))?;
    follow(child, flags);
    Some(())
}

/// `sched_process_exec`: the executing thread takes over the id of its process's first thread.
#[inline(always)]
pub fn exec(ctx: &TracePointContext) -> Option<()> {
    let old: u32 = mem::field(ctx, mem::constant(&EXEC_OLD_PID))?;
    let current = Current::any();
    current.mark_command_started();
    let filter = scope::filter()?;
    let flags = flags_of(old);
    if let Some(flags) = flags
        && old != current.tid()
    {
        // Nobody has that id any more: whoever gets it next is not in scope.
        THREADS.remove(old).ok();
        follow(current.tid(), flags);
    }
    // What the thread was in the middle of is kept under its id until now.
    CALLS.remove(current.id & !u64::from(u32::MAX) | u64::from(old)).ok();
    let in_scope = Current::in_scope().is_some();
    if in_scope {
        identity::start_program(current);
    }
    if exec::wanted(WANT_PROGRAMS) {
        exec::record_lineage(current, old);
    }
    let is_held = flags.is_some_and(|flags| flags & THREAD_HOLD != 0);
    if filter.leaves_at_exec != 0 {
        if is_held {
            follow(current.tid(), THREAD_HOLD);
        } else {
            THREADS.remove(current.tid()).ok();
        }
    }
    // Where programs are let in one by one, nobody knows yet whether this one is.
    if in_scope && exec::wanted(WANT_PROGRAMS) && filter.leaves_at_exec == 0 {
        exec::emit_exec(ctx, current);
    } else if filter.watch != 0 && !current.is_own() {
        emit::task(KIND_TASK_EXEC, current, Notice::Now);
    } else if in_scope {
        emit::task(KIND_TASK_EXEC, current, Notice::Soon);
    }
    if is_held {
        stop_on_mmap::executed(current);
    }
    Some(())
}

/// `sched_process_exit`, of a thread.
#[inline(always)]
pub fn exit(ctx: &TracePointContext) -> Option<()> {
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
            emit::task(KIND_TASK_EXIT, current, Notice::Soon);
        }
        if mem::constant(&EXIT_GROUP_DEAD) != NO_FIELD {
            // Without the field other threads may be stopped; what is left in the table costs a signal at
            // most.
            stop_on_mmap::ended(current);
        }
        PROGRAMS.remove(current.pid()).ok();
    }
    // Whether in scope or not: it may have been, and left with its cgroup.
    CALLS.remove(current.id).ok();
    THREADS.remove(current.tid()).ok();
    if exec::wanted(WANT_PROGRAMS) {
        ATTEMPTS.remove(current.tid()).ok();
    }
    Some(())
}

/// Whether the process ends with this thread. Kernels before 6.16 do not say; there it is the last that
/// lives, and where BTF does not say where that number is, the first thread stands for the process, although
/// others may go on for a while.
#[inline(always)]
fn is_last(ctx: &TracePointContext, current: Current) -> bool {
    match mem::constant(&EXIT_GROUP_DEAD) {
        NO_FIELD => no_thread_lives().unwrap_or(current.pid() == current.tid()),
        offset => mem::field::<u8>(ctx, offset).is_some_and(|dead| dead != 0),
    }
}

/// Whether the current thread's process has no living thread any more; two that end at the same time may both
/// be told so.
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
