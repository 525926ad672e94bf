//! Threads and processes as they come and go: keeps the set of threads in scope, and tells userspace.

use aya_ebpf::programs::TracePointContext;
use probe_common::{KIND_EXEC, KIND_EXIT, Loss, THREAD_HOLD};

use crate::{
    emit, hold,
    maps::{CALLS, EXEC_OLD_PID, FORK_CHILD_PID, THREADS},
    mem,
    scope::{Current, flags_of},
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
    let old = mem::field(ctx, mem::constant(&EXEC_OLD_PID))?;
    let current = Current::any();
    let flags = flags_of(old);
    if let Some(flags) = flags {
        follow(current.tid(), flags);
        if old != current.tid() {
            // Nobody has that id any more: whoever gets it next is not in scope.
            THREADS.remove(old).ok();
        }
    }
    // What the thread was in the middle of is kept under its id until now.
    CALLS.remove(current.id & !u64::from(u32::MAX) | u64::from(old)).ok();
    let current = Current::in_scope()?;
    emit::bare(KIND_EXEC, current);
    if flags.is_some_and(|flags| flags & THREAD_HOLD != 0) {
        hold::executed(current);
    }
    Some(())
}

/// `sched_process_exit`, of a thread.
#[inline(always)]
pub fn exit(_: &TracePointContext) -> Option<()> {
    let current = Current::in_scope()?;
    if current.pid() == current.tid() {
        emit::bare(KIND_EXIT, current);
        hold::ended(current);
    }
    CALLS.remove(current.id).ok();
    THREADS.remove(current.tid()).ok();
    Some(())
}

#[inline(always)]
fn follow(thread: u32, flags: u8) {
    if THREADS.insert(thread, flags, 0).is_err() {
        emit::lost(Loss::ScopeFull, 0);
    }
}
