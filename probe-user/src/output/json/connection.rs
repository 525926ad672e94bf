//! The lines of connections that begin and end.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Serialize;

use super::line::{LineBody, Place, ProcessPart, ThreadPart};
use super::tls::TlsPart;
use crate::event::{
    CloseReason, Endpoint, IpVersion, Library, RecordKind, Role, SocketEvidence, SslClose, SslOpen, Traffic,
    Transport,
};

/// A TLS connection has begun, or was seen for the first time; with `--connections`. It is written with the
/// first call, after a second without one, or with the end, so that addresses and handshake are known.
#[derive(Serialize, JsonSchema)]
pub(super) struct SslOpenBody<'a> {
    #[serde(flatten)]
    facts: ConnectionFields<'a>,
    /// The connection.
    connection: OpenPart,
}

/// A TLS connection has ended; with `--connections`. What the trace outlives only has an end.
#[derive(Serialize, JsonSchema)]
pub(super) struct SslCloseBody<'a> {
    #[serde(flatten)]
    facts: ConnectionFields<'a>,
    /// The connection.
    connection: ClosePart,
    /// Nanoseconds since it began; null when that was not seen.
    duration: Option<u64>,
    /// How it ended.
    end: CloseReason,
}

/// What both have.
#[derive(Serialize, JsonSchema)]
struct ConnectionFields<'a> {
    #[serde(flatten)]
    place: Place<'a>,
    /// The process; `comm` is that of the thread that began the connection.
    process: ProcessPart<'a>,
    /// The thread that began the connection, or was seen with it first.
    thread: ThreadPart,
    /// The file that holds the library's functions; null when it is not known (yet).
    library: Option<Cow<'a, Library>>,
    /// The OpenTelemetry namespace `network`.
    network: EndsPart<'a>,
    /// The OpenTelemetry namespace `tls`: what the handshake says; null when it was not seen, or is not known
    /// to be of this connection (yet).
    tls: Option<TlsPart<'a>>,
}

/// The OpenTelemetry namespace `network`.
#[derive(Serialize, JsonSchema)]
struct EndsPart<'a> {
    /// What carries the bytes; null when it is not known.
    transport: Option<Transport>,
    /// `ipv4` or `ipv6`; null for unix sockets, and when it is not known.
    r#type: Option<IpVersion>,
    /// The process's own end; null when it is not known, or has no name.
    local: Option<Cow<'a, Endpoint>>,
    /// The other end, as the process sees it; null when it is not known, or has no name.
    peer: Option<Cow<'a, Endpoint>>,
}

/// A connection that begins.
#[derive(Serialize, JsonSchema)]
struct OpenPart {
    /// Number of the connection, unique in one run of ctrace, from 1.
    id: u64,
    /// Whether it was seen from its creation on.
    from_start: bool,
    /// Which end the process is; null when it is not known.
    role: Option<Role>,
    /// How what is in `network` is known; null when it is not.
    socket: Option<SocketEvidence>,
}

/// A connection that has ended.
#[derive(Serialize, JsonSchema)]
struct ClosePart {
    #[serde(flatten)]
    connection: OpenPart,
    /// Calls that moved bytes on it, in both directions, since it was seen.
    calls: u64,
    /// Bytes of plaintext that the process received on it since then.
    received: u64,
    /// Bytes of plaintext that the process sent on it since then.
    transmitted: u64,
}

impl LineBody for SslOpenBody<'_> {
    const KIND: RecordKind = RecordKind::SslOpen;
    const TIME: &'static str = "When it began, or was seen first, in UTC.";
}

impl LineBody for SslCloseBody<'_> {
    const KIND: RecordKind = RecordKind::SslClose;
    const TIME: &'static str = "When it ended, in UTC; when that was known, if it was known later (`end`).";
}

impl<'a> ConnectionFields<'a> {
    fn new(connection: &'a SslOpen<'a>) -> Self {
        let SslOpen { origin, thread, library, tls, .. } = connection;
        let socket = connection.socket.as_deref();
        Self {
            place: Place::new(&origin.container),
            process: ProcessPart::new(origin, thread),
            thread: ThreadPart { id: thread.id },
            library: library.as_deref().map(Cow::Borrowed),
            network: EndsPart {
                transport: socket.and_then(|socket| socket.transport),
                r#type: socket.and_then(|socket| socket.ip),
                local: socket.and_then(|socket| socket.local.as_ref()).map(Cow::Borrowed),
                peer: socket.and_then(|socket| socket.peer.as_ref()).map(Cow::Borrowed),
            },
            tls: tls.as_ref().map(|known| TlsPart::new(&known.tls)),
        }
    }
}

impl OpenPart {
    fn new(&SslOpen { id, from_start, ref socket, .. }: &SslOpen<'_>) -> Self {
        let socket = socket.as_deref();
        Self {
            id,
            from_start,
            role: socket.and_then(|socket| socket.role),
            socket: socket.map(|socket| socket.sighting),
        }
    }
}

impl<'a> SslOpenBody<'a> {
    pub(super) fn new(connection: &'a SslOpen<'a>) -> Self {
        Self { facts: ConnectionFields::new(connection), connection: OpenPart::new(connection) }
    }
}

impl<'a> SslCloseBody<'a> {
    pub(super) fn new(close: &'a SslClose<'a>) -> Self {
        let &SslClose { ref connection, duration, traffic, end } = close;
        let Traffic { calls, received, transmitted } = traffic;
        Self {
            facts: ConnectionFields::new(connection),
            connection: ClosePart { connection: OpenPart::new(connection), calls, received, transmitted },
            duration,
            end,
        }
    }
}
