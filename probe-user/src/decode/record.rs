//! The records of the ring, by who needs them.

use probe_common::{
    Call, ConnectionClose, ConnectionOpen, ExecFailure, ExecRecord, ExecStringChunk, Header, HelloChunk,
    ProcessExit, ProcessFork, SocketRecord,
};

use super::{FunctionRecord, Stack};
use crate::event::Plaintext;

/// A record of the ring.
#[derive(Clone, Debug)]
pub enum RingRecord<'a> {
    /// For who follows what is selected: it becomes no public record.
    Control(ControlRecord<'a>),
    /// For who follows what is selected, and for the pipeline.
    Task(TaskRecord<'a>),
    /// For the pipeline.
    Data(DataRecord<'a>),
}

/// Something that changes what is selected, or what is to be attached to.
#[derive(Clone, Copy, Debug)]
pub enum ControlRecord<'a> {
    /// A cgroup of the v2 hierarchy was made.
    CgroupMade(Cgroup<'a>),
    /// A cgroup of the v2 hierarchy was removed.
    CgroupGone(Cgroup<'a>),
    /// A process is stopped until userspace has looked at what it has mapped.
    Held(&'a Header),
}

/// A process runs no more what it ran before.
#[derive(Clone, Copy, Debug)]
pub enum TaskRecord<'a> {
    /// It has ended.
    Exit(&'a Header),
    /// It executes another program; it need not be in scope.
    Exec(&'a Header),
}

/// What public records are made from.
#[derive(Clone, Debug)]
pub enum DataRecord<'a> {
    /// A chunk of what a call transferred.
    Call {
        /// Everything but the payload.
        head: &'a Call,
        /// [`Call::chunk`] bytes of payload.
        data: Plaintext<'a>,
    },
    /// A function was called.
    FunctionEnter(FunctionRecord<'a>),
    /// A function has returned.
    FunctionReturn(FunctionRecord<'a>),
    /// Where the call came from that the thread tells of next.
    FunctionStack(Stack<'a>),
    /// A program was executed.
    Program {
        /// Everything but arguments.
        head: &'a ExecRecord,
        /// The last of its arguments' bytes; the others came as parts.
        data: Plaintext<'a>,
    },
    /// A part of the strings of a program, which comes after it.
    Part {
        /// Which.
        head: &'a ExecStringChunk,
        /// Its bytes.
        data: Plaintext<'a>,
    },
    /// A program could not be executed.
    Attempt {
        /// Everything but path and arguments.
        head: &'a ExecFailure,
        /// Those, each ended by NUL.
        data: Plaintext<'a>,
    },
    /// A connection is on a socket.
    Socket(&'a SocketRecord),
    /// A part of what one end of a TLS connection says first.
    Hello {
        /// Everything but the bytes.
        head: &'a HelloChunk,
        /// [`HelloChunk::bytes`] bytes.
        data: &'a [u8],
    },
    /// A connection begins.
    Opened(&'a ConnectionOpen),
    /// A connection has ended.
    Closed(&'a ConnectionClose),
    /// A process has ended, with its status.
    Ended(&'a ProcessExit),
    /// A process has made another.
    Forked(&'a ProcessFork),
}

/// What is recorded of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cgroup<'a> {
    /// Inode number of its directory.
    pub id: u64,
    /// Depth below the root of the hierarchy, whose level is 0.
    pub level: u32,
    /// Path in the hierarchy: what its maker chose, up to [`probe_common::CGROUP_PATH`] bytes.
    pub path: &'a [u8],
}
