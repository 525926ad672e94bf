//! What all records have: when something happened, and to whom.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Container, Containment, Socket, Tls};

/// The context of a record. Its body says what happened.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// When it happened.
    pub time: Timestamp,
    /// Where it happened.
    pub origin: Origin<'a>,
    /// The connection on which it happened. None if the record is not about a connection, or if the
    /// kernel's table of connections was full.
    pub connection: Option<Connection<'a>>,
}

/// Where something happened.
#[derive(Clone, Debug)]
pub enum Origin<'a> {
    /// In a thread.
    Thread {
        /// The process and its container.
        process: Cow<'a, ProcessContext>,
        /// The thread.
        thread: Thread,
    },
    /// In the processes of a container, over a span of time that ends at the record's time.
    Container {
        /// The container.
        container: Containment,
        /// The start of the span.
        since: Timestamp,
    },
    /// In ctrace itself.
    Trace,
}

/// A connection.
#[derive(Clone, Debug)]
pub struct Connection<'a> {
    /// The number of the connection, unique in one run, from 1.
    pub id: u64,
    /// Whether it was seen from its creation on. Otherwise, offsets count from when it was first seen.
    pub from_start: bool,
    /// Whether it was first seen while only a part of the probes of its library was set, so that some of its
    /// bytes may be missing.
    pub partial_attach: bool,
    /// Its socket. None if it is unknown (so far).
    pub socket: Option<Cow<'a, Socket>>,
    /// Its handshake. None if it was not seen (so far).
    pub tls: Option<TlsInfo<'a>>,
}

/// The handshake of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo<'a> {
    /// What both ends said.
    pub tls: Cow<'a, Tls>,
    /// Whether no earlier record of the connection had it.
    pub is_first: bool,
}

/// What is the same for all threads of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessContext {
    /// The process.
    pub process: Process,
    /// Its container, if it has one.
    pub container: Containment,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Id in the initial PID namespace (the host's).
    pub pid: u32,
    /// Id in its own PID namespace, as the container sees it; null when the process was gone.
    pub vpid: Option<u32>,
    /// Its executable; null when the process was gone.
    pub executable: Option<Executable>,
    /// The container whose mount namespace it has entered without being in its cgroup, as nsenter(1) does.
    pub entered: Option<Arc<Container>>,
}

/// The executable of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Executable {
    /// Path inside the process's root.
    pub path: String,
}

/// A thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Id in the initial PID namespace.
    pub id: u32,
    /// Name (`comm`), padded with NUL.
    pub comm: [u8; 16],
}

impl Thread {
    /// The name without its padding. Its owner chooses the bytes: they need not be UTF-8 or printable.
    pub fn name(&self) -> &[u8] {
        self.comm.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

impl<'a> Context<'a> {
    /// The context of what a thread did.
    pub fn of_thread(time: Timestamp, process: &'a ProcessContext, thread: Thread) -> Self {
        let origin = Origin::Thread { process: Cow::Borrowed(process), thread };
        Self { time, origin, connection: None }
    }

    /// The context of what happened to ctrace itself.
    pub fn of_trace(time: Timestamp) -> Self {
        Self { time, origin: Origin::Trace, connection: None }
    }

    /// The process and the thread, if it is about one.
    pub fn thread(&self) -> Option<(&ProcessContext, &Thread)> {
        match &self.origin {
            Origin::Thread { process, thread } => Some((process, thread)),
            Origin::Container { .. } | Origin::Trace => None,
        }
    }

    /// The container, if it is about what runs in one or on the host.
    pub fn container(&self) -> Option<&Containment> {
        match &self.origin {
            Origin::Thread { process, .. } => Some(&process.container),
            Origin::Container { container, .. } => Some(container),
            Origin::Trace => None,
        }
    }

    /// The socket of the connection, if it is known.
    pub fn socket(&self) -> Option<&Socket> {
        self.connection.as_ref()?.socket.as_deref()
    }

    /// The handshake of the connection, if it is known.
    pub fn tls(&self) -> Option<&TlsInfo<'a>> {
        self.connection.as_ref()?.tls.as_ref()
    }
}
