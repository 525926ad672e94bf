//! The lines of requests, and of messages that are parts of one.
//!
//! What a protocol says of them is not listed here: its table of fields is walked, for the lines and for the
//! schema.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::layout::FieldOf;
use super::line::{FieldsBody, LineBody, Meanings, Time};
use super::missed::nanoseconds;
use super::nested::{FieldSchema, Leaf, object_schema};
use super::tls::TlsPart;
use crate::event::{
    Connection, Context, Direction, Endpoint, IpVersion, RecordKind, Request, RequestSide, Role,
    SocketEvidence, StreamMessage, Transport, UnpairedReason,
};
use crate::protocol;

/// A request and its response.
pub(super) struct RequestBody<'a>(Fields<'a>);

/// A message that is a part of an exchange.
pub(super) struct StreamMessageBody<'a>(Fields<'a>);

const ORIGIN: Meanings = &[
    ("process", "The process on whose side of the connection it was seen."),
    ("thread", "The thread that made the last call on the connection."),
];

impl<'a> FieldsBody<'a> for RequestBody<'a> {
    fn fields(self) -> Fields<'a> {
        self.0
    }
}

impl<'a> FieldsBody<'a> for StreamMessageBody<'a> {
    fn fields(self) -> Fields<'a> {
        self.0
    }
}

impl LineBody for RequestBody<'_> {
    const KIND: RecordKind = RecordKind::Request;
    const TIME: &'static str = "When the first byte of the request was transferred, in UTC; of the response, \
                                if the request was not seen.";
    const ORIGIN: Meanings = ORIGIN;
}

impl LineBody for StreamMessageBody<'_> {
    const KIND: RecordKind = RecordKind::Message;
    const TIME: &'static str = "When its first byte was transferred, in UTC.";
    const ORIGIN: Meanings = ORIGIN;
}

type Fields<'a> = Vec<FieldOf<'a>>;

/// The paths of the two messages, which have the same fields.
struct SidePaths {
    object: &'static str,
    direction: &'static str,
    first: &'static str,
    last: &'static str,
    length: &'static str,
    missing: &'static str,
    lacks_start: &'static str,
    lacks_end: &'static str,
    may_lack: &'static str,
    media_type: &'static str,
    encodings: &'static str,
    problem: &'static str,
    is_cut: &'static str,
    named: &'static str,
    data: &'static str,
    data_base64: &'static str,
}

macro_rules! side_paths {
    ($object:literal) => {
        SidePaths {
            object: $object,
            direction: concat!($object, ".direction"),
            first: concat!($object, ".first"),
            last: concat!($object, ".last"),
            length: concat!($object, ".length"),
            missing: concat!($object, ".missing"),
            lacks_start: concat!($object, ".lacks_start"),
            lacks_end: concat!($object, ".lacks_end"),
            may_lack: concat!($object, ".may_lack"),
            media_type: concat!($object, ".body.media_type"),
            encodings: concat!($object, ".body.encodings"),
            problem: concat!($object, ".body.problem"),
            is_cut: concat!($object, ".body.truncated"),
            named: concat!($object, ".body.messages"),
            data: concat!($object, ".body.data"),
            data_base64: concat!($object, ".body.data_base64"),
        }
    };
}

const REQUEST: SidePaths = side_paths!("request");
const RESPONSE: SidePaths = side_paths!("response");
/// A message that is a part of an exchange has no body but itself.
const MESSAGE: SidePaths =
    SidePaths { named: "value", data: "data", data_base64: "data_base64", ..side_paths!("message") };

