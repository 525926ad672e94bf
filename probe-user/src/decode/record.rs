//! The records of the ring, grouped by their consumer.

use probe_common::{
    Call, ConnectionClose, ConnectionOpen, ExecFailure, ExecRecord, ExecStringChunk, Header, HelloChunk,
    ProcessExit, ProcessFork, SignalRecord, SocketRecord, TaskExit, UnattributedRecord,
};

use super::{FunctionRecord, Stack};
use crate::event::Plaintext;

/// A record of the ring.
#[derive(Clone, Debug)]
pub enum RingRecord<'a> {
    /// For the tracking of the selection. It does not become a public record.
    Control(ControlRecord<'a>),
    /// For the tracking of the selection and for the pipeline.
    Task(TaskRecord<'a>),
    /// For the pipeline.
    Data(DataRecord<'a>),
}

/// A change in what is selected, or in what is to be attached to, or a reason to detach.
#[derive(Clone, Copy, Debug)]
pub enum ControlRecord<'a> {
    /// A cgroup of the v2 hierarchy was created.
    CgroupCreated(CgroupRecord<'a>),
    /// A cgroup of the v2 hierarchy was removed.
    CgroupRemoved(CgroupRecord<'a>),
    /// A thread, in scope or not, gets a signal for what it has executed.
    Signal(&'a SignalRecord),
}

/// A process no longer runs its previous program.
#[derive(Clone, Copy, Debug)]
pub enum TaskRecord<'a> {
    /// The process has ended.
    Exit(&'a TaskExit),
    /// The process executes another program. It need not be in scope.
    Exec(&'a Header),
}

/// A record from which public records are made.
#[derive(Clone, Debug)]
pub enum DataRecord<'a> {
    /// A chunk of the bytes that a call transferred.
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
    /// The call stack of the next function record from the same thread.
    FunctionStack(Stack<'a>),
    /// A program was executed.
    Program {
        /// Everything except the arguments.
        head: &'a ExecRecord,
        /// The last part of the arguments' bytes. The other parts came in separate records.
        data: Plaintext<'a>,
    },
    /// A part of the strings of a program, whose record follows.
    Part {
        /// Everything except the bytes.
        head: &'a ExecStringChunk,
        /// The bytes.
        data: Plaintext<'a>,
    },
    /// A program could not be executed.
    Attempt {
        /// Everything except path and arguments.
        head: &'a ExecFailure,
        /// The path and the arguments, each terminated by NUL.
        data: Plaintext<'a>,
    },
    /// The socket of a connection.
    Socket(&'a SocketRecord),
    /// A socket of TLS or QUIC that no call uses.
    Unattributed(&'a UnattributedRecord),
    /// A part of a TLS hello message.
    Hello {
        /// Everything but the bytes.
        head: &'a HelloChunk,
        /// [`HelloChunk::bytes`] bytes.
        data: &'a [u8],
    },
    /// A connection was opened.
    Opened(&'a ConnectionOpen),
    /// A connection was closed.
    Closed(&'a ConnectionClose),
    /// A process has ended, with its status.
    Ended(&'a ProcessExit),
    /// A process has forked another.
    Forked(&'a ProcessFork),
}

/// The cgroup of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupRecord<'a> {
    /// The inode number of its directory.
    pub id: u64,
    /// The depth below the root of the hierarchy, which has level 0.
    pub level: u32,
    /// The path in the hierarchy, up to [`probe_common::CGROUP_PATH`] bytes. Its creator chose it.
    pub path: &'a [u8],
}
