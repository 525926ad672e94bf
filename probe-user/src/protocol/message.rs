//! The messages that decoders produce from a connection's bytes.
//!
//! Owns the shape of messages, and to which of several conversations on one connection a message belongs. The
//! meaning of a field is defined once, in the table of its protocol, and everything that writes messages
//! iterates over that table.

use std::fmt;

use jiff::Timestamp;

use crate::event::{Direction, Plaintext};

/// A field that messages of a protocol can have.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// The path in a JSON record, nested at the dots: `http.request.method`.
    pub path: &'static str,
    /// The meaning, for the schema and the documentation.
    pub help: &'static str,
    /// The type of its values.
    pub kind: FieldKind,
}

/// The type of a field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// [`FieldValue::Text`]
    Text,
    /// [`FieldValue::Number`]
    Number,
    /// [`FieldValue::List`]
    List,
}

/// The value of a field. Its `Debug` prints no text, because that is other people's traffic.
#[derive(Clone, PartialEq, Eq)]
pub enum FieldValue {
    /// Text.
    Text(String),
    /// A number.
    Number(u64),
    /// Texts in order.
    List(Vec<String>),
    /// The message has the field, but its value depends on bytes that were not captured.
    Unknown,
}

impl fmt::Debug for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Number(number) => write!(f, "Number({number})"),
            Self::List(list) => write!(f, "List({} texts)", list.len()),
            Self::Unknown => f.write_str("Unknown"),
        }
    }
}

/// The role of a message in its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// A request, answered by the response with the same key.
    Request,
    /// A response to the request with the same key.
    Response,
    /// A message without a counterpart.
    Event,
}

/// The parts that a message lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Partial {
    /// The number of missing bytes within it, as far as it can be determined.
    pub missing: u64,
    /// Whether its beginning was not captured.
    pub lacks_start: bool,
    /// Whether its end was not captured.
    pub lacks_end: bool,
}

impl Partial {
    /// Whether nothing is missing.
    pub fn is_whole(self) -> bool {
        self == Self::default()
    }
}

/// A message of a protocol.
#[derive(Clone)]
pub struct Message {
    /// The name of the protocol.
    pub protocol: &'static str,
    /// The role in its exchange.
    pub kind: MessageKind,
    /// The direction of its bytes.
    pub direction: Direction,
    /// The id that pairs it with its counterpart within its conversation. None if a gap makes that unclear.
    pub id: Option<u64>,
    /// The values of its fields, each with its entry in the protocol's table.
    pub fields: Vec<(&'static Field, FieldValue)>,
    /// The first bytes of the body.
    body: Vec<u8>,
    /// The length of the whole body in bytes.
    pub body_length: u64,
    /// When the call that transferred its first byte returned.
    pub first: Timestamp,
    /// When the call that transferred its last byte returned.
    pub last: Timestamp,
    /// The number of bytes that it occupies in the stream.
    pub length: u64,
    /// What it lacks.
    pub partial: Partial,
    scope: Scope,
}

/// The position of a conversation within the conversations of a connection, outermost first. Each entry is
/// the number within the enclosing conversation, and how many protocols were used before the current one.
type Scope = Vec<(u64, u32)>;

/// The key that pairs a request with its response on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeKey {
    scope: Scope,
    id: u64,
}

impl Message {
    /// A message without any contents, transferred by one call.
    pub fn new(protocol: &'static str, kind: MessageKind, direction: Direction, time: Timestamp) -> Self {
        Self {
            protocol,
            kind,
            direction,
            id: None,
            fields: Vec::new(),
            body: Vec::new(),
            body_length: 0,
            first: time,
            last: time,
            length: 0,
            partial: Partial::default(),
            scope: Scope::new(),
        }
    }

