//! The lines of connections that open and close.

use std::borrow::Cow;
use std::io;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::line::{LineBody, Meanings, incomplete};
use super::tls::TlsPart;
use crate::event::{
    Body, CloseReason, Connection, Context, Endpoint, IpVersion, Library, Record, RecordKind, Role, Socket,
    SocketEvidence, SslClose, SslOpen, Traffic, Transport,
};

/// A TLS connection has begun, or was seen for the first time; with `--connections`. It is written with the
/// first call, after a second without one, or with the end, so that addresses and handshake are known.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct SslOpenBody<'a> {
    /// The file that holds the library's functions; null when it is not known (yet).
    library: Option<Cow<'a, Library>>,
    /// The OpenTelemetry namespace `network`.
    network: EndsPart<'a>,
    /// The OpenTelemetry namespace `tls`: what was seen of the handshake; null when it was not seen, or is
    /// not known to be of this connection (yet).
    tls: Option<TlsPart<'a>>,
    /// The connection.
    connection: OpenPart,
}

/// A TLS connection has ended; with `--connections`. A connection that was open before the trace has only
/// this record.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct SslCloseBody<'a> {
    /// The file that holds the library's functions; null when it is not known (yet).
    library: Option<Cow<'a, Library>>,
    /// The OpenTelemetry namespace `network`.
    network: EndsPart<'a>,
    /// The OpenTelemetry namespace `tls`: what was seen of the handshake; null when it was not seen, or is
    /// not known to be of this connection (yet).
    tls: Option<TlsPart<'a>>,
    /// The connection.
    connection: ClosePart,
    /// Nanoseconds since it began; null when that was not seen.
    duration: Option<u64>,
    /// How it ended.
    end: CloseReason,
}

/// The OpenTelemetry namespace `network`.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct EndsPart<'a> {
    /// The transport protocol; null when it is not known.
    pub(super) transport: Option<Transport>,
    /// `ipv4` or `ipv6`; null for Unix domain sockets, and when it is not known.
    pub(super) r#type: Option<IpVersion>,
    /// The local address, as the process sees it; null when it is not known, or the socket has no name.
    pub(super) local: Option<Cow<'a, Endpoint>>,
    /// The address of the peer, as the process sees it; null when it is not known, or the socket has no name.
    pub(super) peer: Option<Cow<'a, Endpoint>>,
}

/// A connection that begins.
#[derive(Serialize, Deserialize, JsonSchema)]
struct OpenPart {
    /// Number of the connection, unique in one run of ctrace, from 1.
    id: u64,
    /// Whether it was seen from its creation on.
    from_start: bool,
    /// Whether it was first seen while only a part of the probes of its library was set, so that some of its
    /// bytes may be missing; only there if so.
    #[serde(default, skip_serializing_if = "is_false")]
    partial_attach: bool,
    /// Whether the process is client or server; null when it is not known.
    role: Option<Role>,
    /// How the socket in `network` was found; null when it was not.
    socket: Option<SocketEvidence>,
}

/// A connection that has ended.
#[derive(Serialize, Deserialize, JsonSchema)]
struct ClosePart {
    /// Number of the connection, unique in one run of ctrace, from 1.
    id: u64,
    /// Whether it was seen from its creation on.
    from_start: bool,
    /// Whether it was first seen while only a part of the probes of its library was set, so that some of its
    /// bytes may be missing; only there if so.
    #[serde(default, skip_serializing_if = "is_false")]
    partial_attach: bool,
    /// Whether the process is client or server; null when it is not known.
    role: Option<Role>,
    /// How the socket in `network` was found; null when it was not.
    socket: Option<SocketEvidence>,
    /// Calls that moved bytes on it, in both directions, since it was seen.
    calls: u64,
    /// Bytes of plaintext that the process received on it since then.
    received: u64,
    /// Bytes of plaintext that the process sent on it since then.
    transmitted: u64,
}

/// Whether a field is left out.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(super) fn is_false(field: &bool) -> bool {
    !*field
}

/// The process and the thread of both kinds.
const ORIGIN: Meanings = &[
    ("process", "The process; `comm` is that of the thread that began the connection."),
    ("thread", "The thread that began the connection, or was seen with it first."),
];

impl LineBody for SslOpenBody<'_> {
    const KIND: RecordKind = RecordKind::SslOpen;
    const TIME: &'static str = "When it began, or was seen first, in UTC.";
    const ORIGIN: Meanings = ORIGIN;
}

