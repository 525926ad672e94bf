//! The public records: what a pipeline reads, one JSON object a line.
//!
//! Field names follow the OpenTelemetry semantic conventions where one exists, nested at the dots.
//! Owns the shapes only; [`crate::output`] writes them. docs/events.md describes them for users.

mod connection;
mod containment;
mod exec;
mod owned;
mod socket;
mod tls;
mod uprobe;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use probe_common::{Loss, LossCount};
use serde::{Deserialize, Serialize};

pub use connection::{CloseReason, SslClose, SslOpen, Traffic};
pub use containment::Containment;
pub use exec::{
    Ancestor, ArgList, Exec, ExecContext, ExecFailed, ExecId, Exit, ExitStatus, Fork, ProcessUsers,
};
pub use socket::{Endpoint, IpVersion, Role, Socket, SocketEvidence, Transport};
pub use tls::{Tls, TlsVersion};
pub use uprobe::{Argument, CallOutcome, Latency, StackFrame, Truncation, UprobeCall, UprobeTotal, Value};

/// Version of the schema, in each record. Fields are only ever added within a version.
pub const SCHEMA: u32 = 1;

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Container {
    /// Full id, 64 hexadecimal digits with most runtimes.
    pub id: String,
    /// Name that its runtime gave it; null when no runtime could be asked.
    pub name: Option<String>,
    /// Its runtime.
    pub runtime: Option<Runtime>,
    /// The image that it was made from.
    pub image: Option<Image>,
    /// Its labels: for selection, not part of records.
    #[serde(skip)]
    pub labels: Arc<BTreeMap<String, String>>,
    /// The Kubernetes or Podman pod that it belongs to; records have it as `k8s`.
    #[serde(skip)]
    pub pod: Option<Arc<Pod>>,
}

/// A pod: containers that share namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its Kubernetes namespace; none for a pod of Podman.
    pub namespace: Option<String>,
    /// Its unique id.
    pub uid: Option<String>,
}

/// The OpenTelemetry namespace `k8s`: where the container is in Kubernetes, or in Podman's pods.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct K8s<'a> {
    /// Its pod.
    pod: K8sPod<'a>,
    /// The Kubernetes namespace of the pod; not there for a pod of Podman.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<K8sNamespace<'a>>,
}

/// A pod.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct K8sPod<'a> {
    /// Its name.
    name: Cow<'a, str>,
    /// Its unique id; not there when it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<Cow<'a, str>>,
}

/// A Kubernetes namespace.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct K8sNamespace<'a> {
    /// Its name.
    name: Cow<'a, str>,
}

impl<'a> K8s<'a> {
    /// Where a container is, if it is in a pod.
    pub fn of(container: Option<&'a Container>) -> Option<Self> {
        let Pod { name, namespace, uid } = container?.pod.as_deref()?;
        Some(Self {
            pod: K8sPod { name: name.into(), uid: uid.as_deref().map(Cow::Borrowed) },
            namespace: namespace.as_deref().map(|name| K8sNamespace { name: name.into() }),
        })
    }
}

impl Container {
    /// Digits of its id that are shown when it has no name.
    const SHORT_ID: usize = 12;

    /// What a person calls it: `web`; `prod/web-0/app` of Kubernetes, where a container's name says little
    /// alone.
    pub fn shown(&self) -> String {
        let name = self.name.as_deref().unwrap_or_else(|| self.id.get(..Self::SHORT_ID).unwrap_or(&self.id));
        match self.pod.as_deref() {
            Some(Pod { name: pod, namespace: Some(namespace), .. }) => format!("{namespace}/{pod}/{name}"),
            _ => name.to_owned(),
        }
    }
}

/// A container runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Runtime {
    /// `docker`, …
    pub name: String,
}

/// A container image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Image {
    /// Name as the runtime shows it, with its tag.
    pub name: String,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Process {
    /// Id in the initial PID namespace (the host's).
    pub pid: u32,
    /// Id in its own PID namespace, as the container sees it; null when the process was gone.
    pub vpid: Option<u32>,
    /// Its executable; null when the process was gone.
    pub executable: Option<Executable>,
}

