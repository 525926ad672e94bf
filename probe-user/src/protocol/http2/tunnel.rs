//! A stream that is a connection of its own after a CONNECT: in another protocol (RFC 8441), which is
//! WebSocket, or to another host.

use jiff::Timestamp;

use crate::event::{Direction, FieldValue};
use crate::protocol::{ALL, CallMark, Chunk, Conversation, Gap, GapCause, Hints, Message, Messages, http};

/// What a request with the method CONNECT asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Connect {
    /// A connection to another host.
    Host,
    /// A connection in this protocol.
    Protocol(String),
}

/// A part of a DATA frame's body, which one call transferred.
#[derive(Clone, Copy)]
pub(super) struct DataPart<'a> {
    pub data: &'a [u8],
    pub time: Timestamp,
    /// Whether it begins the frame.
    pub starts_frame: bool,
    /// Whether it ends the frame, apart from padding.
    pub ends_frame: bool,
}

/// The bytes of such a stream.
#[derive(Debug)]
pub(super) struct Tunnel {
    conversation: Conversation,
    /// The number of frames.
    frames: u64,
    /// The number of bytes by direction.
    transmitted: u64,
    received: u64,
}

impl Tunnel {
    /// The tunnel in the stream `id` that `response` has agreed to.
    pub(super) fn new(connect: &Connect, hints: &Hints, id: u32, response: &Message) -> Self {
        let extensions = match response.field(&http::RESPONSE_HEADERS) {
            Some(FieldValue::Headers(list)) => {
                let values: Vec<&str> = http::head::values(list, "sec-websocket-extensions").collect();
                let is_sure = list.iter().all(|header| header.name.is_some());
                (is_sure || !values.is_empty()).then(|| values.join(", "))
            }
            _ => None,
        };
        // What was negotiated is about the connection around it.
        let hints = Hints { alpn: None, server_name: None, extensions, from_start: true, ..hints.clone() };
        let named = match connect {
            Connect::Protocol(name) => ALL.iter().find(|protocol| protocol.name == name.as_str()),
            Connect::Host => None,
        };
        let conversation = match named {
            Some(protocol) => Conversation::of(protocol, hints),
            None => Conversation::new(ALL, hints),
        };
        Self { conversation: conversation.within(id.into()), frames: 0, transmitted: 0, received: 0 }
    }

    /// The approximate memory that it takes.
    pub(super) fn held_bytes(&self) -> usize {
        size_of::<Self>().saturating_add(self.conversation.held_bytes())
    }

    /// Adds bytes.
    pub(super) fn data(&mut self, from: Direction, part: DataPart<'_>, out: &mut Messages) {
        let DataPart { data, time, starts_frame, .. } = part;
        if data.is_empty() {
            return;
        }
        self.frames = self.frames.saturating_add(starts_frame.into());
        let offset = self.advance(from, data.len() as u64);
        // A frame is to the stream what a call is to the connection.
        let mark = CallMark { offset, call: self.frames, time, starts_call: starts_frame };
        self.conversation.data(from, &Chunk { offset, data, mark }, out);
    }

    /// Handles missing bytes. `missing` is None if it is unknown how many there are.
    pub(super) fn gap(&mut self, from: Direction, missing: Option<u64>, out: &mut Messages) {
        let length = missing.unwrap_or(1);
        if length > 0 {
            let offset = self.advance(from, length);
            self.conversation.gap(from, Gap { offset, length, cause: GapCause::Lost }, out);
        }
    }

    /// Adds copies of the messages that are not complete.
    pub(super) fn under_way(&self, out: &mut Messages) {
        self.conversation.under_way(out);
    }

    /// Handles its end.
    pub(super) fn end(&mut self, out: &mut Messages) {
        self.conversation.end(out);
    }

    /// The number of bytes before the next `length` ones.
    fn advance(&mut self, from: Direction, length: u64) -> u64 {
        let offset = match from {
            Direction::Transmit => &mut self.transmitted,
            Direction::Receive => &mut self.received,
        };
        let before = *offset;
        *offset = offset.saturating_add(length);
        before
    }
}
