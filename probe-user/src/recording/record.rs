//! Records that were read: the public records, together with everything that they refer to.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;

use crate::event::{
    CloseReason, Connection, Direction, Library, Lost, Plaintext, ProcessContext, Record, Socket, Ssl,
    SslClose, SslOpen, Summary, Thread, Tls, TlsInfo, Traffic,
};

/// A record of a recording.
#[derive(Debug)]
pub enum RecordedRecord {
    /// A call.
    Call(Box<RecordedCall>),
    /// The open or close of a connection.
    Connection(Box<RecordedConnection>),
    /// A loss.
    Lost(Lost),
    /// The summary at the end.
    Summary(Box<Summary>),
}

/// A call, or a part of it.
pub struct RecordedCall {
    pub(super) time: Timestamp,
    pub(super) origin: ProcessContext,
    pub(super) thread: Thread,
    pub(super) library: Library,
    pub(super) function: String,
    pub(super) direction: Direction,
    /// The position on its connection.
    pub connection: Option<Connection>,
    pub(super) socket: Option<Socket>,
    pub(super) tls: Option<RecordedTls>,
    /// The number of bytes that it transferred.
    pub length: u64,
    /// The number of bytes that were captured.
    pub captured: u32,
    pub(super) offset: u32,
    pub(super) data: Vec<u8>,
}

/// The open or close of a connection.
#[derive(Debug)]
pub struct RecordedConnection {
    pub(super) time: Timestamp,
    pub(super) origin: ProcessContext,
    pub(super) thread: Thread,
    pub(super) library: Option<Library>,
    /// The id of the connection.
    pub id: u64,
    pub(super) from_start: bool,
    pub(super) socket: Option<Socket>,
    pub(super) tls: Option<RecordedTls>,
    /// How the connection was closed, if it was.
    pub(super) end: Option<RecordedEnd>,
}

/// The close of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordedEnd {
    pub(super) duration: Option<u64>,
    pub(super) traffic: Traffic,
    pub(super) reason: CloseReason,
}

/// A handshake, and whether it is new in the record.
#[derive(Debug)]
pub(super) struct RecordedTls {
    pub(super) tls: Tls,
    pub(super) is_first: bool,
}

impl RecordedTls {
    fn info(&self) -> TlsInfo<'_> {
        TlsInfo { tls: Cow::Borrowed(&self.tls), is_first: self.is_first }
    }
}

impl RecordedRecord {
    /// The time of the record.
    pub fn time(&self) -> Timestamp {
        match self {
            Self::Call(call) => call.time,
            Self::Connection(connection) => connection.time,
            Self::Lost(lost) => lost.time,
            Self::Summary(summary) => summary.time,
        }
    }

    /// The record in the form that outputs take.
    pub fn record(&self) -> Record<'_> {
        match self {
            Self::Call(call) => Record::Ssl(call.ssl()),
            Self::Connection(connection) => connection.record(),
            Self::Lost(lost) => Record::Lost(*lost),
            Self::Summary(summary) => Record::Summary((**summary).clone()),
        }
    }
}

impl RecordedCall {
    /// The call in the form that outputs take.
    pub fn ssl(&self) -> Ssl<'_> {
        Ssl {
            time: self.time,
            origin: Cow::Borrowed(&self.origin),
            thread: self.thread,
            library: Cow::Borrowed(&self.library),
            function: Cow::Borrowed(&self.function),
            direction: self.direction,
            connection: self.connection,
            socket: self.socket.as_ref().map(Cow::Borrowed),
            tls: self.tls.as_ref().map(RecordedTls::info),
            length: self.length,
            captured: self.captured,
            offset: self.offset,
            data: Plaintext::of(&self.data),
        }
    }

    /// The id of the calling thread.
    pub fn thread_id(&self) -> u32 {
        self.thread.id
    }

    /// What distinguishes it from the thread's other calls. All parts of a call have the same identity.
    pub fn identity(&self) -> (Timestamp, Option<(u64, u64)>) {
        (self.time, self.connection.map(|connection| (connection.id, connection.call)))
    }

    /// Whether no later record has captured bytes of this call.
    pub fn is_end(&self) -> bool {
        u64::from(self.offset).saturating_add(self.data.len() as u64) >= u64::from(self.captured)
    }

    /// The number of payload bytes in this record.
    pub fn payload_length(&self) -> usize {
        self.data.len()
    }
}

impl RecordedConnection {
    fn record(&self) -> Record<'_> {
        let connection = SslOpen {
            time: self.time,
            origin: Cow::Borrowed(&self.origin),
            thread: self.thread,
            library: self.library.as_ref().map(Cow::Borrowed),
            id: self.id,
            from_start: self.from_start,
            socket: self.socket.as_ref().map(Cow::Borrowed),
            tls: self.tls.as_ref().map(RecordedTls::info),
        };
        match self.end {
            None => Record::SslOpen(connection),
            Some(RecordedEnd { duration, traffic, reason }) => {
                Record::SslClose(SslClose { connection, duration, traffic, end: reason })
            }
        }
    }
}

impl fmt::Debug for RecordedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ssl().fmt(f)
    }
}
