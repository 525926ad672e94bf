//! gRPC: calls over HTTP/2 whose bodies are sequences of messages, each behind its length. gRPC-Web is the
//! same over any version of HTTP, with the trailers behind the last message, and Connect's streams are framed
//! alike.

mod base64;
mod unnamed;

use jiff::Timestamp;
use serde::Deserialize;

use super::http::{self, PART_COMPRESSED, QUERY};
use super::{Message, MessageKind, Messages};
use crate::event::{FieldValue, HeaderField};
use base64::Base64Stream;
pub(super) use unnamed::UnnamedBody;

/// The bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// The flag of the trailers of gRPC-Web.
const WEB_TRAILERS: u8 = 0x80;
/// The flag of the message of Connect that ends a stream, and is none of the program's.
const END_OF_STREAM: u8 = 0x02;
/// The longest trailers of gRPC-Web, and the longest end of a stream of Connect, that are read. They are a
/// status and a sentence.
const MAX_WEB_TRAILERS: u32 = 16 * 1024;

/// The names of the status codes, in order.
const STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The header fields that nothing but a call has.
pub(super) const FIELDS: [&str; 6] = [
    "grpc-timeout",
    "grpc-encoding",
    "grpc-accept-encoding",
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
];

/// The name of a status, as `grpc-status` has it. What is no code is left as it is.
pub(super) fn status_name(code: &str) -> String {
    let name = code.parse().ok().and_then(|code: usize| STATUSES.get(code));
    name.copied().unwrap_or(code).to_owned()
}

/// The method in the path of a call: `package.Service/Method`.
pub(super) fn method(path: &str) -> Option<&str> {
    let method = path.strip_prefix('/')?;
    let (service, name) = method.split_once('/')?;
    (!service.is_empty() && !name.is_empty() && !name.contains('/')).then_some(method)
}

/// The text of a percent-encoded `grpc-message`, in which U+FFFD stands for what is not UTF-8.
pub(super) fn percent_decoded(text: &str) -> String {
    let hex = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let digits =
            (byte == b'%').then(|| Some(hex(bytes.get(index + 1))? * 16 + hex(bytes.get(index + 2))?));
        let value = digits.flatten().and_then(|value| u8::try_from(value).ok());
        decoded.push(value.unwrap_or(byte));
        index += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The systems of calls whose messages are framed alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    Grpc,
    GrpcWeb,
    Connect,
}

/// The system of a body of a type, and the media type of its messages.
fn system_of(media_type: &str) -> Option<(System, String)> {
    let essence = http::body::essence(media_type);
    let (system, format) = [
        ("application/grpc-web-text", System::GrpcWeb),
        ("application/grpc-web", System::GrpcWeb),
        ("application/grpc", System::Grpc),
        ("application/connect", System::Connect),
    ]
    .into_iter()
    .find_map(|(prefix, system)| Some((system, essence.strip_prefix(prefix)?)))?;
    match (system, format) {
        (System::Grpc | System::GrpcWeb, "") | (_, "+proto") => {
            Some((system, "application/protobuf".to_owned()))
        }
        _ => Some((system, format!("application/{}", format.strip_prefix('+')?))),
    }
}

/// Whether a body of a type is one of gRPC-Web in base64.
fn is_in_base64(media_type: &str) -> bool {
    http::body::essence(media_type).starts_with("application/grpc-web-text")
}

/// The end of a stream of Connect.
#[derive(Deserialize)]
struct ConnectEnd {
    error: Option<ConnectError>,
}

#[derive(Deserialize)]
struct ConnectError {
    code: String,
}

/// The status that the end of a stream of Connect says: `{}`, or `{"error":{"code":"not_found",…},…}`.
fn connect_status(end: &[u8]) -> Option<String> {
    let ConnectEnd { error } = serde_json::from_slice(end).ok()?;
    let Some(ConnectError { code }) = error else { return Some("OK".to_owned()) };
    // Connect spells it with one l.
    let name = if code == "canceled" { "CANCELLED".to_owned() } else { code.to_ascii_uppercase() };
    STATUSES.iter().skip(1).find(|status| **status == name).map(|status| (*status).to_owned())
}

/// The name of the system to which a message of HTTP with these headers belongs, if it belongs to one. Calls
/// of Connect with one message each have types that are not only its own, and name its version in the
/// request: in the query if the method is GET.
pub(super) fn system_name(head: &Message, headers: &[HeaderField]) -> Option<&'static str> {
    let system = head.media_type.as_deref().and_then(system_of).map(|(system, _)| system);
    let has_version = |query: &str| query.split('&').any(|part| part == "connect=v1");
    let asks = || matches!(head.field(&QUERY), Some(FieldValue::Text(query)) if has_version(query));
    let is_connect = || http::head::values(headers, "connect-protocol-version").next().is_some() || asks();
    match system {
        Some(System::Grpc | System::GrpcWeb) => Some("grpc"),
        Some(System::Connect) => Some("connectrpc"),
        None => is_connect().then_some("connectrpc"),
    }
}

