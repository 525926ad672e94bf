//! Calls of services: the method to which a message belongs, and the names that a schema gives to its body.

use std::sync::Arc;

use super::content::{ContentEnd, Framing, MAX_JSON, Schema, Whole, decode};
use super::grpc;
use super::{Message, MessageKind};
use crate::event::Role;

/// The bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// The call that a message belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcCall {
    /// The service and its method: `package.Service/Method`.
    pub method: Arc<str>,
    /// Who sends the message.
    pub sender: Role,
}

impl RpcCall {
    /// The call that a request with this path may be: its last two segments are the method. What precedes
    /// them comes from proxies, or names the system.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        let (before, name) = path.rsplit_once('/')?;
        let (_, service) = before.rsplit_once('/')?;
        if service.is_empty() || name.is_empty() {
            return None;
        }
        Some(Self { method: format!("{service}/{name}").into(), sender: Role::Client })
    }

    /// The same call, of which the server sends a message.
    pub(super) fn answer(&self) -> Self {
        Self { method: self.method.clone(), sender: Role::Server }
    }
}

/// The messages of a body by the names of a schema.
#[derive(Debug)]
pub struct NamedBody {
    /// Each as JSON.
    pub messages: Vec<String>,
    /// Whether that is all.
    pub is_whole: bool,
}

/// The messages in the body of `message` by the names of a schema, or why they are not of the types that it
/// has. None if the body is not in protocol buffers. `data` has its first bytes without its encodings; at
/// most `limit` bytes of a compressed message are decompressed.
pub fn named_body(
    schema: &Schema,
    message: &Message,
    call: Option<&RpcCall>,
    (data, whole): (&[u8], Whole),
    limit: usize,
) -> Option<Result<NamedBody, String>> {
    let Some(media_type) = message.media_type.as_deref() else {
        // Whoever was joined in the middle may not know the type. A method that the schema has tells enough.
        let call = call.filter(|call| schema.has_method(&call.method))?;
        let kind = (&*call.method, call.sender);
        let body = match message.kind {
            MessageKind::Event => alone(schema, kind, (data, whole)),
            _ => framed(schema, kind, None, (data, whole), limit),
        };
        return body.ok().filter(|body| !body.messages.is_empty()).map(Ok);
    };
    let framing = Framing::of(media_type)?;
    let call = call.ok_or_else(|| "its method is not known".to_owned());
    Some(call.and_then(|call| {
        let kind = (&*call.method, call.sender);
        match framing {
            Framing::Alone => alone(schema, kind, (data, whole)),
            Framing::Framed => {
                let encoding = grpc::message_encoding(message);
                framed(schema, kind, encoding.as_deref(), (data, whole), limit)
            }
        }
    }))
}

/// The only message.
fn alone(schema: &Schema, kind: (&str, Role), (data, whole): (&[u8], Whole)) -> Result<NamedBody, String> {
    let json = schema.json(kind, data, whole, MAX_JSON)?;
    Ok(NamedBody { messages: vec![json.text], is_whole: json.is_whole })
}

/// The messages that are behind their lengths.
fn framed(
    schema: &Schema,
    kind: (&str, Role),
    encoding: Option<&str>,
    (data, whole): (&[u8], Whole),
    limit: usize,
) -> Result<NamedBody, String> {
    let mut body = NamedBody { messages: Vec::new(), is_whole: whole == Whole::Yes };
    let (mut rest, mut room) = (data, MAX_JSON);
    while let Some((&[flag, ref length @ ..], after)) = rest.split_first_chunk::<PREFIX>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (bytes, after, whole) = match after.split_at_checked(length) {
            Some((bytes, after)) => (bytes, after, Whole::Yes),
            None => (after, &b""[..], Whole::No),
        };
        if whole == Whole::No && body.is_whole {
            return Err("it ends within a message".to_owned());
        }
        rest = after;
        let number = body.messages.len() + 1;
        let of_message = |why: String| if number == 1 { why } else { format!("of message {number}: {why}") };
        let json = match flag {
            0 => schema.json(kind, bytes, whole, room),
            1 => inflated(encoding, bytes, whole, limit)
                .and_then(|(bytes, whole)| schema.json(kind, &bytes, whole, room)),
            // What ends a stream is no message of the service.
            _ => break,
        };
        let json = json.map_err(of_message)?;
        room = room.saturating_sub(json.text.len());
        body.is_whole &= json.is_whole;
        body.messages.push(json.text);
        if room == 0 {
            body.is_whole &= rest.is_empty();
            break;
        }
    }
    Ok(body)
}