impl LineBody for SslCloseBody<'_> {
    const KIND: RecordKind = RecordKind::SslClose;
    const TIME: &'static str = "When it ended, in UTC; when that was known, if it was known later (`end`).";
    const ORIGIN: Meanings = ORIGIN;
}

impl<'a> EndsPart<'a> {
    pub(super) fn new(context: &'a Context<'_>) -> Self {
        let socket = context.socket();
        Self {
            transport: socket.and_then(|socket| socket.transport),
            r#type: socket.and_then(|socket| socket.ip),
            local: socket.and_then(|socket| socket.local.as_ref()).map(Cow::Borrowed),
            peer: socket.and_then(|socket| socket.peer.as_ref()).map(Cow::Borrowed),
        }
    }

    /// The socket, if the line contains the evidence for it.
    pub(super) fn socket(
        self,
        evidence: Option<SocketEvidence>,
        role: Option<Role>,
    ) -> Option<Cow<'static, Socket>> {
        let Self { transport, r#type: ip, local, peer } = self;
        let (local, peer) = (local.map(Cow::into_owned), peer.map(Cow::into_owned));
        Some(Cow::Owned(Socket { transport, ip, local, peer, role, evidence: evidence? }))
    }
}

impl OpenPart {
    fn new(kind: RecordKind, context: &Context<'_>) -> io::Result<Self> {
        let connection = context.connection.as_ref().ok_or_else(|| incomplete(kind, "connection"))?;
        let &Connection { id, from_start, partial_attach, .. } = connection;
        let socket = context.socket();
        let role = socket.and_then(|socket| socket.role);
        Ok(Self { id, from_start, partial_attach, role, socket: socket.map(|socket| socket.evidence) })
    }

    /// The connection of a line.
    fn connection(self, network: EndsPart<'_>, tls: Option<TlsPart<'_>>) -> Connection<'static> {
        let Self { id, from_start, partial_attach, role, socket } = self;
        let (socket, tls) = (network.socket(socket, role), tls.map(TlsPart::info));
        Connection { id, from_start, partial_attach, socket, tls }
    }
}

impl<'a> SslOpenBody<'a> {
    pub(super) fn new(context: &'a Context<'_>, open: &'a SslOpen<'_>) -> io::Result<Self> {
        Ok(Self {
            library: open.library.as_deref().map(Cow::Borrowed),
            network: EndsPart::new(context),
            tls: context.tls().map(|known| TlsPart::new(&known.tls)),
            connection: OpenPart::new(Self::KIND, context)?,
        })
    }

    /// The record of the line.
    pub(super) fn record(self, mut context: Context<'static>) -> Record<'static> {
        let Self { library, network, tls, connection } = self;
        context.connection = Some(connection.connection(network, tls));
        let library = library.map(|library| Cow::Owned(library.into_owned()));
        Record { context, body: Body::SslOpen(SslOpen { library }) }
    }
}

impl<'a> SslCloseBody<'a> {
    pub(super) fn new(context: &'a Context<'_>, close: &'a SslClose<'_>) -> io::Result<Self> {
        let &SslClose { ref library, duration, traffic, reason } = close;
        let Traffic { calls, received, transmitted } = traffic;
        let open = OpenPart::new(Self::KIND, context)?;
        let OpenPart { id, from_start, partial_attach, role, socket } = open;
        Ok(Self {
            library: library.as_deref().map(Cow::Borrowed),
            network: EndsPart::new(context),
            tls: context.tls().map(|known| TlsPart::new(&known.tls)),
            connection: ClosePart {
                id,
                from_start,
                partial_attach,
                role,
                socket,
                calls,
                received,
                transmitted,
            },
            duration,
            end: reason,
        })
    }

    /// The record of the line.
    pub(super) fn record(self, mut context: Context<'static>) -> Record<'static> {
        let Self { library, network, tls, connection, duration, end: reason } = self;
        let ClosePart { id, from_start, partial_attach, role, socket, calls, received, transmitted } =
            connection;
        let open = OpenPart { id, from_start, partial_attach, role, socket };
        context.connection = Some(open.connection(network, tls));
        let library = library.map(|library| Cow::Owned(library.into_owned()));
        let traffic = Traffic { calls, received, transmitted };
        Record { context, body: Body::SslClose(SslClose { library, duration, traffic, reason }) }
    }
}
