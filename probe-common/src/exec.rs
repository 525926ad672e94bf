//! Records of programs that are executed, and of processes that fork and exit: kinds 10 to 14.
//!
//! Defines their layout and limits. The strings of a program are as on its stack: the arguments one after the
//! other, each ending with a NUL, then the environment.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Header;

/// [`Header::kind`] of an [`ExecRecord`], followed by the last chunk of its arguments: a program was
/// executed.
pub const KIND_EXEC_RECORD: u32 = 10;
/// [`Header::kind`] of an [`ExecStringChunk`], followed by its bytes. The [`ExecRecord`] comes after all of
/// its chunks.
pub const KIND_EXEC_STRING_CHUNK: u32 = 11;
/// [`Header::kind`] of an [`ExecFailure`]: a program could not be executed.
pub const KIND_EXEC_FAILURE: u32 = 12;
/// [`Header::kind`] of a [`ProcessExit`]: a process exited.
pub const KIND_PROCESS_EXIT: u32 = 13;
/// [`Header::kind`] of a [`ProcessFork`]: a process forked.
pub const KIND_PROCESS_FORK: u32 = 14;

/// Limit of the captured argument bytes of one execution. The kernel allows this length for a single string,
/// and a quarter of the stack limit for all of them.
pub const ARGUMENT_BYTES: u32 = 128 * 1024;
/// Limit of the captured environment bytes of one execution.
pub const ENVIRONMENT_BYTES: u32 = 128 * 1024;
/// Size of the path in an [`ExecRecord`], including its NUL. A longer path comes as an [`ExecStringChunk`].
pub const PATH_BYTES: usize = 256;
/// Size of the longest path (`PATH_MAX` of linux/limits.h).
pub const LONG_PATH_BYTES: usize = 4096;
/// Argument bytes that fit into the record of an [`ExecRecord`].
pub const INLINE_BYTES: usize = 1024;
/// Environment bytes in one [`ExecStringChunk`]: a page of the architectures whose stacks are read this way.
pub const PAGE_BYTES: usize = 4096;
/// Limit of the captured arguments of an [`ExecFailure`].
pub const ATTEMPT_ARGUMENTS: u32 = 128;
/// Limit of the captured bytes of each of these arguments, including its NUL.
pub const ATTEMPT_ARGUMENT_BYTES: usize = 4096;
/// Limit of the captured bytes of all of these arguments, including the path before them.
pub const ATTEMPT_BYTES: usize = 24 * 1024;

/// An execution: identifies the program that a process runs, whether the process itself or an ancestor
/// executed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Execution {
    /// The time of the execution, in nanoseconds of `CLOCK_BOOTTIME`; 0 if it was before tracing began.
    pub time: u64,
    /// The process that executed it, in the initial PID namespace. If the time is 0, a process that ran it
    /// before tracing began. 0 if unknown.
    pub pid: u32,
    /// Zero.
    pub reserved: u32,
}

/// The parent of a process at the time of the fork.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Parent {
    /// The program that the parent ran.
    pub execution: Execution,
    /// The process id of the parent in the initial PID namespace; 0 if the fork was not observed.
    pub pid: u32,
    /// Zero.
    pub reserved: u32,
    /// The name of the thread that forked, padded with NUL.
    pub comm: [u8; 16],
}

/// Value of the map `LINEAGE`: the parent of a process, and the program that it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Lineage {
    /// The parent at the time of the fork.
    pub parent: Parent,
    /// The program that the process runs.
    pub execution: Execution,
    /// The time of its last exec, or of its fork if it has executed nothing.
    pub since: u64,
}

/// A program was executed. [`ExecRecord::chunk`] bytes of its arguments follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExecRecord {
    /// Kind [`KIND_EXEC_RECORD`]. Its time is that of the [`Execution`].
    pub header: Header,
    /// The parent of the process.
    pub parent: Parent,
    /// The initial stack pointer of the program; 0 if unknown.
    pub stack: u64,
    /// The number of arguments; 0 if they could not be read.
    pub count: u64,
    /// The length of all arguments in bytes, including the NULs.
    pub length: u64,
    /// The real user id in the initial user namespace.
    pub uid: u32,
    /// The real group id in the initial user namespace.
    pub gid: u32,
    /// The effective user id in the initial user namespace; valid only with [`FLAG_EFFECTIVE`].
    pub effective_uid: u32,
    /// The process id in its own PID namespace; 0 if unknown.
    pub inner_pid: u32,
    /// How many argument bytes were captured from the start, including chunks.
    pub captured: u32,
    /// The offset in the arguments of the bytes that follow.
    pub offset: u32,
    /// How many bytes follow.
    pub chunk: u32,
    /// `FLAG_` bits.
    pub flags: u32,
    /// How many environment bytes were captured, in chunks.
    pub environment: u32,
    /// Zero.
    pub reserved: u32,
    /// The path as given to execve(2), ending with a NUL; for a script, its own path and not the
    /// interpreter's. With [`FLAG_LONG_PATH`], the path is in a chunk instead.
    pub path: [u8; PATH_BYTES],
}