/// A message that is compressed by itself.
fn inflated(
    encoding: Option<&str>,
    data: &[u8],
    whole: Whole,
    limit: usize,
) -> Result<(Vec<u8>, Whole), String> {
    let encoding = encoding.ok_or("a message is compressed, and it is not known how")?;
    let content = decode(&[encoding.to_owned()], data, whole, limit);
    match content.end {
        ContentEnd::Whole => Ok((content.data, Whole::Yes)),
        ContentEnd::Cut | ContentEnd::Limit => Ok((content.data, Whole::No)),
        ContentEnd::ExpandsTooMuch | ContentEnd::Damaged(_) => {
            Err(format!("a message is no valid {encoding}"))
        }
        ContentEnd::UnknownEncoding(name) => Err(format!("{name} of a message is not decompressed")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

    use std::io::Write as _;

    use jiff::Timestamp;

    use super::*;
    use crate::event::{Direction, FieldValue, HeaderField};
    use crate::protocol::http;

    const LIMIT: usize = 1000;

    fn schema() -> Schema {
        let resolver = protox::file::GoogleFileResolver::new();
        let mut all = protox::file::ChainFileResolver::new();
        all.add(Source);
        all.add(resolver);
        let mut compiler = protox::Compiler::with_file_resolver(all);
        compiler.include_imports(true).open_file("shop.proto").unwrap();
        let mut schema = Schema::default();
        schema.add(&compiler.encode_file_descriptor_set()).unwrap();
        schema
    }

    struct Source;

    impl protox::file::FileResolver for Source {
        fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
            match name {
                "shop.proto" => {
                    protox::file::File::from_source(name, include_str!("../../tests/data/shop.proto"))
                }
                _ => Err(protox::Error::file_not_found(name)),
            }
        }
    }

    /// A message of the client to the method whose requests are of the type `Tree`.
    fn message(media_type: &str) -> Message {
        let mut message =
            Message::new("http2", MessageKind::Response, Direction::Receive, Timestamp::UNIX_EPOCH);
        message.media_type = Some(media_type.to_owned());
        let encodings = ["grpc-encoding", "connect-content-encoding"];
        let headers =
            encodings.map(|name| HeaderField { name: Some(name.to_owned()), value: Some("gzip".to_owned()) });
        message.fields.push((&http::RESPONSE_HEADERS, FieldValue::Headers(headers.to_vec())));
        message
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn frame(flag: u8, data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        [&[flag][..], &length, data].concat()
    }

    #[test]
    fn methods_in_paths() {
        let check = |path: &str, expected: Option<&str>| {
            let call = RpcCall::of_path(path);
            assert_eq!(call.as_ref().map(|call| &*call.method), expected, "{path}");
        };
        check("/shop.v1.Shop/Map", Some("shop.v1.Shop/Map"));
        check("/twirp/shop.v1.Shop/Map", Some("shop.v1.Shop/Map"));
        check("/Shop", None);
        check("//Map", None);
        check("/Shop/", None);
        check("*", None);
    }

    #[test]
    fn bodies() {
        let schema = schema();
        let call = RpcCall::of_path("/shop.v1.Shop/Choose").unwrap().answer();
        let check = |media_type: &str, data: &[u8], whole: Whole, expected: Result<(&[&str], bool), &str>| {
            let found = named_body(&schema, &message(media_type), Some(&call), (data, whole), LIMIT).unwrap();
            let expected = expected.map(|(texts, is_whole)| {
                (texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>(), is_whole)
            });
            let found = found.map(|body| (body.messages, body.is_whole));
            assert_eq!(found, expected.map_err(str::to_owned), "{media_type} {data:?}");
        };
        let (a, b) = (b"\x0a\x01a", b"\x12\0");
        let (shown_a, shown_b) = (r#"{"name":"a"}"#, r#"{"children":[{}]}"#);
        check("application/proto", a, Whole::Yes, Ok((&[shown_a], true)));
        check("application/x-protobuf; x=y", a, Whole::Yes, Ok((&[shown_a], true)));
        check("application/protobuf", b"\x0a\x03a", Whole::No, Ok((&[shown_a], false)));
        let two = [frame(0, a), frame(1, &gzip(b))].concat();
        for media_type in ["application/grpc", "application/grpc+proto", "application/connect+proto"] {
            check(media_type, &two, Whole::Yes, Ok((&[shown_a, shown_b], true)));
            check(media_type, b"", Whole::Yes, Ok((&[], true)));
        }
        let with_trailers = [two.clone(), frame(0x80, b"grpc-status: 0\r\n")].concat();
        check("application/grpc-web+proto", &with_trailers, Whole::Yes, Ok((&[shown_a, shown_b], true)));
        check(
            "application/connect+proto",
            &[frame(0, a), frame(2, b"{}")].concat(),
            Whole::Yes,
            Ok((&[shown_a], true)),
        );
        // What was not kept as a whole.
        check("application/grpc", &two[..7], Whole::No, Ok((&["{}"], false)));
        check("application/grpc", &two[..9], Whole::No, Ok((&[shown_a], false)));
        check("application/grpc", &two[..18], Whole::No, Ok((&[shown_a, "{}"], false)));
        check("application/grpc", &two[..30], Whole::Yes, Err("it ends within a message"));
        // What is of another type, or not decompressed.
        let why = "it is no shop.v1.Tree of the schema: in name, there is a value of another kind";
        check("application/grpc", &frame(0, b"\x08\x01"), Whole::Yes, Err(why));
        let second = format!("of message 2: {why}");
        let data = [frame(0, a), frame(0, b"\x08\x01")].concat();
        check("application/grpc", &data, Whole::Yes, Err(&second));
        check("application/grpc", &frame(1, b"no gzip"), Whole::Yes, Err("a message is no valid gzip"));
    }

    /// The header field with the type may be in a part of the connection that was not seen.
    #[test]
    fn bodies_of_unknown_types() {
        let schema = schema();
        let check = |path: &str, data: &[u8], expected: Option<&str>| {
            let mut message = message("");
            message.media_type = None;
            let call = RpcCall::of_path(path);
            let found = named_body(&schema, &message, call.as_ref(), (data, Whole::Yes), LIMIT);
            let texts = found.map(|found| found.unwrap().messages.concat());
            assert_eq!(texts.as_deref(), expected, "{path} {data:?}");
        };
        check("/shop.v1.Shop/Choose", &frame(0, b"\x28\x01"), Some(r#"{"beside":1}"#));
        check("/shop.v1.Shop/Choose", b"", None);
        check("/shop.v1.Shop/Choose", b"beside=1", None);
        check("/shop.v1.Shop/Nothing", &frame(0, b"\x28\x01"), None);
        let mut event = message("");
        (event.kind, event.media_type) = (MessageKind::Event, None);
        let call = RpcCall::of_path("/shop.v1.Shop/Choose").unwrap();
        let found = named_body(&schema, &event, Some(&call), (b"\x28\x01", Whole::Yes), LIMIT);
        assert_eq!(found.unwrap().unwrap().messages, [r#"{"beside":1}"#]);
    }

    #[test]
    fn what_has_no_names() {
        let schema = schema();
        let check = |media_type: &str, call: Option<&str>, expected: Option<&str>| {
            let call = call.map(|path| RpcCall::of_path(path).unwrap());
            let found = named_body(&schema, &message(media_type), call.as_ref(), (b"", Whole::Yes), LIMIT);
            let why = found.map(|found| found.unwrap_err());
            assert_eq!(why.as_deref(), expected, "{media_type}");
        };
        check("application/json", Some("/shop.v1.Shop/Choose"), None);
        check("application/grpc+json", Some("/shop.v1.Shop/Choose"), None);
        check("application/grpc", None, Some("its method is not known"));
        check("application/proto", Some("/a/b"), Some("no schema has the method a/b"));
    }
}