/// How the messages in the body of a message are compressed that are. None if that is unknown.
pub(super) fn message_encoding(head: &Message) -> Option<String> {
    let (system, _) = system_of(head.media_type.as_deref()?)?;
    let list = head.field(&http::REQUEST_HEADERS).or_else(|| head.field(&http::RESPONSE_HEADERS))?;
    let FieldValue::Headers(list) = list else { return None };
    let name = if system == System::Connect { "connect-content-encoding" } else { "grpc-encoding" };
    http::head::values(list, name).next().map(str::to_owned)
}

/// Divides a body into messages.
#[derive(Clone, Debug)]
pub(super) struct MessageReader {
    system: System,
    /// The media type of the messages. None if it is unknown.
    media_type: Option<String>,
    /// How messages are compressed that are. None if that is unknown.
    encoding: Option<String>,
    /// The decoder of a body in base64.
    base64: Option<Base64Stream>,
    /// The number of messages that have begun. None if some may be missing.
    count: Option<u64>,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// The bytes of a prefix so far, and when its first one was transferred.
    Prefix([u8; PREFIX], usize, Timestamp),
    /// A message, and how much of it is to come.
    Body(Box<Message>, u32),
    /// The trailers of gRPC-Web so far, and how much of them is to come.
    Trailers(Vec<u8>, u32),
    /// The end of a stream of Connect so far, and how much of it is to come. None if it cannot be read: it is
    /// compressed, or too long.
    Ending(Option<Vec<u8>>, u32),
    /// After a gap, it is unknown where messages begin.
    Lost,
}

/// Between two messages.
const NEXT: State = State::Prefix([0; PREFIX], 0, Timestamp::UNIX_EPOCH);

impl MessageReader {
    /// The reader of the body of a message whose head is decoded. None if that is not of gRPC.
    pub(super) fn of(head: &Message) -> Option<Self> {
        let name = head.media_type.as_deref()?;
        let (system, media_type) = system_of(name)?;
        Some(Self {
            system,
            media_type: Some(media_type),
            encoding: message_encoding(head),
            base64: is_in_base64(name).then(Base64Stream::default),
            count: Some(0),
            state: NEXT,
        })
    }

    /// The number of messages. None if it is unknown, because some may be missing.
    pub(super) fn count(&self) -> Option<u64> {
        self.count
    }

    /// The approximate memory that it takes.
    pub(super) fn held_bytes(&self) -> usize {
        match &self.state {
            State::Body(message, _) => message.size(),
            State::Trailers(bytes, _) => bytes.len(),
            State::Ending(bytes, _) => bytes.as_ref().map_or(0, Vec::len),
            State::Prefix(..) | State::Lost => 0,
        }
    }

    /// Adds bytes of the body of `parent`.
    pub(super) fn data(&mut self, parent: &Message, data: &[u8], time: Timestamp, out: &mut Messages) {
        let Some(base64) = &mut self.base64 else { return self.decoded(parent, data, time, out) };
        let mut decoded = Vec::new();
        let is_valid = base64.decode(data, &mut decoded).is_ok();
        self.decoded(parent, &decoded, time, out);
        if !is_valid {
            self.end(out);
            (self.state, self.count) = (State::Lost, None);
        }
    }