/// The executable of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
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

/// The file that holds the probed functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
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

/// Which way the bytes of a call go, seen from the traced process (`network.io.direction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the peer.
    Transmit,
    /// From the peer.
    Receive,
}

/// Bytes of somebody else's traffic. Its `Debug` prints only their number.
#[derive(Clone, PartialEq, Eq)]
pub struct Plaintext<'a>(pub Cow<'a, [u8]>);

impl<'a> Plaintext<'a> {
    /// Bytes that lie elsewhere.
    pub const fn of(bytes: &'a [u8]) -> Self {
        Self(Cow::Borrowed(bytes))
    }

    /// Some of them; none when they are fewer. What is borrowed is not copied.
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

/// Whose call it was: what is the same for all calls of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessContext {
    /// The process.
    pub process: Process,
    /// Its container, if it has one.
    pub container: Containment,
}

/// A call that moved plaintext, or a part of it when other parts were lost.
#[derive(Clone, Debug)]
pub struct Ssl<'a> {
    /// When the call returned.
    pub time: Timestamp,
    /// Process and container.
    pub origin: Cow<'a, ProcessContext>,
    /// The calling thread.
    pub thread: Thread,
    /// The library.
    pub library: Cow<'a, Library>,
    /// The function, such as `SSL_write`.
    pub function: Cow<'a, str>,
    /// The direction.
    pub direction: Direction,
    /// The connection; none when the kernel's table of connections was full.
    pub connection: Option<Connection>,
    /// What it is on; none when that is not known (yet).
    pub socket: Option<Cow<'a, Socket>>,
    /// What its ends have agreed on; none when nothing of that is known (yet).
    pub tls: Option<TlsInfo<'a>>,
    /// Bytes that the call transferred.
    pub length: u64,
    /// Bytes of the call that were captured, over all of its records; the rest was cut by a limit.
    pub captured: u32,
    /// Offset of `data` in the call.
    pub offset: u32,
    /// The bytes.
    pub data: Plaintext<'a>,
}

/// What is known of a connection's handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo<'a> {
    /// It.
    pub tls: Cow<'a, Tls>,
    /// Whether no record of the connection before this one had it.
    pub is_first: bool,
}

/// A call's place on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Number of the connection, unique in one run, from 1.
    pub id: u64,
    /// Whether it was seen from its creation on; otherwise offsets count from when it was first seen.
    pub from_start: bool,
    /// Number of the call on the connection, from 1.
    pub call: u64,
    /// Offset in the stream of this direction of the first byte of the call.
    pub stream_offset: u64,
}

/// How something was lost, as records name it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The ring buffer between kernel and ctrace had no room.
    RingFull,
    /// The payload could not be read from the process (page not resident, or unmapped).
    ReadFault,
    /// The table of threads inside a call was full.
    ThreadsFull,
    /// More calls were nested on one thread than are followed.
    Nesting,
    /// The table of connections was full: the calls are reported, without connection and stream offset.
    ConnectionsFull,
    /// The table of selected threads was full: a new thread was not followed.
    ScopeFull,
    /// An argument of a call, or what it points to, could not be read: the call is reported without it.
    ArgumentFault,
    /// The table of counted functions was full: a call was not counted.
    CountsFull,
}

impl Reason {
    /// Whether data is missing from the output because of it.
    pub fn loses_data(self) -> bool {
        !matches!(self, Self::ConnectionsFull | Self::ArgumentFault)
    }
}

impl From<Loss> for Reason {
    fn from(loss: Loss) -> Self {
        match loss {
            Loss::RingFull => Self::RingFull,
            Loss::ReadFault => Self::ReadFault,
            Loss::ThreadsFull => Self::ThreadsFull,
            Loss::Nesting => Self::Nesting,
            Loss::ConnectionsFull => Self::ConnectionsFull,
            Loss::ScopeFull => Self::ScopeFull,
            Loss::ArgumentFault => Self::ArgumentFault,
            Loss::CountsFull => Self::CountsFull,
        }
    }
}

