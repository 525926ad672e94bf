//! The values of fields, and the schema of objects that are nested at the dots of their paths.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serializer;
use serde::ser::SerializeMap;
use serde_json::{Map, Value, json};

use super::line::{Time, TimeText};
use super::payload_string;
use super::tls::TlsPart;
use crate::event::{
    Direction, Endpoint, Field, FieldKind, FieldValue, HeaderField, IpVersion, Role, SocketEvidence, Tls,
    Transport, UnpairedReason,
};

/// The value of a field.
pub(super) enum Leaf<'a> {
    Null,
    Bool(bool),
    Number(u64),
    Text(Cow<'a, str>),
    Time(Time),
    Field(&'a FieldValue),
    Names(&'a [String]),
    /// A value that is JSON already.
    Json(&'a str),
    JsonList(&'a [String]),
    Tls(&'a Tls),
    Transport(Transport),
    IpVersion(IpVersion),
    Endpoint(&'a Endpoint),
    Direction(Direction),
    Role(Role),
    Evidence(SocketEvidence),
    Reason(UnpairedReason),
}

impl<'a> Leaf<'a> {
    /// The value, or null.
    pub(super) fn or_null<T>(value: Option<T>, leaf: impl FnOnce(T) -> Self) -> Self {
        value.map_or(Self::Null, leaf)
    }

    /// Text that is there.
    pub(super) fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl Leaf<'_> {
    /// Appends the JSON of the value.
    pub(super) fn append(&self, times: &mut TimeText, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let constant = match self {
            Self::Number(value) | Self::Field(FieldValue::Number(value)) => {
                return serde_json::to_writer(out, value);
            }
            Self::Field(FieldValue::Text(text)) => return serde_json::to_writer(out, text),
            Self::Field(FieldValue::Statement(statement)) => {
                return serde_json::to_writer(out, &statement.without_values());
            }
            Self::Field(FieldValue::List(list)) => return serde_json::to_writer(out, list),
            Self::Field(FieldValue::Headers(list)) => {
                return headers(list, &mut serde_json::Serializer::new(out));
            }
            Self::Names(names) => return serde_json::to_writer(out, names),
            Self::Tls(tls) => return serde_json::to_writer(out, &TlsPart::new(tls)),
            Self::Transport(value) => return serde_json::to_writer(out, value),
            Self::IpVersion(value) => return serde_json::to_writer(out, value),
            Self::Endpoint(value) => return serde_json::to_writer(out, value),
            Self::Direction(value) => return serde_json::to_writer(out, value),
            Self::Role(value) => return serde_json::to_writer(out, value),
            Self::Evidence(value) => return serde_json::to_writer(out, value),
            Self::Reason(value) => return serde_json::to_writer(out, value),
            Self::Text(value) if value.len() < LONG_TEXT => return serde_json::to_writer(out, value),
            Self::Text(value) => {
                payload_string::push(value, out);
                return Ok(());
            }
            Self::Json(text) => text,
            Self::JsonList(texts) => {
                out.push(b'[');
                out.extend_from_slice(texts.join(",").as_bytes());
                "]"
            }
            Self::Time(Time(time)) => {
                times.push(*time, out);
                return Ok(());
            }
            Self::Null | Self::Field(FieldValue::Unknown) => "null",
            Self::Bool(true) => "true",
            Self::Bool(false) => "false",
        };
        out.extend_from_slice(constant.as_bytes());
        Ok(())
    }
}

/// Text of this length is a body, and not a name.
const LONG_TEXT: usize = 256;

/// The name of header fields whose own name is unknown. No header field can have it.
const UNKNOWN_NAME: &str = "?";

/// The values of header fields by name, each name once.
fn headers<S: Serializer>(list: &[HeaderField], serializer: S) -> Result<S::Ok, S::Error> {
    let name = |header: &'_ HeaderField| header.name.clone().unwrap_or_else(|| UNKNOWN_NAME.to_owned());
    let mut names: Vec<(String, usize)> = list.iter().enumerate().map(|(at, it)| (name(it), at)).collect();
    // The order of values of one name matters, and stays.
    names.sort();
    let mut map = serializer.serialize_map(None)?;
    for same in names.chunk_by(|one, other| one.0 == other.0) {
        let values: Vec<Option<&str>> =
            same.iter().map(|(_, at)| list.get(*at).and_then(|it| it.value.as_deref())).collect();
        map.serialize_entry(same.first().map_or("", |(name, _)| name), &values)?;
    }
    map.end()
}

fn segment(path: &str) -> &str {
    path.split('.').next().unwrap_or_default()
}

/// A field of an object, for the schema.
pub(super) struct FieldSchema {
    pub(super) path: &'static str,
    pub(super) schema: Value,
    /// Whether it is always there.
    pub(super) is_required: bool,
}

impl FieldSchema {
    /// A field that is always there, of a type that may be null.
    pub(super) fn of<T: JsonSchema>(
        generator: &mut SchemaGenerator,
        path: &'static str,
        meaning: &str,
    ) -> Self {
        let mut schema = generator.subschema_for::<T>().to_value();
        if let Value::Object(keywords) = &mut schema {
            keywords.insert("description".to_owned(), meaning.into());
        }
        Self { path, schema, is_required: true }
    }

    /// The same of a field that may be left out.
    #[must_use]
    pub(super) fn optional(self) -> Self {
        Self { is_required: false, ..self }
    }

    /// A field of a protocol.
    pub(super) fn of_protocol(field: &Field) -> Self {
        let schema = match field.kind {
            FieldKind::Text => json!({ "type": ["string", "null"] }),
            FieldKind::Number => json!({ "type": ["integer", "null"], "minimum": 0 }),
            FieldKind::List => json!({ "type": ["array", "null"], "items": { "type": "string" } }),
            FieldKind::Headers => json!({
                "type": ["object", "null"],
                "additionalProperties": { "type": "array", "items": { "type": ["string", "null"] } },
            }),
        };
        let Value::Object(mut keywords) = schema else { return Self::nothing(field.path) };
        keywords.insert("description".to_owned(), format!("{}; null when it is unknown.", field.help).into());
        Self { path: field.path, schema: keywords.into(), is_required: false }
    }

    fn nothing(path: &'static str) -> Self {
        Self { path, schema: Value::Bool(true), is_required: false }
    }
}

/// The schema of an object with these fields.
pub(super) fn object_schema(meaning: &str, mut fields: Vec<FieldSchema>) -> Schema {
    fields.sort_by_key(|field| field.path);
    fields.dedup_by_key(|field| field.path);
    let mut schema = level_schema(&fields, 0);
    schema.insert("description".to_owned(), meaning.into());
    schema.into()
}

fn level_schema(fields: &[FieldSchema], depth: usize) -> Map<String, Value> {
    let name = |field: &FieldSchema| segment(field.path.get(depth..).unwrap_or_default()).to_owned();
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for fields in fields.chunk_by(|one, other| name(one) == name(other)) {
        let Some(first) = fields.first() else { continue };
        let (name, end) = (name(first), depth + name(first).len());
        if fields.iter().any(|field| field.is_required) {
            required.push(Value::from(name.clone()));
        }
        let schema = if end == first.path.len() {
            first.schema.clone()
        } else {
            Value::Object(level_schema(fields, end + 1))
        };
        properties.insert(name, schema);
    }
    let entries =
        [("type", json!("object")), ("properties", properties.into()), ("required", required.into())];
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
