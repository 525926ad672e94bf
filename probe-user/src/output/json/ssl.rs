//! The fields of `ssl`.
//!
//! They can be read back: a recording is lines of this kind.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::line::{LineBody, Place, ProcessPart, ThreadPart};
use super::tls::TlsPart;
use crate::event::{
    Direction, Endpoint, IpVersion, Library, RecordKind, Role, SocketEvidence, Ssl, Transport,
};

/// A call that moved plaintext over TLS, or a part of it when other parts were lost.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct SslBody<'a> {
    #[serde(flatten)]
    place: Place<'a>,
    /// The process that called.
    process: ProcessPart<'a>,
    /// The thread that called.
    thread: ThreadPart,
    /// The file that holds the function.
    library: Cow<'a, Library>,
    /// The function that was called, such as `SSL_write`.
    function: Cow<'a, str>,
    /// The OpenTelemetry namespace `network`.
    network: NetworkPart<'a>,
    /// The OpenTelemetry namespace `tls`: what the handshake says; null when it was not seen, or is not known
    /// to be of this connection (yet).
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
    /// What carries the bytes; null when it is not known.
    transport: Option<Transport>,
    /// `ipv4` or `ipv6`; null for unix sockets, and when it is not known.
    r#type: Option<IpVersion>,
    /// The process's own end; null when it is not known, or has no name.
    local: Option<Cow<'a, Endpoint>>,
    /// The other end, as the process sees it; null when it is not known, or has no name.
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
    /// Where the first byte of the payload is in the stream of this direction.
    offset: u64,
    /// Which end the process is; null when it is not known.
    role: Option<Role>,
    /// How what is in `network` is known; null when it is not.
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
}

impl<'a> SslBody<'a> {
    pub(super) fn new(ssl: &'a Ssl<'a>) -> Self {
        let &Ssl { ref origin, ref thread, ref library, ref function, direction, .. } = ssl;
        let &Ssl { connection, tls: _, length, captured, offset, data: _, .. } = ssl;
        let socket = ssl.socket.as_deref();
        Self {
            place: Place::new(&origin.container),
            process: ProcessPart::new(origin, thread),
            thread: ThreadPart { id: thread.id },
            library: Cow::Borrowed(library),
            function: Cow::Borrowed(function),
            network: NetworkPart {
                transport: socket.and_then(|socket| socket.transport),
                r#type: socket.and_then(|socket| socket.ip),
                local: socket.and_then(|socket| socket.local.as_ref()).map(Cow::Borrowed),
                peer: socket.and_then(|socket| socket.peer.as_ref()).map(Cow::Borrowed),
                io: IoPart { direction },
            },
            tls: ssl.tls.as_ref().map(|known| TlsPart::new(&known.tls)),
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::SslBody;
    use crate::output::json::line::Line;
    use crate::output::json::terminal_safe;

    #[test]
    fn lines_of_calls_are_read_back_as_they_were_written() {
        let recorded = include_str!("../../../tests/data/records.jsonl");
        let (calls, others): (Vec<_>, Vec<_>) =
            recorded.lines().partition(|line| line.starts_with(r#"{"schema":1,"type":"ssl","#));
        assert!(calls.len() > 10 && !others.is_empty());
        for text in calls {
            let line: Line<SslBody<'_>> = serde_json::from_str(text).unwrap();
            let mut written = Vec::new();
            line.write(&mut written).unwrap();
            terminal_safe::escape(&mut written, 0);
            assert_eq!(String::from_utf8(written).unwrap(), text);
        }
        for text in others {
            let line: Result<Line<SslBody<'_>>, _> = serde_json::from_str(text);
            assert!(line.is_err(), "{text}");
        }
    }
}
