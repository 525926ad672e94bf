//! The public records: what a pipeline reads, one JSON object a line.
//!
//! Field names follow the OpenTelemetry semantic conventions where one exists, nested at the dots.
//! Owns the shapes only; [`crate::output`] writes them. docs/events.md describes them for users.

mod container;
mod context;
mod exec;
mod field;
mod harmed;
mod loss;
mod missed;
mod owned;
mod redaction;
mod request;
mod socket;
mod ssl;
mod statement;
mod tls;
mod unknown_tls;
mod uprobe;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::ops::Range;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use container::{Container, Containment, Image, K8s, K8sNamespace, K8sPod, Pod, Runtime};
pub use context::{Connection, Context, Executable, Origin, Process, ProcessContext, Thread, TlsInfo};
pub use exec::{
    Ancestor, ArgList, Exec, ExecFailed, ExecId, ExecLineage, Exit, ExitStatus, Fork, ProcessUsers,
};
pub use field::{Field, FieldKind, FieldValue, HeaderField, Outcome, Overview};
pub use harmed::{HarmCause, Harmed};
pub use loss::{Cleartext, Lost, Reason, StopReason, Summary};
pub use missed::{Missed, MissedTotal, ProcessCount};
pub(crate) use redaction::percent_decoded;
pub use redaction::{Redaction, Secrets};
pub use request::{
    Durations, MessageBody, Partial, Request, RequestCounts, RequestGroup, RequestKey, RequestSide,
    RequestStats, SlowExample, StreamMessage, UnpairedReason,
};
pub use socket::{Endpoint, IpVersion, Role, Socket, SocketEvidence, Transport};
pub use ssl::{CallPosition, CloseReason, Direction, Ssl, SslClose, SslOpen, Traffic};
pub use statement::{Statement, StatementPart};
pub use tls::{Tls, TlsVersion};
pub use unknown_tls::{UnknownTls, UnknownTlsProtocol, UnknownTlsReason};
pub use uprobe::{Argument, CallOutcome, Latency, StackFrame, Truncation, UprobeCall, UprobeTotal, Value};

/// Version of the schema, in each record. Fields are only ever added within a version.
pub const SCHEMA: u32 = 1;

/// The file that holds the probed functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Library {
    /// `libssl.so.3`: its soname, or else its file name.
    pub name: String,
    /// Path inside the root of the process in which it was found first.
    pub path: String,
    /// `OpenSSL`, `LibreSSL`, `BoringSSL`, `AWS-LC`, `GnuTLS`, `Mbed TLS`, `wolfSSL`, `NSS`, `s2n-tls`,
    /// `BearSSL`, `Botan`, `rustls`, `Go crypto/tls`; null when not known.
    pub implementation: Option<String>,
    /// `3.0.17`; null when not known.
    pub version: Option<String>,
}

/// Bytes of other people's traffic. Its `Debug` prints only their number.
#[derive(Clone, PartialEq, Eq)]
pub struct Plaintext<'a>(pub Cow<'a, [u8]>);

impl<'a> Plaintext<'a> {
    /// Borrows bytes.
    pub const fn of(bytes: &'a [u8]) -> Self {
        Self(Cow::Borrowed(bytes))
    }

    /// A range of the bytes. None if there are fewer. Borrowed bytes are not copied.
    pub fn part(&self, range: Range<usize>) -> Option<Self> {
        match &self.0 {
            Cow::Borrowed(bytes) => bytes.get(range).map(Self::of),
            Cow::Owned(bytes) => bytes.get(range).map(|bytes| Self(Cow::Owned(bytes.to_vec()))),
        }
    }
}

impl fmt::Debug for Plaintext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plaintext({} bytes)", self.0.len())
    }
}

/// A record: the context that records of all kinds have, and a body of one kind.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// When and where it happened.
    pub context: Context<'a>,
    /// What happened.
    pub body: Body<'a>,
}

