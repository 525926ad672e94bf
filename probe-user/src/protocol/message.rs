//! What a decoder makes of a connection's bytes.
//!
//! Owns the shape of messages, and which of several conversations on one connection a message is of. What a
//! field means is said once, in its protocol's table: whatever writes messages walks that.

use std::fmt;

use jiff::Timestamp;

use crate::event::{Direction, Plaintext};

/// A field that messages of a protocol can have.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// Its place in a JSON record, nested at the dots: `http.request.method`.
    pub path: &'static str,
    /// What it says, for the schema and the documentation.
    pub help: &'static str,
    /// What its values are.
    pub kind: FieldKind,
}

/// What the values of a field are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// [`FieldValue::Text`]
    Text,
    /// [`FieldValue::Number`]
    Number,
    /// [`FieldValue::List`]
    List,
}

/// The value of a field. Its `Debug` prints no text: that is somebody else's traffic.
#[derive(Clone, PartialEq, Eq)]
pub enum FieldValue {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
    /// Texts, in their order.
    List(Vec<String>),
    /// The message has the field, but what it says depends on bytes that were not seen.
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

/// What a message is in its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// It asks; a response with its key answers.
    Request,
    /// It answers the request with its key.
    Response,
    /// It stands alone.
    Event,
}

/// What is missing of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Partial {
    /// Bytes that are missing within it, as far as their number can be said.
    pub missing: u64,
    /// Whether it began before what was seen.
    pub lacks_start: bool,
    /// Whether its end was not seen.
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
    /// Name of the protocol.
    pub protocol: &'static str,
    /// What it is in its exchange.
    pub kind: MessageKind,
    /// Which way it went.
    pub direction: Direction,
    /// What pairs it with its counterpart within its conversation; none when a gap leaves that open.
    pub id: Option<u64>,
    /// What it says; each field is of the protocol's table.
    pub fields: Vec<(&'static Field, FieldValue)>,
    /// The first bytes of its body.
    body: Vec<u8>,
    /// Bytes of its body in all.
    pub body_length: u64,
    /// When the call returned that moved its first byte.
    pub first: Timestamp,
    /// When the call returned that moved its last byte.
    pub last: Timestamp,
    /// Bytes of the stream that it took.
    pub length: u64,
    /// What is missing of it.
    pub partial: Partial,
    scope: Scope,
}

/// A conversation within the conversations of a connection, the outermost first: its number in the one around
/// it, and how many protocols it spoke before this one.
type Scope = Vec<(u64, u32)>;

/// What pairs a request and its response on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeKey {
    scope: Scope,
    id: u64,
}

impl Message {
    /// One that says nothing yet, of one call.
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

    /// The bytes of its body that are kept, from its first one on.
    pub fn body(&self) -> Plaintext<'_> {
        Plaintext::of(&self.body)
    }

    /// Takes bytes of its body that follow on those before; `limit` of all are kept.
    pub fn add_body(&mut self, data: &[u8], limit: usize) {
        // What follows on bytes that were not kept is not kept either: a body is never joined over a gap.
        if self.body.len() as u64 == self.body_length {
            let room = limit.saturating_sub(self.body.len()).min(data.len());
            self.body.extend_from_slice(data.get(..room).unwrap_or_default());
        }
        self.body_length = self.body_length.saturating_add(data.len() as u64);
    }

    /// Bytes of its body are missing here.
    pub fn add_body_gap(&mut self, missing: u64) {
        self.body_length = self.body_length.saturating_add(missing);
        self.partial.missing = self.partial.missing.saturating_add(missing);
    }

    /// The value of a field.
    pub fn field(&self, field: &Field) -> Option<&FieldValue> {
        self.fields.iter().find(|(has, _)| has.path == field.path).map(|(_, value)| value)
    }

    /// What pairs it with its counterpart on its connection.
    pub fn key(&self) -> Option<ExchangeKey> {
        Some(ExchangeKey { scope: self.scope.clone(), id: self.id? })
    }

    /// Bytes that keeping it takes, about.
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

/// Where decoders put messages.
#[derive(Debug)]
pub struct Messages {
    list: Vec<Message>,
    scope: Scope,
    body_limit: usize,
}

impl Messages {
    /// Conversations within each other, at the most: who nests bodies in bodies is hostile.
    const MAX_DEPTH: usize = 8;

    /// None yet; so many bytes of each body are kept.
    pub fn new(body_limit: usize) -> Self {
        Self { list: Vec::new(), scope: Scope::new(), body_limit }
    }

    /// Bytes of a body that are kept.
    pub fn body_limit(&self) -> usize {
        self.body_limit
    }

    /// Adds a message of the conversation that is decoded now.
    pub fn push(&mut self, message: Message) {
        self.list.push(Message { scope: self.scope.clone(), ..message });
    }

    /// Takes out what was added, in its order.
    pub fn drain(&mut self) -> impl Iterator<Item = Message> + '_ {
        self.list.drain(..)
    }

    /// How many were added since they were taken out.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// What is added next is of a conversation within the present one, up to [`leave`](Self::leave). Says
    /// whether it may be.
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

    /// The present conversation speaks its next protocol: what its messages are called begins anew.
    pub(super) fn next_protocol(&mut self) {
        if let Some((_, protocols)) = self.scope.last_mut() {
            *protocols = protocols.saturating_add(1);
        }
    }
}

/// Conversations are nested too deep.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooDeep;