    fn decoded(&mut self, parent: &Message, data: &[u8], time: Timestamp, out: &mut Messages) {
        let mut rest = data;
        while !rest.is_empty() {
            let taken = match &mut self.state {
                State::Lost => return,
                State::Prefix(bytes, filled, first) => {
                    if *filled == 0 {
                        *first = time;
                    }
                    let room = bytes.get_mut(*filled..).unwrap_or_default();
                    let taken = room.len().min(rest.len());
                    room.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                    *filled += taken;
                    if *filled == PREFIX {
                        let (prefix, first) = (*bytes, *first);
                        self.begin(parent, prefix, first);
                    }
                    taken
                }
                State::Trailers(bytes, left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    bytes.extend_from_slice(rest.get(..taken).unwrap_or_default());
                    *left = left.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX));
                    // Nothing follows.
                    taken.max(1)
                }
                State::Ending(bytes, left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    if let Some(bytes) = bytes {
                        bytes.extend_from_slice(rest.get(..taken).unwrap_or_default());
                    }
                    *left = left.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX));
                    taken.max(1)
                }
                State::Body(message, left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    message.add_body(rest.get(..taken).unwrap_or_default(), out.body_limit());
                    *left = left.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX));
                    taken
                }
            };
            if let State::Body(message, _) = &mut self.state {
                message.last = time;
            }
            self.end_if_complete(out);
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// Handles missing bytes of the body. `missing` is None if it is unknown how many there are.
    pub(super) fn gap(&mut self, missing: Option<u64>, out: &mut Messages) {
        if let (State::Body(message, left), Some(missing), None) = (&mut self.state, missing, &self.base64)
            && let Some(rest) = u32::try_from(missing).ok().and_then(|missing| left.checked_sub(missing))
        {
            message.add_body_gap(missing);
            *left = rest;
            return self.end_if_complete(out);
        }
        let is_behind = matches!(self.state, State::Trailers(..) | State::Ending(..));
        self.end(out);
        self.state = State::Lost;
        if !is_behind {
            self.count = None;
        }
    }

    /// Adds what the trailers of gRPC-Web, or the end of a stream of Connect, say to the response, at the end
    /// of its body.
    pub(super) fn add_trailers(&self, response: &mut Message) {
        if let State::Ending(Some(bytes), 0) = &self.state {
            let status = connect_status(bytes).filter(|_| response.kind == MessageKind::Response);
            response.fields.extend(status.map(|status| (&http::RPC_STATUS, FieldValue::Text(status))));
        }
        let State::Trailers(bytes, 0) = &self.state else { return };
        let text = String::from_utf8_lossy(bytes);
        let value = |name: &str| {
            let fields = text.lines().filter_map(|line| line.split_once(':'));
            let mut values = fields.filter(|(has, _)| has.trim().eq_ignore_ascii_case(name));
            values.next().map(|(_, value)| value.trim().to_owned())
        };
        if let Some(status) = value("grpc-status") {
            add_status(response, &FieldValue::Text(status), value("grpc-message").as_deref());
        }
    }

    /// Handles the end of the body: adds a message that is not complete.
    pub(super) fn end(&mut self, out: &mut Messages) {
        if matches!(self.state, State::Body(..))
            && let State::Body(message, _) = std::mem::replace(&mut self.state, State::Lost)
        {
            let mut message = *message;
            message.partial.lacks_end = true;
            out.push(message);
        }
    }

    fn begin(&mut self, parent: &Message, prefix: [u8; PREFIX], first: Timestamp) {
        let [flag, length @ ..] = prefix;
        let length = u32::from_be_bytes(length);
        match (self.system, flag) {
            (System::GrpcWeb, WEB_TRAILERS) if length <= MAX_WEB_TRAILERS => {
                self.state = State::Trailers(Vec::new(), length);
                return;
            }
            (System::Connect, flag) if flag & END_OF_STREAM != 0 => {
                let is_readable = flag == END_OF_STREAM && length <= MAX_WEB_TRAILERS;
                self.state = State::Ending(is_readable.then(Vec::new), length);
                return;
            }
            _ => {}
        }
        if flag > 1 {
            // This is no message, so it is unknown where the next one is.
            (self.state, self.count) = (State::Lost, None);
            return;
        }
        self.count = self.count.map(|count| count.saturating_add(1));
        let mut message = Message::new(parent.protocol, MessageKind::Event, parent.direction, first);
        message.join_exchange_of(parent);
        message.call.clone_from(&parent.call);
        message.media_type.clone_from(&self.media_type);
        message.length = u64::from(length).saturating_add(PREFIX as u64);
        if flag == 1 {
            message.encodings.extend(self.encoding.clone());
            let encoding = self.encoding.clone().map_or(FieldValue::Unknown, FieldValue::Text);
            message.fields.push((&PART_COMPRESSED, encoding));
        }
        self.state = State::Body(Box::new(message), length);
    }

    fn end_if_complete(&mut self, out: &mut Messages) {
        if matches!(self.state, State::Body(_, 0))
            && let State::Body(message, _) = std::mem::replace(&mut self.state, NEXT)
        {
            out.push(*message);
        }
    }
}

/// Adds what a call's response says about its outcome. `status` and `text` are the values of `grpc-status`
/// and `grpc-message`.
pub(super) fn add_status(message: &mut Message, status: &FieldValue, text: Option<&str>) {
    let status = match status {
        FieldValue::Text(code) => FieldValue::Text(status_name(code)),
        _ => FieldValue::Unknown,
    };
    message.fields.push((&http::RPC_STATUS, status));
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        message.fields.push((&http::RPC_STATUS_MESSAGE, FieldValue::Text(percent_decoded(text))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_bodies() {
        let check = |media_type: &str, expected: Option<(System, &str)>| {
            let found = system_of(media_type);
            let found = found.as_ref().map(|(system, messages)| (*system, messages.as_str()));
            assert_eq!(found, expected, "{media_type}");
        };
        check("application/grpc", Some((System::Grpc, "application/protobuf")));
        check("Application/GRPC+json; x=1", Some((System::Grpc, "application/json")));
        check("application/grpc-web+proto", Some((System::GrpcWeb, "application/protobuf")));
        check("application/grpc-web-text", Some((System::GrpcWeb, "application/protobuf")));
        check("application/connect+json", Some((System::Connect, "application/json")));
        for media_type in ["application/grpcx", "application/json", "", "application/grp\u{20ac}c"] {
            check(media_type, None);
        }
    }
}