/// What a record has beyond its context. Bodies of executions, calls and connections belong to a thread,
/// totals to a container, and losses to the trace.
#[derive(Clone, Debug)]
pub enum Body<'a> {
    /// A call moved plaintext.
    Ssl(Ssl<'a>),
    /// A connection was opened.
    SslOpen(SslOpen<'a>),
    /// A connection was closed.
    SslClose(SslClose<'a>),
    /// A function was called.
    Uprobe(UprobeCall<'a>),
    /// Calls of a function were counted.
    UprobeTotal(UprobeTotal<'a>),
    /// A program was executed.
    Exec(Exec<'a>),
    /// A program could not be executed.
    ExecFailed(ExecFailed<'a>),
    /// A process has ended.
    Exit(Exit<'a>),
    /// A process has forked another.
    Fork(Fork<'a>),
    /// A probe has harmed a process.
    Harmed(Harmed),
    /// A process had mapped a file before ctrace had attached to that.
    Missed(Missed),
    /// A process speaks TLS or QUIC that is not seen.
    UnknownTls(UnknownTls),
    /// A request and its response.
    Request(Box<Request>),
    /// A message that is a part of an exchange.
    Message(Box<StreamMessage>),
    /// Figures over exchanges.
    RequestStats(RequestStats),
    /// Something was lost.
    Lost(Lost),
}

impl Body<'_> {
    /// Which kind it is.
    pub fn kind(&self) -> RecordKind {
        match self {
            Self::Ssl(_) => RecordKind::Ssl,
            Self::SslOpen(_) => RecordKind::SslOpen,
            Self::SslClose(_) => RecordKind::SslClose,
            Self::Uprobe(_) => RecordKind::Uprobe,
            Self::UprobeTotal(_) => RecordKind::UprobeTotal,
            Self::Exec(_) => RecordKind::Exec,
            Self::ExecFailed(_) => RecordKind::ExecFailed,
            Self::Exit(_) => RecordKind::Exit,
            Self::Fork(_) => RecordKind::Fork,
            Self::Harmed(_) => RecordKind::Harmed,
            Self::Missed(_) => RecordKind::Missed,
            Self::UnknownTls(_) => RecordKind::UnknownTls,
            Self::Request(_) => RecordKind::Request,
            Self::Message(_) => RecordKind::Message,
            Self::RequestStats(_) => RecordKind::RequestStats,
            Self::Lost(_) => RecordKind::Lost,
        }
    }
}

/// The kinds of records, by their public names (`type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the record of its name")]
pub enum RecordKind {
    Ssl,
    SslOpen,
    SslClose,
    Uprobe,
    UprobeTotal,
    Exec,
    ExecFailed,
    Exit,
    Fork,
    Harmed,
    Missed,
    UnknownTls,
    Request,
    Message,
    RequestStats,
    Lost,
    Summary,
}

impl RecordKind {
    /// All kinds.
    pub const ALL: &[Self] = &[
        Self::Ssl,
        Self::SslOpen,
        Self::SslClose,
        Self::Uprobe,
        Self::UprobeTotal,
        Self::Exec,
        Self::ExecFailed,
        Self::Exit,
        Self::Fork,
        Self::Harmed,
        Self::Missed,
        Self::UnknownTls,
        Self::Request,
        Self::Message,
        Self::RequestStats,
        Self::Lost,
        Self::Summary,
    ];
}

/// Whether the bytes of a connection are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureVerdict {
    /// All of them: its protocol is known.
    Wanted,
    /// No more of them: nobody can decode them.
    Unwanted,
}

/// Where records go.
pub trait Output: fmt::Debug + Send {
    /// Writes a record. If nobody reads the output any more, the error is [`io::ErrorKind::BrokenPipe`].
    fn write(&mut self, record: &Record<'_>) -> io::Result<()>;

    /// Passes on everything written so far. To be called when the stream pauses.
    fn flush(&mut self) -> io::Result<()>;

    /// Writes the summary and whatever else ends the format, and passes everything on. It is called once,
    /// last, and for whatever reason the trace ends. An output that counts adds to the summary.
    fn finish(&mut self, summary: &mut Summary) -> io::Result<()>;

    /// Says that no record came for a while, and what time it is.
    fn pause(&mut self, _now: Timestamp) -> io::Result<()> {
        Ok(())
    }

    /// The connections of which it has found out whether it wants their bytes, by id.
    fn take_verdicts(&mut self) -> Vec<(u64, CaptureVerdict)> {
        Vec::new()
    }

    /// Whether it has written as many records as it was to write.
    fn is_complete(&self) -> bool {
        false
    }
}
