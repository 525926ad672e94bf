//! Executed programs, failed executions, and the parents of processes.
//!
//! Everything is read after the kernel has put it on the new program's stack and before the program runs, so
//! nobody can change it in between. The memory of a process that is not in scope is never read.

use aya_ebpf::programs::TracePointContext;
use probe_common::{
    ARGUMENT_BYTES, CHUNK_BYTES, CHUNK_OF_ARGUMENTS, CHUNK_OF_ENVIRONMENT, CHUNK_OF_PATH, ENVIRONMENT_BYTES,
    ExecRecord, ExecStringChunk, Execution, FLAG_EFFECTIVE, FLAG_ENVIRONMENT_CUT, FLAG_LONG_PATH,
    FLAG_STATUS, FLAG_UNREADABLE, Header, INLINE_BYTES, KIND_EXEC_RECORD, KIND_EXEC_STRING_CHUNK,
    KIND_PROCESS_EXIT, KIND_PROCESS_FORK, Lineage, NO_FIELD, PAGE_BYTES, PATH_BYTES, Parent, ProcessExit,
    ProcessFork, WANT_ENDS, WANT_ENVIRONMENT, WANT_FORKS,
};

use super::exec_args::{self, ExecStrings};
use crate::{
    constants::{
        CRED_EUID, EXEC_FILENAME, EXECS, NEWTASK_FLAGS, NEWTASK_PID, PID_LEVEL, PID_NUMBERS, TASK_CRED,
        TASK_EXIT_CODE, TASK_PID, UPID_BYTES,
    },
    current::Current,
    emit,
    maps::{ATTEMPTS, LINEAGE},
    mem,
};

/// `CLONE_THREAD` of linux/sched.h.
const CLONE_THREAD: u64 = 0x0001_0000;
pub const NO_PARENT: Parent = Parent { execution: NO_EXECUTION, pid: 0, reserved: 0, comm: [0; 16] };
pub const NO_EXECUTION: Execution = Execution { time: 0, pid: 0, reserved: 0 };
const NO_LINEAGE: Lineage = Lineage { parent: NO_PARENT, execution: NO_EXECUTION, since: 0 };

/// Whether any of these records are wanted (`WANT_` bits).
#[inline(always)]
pub fn wanted(bits: u32) -> bool {
    mem::constant(&EXECS) & bits != 0
}

/// `task_newtask`: the current thread has created another one, in its process or in a new one.
#[inline(always)]
pub fn forked(ctx: &TracePointContext) -> Option<()> {
    let flags: u64 = mem::field(ctx, mem::constant(&NEWTASK_FLAGS))?;
    if flags & CLONE_THREAD != 0 {
        return None;
    }
    let child: u32 = mem::field(ctx, mem::constant(&NEWTASK_PID))?;
    let current = Current::any();
    let header = emit::header(KIND_PROCESS_FORK, current);
    let before = Execution { time: 0, pid: current.pid(), reserved: 0 };
    let execution = lineage(current.pid()).map_or(before, |own| own.execution);
    let parent = Parent { execution, pid: current.pid(), reserved: 0, comm: header.comm };
    LINEAGE.insert(child, Lineage { parent, execution, since: header.time }, 0).ok();
    if wanted(WANT_FORKS) && Current::in_scope().is_some() {
        emit::record(ProcessFork { header, execution, child, reserved: 0 });
    }
    Some(())
}

#[inline(always)]
pub fn lineage(pid: u32) -> Option<&'static Lineage> {
    LINEAGE.get_ptr(pid).map(mem::value)
}

/// Records that the process, in scope or not, executes a program. The executing thread had the id `old`
/// before.
#[inline(always)]
pub fn record_lineage(current: Current, old: u32) {
    ATTEMPTS.remove(old).ok();
    let time = mem::now();
    let execution = Execution { time, pid: current.pid(), reserved: 0 };
    let parent = lineage(current.pid()).map_or(NO_PARENT, |own| own.parent);
    LINEAGE.insert(current.pid(), Lineage { parent, execution, since: time }, 0).ok();
}

