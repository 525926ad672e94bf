//! Stops a process that ctrace itself has started when it has mapped a file as executable, until userspace
//! has inspected the file, so that its first call is not missed.
//!
//! A process that ctrace has not started is never stopped, and neither is one whose record had no room in the
//! ring.

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
/// The upper half of the result. It is all ones for an error, and never for an address in a process.
const RESULT_UPPER: u32 = mem::syscall_word(0) + 4;

/// `sys_enter_mmap`: records that a file is being mapped as executable.
#[inline(always)]
pub fn mmap_enter(ctx: &TracePointContext) -> Option<()> {
    let thread = Current::any().tid();
    if !is_held(thread) {
        return None;
    }
    let prot: u32 = mem::field(ctx, PROT)?;
    let fd: u32 = mem::field(ctx, FD)?;
    if prot & PROT_EXEC != 0 && fd as i32 >= 0 {
        // If there is no room, the process is merely not stopped.
        MAPPING.insert(thread, 0, 0).ok();
    }
    Some(())
}

/// `sys_exit_mmap`: stops the process if the file was mapped.
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

/// Stops a process whose thread executes a program, which the kernel has mapped without a system call.
#[inline(always)]
pub fn executed(current: Current) {
    if mem::constant(&HOLD) != 0 {
        stop(current);
    }
}

/// Removes a process that has ended, because its id may be reused.
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
