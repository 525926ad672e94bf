//! Records of programs that are executed, of processes that fork and end: kinds 10 to 19.
//!
//! Owns their layout and limits. The strings of a program are as they are on its stack: arguments one after
//! the other, each ended by NUL, the environment behind them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Header;

/// [`Header::kind`] of an [`ExecRecord`] followed by the last of its arguments' bytes: a program was
/// executed.
pub const KIND_EXEC_RECORD: u32 = 10;
/// [`Header::kind`] of an [`ExecStringChunk`] followed by its bytes; the [`ExecRecord`] that it belongs to
/// comes after it.
pub const KIND_EXEC_STRING_CHUNK: u32 = 11;
/// [`Header::kind`] of an [`ExecFailure`]: a program could not be executed.
pub const KIND_EXEC_FAILURE: u32 = 12;
/// [`Header::kind`] of a [`ProcessExit`]: a process has ended.
pub const KIND_PROCESS_EXIT: u32 = 13;
/// [`Header::kind`] of a [`ProcessFork`]: a process has made another.
pub const KIND_PROCESS_FORK: u32 = 14;

/// Bytes of arguments that are captured of one execution. The kernel allows one string of this length, and a
/// quarter of the limit of the stack for all.
pub const ARGUMENT_BYTES: u32 = 128 * 1024;
/// Bytes of environment that are captured of one execution.
pub const ENVIRONMENT_BYTES: u32 = 128 * 1024;
/// Bytes of a path in an [`ExecRecord`], with the NUL after it. A longer one comes as an [`ExecStringChunk`].
pub const PATH_BYTES: usize = 256;
/// Bytes of the longest path (`PATH_MAX` of linux/limits.h).
pub const LONG_PATH_BYTES: usize = 4096;
/// Bytes of arguments that have room in an [`ExecRecord`]'s record.
pub const INLINE_BYTES: usize = 1024;
/// Bytes of environment in one [`ExecStringChunk`]: a page, of the size that all have whose stacks are read
/// so.
pub const PAGE_BYTES: usize = 4096;
/// Arguments of an [`ExecFailure`] that are captured.
pub const ATTEMPT_ARGUMENTS: u32 = 128;
/// Bytes of each of them, with the NUL after it.
pub const ATTEMPT_ARGUMENT_BYTES: usize = 4096;
/// Bytes of all of them, with the path before them.
pub const ATTEMPT_BYTES: usize = 24 * 1024;

/// What a process runs: the execution that made it so, by itself or by the one that it was forked from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Execution {
    /// When it was executed, in nanoseconds of `CLOCK_BOOTTIME`; 0: before it was watched.
    pub time: u64,
    /// The process that executed it, in the initial PID namespace; without a time, one that ran it before it
    /// was watched; 0: not known.
    pub pid: u32,
    /// Zero.
    pub reserved: u32,
}

/// Who has forked a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Parent {
    /// What it ran then.
    pub execution: Execution,
    /// Its id in the initial PID namespace; 0: it was not seen.
    pub pid: u32,
    /// Zero.
    pub reserved: u32,
    /// Name of its thread then, padded with NUL.
    pub comm: [u8; 16],
}

/// Value of the map `LINEAGE`: where a process comes from, and what it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Lineage {
    /// Who has forked it.
    pub parent: Parent,
    /// What it runs.
    pub execution: Execution,
    /// Since when: its last exec, or its fork if it has executed nothing.
    pub since: u64,
}

/// A program was executed; [`ExecRecord::chunk`] bytes of its arguments follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExecRecord {
    /// Kind [`KIND_EXEC_RECORD`]. Its time is the [`Execution`]'s.
    pub header: Header,
    /// Who has forked the process.
    pub parent: Parent,
    /// The stack pointer that the program begins with; 0: not known.
    pub stack: u64,
    /// Arguments; 0 if they could not be read.
    pub count: u64,
    /// Bytes of all arguments, with the NULs.
    pub length: u64,
    /// Real user id, in the initial user namespace.
    pub uid: u32,
    /// Real group id there.
    pub gid: u32,
    /// Effective user id there; only with [`FLAG_EFFECTIVE`].
    pub effective_uid: u32,
    /// Process id in its own PID namespace; 0: not known.
    pub inner_pid: u32,
    /// Bytes of the arguments that are captured, from the first on, parts included.
    pub captured: u32,
    /// Offset in the arguments of the bytes that follow.
    pub offset: u32,
    /// Bytes that follow.
    pub chunk: u32,
    /// `FLAG_` bits.
    pub flags: u32,
    /// Bytes of environment that are captured, in parts.
    pub environment: u32,
    /// Zero.
    pub reserved: u32,
    /// The path as it was given to execve(2), ended by NUL; a script's, not its interpreter's. With
    /// [`FLAG_LONG_PATH`] it is a part of its own.
    pub path: [u8; PATH_BYTES],
}