/// Emits the record of the program that the process executes, after [`record_lineage`].
#[inline(always)]
pub fn emit_exec(ctx: &TracePointContext, current: Current) -> Option<()> {
    let own = lineage(current.pid())?;
    let header = Header { time: own.since, ..emit::header(KIND_EXEC_RECORD, current) };
    let place: u32 = mem::field(ctx, mem::constant(&EXEC_FILENAME))?;
    let (path, path_length) = ((place & 0xffff) as usize, place >> 16);
    let mut flags = 0;
    if path_length as usize > PATH_BYTES {
        flags |= FLAG_LONG_PATH;
        let part = part(&header, CHUNK_OF_PATH, 0, path_length);
        emit::exec_path(&part, |bytes| mem::long_text(bytes, ctx, path));
    }
    let none = ExecStrings { stack: 0, count: 0, arguments: 0, length: 0, environment: 0 };
    let strings = exec_args::strings().unwrap_or_else(|| {
        flags |= FLAG_UNREADABLE;
        none
    });
    let mut environment = 0;
    if wanted(WANT_ENVIRONMENT) && strings.environment != 0 {
        environment = pages(&header, strings.environment);
        if environment >= ENVIRONMENT_BYTES {
            flags |= FLAG_ENVIRONMENT_CUT;
        }
    }
    let captured =
        if strings.length > ARGUMENT_BYTES.into() { ARGUMENT_BYTES } else { strings.length as u32 };
    let offset = arguments(&header, strings.arguments, captured);
    let (uid, gid) = mem::user_and_group();
    let effective = effective_uid();
    if effective.is_some() {
        flags |= FLAG_EFFECTIVE;
    }
    let inner_pid = inner_pid();
    emit::exec(strings.arguments + u64::from(offset), |program: &mut ExecRecord| {
        program.header = header;
        program.parent = own.parent;
        program.stack = strings.stack;
        program.count = strings.count;
        program.length = strings.length;
        program.uid = uid;
        program.gid = gid;
        program.effective_uid = effective.unwrap_or(0);
        program.inner_pid = inner_pid;
        program.captured = captured;
        program.offset = offset;
        program.chunk = captured - offset;
        program.flags = flags;
        program.environment = environment;
        program.reserved = 0;
        if !mem::text(&mut program.path, ctx, path) {
            program.path[0] = 0;
        }
    });
    Some(())
}

#[inline(always)]
fn part(header: &Header, part: u32, offset: u32, chunk: u32) -> ExecStringChunk {
    ExecStringChunk {
        header: Header { kind: KIND_EXEC_STRING_CHUNK, ..*header },
        part,
        offset,
        chunk,
        reserved: 0,
    }
}

/// Emits the arguments that do not fit into the program's own record. Returns the number of their bytes.
#[inline(always)]
fn arguments(header: &Header, address: u64, captured: u32) -> u32 {
    const CHUNK: u32 = CHUNK_BYTES as u32;
    let mut part = part(header, CHUNK_OF_ARGUMENTS, 0, CHUNK);
    let mut round = 0;
    while round < ARGUMENT_BYTES / CHUNK {
        if captured - part.offset < CHUNK {
            break;
        }
        emit::full_exec_arguments(&part, address + u64::from(part.offset));
        part.offset += CHUNK;
        round += 1;
    }
    part.chunk = captured - part.offset;
    if part.chunk <= INLINE_BYTES as u32 {
        return part.offset;
    }
    emit::exec_arguments(&part, address + u64::from(part.offset));
    captured
}

/// Emits the environment and everything behind it, up to the end of the stack. The stack ends with a page,
/// and the next page does not exist. Returns the number of bytes.
#[inline(always)]
fn pages(header: &Header, address: u64) -> u32 {
    const PAGE: u64 = PAGE_BYTES as u64;
    let mut part = part(header, CHUNK_OF_ENVIRONMENT, 0, (PAGE - address % PAGE) as u32);
    let mut round = 0;
    while round < ENVIRONMENT_BYTES / PAGE_BYTES as u32 {
        if !emit::environment_page(&part, address + u64::from(part.offset)) {
            return part.offset;
        }
        part.offset += part.chunk;
        part.chunk = PAGE_BYTES as u32;
        round += 1;
    }
    ENVIRONMENT_BYTES
}

/// Emits the exit of the process, which is in scope and ends with this thread.
#[inline(always)]
pub fn emit_exit(current: Current) {
    if wanted(WANT_ENDS) {
        let status = match mem::constant(&TASK_EXIT_CODE) {
            NO_FIELD => None,
            offset => mem::kernel::<u32>(mem::task() + u64::from(offset)),
        };
        emit::record(ProcessExit {
            header: emit::header(KIND_PROCESS_EXIT, current),
            lineage: lineage(current.pid()).map_or(NO_LINEAGE, |own| *own),
            status: status.unwrap_or(0),
            flags: if status.is_some() { FLAG_STATUS } else { 0 },
            inner_pid: inner_pid(),
            reserved: 0,
        });
    }
}

/// Removes a process, in scope or not, that has ended, because its id may be reused.
#[inline(always)]
pub fn forget(current: Current) {
    LINEAGE.remove(current.pid()).ok();
}

/// The id of the current process in its own PID namespace, or 0 if it is unknown.
#[inline(always)]
pub fn inner_pid() -> u32 {
    read_inner_pid().unwrap_or(0)
}

#[inline(always)]
fn read_inner_pid() -> Option<u32> {
    let offset = mem::constant(&TASK_PID);
    if offset == NO_FIELD {
        return None;
    }
    let pid: u64 = mem::kernel(mem::task() + u64::from(offset))?;
    let level: u32 = mem::kernel(pid + u64::from(mem::constant(&PID_LEVEL)))?;
    let numbers = pid + u64::from(mem::constant(&PID_NUMBERS));
    mem::kernel(numbers + u64::from(level) * u64::from(mem::constant(&UPID_BYTES)))
}

#[inline(always)]
pub fn effective_uid() -> Option<u32> {
    let offset = mem::constant(&TASK_CRED);
    if offset == NO_FIELD {
        return None;
    }
    let cred: u64 = mem::kernel(mem::task() + u64::from(offset))?;
    mem::kernel(cred + u64::from(mem::constant(&CRED_EUID)))
}
