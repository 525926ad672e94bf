//! Bodies of messages → what a person reads: decoded, as text, JSON or parts.
//!
//! Owns how the contents of a body are decoded and told apart. The kept part of a body may be only its first
//! bytes; what these say is shown. Everything is bounded: what a peer compresses, and how deep it nests.

mod charset;
mod encoding;
mod form;
mod json;
mod media_type;
mod multipart;
mod protobuf;

pub use encoding::{Content, ContentEnd, decode};
pub use form::FormField;
pub use json::PrettyJson;
pub use multipart::FormPart;
pub use protobuf::{MAX_JSON, MessageJson, ProtobufText, Schema, SchemaError};

use media_type::MediaType;

/// The contents of a decoded body, for display.
#[derive(Clone, PartialEq, Eq)]
pub enum View<'a> {
    /// JSON, indented.
    Json(PrettyJson),
    /// Text.
    Text(String),
    /// The fields of a form.
    Form(Vec<FormField>),
    /// The parts of a message of several.
    Multipart(Vec<FormPart<'a>>),
    /// A message of protocol buffers, or several ones of gRPC.
    Protobuf(ProtobufText),
    /// Bytes that are no text.
    Bytes,
    /// Text in a character set that is not decoded, by its name.
    UnknownCharset(String),
}

/// Tells what the first bytes of a decoded body are. `media_type` is what the peer says of them, with its
/// parameters; without that, they show it themselves. At most `limit` bytes of text are returned.
pub fn view<'a>(media_type: Option<&str>, data: &'a [u8], is_whole: Whole, limit: usize) -> View<'a> {
    let media_type = media_type.and_then(MediaType::parse);
    let essence = media_type.as_ref().map(|media_type| media_type.essence.as_str());
    let charset = media_type.as_ref().and_then(|media_type| media_type.parameter("charset"));
    let boundary = media_type.as_ref().and_then(|media_type| media_type.parameter("boundary"));
    if let (Some(boundary), Some(true)) = (boundary, essence.map(|essence| essence.starts_with("multipart/")))
    {
        return View::Multipart(multipart::parts(data, boundary, is_whole));
    }
    let part = data.get(..limit).unwrap_or(data);
    let is_whole = if part.len() < data.len() { Whole::No } else { is_whole };
    let kind = match essence {
        Some(essence) if let Some(framing) = Framing::of_essence(essence) => {
            let text = match framing {
                Framing::Framed => protobuf::grpc_text(part, is_whole, limit),
                Framing::Alone => protobuf::text(part, is_whole, limit),
            };
            return text.map_or(View::Bytes, View::Protobuf);
        }
        None => TextKind::Unknown,
        Some("application/x-www-form-urlencoded") => TextKind::Form,
        Some(essence) if is_json(essence) => TextKind::Json,
        Some(essence) if is_text(essence) || charset.is_some() => TextKind::Text,
        Some(_) => return View::Bytes,
    };
    let text = match charset::text(part, charset, is_whole) {
        Ok(text) => text,
        Err(name) => return View::UnknownCharset(name),
    };
    let may_be_json = match kind {
        TextKind::Form => return View::Form(form::fields(&text)),
        TextKind::Unknown if !is_readable(part, &text) => return View::Bytes,
        TextKind::Unknown => text.trim_start().starts_with(['{', '[']),
        TextKind::Json => true,
        TextKind::Text => false,
    };
    let json = if may_be_json { json::pretty(&text, is_whole, limit) } else { None };
    json.map_or(View::Text(text), View::Json)
}

/// How messages of protocol buffers are in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// The body is one message.
    Alone,
    /// Each is behind its length, as gRPC has them.
    Framed,
}

impl Framing {
    /// How they are in a body of a media type. None if it has none.
    pub fn of(media_type: &str) -> Option<Self> {
        Self::of_essence(&MediaType::parse(media_type)?.essence)
    }

    fn of_essence(essence: &str) -> Option<Self> {
        match essence {
            "application/grpc"
            | "application/grpc+proto"
            | "application/grpc-web"
            | "application/grpc-web+proto"
            | "application/connect+proto" => Some(Self::Framed),
            "application/proto"
            | "application/protobuf"
            | "application/x-protobuf"
            | "application/vnd.google.protobuf" => Some(Self::Alone),
            _ => None,
        }
    }
}

/// Whether bytes are all of what they are the first ones of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    /// They are.
    Yes,
    /// More bytes follow that were not kept.
    No,
}

enum TextKind {
    Json,
    Form,
    Text,
    /// The peer does not say what it is.
    Unknown,
}

fn is_json(essence: &str) -> bool {
    matches!(essence, "application/json" | "text/json" | "application/reports+json")
        || essence.ends_with("+json")
}

/// Whether a media type is one of text, although its name may not say so.
fn is_text(essence: &str) -> bool {
    const TEXT: [&str; 16] = [
        "application/ecmascript",
        "application/graphql",
        "application/javascript",
        "application/json-seq",
        "application/jsonl",
        "application/jwt",
        "application/ndjson",
        "application/sql",
        "application/toml",
        "application/x-javascript",
        "application/x-ndjson",
        "application/x-sh",
        "application/x-yaml",
        "application/xml",
        "application/yaml",
        "message/http",
    ];
    essence.starts_with("text/")
        || essence.ends_with("+xml")
        || essence.ends_with("+yaml")
        || TEXT.contains(&essence)
}

/// Whether bytes of an unknown type are text: UTF-8 without characters that no text has.
fn is_readable(data: &[u8], text: &str) -> bool {
    let is_cut_character = |text: &str| text.len() <= data.len() && data.len() - text.len() < 4;
    let is_utf8 = str::from_utf8(data).is_ok() || (!text.contains('\u{fffd}') && is_cut_character(text));
    is_utf8 && !text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{c}' | '\u{1b}'))
}

#[cfg(test)]
mod tests;