const _: () = assert!(size_of::<ExecRecord>() == 152 + PATH_BYTES);

/// [`ExecRecord::flags`]: the effective user id is valid.
pub const FLAG_EFFECTIVE: u32 = 1 << 0;
/// [`ExecRecord::flags`]: the arguments could not be read.
pub const FLAG_UNREADABLE: u32 = 1 << 1;
/// [`ExecRecord::flags`]: the path is in a chunk.
pub const FLAG_LONG_PATH: u32 = 1 << 2;
/// [`ExecRecord::flags`]: the environment was requested, but exceeds its limit.
pub const FLAG_ENVIRONMENT_CUT: u32 = 1 << 3;

/// A chunk of the strings of a program that is being executed. [`ExecStringChunk::chunk`] bytes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExecStringChunk {
    /// Kind [`KIND_EXEC_STRING_CHUNK`]. Thread and time are those of the [`ExecRecord`].
    pub header: Header,
    /// Which strings this is a chunk of: a `CHUNK_OF_` constant.
    pub part: u32,
    /// The offset in these strings.
    pub offset: u32,
    /// How many bytes follow.
    pub chunk: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ExecStringChunk>() == 64);

/// [`ExecStringChunk::part`]: the arguments.
pub const CHUNK_OF_ARGUMENTS: u32 = 0;
/// [`ExecStringChunk::part`]: the environment, and what follows it on the stack.
pub const CHUNK_OF_ENVIRONMENT: u32 = 1;
/// [`ExecStringChunk::part`]: the path, ending with a NUL.
pub const CHUNK_OF_PATH: u32 = 2;

/// An execution failed. [`ExecFailure::chunk`] bytes follow: the path, then the arguments, each ending with a
/// NUL.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExecFailure {
    /// Kind [`KIND_EXEC_FAILURE`].
    pub header: Header,
    /// The parent of the process.
    pub parent: Parent,
    /// The program that the process runs.
    pub execution: Execution,
    /// The real user id in the initial user namespace.
    pub uid: u32,
    /// The real group id in the initial user namespace.
    pub gid: u32,
    /// The effective user id in the initial user namespace; valid only with [`FLAG_EFFECTIVE`].
    pub effective_uid: u32,
    /// The process id in its own PID namespace; 0 if unknown.
    pub inner_pid: u32,
    /// The reason, as an errno(3) number.
    pub error: u32,
    /// `ATTEMPT_` bits, and [`FLAG_EFFECTIVE`].
    pub flags: u32,
    /// How many bytes follow.
    pub chunk: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ExecFailure>() == 136);

/// [`ExecFailure::flags`]: some arguments, or parts of them, were not captured.
pub const ATTEMPT_CUT: u32 = 1 << 8;
/// [`ExecFailure::flags`]: the path or the arguments could not be read.
pub const ATTEMPT_UNREADABLE: u32 = 1 << 9;
/// [`ExecFailure::flags`]: execveat(2) with a directory other than the current one.
pub const ATTEMPT_DIRECTORY: u32 = 1 << 10;

/// A process exited.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProcessExit {
    /// Kind [`KIND_PROCESS_EXIT`].
    pub header: Header,
    /// Its parent, program and start; zero if it started before tracing began.
    pub lineage: Lineage,
    /// The exit status as in wait(2); valid only with [`FLAG_STATUS`].
    pub status: u32,
    /// [`FLAG_STATUS`] or 0.
    pub flags: u32,
    /// The process id in its own PID namespace; 0 if unknown.
    pub inner_pid: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ProcessExit>() == 128);

/// [`ProcessExit::flags`]: the status is valid.
pub const FLAG_STATUS: u32 = 1 << 0;

/// A process forked (a new thread is not a fork).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProcessFork {
    /// Kind [`KIND_PROCESS_FORK`]; the process is the parent.
    pub header: Header,
    /// The program that both run.
    pub execution: Execution,
    /// The id of the child in the initial PID namespace.
    pub child: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ProcessFork>() == 72);

/// Bit of the constant `EXECS`, which says what to record: executed programs.
pub const WANT_PROGRAMS: u32 = 1 << 0;
/// Bit of `EXECS`: exits of processes.
pub const WANT_ENDS: u32 = 1 << 1;
/// Bit of `EXECS`: forks.
pub const WANT_FORKS: u32 = 1 << 2;
/// Bit of `EXECS`: environments.
pub const WANT_ENVIRONMENT: u32 = 1 << 3;

/// Entries of the map `LINEAGE`.
pub const LINEAGES: u32 = 65_536;
