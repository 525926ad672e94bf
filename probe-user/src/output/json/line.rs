//! The shape of the lines: what is written, and what the schema is made of.
//!
//! Doc comments here are the descriptions in the schema. Fields are only ever added within a version.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use probe_common::LossCount;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::connection::{SslCloseLine, SslOpenLine};
use super::exec::{ExecFailedLine, ExecLine, ExitLine, ForkLine};
use super::tls::TlsPart;
use super::uprobe::{FunctionLine, FunctionTotalLine};
use crate::event::{
    self, Container, Direction, Endpoint, Executable, IpVersion, K8s, Library, Lost, Reason, Role, SCHEMA,
    SocketEvidence, Ssl, StopReason, Summary, Transport,
};

/// One line of `ctrace … -o json`. Fields are only ever added within a schema version: ignore those that
/// you do not know, and records of a `type` that you do not know.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the lines as a whole, for the schema alone")]
pub(super) enum Line<'a> {
    Ssl(SslLine<'a>),
    SslOpen(SslOpenLine<'a>),
    SslClose(SslCloseLine<'a>),
    Function(FunctionLine<'a>),
    FunctionTotal(FunctionTotalLine<'a>),
    Exec(ExecLine<'a>),
    ExecFailed(ExecFailedLine<'a>),
    Exit(ExitLine<'a>),
    Fork(ForkLine<'a>),
    Lost(LostLine),
    Summary(SummaryLine),
}

/// A call that moved plaintext over TLS, or a part of it when other parts were lost.
#[derive(Serialize, JsonSchema)]
pub(super) struct SslLine<'a> {
    /// Version of the schema.
    #[schemars(extend("const" = SCHEMA))]
    schema: u32,
    r#type: SslType,
    /// When the call returned, in UTC.
    time: Time,
    /// The container of the process; null when it is in none, or that is not known.
    container: Option<&'a Container>,
    /// The OpenTelemetry namespace `k8s`; not there when the container is in no pod, or in none that is
    /// known.
    #[serde(skip_serializing_if = "Option::is_none")]
    k8s: Option<K8s<'a>>,
    /// The process that called.
    process: ProcessPart<'a>,
    /// The thread that called.
    thread: ThreadPart,
    /// The file that holds the function.
    library: &'a Library,
    /// The function that was called, such as `SSL_write`.
    function: &'a str,
    /// The OpenTelemetry namespace `network`.
    network: NetworkPart<'a>,
    /// The OpenTelemetry namespace `tls`: what the handshake says; null when it was not seen, or is not known
    /// to be of this connection (yet).
    tls: Option<TlsPart<'a>>,
    /// The connection; null when the kernel's table of connections was full.
    connection: Option<ConnectionPart>,
    /// The call.
    call: CallPart,
    /// The payload, when it is UTF-8. Neither this nor `data_base64` is there when no byte was captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Appended>,
    /// The payload in base64 (RFC 4648, section 4, padded), when it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("contentEncoding" = "base64"))]
    data_base64: Option<Appended>,
}

/// A string that `write_ssl` appends: here for the schema alone.
#[derive(Serialize, JsonSchema)]
#[schemars(with = "String")]
enum Appended {}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum SslType {
    Ssl,
}

/// A process.
#[derive(Serialize, JsonSchema)]
pub(super) struct ProcessPart<'a> {
    /// Id in the initial PID namespace (the host's).
    pid: u32,
    /// Id in its own PID namespace, as its container sees it; null when the process was gone.
    vpid: Option<u32>,
    /// Name (`comm`) of the calling thread; U+FFFD stands for what is not UTF-8.
    comm: Cow<'a, str>,
    /// Its executable; null when the process was gone.
    executable: Option<&'a Executable>,
}

/// A thread.
#[derive(Serialize, JsonSchema)]
pub(super) struct ThreadPart {
    /// Id in the initial PID namespace (the host's).
    pub(super) id: u32,
}

/// The OpenTelemetry namespace `network`.
#[derive(Serialize, JsonSchema)]
struct NetworkPart<'a> {
    /// What carries the bytes; null when it is not known.
    transport: Option<Transport>,
    /// `ipv4` or `ipv6`; null for unix sockets, and when it is not known.
    r#type: Option<IpVersion>,
    /// The process's own end; null when it is not known, or has no name.
    local: Option<&'a Endpoint>,
    /// The other end, as the process sees it; null when it is not known, or has no name.
    peer: Option<&'a Endpoint>,
    /// The OpenTelemetry namespace `network.io`.
    io: IoPart,
}

/// The OpenTelemetry namespace `network.io`.
#[derive(Serialize, JsonSchema)]
struct IoPart {
    /// Which way the bytes go, seen from the process.
    direction: Direction,
}

/// A record's place on its connection.
#[derive(Serialize, JsonSchema)]
struct ConnectionPart {
    /// Number of the connection, unique in one run of ctrace, from 1.
    id: u64,
    /// Whether it was seen from its creation on; otherwise offsets count from when it was first seen.
    from_start: bool,
    /// Where the first byte of the payload is in the stream of this direction.
    offset: u64,
    /// Which end the process is; null when it is not known.
    role: Option<Role>,
    /// How what is in `network` is known; null when it is not.
    socket: Option<SocketEvidence>,
}

/// A call, and which part of it the record has.
#[derive(Serialize, JsonSchema)]
struct CallPart {
    /// Number of the call on its connection, both directions counted together, from 1; null when
    /// `connection` is.
    number: Option<u64>,
    /// Bytes that the call transferred.
    length: u64,
    /// The first bytes of the call that were captured, over all of its records.
    captured: u32,
    /// Where the first byte of the payload is in the call.
    offset: u32,
    /// Whether a limit cut the call: `captured` is less than `length`.
    truncated: bool,
}

/// Something was lost since the last such record of the same reason.
#[derive(Serialize, JsonSchema)]
pub(super) struct LostLine {
    /// Version of the schema.
    #[schemars(extend("const" = SCHEMA))]
    schema: u32,
    r#type: LostType,
    /// When it was noticed, in UTC.
    time: Time,
    /// How it was lost.
    reason: Reason,
    #[serde(flatten)]
    count: CountPart,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum LostType {
    Lost,
}

/// How much was lost.
#[derive(Clone, Copy, Serialize, JsonSchema)]
struct CountPart {
    /// Calls, or chunks of at most 16 KiB of them (`ring_full`, `read_fault`).
    events: u64,
    /// Payload bytes; exact for `ring_full` and `read_fault`, not known (0) for calls that were not followed.
    bytes: u64,
}

/// The last record.
#[derive(Serialize, JsonSchema)]
pub(super) struct SummaryLine {
    /// Version of the schema.
    #[schemars(extend("const" = SCHEMA))]
    schema: u32,
    r#type: SummaryType,
    /// When the trace ended, in UTC.
    time: Time,
    /// When the trace began, in UTC.
    started: Time,
    /// Why it ended.
    end: StopReason,
    /// Calls reported. A call in several records counts once.
    calls: u64,
    /// Programs reported; only there for `ctrace exec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    executions: Option<u64>,
    /// Payload bytes reported.
    bytes: u64,
    /// Calls and programs reported that a limit cut.
    truncated: u64,
    /// Data that is missing.
    lost: LostPart,
    /// Records from the kernel that could not be decoded (a bug of ctrace).
    undecodable: u64,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum SummaryType {
    Summary,
}

/// Everything that was lost.
#[derive(Serialize, JsonSchema)]
struct LostPart {
    /// The sums over the reasons that lose data (all but `connections_full` and `argument_fault`).
    #[serde(flatten)]
    missing: CountPart,
    /// By reason; those without a loss are left out.
    reasons: BTreeMap<Reason, CountPart>,
}

/// RFC 3339 in UTC with nanoseconds, always of the same length.
#[derive(Clone, Copy)]
pub(super) struct Time(pub(super) Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.9}", self.0))
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "date-time",
            "description": "RFC 3339, UTC, nine digits of a second",
        })
    }
}

impl<'a> ProcessPart<'a> {
    pub(super) fn new(origin: &'a event::ProcessContext, thread: &'a event::Thread) -> Self {
        let event::Process { pid, vpid, executable } = &origin.process;
        Self {
            pid: *pid,
            vpid: *vpid,
            comm: String::from_utf8_lossy(thread.name()),
            executable: executable.as_ref(),
        }
    }
}

impl<'a> SslLine<'a> {
    pub(super) fn new(ssl: &'a Ssl<'a>) -> Self {
        let &Ssl { time, origin, ref thread, library, function, direction, .. } = ssl;
        let &Ssl { connection, socket, tls: _, length, captured, offset, data: _, .. } = ssl;
        Self {
            schema: SCHEMA,
            r#type: SslType::Ssl,
            time: Time(time),
            container: origin.container.container(),
            k8s: K8s::of(origin.container.container()),
            process: ProcessPart::new(origin, thread),
            thread: ThreadPart { id: thread.id },
            library,
            function,
            network: NetworkPart {
                transport: socket.and_then(|socket| socket.transport),
                r#type: socket.and_then(|socket| socket.ip),
                local: socket.and_then(|socket| socket.local.as_ref()),
                peer: socket.and_then(|socket| socket.peer.as_ref()),
                io: IoPart { direction },
            },
            tls: ssl.tls.map(|known| TlsPart::new(known.tls)),
            connection: connection.map(|connection| ConnectionPart {
                id: connection.id,
                from_start: connection.from_start,
                offset: connection.stream_offset.wrapping_add(u64::from(offset)),
                role: socket.and_then(|socket| socket.role),
                socket: socket.map(|socket| socket.sighting),
            }),
            call: CallPart {
                number: connection.map(|connection| connection.call),
                length,
                captured,
                offset,
                truncated: u64::from(captured) < length,
            },
            data: None,
            data_base64: None,
        }
    }
}

impl From<LossCount> for CountPart {
    fn from(LossCount { events, bytes }: LossCount) -> Self {
        Self { events, bytes }
    }
}

impl LostLine {
    pub(super) fn new(&Lost { time, loss, count }: &Lost) -> Self {
        Self {
            schema: SCHEMA,
            r#type: LostType::Lost,
            time: Time(time),
            reason: loss.into(),
            count: count.into(),
        }
    }
}

impl SummaryLine {
    pub(super) fn new(summary: &Summary) -> Self {
        let &Summary { time, started, end, calls, executions, bytes, truncated, ref lost, undecodable } =
            summary;
        let some = lost.iter().filter(|(_, count)| *count != LossCount::default());
        Self {
            schema: SCHEMA,
            r#type: SummaryType::Summary,
            time: Time(time),
            started: Time(started),
            end,
            calls,
            executions,
            bytes,
            truncated,
            lost: LostPart {
                missing: summary.missing().into(),
                reasons: some.map(|&(loss, count)| (loss.into(), count.into())).collect(),
            },
            undecodable,
        }
    }
}
