//! Failed executions: the path and the arguments as the process passed them, and the error.

use aya_ebpf::programs::TracePointContext;
use probe_common::{
    ATTEMPT_ARGUMENT_BYTES, ATTEMPT_ARGUMENTS, ATTEMPT_CUT, ATTEMPT_DIRECTORY, ATTEMPT_UNREADABLE,
    ExecFailure, FLAG_EFFECTIVE, KIND_EXEC_FAILURE, Loss,
};

use super::exec;
use crate::{
    current::Current,
    emit,
    maps::{ATTEMPT, ATTEMPTS, ExecPointers},
    mem,
};

/// `AT_FDCWD` of linux/fcntl.h.
const CURRENT_DIRECTORY: i32 = -100;

/// `sys_enter_execve`: path, arguments, environment.
#[inline(always)]
pub fn enter(ctx: &TracePointContext) -> Option<()> {
    attempt(mem::field(ctx, mem::syscall_word(0))?, mem::field(ctx, mem::syscall_word(1))?, 0)
}

/// `sys_enter_execveat`: the same arguments after a directory.
#[inline(always)]
pub fn enter_at(ctx: &TracePointContext) -> Option<()> {
    let directory: i32 = mem::field(ctx, mem::syscall_word(0))?;
    let flags = if directory == CURRENT_DIRECTORY { 0 } else { ATTEMPT_DIRECTORY };
    attempt(mem::field(ctx, mem::syscall_word(1))?, mem::field(ctx, mem::syscall_word(2))?, flags)
}

#[inline(always)]
fn attempt(path: u64, arguments: u64, flags: u32) -> Option<()> {
    let current = Current::in_scope()?;
    // If there is no room, a failure is not reported, but counted as a loss.
    if ATTEMPTS.insert(current.tid(), ExecPointers { path, arguments, flags: flags.into() }, 0).is_err() {
        emit::lost(Loss::ThreadsFull, 0);
    }
    Some(())
}

/// `sys_exit_execve` and `sys_exit_execveat`. A success was already reported elsewhere. After a failure, the
/// memory of the process is unchanged.
#[inline(always)]
pub fn exit(ctx: &TracePointContext) -> Option<()> {
    let current = Current::any();
    let pointers = mem::copied(ATTEMPTS.get_ptr(current.tid())?);
    ATTEMPTS.remove(current.tid()).ok();
    let result: i64 = mem::field(ctx, mem::syscall_word(0))?;
    if result >= 0 {
        return None;
    }
    let room = mem::own(ATTEMPT.get_ptr_mut(0)?);
    let own = exec::lineage(current.pid());
    let (uid, gid) = mem::user_and_group();
    let effective = exec::effective_uid();
    let mut flags = pointers.flags as u32;
    if effective.is_some() {
        flags |= FLAG_EFFECTIVE;
    }
    let (used, how) = strings(&mut room.bytes, &pointers);
    room.attempt = ExecFailure {
        header: emit::header(KIND_EXEC_FAILURE, current),
        parent: own.map_or(exec::NO_PARENT, |own| own.parent),
        execution: own.map_or(exec::NO_EXECUTION, |own| own.execution),
        uid,
        gid,
        effective_uid: effective.unwrap_or(0),
        inner_pid: exec::inner_pid(),
        error: -result as u32,
        flags: flags | how,
        chunk: used as u32,
        reserved: 0,
    };
    emit::exec_failure(room, used);
    Some(())
}

/// Copies the path and the arguments one after the other. Returns the number of bytes, and flags for what is
/// wrong with them.
#[inline(always)]
fn strings<const N: usize>(to: &mut [u8; N], pointers: &ExecPointers) -> (usize, u32) {
    const LONGEST: usize = ATTEMPT_ARGUMENT_BYTES;
    let Some(mut used) = mem::user_text::<N, LONGEST>(to, 0, pointers.path) else {
        to[0] = 0;
        return (1, ATTEMPT_UNREADABLE);
    };
    let mut how = 0;
    if pointers.arguments == 0 {
        return (used, how);
    }
    let mut index = 0;
    while index < ATTEMPT_ARGUMENTS {
        let Some(address) = mem::user(pointers.arguments + 8 * u64::from(index)) else {
            return (used, how | ATTEMPT_UNREADABLE);
        };
        if address == 0 {
            return (used, how);
        }
        if used > N - LONGEST {
            break;
        }
        let Some(length) = mem::user_text::<N, LONGEST>(to, used, address) else {
            return (used, how | ATTEMPT_UNREADABLE);
        };
        if length == LONGEST {
            how |= ATTEMPT_CUT;
        }
        used += length;
        index += 1;
    }
    (used, how | ATTEMPT_CUT)
}