impl From<Reason> for Loss {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::RingFull => Self::RingFull,
            Reason::ReadFault => Self::ReadFault,
            Reason::ThreadsFull => Self::ThreadsFull,
            Reason::Nesting => Self::Nesting,
            Reason::ConnectionsFull => Self::ConnectionsFull,
            Reason::ScopeFull => Self::ScopeFull,
            Reason::ArgumentFault => Self::ArgumentFault,
            Reason::CountsFull => Self::CountsFull,
        }
    }
}

/// Something was lost since the last such record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// When it was noticed.
    pub time: Timestamp,
    /// How.
    pub loss: Loss,
    /// How much.
    pub count: LossCount,
}

/// Why a trace ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Ctrl-C or SIGTERM.
    Interrupted,
    /// No process of the target is left.
    TargetEnded,
    /// `--limit` was reached.
    Count,
    /// `--duration` has passed.
    Duration,
    /// Nobody reads the output any more.
    OutputClosed,
    /// What was shown is a recording without a summary: who wrote it was cut off, or it was cut.
    RecordingEnded,
    /// Another output could not be written.
    OutputFailed,
}

/// The last record.
#[derive(Clone, Debug)]
pub struct Summary {
    /// When the trace ended.
    pub time: Timestamp,
    /// When it began.
    pub started: Timestamp,
    /// Why it ended.
    pub end: StopReason,
    /// Calls reported.
    pub calls: u64,
    /// Programs reported; none when executions are not watched.
    pub executions: Option<u64>,
    /// Payload bytes reported.
    pub bytes: u64,
    /// Calls and programs that were cut by a limit.
    pub truncated: u64,
    /// Everything that was lost, by the way in which it was; ways without a loss may be left out.
    pub lost: Vec<(Loss, LossCount)>,
    /// Records of the ring that could not be decoded.
    pub undecodable: u64,
}

impl Summary {
    /// The data that is missing: the sum over the ways that [lose data](Reason::loses_data).
    pub fn missing(&self) -> LossCount {
        let missing = self.lost.iter().filter(|(loss, _)| Reason::from(*loss).loses_data());
        missing.fold(LossCount::default(), |sum, (_, count)| LossCount {
            events: sum.events.saturating_add(count.events),
            bytes: sum.bytes.saturating_add(count.bytes),
        })
    }
}

/// Any record. The summary comes with [`Output::finish`] alone.
#[derive(Clone, Debug)]
pub enum Record<'a> {
    /// A call.
    Ssl(Ssl<'a>),
    /// A connection begins.
    SslOpen(SslOpen<'a>),
    /// A connection has ended.
    SslClose(SslClose<'a>),
    /// A call of a function.
    Uprobe(UprobeCall<'a>),
    /// Calls of a function, counted.
    UprobeTotal(UprobeTotal<'a>),
    /// A program was executed.
    Exec(Exec<'a>),
    /// A program could not be executed.
    ExecFailed(ExecFailed<'a>),
    /// A process has ended.
    Exit(Exit<'a>),
    /// A process has made another.
    Fork(Fork<'a>),
    /// A loss.
    Lost(Lost),
    /// The end.
    Summary(Summary),
}

impl Record<'_> {
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
            Self::Lost(_) => RecordKind::Lost,
            Self::Summary(_) => RecordKind::Summary,
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
        Self::Lost,
        Self::Summary,
    ];
}

/// Where records go.
pub trait Output: fmt::Debug + Send {
    /// Takes one record. A reader that has gone is [`io::ErrorKind::BrokenPipe`].
    fn write(&mut self, record: &Record<'_>) -> io::Result<()>;

    /// Hands on everything taken so far; to be called when the stream pauses.
    fn flush(&mut self) -> io::Result<()>;

    /// Writes the end: the summary, and whatever closes the format; then hands everything on. It is called
    /// once, last, and for whatever reason the trace ends.
    fn finish(&mut self, summary: &Summary) -> io::Result<()>;
}
