//! The messages that decoders produce from a connection's bytes.
//!
//! Owns the shape of messages, and to which of several conversations on one connection a message belongs.

use std::fmt;

use jiff::Timestamp;

use super::RpcCall;
pub use crate::event::Partial;
use crate::event::{Direction, Field, FieldValue, HeaderField, Plaintext};

/// The role of a message in its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// A request, answered by the response with the same key.
    Request,
    /// A response to the request with the same key.
    Response,
    /// A message without a counterpart. If it has an id, it is a part of the exchange with that id: an event
    /// of a response, or a message of a stream.
    Event,
}

/// A message of a protocol.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
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
    /// Whether the id is one of the previous protocol: it answers the request with which an upgrade began.
    pub is_before_upgrade: bool,
    /// The values of its fields, each with its entry in the protocol's table.
    pub fields: Vec<(&'static Field, FieldValue)>,
    /// The media type of the body with its parameters, as the peer gave it.
    pub media_type: Option<String>,
    /// How the body is encoded (`gzip`), in the order in which the encodings were applied.
    pub encodings: Vec<String>,
    /// The call that it belongs to, if it may have a body in protocol buffers.
    pub call: Option<RpcCall>,
    /// The first bytes of the body, encoded as they were transferred.
    body: Vec<u8>,
    /// The length of the whole body in bytes.
    pub body_length: u64,
    /// When its first byte was transferred: at the beginning of the call that sent it, or at the return of
    /// the one that received it.
    pub first: Timestamp,
    /// The same of its last byte.
    pub last: Timestamp,
    /// The number of bytes that it occupies in the stream.
    pub length: u64,
    /// What it lacks.
    pub partial: Partial,
    /// Whether its sender has broken it off because it was answered: it has no end that could be missing.
    pub is_abandoned: bool,
    /// Whether it is a request that asks for no response.
    pub is_one_way: bool,
    /// Whether it lacks its end because the decoder has given it up to make room.
    pub is_evicted: bool,
    scope: ConversationPath,
}

/// The number of a conversation within the enclosing one, and how many protocols were used before the current
/// one.
type ConversationNumber = (u64, u32);

/// The position of a conversation within the conversations of a connection. Nearly all messages are of the
/// outermost one, so that nothing is allocated for them.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct ConversationPath {
    outermost: Option<ConversationNumber>,
    /// Those within it, the outer ones first.
    inner: Vec<ConversationNumber>,
}

impl fmt::Debug for ConversationPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

impl ConversationPath {
    fn len(&self) -> usize {
        usize::from(self.outermost.is_some()) + self.inner.len()
    }

    fn entries(&self) -> impl Iterator<Item = &ConversationNumber> {
        self.outermost.iter().chain(&self.inner)
    }

    fn last_mut(&mut self) -> Option<&mut ConversationNumber> {
        self.inner.last_mut().or(self.outermost.as_mut())
    }

    fn push(&mut self, entry: ConversationNumber) {
        match self.outermost {
            None => self.outermost = Some(entry),
            Some(_) => self.inner.push(entry),
        }
    }

    fn pop(&mut self) {
        if self.inner.pop().is_none() {
            self.outermost = None;
        }
    }
}

/// The key that pairs a request with its response on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeKey {
    scope: ConversationPath,
    id: u64,
}

impl fmt::Display for ExchangeKey {
    /// What distinguishes the exchange from the others of its connection: `.3`; `+1.3` after an upgrade;
    /// `.5.3` within the conversation 5.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, (number, upgrades)) in self.scope.entries().enumerate() {
            // The outermost conversation has no number.
            if depth > 0 {
                write!(f, ".{number}")?;
            }
            if *upgrades > 0 {
                write!(f, "+{upgrades}")?;
            }
        }
        write!(f, ".{}", self.id)
    }
}

impl Message {
    /// A message without any contents, transferred by one call.
    pub fn new(protocol: &'static str, kind: MessageKind, direction: Direction, time: Timestamp) -> Self {
        Self {
            protocol,
            kind,
            direction,
            id: None,
            is_before_upgrade: false,
            fields: Vec::new(),
            media_type: None,
            encodings: Vec::new(),
            call: None,
            body: Vec::new(),
            body_length: 0,
            first: time,
            last: time,
            length: 0,
            partial: Partial::default(),
            is_abandoned: false,
            is_one_way: false,
            is_evicted: false,
            scope: ConversationPath::default(),
        }
    }

    /// Makes it a part of the exchange of another message.
    pub fn join_exchange_of(&mut self, other: &Self) {
        (self.id, self.is_before_upgrade) = (other.id, other.is_before_upgrade);
    }

    /// The bytes of the body that were kept, from its first byte.
    pub fn body(&self) -> Plaintext<'_> {
        Plaintext::of(&self.body)
    }

    /// Adds bytes of the body that follow the previous ones. At most `limit` bytes in total are kept.
    pub fn add_body(&mut self, data: &[u8], limit: usize) {
        // Bytes that follow dropped ones are dropped too, because a body is never joined over a gap.
        if self.body.len() as u64 == self.body_length && !self.partial.may_lack {
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

    /// The value of a field that is a text.
    pub fn text(&self, field: &Field) -> Option<&str> {
        match self.field(field)? {
            FieldValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a field that is a number.
    pub fn number(&self, field: &Field) -> Option<u64> {
        match self.field(field)? {
            FieldValue::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The key that pairs it with its counterpart on its connection.
    pub fn key(&self) -> Option<ExchangeKey> {
        Some(ExchangeKey { scope: self.scope.clone(), id: self.id? })
    }

    /// The approximate memory that it takes.
    pub fn size(&self) -> usize {
        let header = |header: &HeaderField| {
            size_of::<HeaderField>()
                + header.name.as_ref().map_or(0, String::len)
                + header.value.as_ref().map_or(0, String::len)
        };
        let value = |value: &FieldValue| match value {
            FieldValue::Text(text) => text.len(),
            FieldValue::Statement(statement) => statement.size(),
            FieldValue::List(list) => list.iter().map(|text| text.len() + size_of::<String>()).sum(),
            FieldValue::Headers(list) => list.iter().map(header).sum(),
            FieldValue::Number(_) | FieldValue::Unknown => 0,
        };
        let fields = self.fields.iter().map(|(_, has)| value(has) + size_of::<(&Field, FieldValue)>());
        let call = self.call.as_ref().map_or(0, |call| call.method.len());
        size_of::<Self>() + call + self.body.len() + fields.sum::<usize>()
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
    scope: ConversationPath,
    body_limit: usize,
}

impl Messages {
    /// The most levels of nested conversations. A peer that nests bodies deeper than this is hostile.
    const MAX_DEPTH: usize = 8;

    /// Creates an empty list. `body_limit` bytes of each body are kept.
    pub fn new(body_limit: usize) -> Self {
        Self { list: Vec::new(), scope: ConversationPath::default(), body_limit }
    }

    /// The number of bytes of each body that are kept.
    pub fn body_limit(&self) -> usize {
        self.body_limit
    }

    /// Adds a message of the conversation that is being decoded.
    pub fn push(&mut self, message: Message) {
        let mut scope = self.scope.clone();
        if message.is_before_upgrade
            && let Some((_, protocols)) = scope.last_mut()
        {
            *protocols = protocols.saturating_sub(1);
        }
        self.list.push(Message { scope, ..message });
    }

    /// Removes and returns the messages in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Message> + '_ {
        self.list.drain(..)
    }

    /// Removes the messages without counterparts.
    pub(crate) fn remove_events(&mut self) {
        self.list.retain(|message| message.kind != MessageKind::Event);
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