    /// The bytes of the body that were kept, from its first byte.
    pub fn body(&self) -> Plaintext<'_> {
        Plaintext::of(&self.body)
    }

    /// Adds bytes of the body that follow the previous ones. At most `limit` bytes in total are kept.
    pub fn add_body(&mut self, data: &[u8], limit: usize) {
        // Bytes that follow dropped ones are dropped too, because a body is never joined over a gap.
        if self.body.len() as u64 == self.body_length {
            let room = limit.saturating_sub(self.body.len()).min(data.len());
            self.body.extend_from_slice(data.get(..room).unwrap_or_default());
        }
        self.body_length = self.body_length.saturating_add(data.len() as u64);
    }

    /// Adds a gap to the body.
    pub fn add_body_gap(&mut self, missing: u64) {
        self.body_length = self.body_length.saturating_add(missing);
        self.partial.missing = self.partial.missing.saturating_add(missing);
    }

    /// The value of a field.
    pub fn field(&self, field: &Field) -> Option<&FieldValue> {
        self.fields.iter().find(|(has, _)| has.path == field.path).map(|(_, value)| value)
    }

    /// The key that pairs it with its counterpart on its connection.
    pub fn key(&self) -> Option<ExchangeKey> {
        Some(ExchangeKey { scope: self.scope.clone(), id: self.id? })
    }

    /// The approximate memory that it takes.
    pub fn size(&self) -> usize {
        let value = |value: &FieldValue| match value {
            FieldValue::Text(text) => text.len(),
            FieldValue::List(list) => list.iter().map(|text| text.len() + size_of::<String>()).sum(),
            FieldValue::Number(_) | FieldValue::Unknown => 0,
        };
        let fields = self.fields.iter().map(|(_, has)| value(has) + size_of::<(&Field, FieldValue)>());
        size_of::<Self>() + self.body.len() + fields.sum::<usize>()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, kind, direction, id, fields, body_length, partial, scope, .. } = self;
        let fields: Vec<_> = fields.iter().map(|(field, value)| (field.path, value)).collect();
        f.debug_struct("Message")
            .field("protocol", protocol)
            .field("kind", kind)
            .field("direction", direction)
            .field("scope", scope)
            .field("id", id)
            .field("fields", &fields)
            .field("body_length", body_length)
            .field("partial", partial)
            .finish_non_exhaustive()
    }
}

/// The messages that decoders have produced.
#[derive(Debug)]
pub struct Messages {
    list: Vec<Message>,
    scope: Scope,
    body_limit: usize,
}

impl Messages {
    /// The most levels of nested conversations. A peer that nests bodies deeper than this is hostile.
    const MAX_DEPTH: usize = 8;

    /// Creates an empty list. `body_limit` bytes of each body are kept.
    pub fn new(body_limit: usize) -> Self {
        Self { list: Vec::new(), scope: Scope::new(), body_limit }
    }

    /// The number of bytes of each body that are kept.
    pub fn body_limit(&self) -> usize {
        self.body_limit
    }

    /// Adds a message of the conversation that is being decoded.
    pub fn push(&mut self, message: Message) {
        self.list.push(Message { scope: self.scope.clone(), ..message });
    }

    /// Removes and returns the messages in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Message> + '_ {
        self.list.drain(..)
    }

    /// How many messages were added since they were last removed.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Enters a conversation within the current one: messages that are added until [`leave`](Self::leave)
    /// belong to it. Fails if conversations are nested too deep.
    pub(super) fn enter(&mut self, number: u64, protocols: u32) -> Result<(), TooDeep> {
        if self.scope.len() >= Self::MAX_DEPTH {
            return Err(TooDeep);
        }
        self.scope.push((number, protocols));
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.scope.pop();
    }

    /// Switches the current conversation to its next protocol, in which message ids start over.
    pub(super) fn next_protocol(&mut self) {
        if let Some((_, protocols)) = self.scope.last_mut() {
            *protocols = protocols.saturating_add(1);
        }
    }
}

/// Conversations are nested too deep.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooDeep;