impl<'a> RequestBody<'a> {
    pub(super) fn new(context: &'a Context<'_>, request: &'a Request, mut fields: Fields<'a>) -> Self {
        let time = |took: Option<Duration>| Leaf::or_null(took, |took| Leaf::Number(nanoseconds(took)));
        connection(context, request.role, &mut fields);
        fields.extend([
            ("protocol", Leaf::text(request.protocol)),
            ("exchange", Leaf::or_null(request.exchange.as_deref(), Leaf::text)),
            ("duration", time(request.duration())),
            ("time_to_first_byte", time(request.time_to_first_byte())),
            ("complete", Leaf::Bool(request.is_complete())),
            ("gaps", Leaf::Number(request.missing())),
            ("unpaired", Leaf::or_null(request.unpaired, Leaf::Reason)),
            ("cut_off", Leaf::or_null(request.cut_off, Leaf::Reason)),
        ]);
        if request.answered_early {
            fields.push(("answered_early", Leaf::Bool(true)));
        }
        if let Some(age) = request.open_for {
            fields.push(("open_for", Leaf::Number(nanoseconds(age))));
        }
        side(&REQUEST, request.request.as_ref(), &mut fields);
        side(&RESPONSE, request.response.as_ref(), &mut fields);
        Self(fields)
    }
}

impl<'a> StreamMessageBody<'a> {
    pub(super) fn new(context: &'a Context<'_>, message: &'a StreamMessage, mut fields: Fields<'a>) -> Self {
        connection(context, message.role, &mut fields);
        fields.extend([
            ("protocol", Leaf::text(message.protocol)),
            ("exchange", Leaf::or_null(message.exchange.as_deref(), Leaf::text)),
            ("message.number", Leaf::or_null(message.number, Leaf::Number)),
        ]);
        side(&MESSAGE, Some(&message.message), &mut fields);
        Self(fields)
    }
}

/// What is known of the connection.
fn connection<'a>(context: &'a Context<'_>, role: Option<Role>, fields: &mut Fields<'a>) {
    let socket = context.socket();
    let end = |end: Option<&'a Endpoint>| Leaf::or_null(end, Leaf::Endpoint);
    fields.extend([
        ("network.transport", Leaf::or_null(socket.and_then(|it| it.transport), Leaf::Transport)),
        ("network.type", Leaf::or_null(socket.and_then(|it| it.ip), Leaf::IpVersion)),
        ("network.local", end(socket.and_then(|it| it.local.as_ref()))),
        ("network.peer", end(socket.and_then(|it| it.peer.as_ref()))),
        ("tls", Leaf::or_null(context.tls(), |known| Leaf::Tls(&known.tls))),
    ]);
    if let Some(&Connection { id, from_start, partial_attach, .. }) = context.connection.as_ref() {
        fields.extend([
            ("connection.id", Leaf::Number(id)),
            ("connection.from_start", Leaf::Bool(from_start)),
            ("connection.role", Leaf::or_null(role, Leaf::Role)),
            ("connection.socket", Leaf::or_null(socket.map(|it| it.evidence), Leaf::Evidence)),
        ]);
        if partial_attach {
            fields.push(("connection.partial_attach", Leaf::Bool(true)));
        }
    }
}

/// The fields of one message. Fields that both messages have are those of the request, unless only the
/// response shows their value.
fn side<'a>(paths: &SidePaths, side: Option<&'a RequestSide>, fields: &mut Fields<'a>) {
    let Some(side) = side else {
        fields.push((paths.object, Leaf::Null));
        return;
    };
    fields.extend([
        (paths.direction, Leaf::Direction(side.direction)),
        (paths.first, Leaf::Time(Time(side.first))),
        (paths.last, Leaf::Time(Time(side.last))),
        (paths.length, Leaf::Number(side.length)),
        (paths.missing, Leaf::Number(side.partial.missing)),
        (paths.lacks_start, Leaf::Bool(side.partial.lacks_start)),
        (paths.lacks_end, Leaf::Bool(side.partial.lacks_end)),
        (paths.may_lack, Leaf::Bool(side.partial.may_lack)),
    ]);
    fields.extend(side.fields.iter().map(|(field, value)| (field.path, Leaf::Field(value))));
    let Some(body) = &side.body else { return };
    if let Some(media_type) = &body.media_type {
        fields.push((paths.media_type, Leaf::text(media_type)));
    }
    if !body.encodings.is_empty() {
        fields.push((paths.encodings, Leaf::Names(&body.encodings)));
    }
    if let Some(problem) = &body.problem {
        fields.push((paths.problem, Leaf::text(problem)));
    }
    fields.push((paths.is_cut, Leaf::Bool(body.is_cut)));
    if let Some(messages) = &body.named {
        let named = match messages.as_slice() {
            [only] if paths.named == MESSAGE.named => Leaf::Json(only),
            messages => Leaf::JsonList(messages),
        };
        fields.push((paths.named, named));
        return;
    }
    fields.push(if let Ok(text) = simdutf8::basic::from_utf8(&body.data) {
        (paths.data, Leaf::text(text))
    } else {
        let text = base64_simd::STANDARD.encode_to_string(&body.data);
        (paths.data_base64, Leaf::Text(Cow::Owned(text)))
    });
}

