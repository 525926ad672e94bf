//! A process that ctrace itself has started stops when it has mapped a file executable, until userspace has
//! inspected the file: so its first call is not missed.
//!
//! Never stops a process that ctrace has not started, and none of which the record did not get into the ring.

use aya_ebpf::programs::TracePointContext;
use probe_common::THREAD_HOLD;

use crate::{
    constants::HOLD,
    current::Current,
    emit,
    maps::{MAPPING, STOP_ENABLED, STOPPED},
    mem,
    scope::flags_of,
};

/// `PROT_EXEC` of mmap(2).
const PROT_EXEC: u32 = 4;
/// The third argument of mmap(2).
const PROT: u32 = mem::syscall_word(2);
/// The fifth argument of mmap(2).
const FD: u32 = mem::syscall_word(4);
/// The upper half of the result: all ones for an error, and for no address of a process.
const RESULT_UPPER: u32 = mem::syscall_word(0) + 4;

/// `sys_enter_mmap`: notes that a file is being mapped executable.
#[inline(always)]
pub fn mmap_enter(ctx: &TracePointContext) -> Option<()> {
    let thread = Current::any().tid();
    if !is_held(thread) {
        return None;
    }
    let prot: u32 = mem::field(ctx, PROT)?;
    let fd: u32 = mem::field(ctx, FD)?;
    if prot & PROT_EXEC != 0 && fd as i32 >= 0 {
        // When there is no room, the process is merely not held.
        MAPPING.insert(thread, 0, 0).ok();
    }
    Some(())
}

/// `sys_exit_mmap`: the file is mapped.
#[inline(always)]
pub fn mmap_exit(ctx: &TracePointContext) -> Option<()> {
    let current = Current::any();
    MAPPING.get_ptr(current.tid())?;
    MAPPING.remove(current.tid()).ok();
    if mem::field::<u32>(ctx, RESULT_UPPER)? != u32::MAX {
        stop(current);
    }
    Some(())
}

/// The thread executes a program, which the kernel has mapped without a system call.
#[inline(always)]
pub fn executed(current: Current) {
    if mem::constant(&HOLD) != 0 {
        stop(current);
    }
}

/// The process has ended: its id will be another's.
#[inline(always)]
pub fn ended(current: Current) {
    if mem::constant(&HOLD) != 0 {
        STOPPED.remove(current.pid()).ok();
    }
}

#[inline(always)]
fn is_held(thread: u32) -> bool {
    flags_of(thread).is_some_and(|flags| flags & THREAD_HOLD != 0)
}

#[inline(always)]
fn stop(current: Current) {
    if STOP_ENABLED.get(0).is_some_and(|on| *on != 0) {
        emit::stopped(current);
    }
}