const _: () = assert!(size_of::<ExecRecord>() == 152 + PATH_BYTES);

/// [`ExecRecord::flags`]: the effective user id is known.
pub const FLAG_EFFECTIVE: u32 = 1 << 0;
/// [`ExecRecord::flags`]: arguments could not be read.
pub const FLAG_UNREADABLE: u32 = 1 << 1;
/// [`ExecRecord::flags`]: the path is in a part.
pub const FLAG_LONG_PATH: u32 = 1 << 2;
/// [`ExecRecord::flags`]: environment was asked for and goes beyond its limit.
pub const FLAG_ENVIRONMENT_CUT: u32 = 1 << 3;

/// A part of the strings of a program that is being executed; [`ExecStringChunk::chunk`] bytes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExecStringChunk {
    /// Kind [`KIND_EXEC_STRING_CHUNK`]. Thread and time are the [`ExecRecord`]'s.
    pub header: Header,
    /// `PART_`: which of its strings.
    pub part: u32,
    /// Offset among those.
    pub offset: u32,
    /// Bytes that follow.
    pub chunk: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ExecStringChunk>() == 64);

/// [`ExecStringChunk::part`]: of the arguments.
pub const CHUNK_OF_ARGUMENTS: u32 = 0;
/// [`ExecStringChunk::part`]: of the environment, and of what lies behind it on the stack.
pub const CHUNK_OF_ENVIRONMENT: u32 = 1;
/// [`ExecStringChunk::part`]: of the path, ended by NUL.
pub const CHUNK_OF_PATH: u32 = 2;

/// A program could not be executed; [`ExecFailure::chunk`] bytes follow: the path, then arguments, each ended
/// by NUL.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExecFailure {
    /// Kind [`KIND_EXEC_FAILURE`].
    pub header: Header,
    /// Who has forked the process.
    pub parent: Parent,
    /// What the process runs.
    pub execution: Execution,
    /// Real user id, in the initial user namespace.
    pub uid: u32,
    /// Real group id there.
    pub gid: u32,
    /// Effective user id there; only with [`FLAG_EFFECTIVE`].
    pub effective_uid: u32,
    /// Process id in its own PID namespace; 0: not known.
    pub inner_pid: u32,
    /// Why not: a number of errno(3).
    pub error: u32,
    /// `ATTEMPT_` bits, and [`FLAG_EFFECTIVE`].
    pub flags: u32,
    /// Bytes that follow.
    pub chunk: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ExecFailure>() == 136);

/// [`ExecFailure::flags`]: there are more arguments, or longer ones, than are captured.
pub const ATTEMPT_CUT: u32 = 1 << 8;
/// [`ExecFailure::flags`]: path or arguments could not be read.
pub const ATTEMPT_UNREADABLE: u32 = 1 << 9;
/// [`ExecFailure::flags`]: execveat(2) with a directory that is not the current one.
pub const ATTEMPT_DIRECTORY: u32 = 1 << 10;

/// A process has ended.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProcessExit {
    /// Kind [`KIND_PROCESS_EXIT`].
    pub header: Header,
    /// Where it came from, what it ran and since when; zero if it began before it was watched.
    pub lineage: Lineage,
    /// Its status as wait(2) has it; only with [`FLAG_STATUS`].
    pub status: u32,
    /// [`FLAG_STATUS`] or 0.
    pub flags: u32,
    /// Process id in its own PID namespace; 0: not known.
    pub inner_pid: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ProcessExit>() == 128);

/// [`ProcessExit::flags`]: the status is known.
pub const FLAG_STATUS: u32 = 1 << 0;

/// A process has made another one (not a thread).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProcessFork {
    /// Kind [`KIND_PROCESS_FORK`]; the process is the one that forks.
    pub header: Header,
    /// What both run.
    pub execution: Execution,
    /// Id of the new process in the initial PID namespace.
    pub child: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ProcessFork>() == 72);

/// What a session tells of programs: bits of the constant `EXECS`.
pub const WANT_PROGRAMS: u32 = 1 << 0;
/// Bit of `EXECS`: the ends of processes.
pub const WANT_ENDS: u32 = 1 << 1;
/// Bit of `EXECS`: forks.
pub const WANT_FORKS: u32 = 1 << 2;
/// Bit of `EXECS`: environments.
pub const WANT_ENVIRONMENT: u32 = 1 << 3;

/// Processes whose lineage is known.
pub const LINEAGES: u32 = 65_536;