impl FieldSchema {
    /// Messages of protocol buffers, or only one.
    fn named(paths: &SidePaths) -> Self {
        let schema = if paths.named == MESSAGE.named {
            serde_json::json!({
                "description": "The message in protobuf's JSON mapping, in place of `data` or `data_base64`; \
                                only with `--proto`.",
            })
        } else {
            serde_json::json!({
                "type": "array",
                "description": "The messages of the body in protobuf's JSON mapping, in place of `data` or \
                                `data_base64`; only with `--proto`.",
            })
        };
        Self { path: paths.named, schema, is_required: false }
    }
}

impl JsonSchema for RequestBody<'_> {
    fn schema_name() -> Cow<'static, str> {
        "RequestBody".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut fields = connection_schema(generator);
        let time = "Nanoseconds from the first byte of the request to the";
        fields.extend([
            FieldSchema::of::<Option<u64>>(
                generator,
                "duration",
                &format!("{time} last byte of the response; null when one of them is not known."),
            ),
            FieldSchema::of::<Option<u64>>(
                generator,
                "time_to_first_byte",
                &format!("{time} first byte of the response; null when one of them is not known."),
            ),
            FieldSchema::of::<bool>(
                generator,
                "complete",
                "Whether both messages were seen from their first to their last byte.",
            ),
            FieldSchema::of::<u64>(
                generator,
                "gaps",
                "Bytes that are missing within both messages, as far as that is known.",
            ),
            FieldSchema::of::<Option<UnpairedReason>>(
                generator,
                "unpaired",
                "Why only one of the two messages is there; null when both are.",
            ),
            FieldSchema::of::<Option<UnpairedReason>>(
                generator,
                "cut_off",
                "Why a message has no end; null when none lacks its end, or when bytes are missing.",
            ),
            FieldSchema::of::<bool>(
                generator,
                "answered_early",
                "The response was complete before the request was, which then was not sent any further: it has \
                 no end, and nothing of it is missing. Only there if so.",
            )
            .optional(),
            FieldSchema::of::<u64>(
                generator,
                "open_for",
                "Nanoseconds from its first byte to this report; only there if the exchange goes on, and a \
                 later record with the same `exchange` takes the place of this one.",
            )
            .optional(),
        ]);
        fields.extend(side_schema(generator, &REQUEST));
        fields.extend(side_schema(generator, &RESPONSE));
        object_schema("A request and its response, as far as they were seen.", fields)
            .nullable(&[REQUEST.object, RESPONSE.object])
    }
}

impl JsonSchema for StreamMessageBody<'_> {
    fn schema_name() -> Cow<'static, str> {
        "StreamMessageBody".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut fields = connection_schema(generator);
        fields.push(FieldSchema::of::<Option<u64>>(
            generator,
            "message.number",
            "The number of the message among those of its exchange in its direction, from 1; null when it is \
             not known.",
        ));
        fields.extend(side_schema(generator, &MESSAGE));
        object_schema("A message that is a part of an exchange.", fields)
    }
}

/// Lets objects be null.
trait Nullable {
    fn nullable(self, names: &[&str]) -> Self;
}

impl Nullable for Schema {
    fn nullable(mut self, names: &[&str]) -> Self {
        for name in names {
            if let Some(kind) = self.pointer_mut(&format!("/properties/{name}/type")) {
                *kind = serde_json::json!(["object", "null"]);
            }
        }
        self
    }
}

