//! The lines of calls that move plaintext.

use std::borrow::Cow;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::connection::{EndsPart, is_false};
use super::line::{LineBody, Meanings};
use super::read::{LineError, contradiction};
use super::tls::TlsPart;
use crate::event::{
    Body, CallPosition, Connection, Context, Direction, Endpoint, IpVersion, Library, Plaintext, Record,
    RecordKind, Role, SocketEvidence, Ssl, Transport,
};

/// A call that moved plaintext over TLS, or a part of it when other parts were lost.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct SslBody<'a> {
    /// The file that holds the function.
    library: Cow<'a, Library>,
    /// The function that was called, such as `SSL_write`.
    function: Cow<'a, str>,
    /// The OpenTelemetry namespace `network`.
    network: NetworkPart<'a>,
    /// The OpenTelemetry namespace `tls`: what was seen of the handshake; null when it was not seen, or is
    /// not known to be of this connection (yet).
    tls: Option<TlsPart<'a>>,
    /// The connection; null when the kernel's table of connections was full.
    connection: Option<ConnectionPart>,
    /// The call.
    call: CallPart,
    // Writing appends the payload by hand, and leaves these two out.
    /// The payload, when it is UTF-8. Neither this nor `data_base64` is there when no byte was captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Cow<'a, str>>,
    /// The payload in base64 (RFC 4648, section 4, padded), when it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("contentEncoding" = "base64"))]
    data_base64: Option<Cow<'a, str>>,
}

/// The OpenTelemetry namespace `network`.
#[derive(Serialize, Deserialize, JsonSchema)]
struct NetworkPart<'a> {
    /// The transport protocol; null when it is not known.
    transport: Option<Transport>,
    /// `ipv4` or `ipv6`; null for Unix domain sockets, and when it is not known.
    r#type: Option<IpVersion>,
    /// The local address, as the process sees it; null when it is not known, or the socket has no name.
    local: Option<Cow<'a, Endpoint>>,
    /// The address of the peer, as the process sees it; null when it is not known, or the socket has no name.
    peer: Option<Cow<'a, Endpoint>>,
    /// The OpenTelemetry namespace `network.io`.
    io: IoPart,
}

/// The OpenTelemetry namespace `network.io`.
#[derive(Serialize, Deserialize, JsonSchema)]
struct IoPart {
    /// Which way the bytes go, seen from the process.
    direction: Direction,
}

/// A record's place on its connection.
#[derive(Serialize, Deserialize, JsonSchema)]
struct ConnectionPart {
    /// Number of the connection, unique in one run of ctrace, from 1.
    id: u64,
    /// Whether it was seen from its creation on; otherwise offsets count from when it was first seen.
    from_start: bool,
    /// Whether it was first seen while only a part of the probes of its library was set, so that some of its
    /// bytes may be missing; only there if so.
    #[serde(default, skip_serializing_if = "is_false")]
    partial_attach: bool,
    /// Where the first byte of the payload is in the stream of this direction.
    offset: u64,
    /// Whether the process is client or server; null when it is not known.
    role: Option<Role>,
    /// How the socket in `network` was found; null when it was not.
    socket: Option<SocketEvidence>,
}

/// A call, and which part of it the record has.
#[derive(Serialize, Deserialize, JsonSchema)]
struct CallPart {
    /// Number of the call on its connection, both directions counted together, from 1; null when
    /// `connection` is.
    number: Option<u64>,
    /// Bytes that the call transferred.
    length: u64,
    /// Nanoseconds from its entry to its return, so its entry was that long before `time`; null when it is
    /// not known.
    duration: Option<u64>,
    /// The first bytes of the call that were captured, over all of its records.
    captured: u32,
    /// Where the first byte of the payload is in the call.
    offset: u32,
    /// Whether a limit cut the call: `captured` is less than `length`.
    truncated: bool,
}

impl LineBody for SslBody<'_> {
    const KIND: RecordKind = RecordKind::Ssl;
    const TIME: &'static str = "When the call returned, in UTC.";
    const ORIGIN: Meanings =
        &[("process", "The process that called."), ("thread", "The thread that called.")];
}

impl<'a> SslBody<'a> {
    pub(super) fn new(context: &'a Context<'_>, ssl: &'a Ssl<'_>) -> Self {
        let &Ssl {
            ref library, ref function, direction, position, length, duration, captured, offset, ..
        } = ssl;
        let EndsPart { transport, r#type, local, peer } = EndsPart::new(context);
        let socket = context.socket();
        Self {
            library: Cow::Borrowed(library),
            function: Cow::Borrowed(function),
            network: NetworkPart { transport, r#type, local, peer, io: IoPart { direction } },
            tls: context.tls().map(|known| TlsPart::new(&known.tls)),
            connection: context.connection.as_ref().zip(position).map(|(connection, position)| {
                ConnectionPart {
                    id: connection.id,
                    from_start: connection.from_start,
                    partial_attach: connection.partial_attach,
                    offset: position.stream_offset.wrapping_add(u64::from(offset)),
                    role: socket.and_then(|socket| socket.role),
                    socket: socket.map(|socket| socket.evidence),
                }
            }),
            call: CallPart {
                number: position.map(|position| position.call),
                length,
                duration: duration.and_then(|duration| u64::try_from(duration.as_nanos()).ok()),
                captured,
                offset,
                truncated: u64::from(captured) < length,
            },
            data: None,
            data_base64: None,
        }
    }

    /// The record of the line.
    pub(super) fn record(self, mut context: Context<'static>) -> Result<Record<'static>, LineError> {
        let Self { network, connection, call, .. } = self;
        let data = match (self.data, self.data_base64) {
            (None, None) => Vec::new(),
            (Some(text), None) => text.into_owned().into_bytes(),
            (None, Some(text)) => base64_simd::STANDARD
                .decode_to_vec(text.as_bytes())
                .map_err(|_| contradiction("data_base64 is no base64"))?,
            (Some(_), Some(_)) => return Err(contradiction("it has data and data_base64")),
        };
        let CallPart { number, length, duration, captured, offset, .. } = call;
        let end = u64::from(offset).saturating_add(data.len() as u64);
        if end > u64::from(captured) || u64::from(captured) > length {
            return Err(contradiction("its lengths contradict each other"));
        }
        let NetworkPart { transport, r#type, local, peer, io } = network;
        let position = match (connection, number) {
            (None, None) => None,
            (Some(part), Some(call)) => {
                let ConnectionPart { id, from_start, partial_attach, offset: start, role, socket } = part;
                let ends = EndsPart { transport, r#type, local, peer };
                let tls = self.tls.map(TlsPart::info);
                context.connection = Some(Connection {
                    id,
                    from_start,
                    partial_attach,
                    socket: ends.socket(socket, role),
                    tls,
                });
                // A line has the offset of the first byte of its payload, and not of its call.
                Some(CallPosition { call, stream_offset: start.wrapping_sub(u64::from(offset)) })
            }
            _ => return Err(contradiction("it has a connection or a call's number, and not both")),
        };
        let body = Body::Ssl(Ssl {
            library: Cow::Owned(self.library.into_owned()),
            function: Cow::Owned(self.function.into_owned()),
            direction: io.direction,
            position,
            length,
            duration: duration.map(Duration::from_nanos),
            captured,
            offset,
            data: Plaintext(Cow::Owned(data)),
        });
        Ok(Record { context, body })
    }
}