fn connection_schema(generator: &mut SchemaGenerator) -> Vec<FieldSchema> {
    let mut fields = vec![
        FieldSchema::of::<Option<Transport>>(
            generator,
            "network.transport",
            "The transport protocol; null when it is not known.",
        ),
        FieldSchema::of::<Option<IpVersion>>(
            generator,
            "network.type",
            "`ipv4` or `ipv6`; null for Unix domain sockets, and when it is not known.",
        ),
        FieldSchema::of::<Option<Endpoint>>(
            generator,
            "network.local",
            "The local address, as the process sees it; null when it is not known.",
        ),
        FieldSchema::of::<Option<Endpoint>>(
            generator,
            "network.peer",
            "The address of the peer, as the process sees it; null when it is not known.",
        ),
        FieldSchema::of::<Option<TlsPart<'_>>>(
            generator,
            "tls",
            "The OpenTelemetry namespace `tls`; null when the handshake was not seen.",
        ),
        FieldSchema::of::<u64>(generator, "connection.id", "Number of the connection, as in `ssl` records."),
        FieldSchema::of::<bool>(
            generator,
            "connection.from_start",
            "Whether it was seen from its creation on.",
        ),
        FieldSchema::of::<bool>(
            generator,
            "connection.partial_attach",
            "Whether some of its first bytes may be missing; only there if so.",
        )
        .optional(),
        FieldSchema::of::<Option<Role>>(
            generator,
            "connection.role",
            "Whether the process is client or server; null when it is not known.",
        ),
        FieldSchema::of::<Option<SocketEvidence>>(
            generator,
            "connection.socket",
            "How the socket in `network` was found; null when it was not.",
        ),
        FieldSchema::of::<String>(generator, "protocol", "The protocol by which it was decoded."),
        FieldSchema::of::<Option<String>>(
            generator,
            "exchange",
            "The exchange, unique in one run; null when bytes are missing that show which one it is.",
        ),
    ];
    let of_protocols = protocol::ALL.iter().flat_map(|protocol| protocol.fields);
    fields.extend(of_protocols.map(FieldSchema::of_protocol));
    fields
}

fn side_schema(generator: &mut SchemaGenerator, paths: &SidePaths) -> Vec<FieldSchema> {
    vec![
        FieldSchema::of::<Direction>(generator, paths.direction, "Which way its bytes go."),
        FieldSchema::of::<Time>(generator, paths.first, "When its first byte was transferred."),
        FieldSchema::of::<Time>(generator, paths.last, "When its last byte was transferred."),
        FieldSchema::of::<u64>(generator, paths.length, "The bytes that it occupies in the stream."),
        FieldSchema::of::<u64>(
            generator,
            paths.missing,
            "Bytes that are missing within it, as far as that is known.",
        ),
        FieldSchema::of::<bool>(generator, paths.lacks_start, "Whether its beginning is missing."),
        FieldSchema::of::<bool>(generator, paths.lacks_end, "Whether its end is missing."),
        FieldSchema::of::<bool>(generator, paths.may_lack, "Whether bytes within it may be missing."),
        FieldSchema::of::<String>(generator, paths.media_type, "The media type, as the peer gave it.")
            .optional(),
        FieldSchema::of::<Vec<String>>(
            generator,
            paths.encodings,
            "The encodings by which the body is still encoded; only there if so.",
        )
        .optional(),
        FieldSchema::of::<String>(
            generator,
            paths.problem,
            "Why the encodings could not be undone, or the names of `--proto` do not fit; only there if so.",
        )
        .optional(),
        FieldSchema::named(paths),
        FieldSchema::of::<bool>(generator, paths.is_cut, "Whether the body is longer than what is here.")
            .optional(),
        FieldSchema::of::<String>(generator, paths.data, "The body, when it is UTF-8; only with `--body`.")
            .optional(),
        FieldSchema::of::<String>(
            generator,
            paths.data_base64,
            "The body in base64 (RFC 4648, section 4, padded), when it is not UTF-8; only with `--body`.",
        )
        .optional(),
    ]
}
