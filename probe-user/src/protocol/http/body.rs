//! The bodies of HTTP messages, and the messages that some of them contain.

use std::borrow::Cow;

use jiff::Timestamp;

use super::{RPC_REQUESTS, RPC_RESPONSES};
use crate::event::FieldValue;
use crate::protocol::grpc::{MessageReader, UnnamedBody};
use crate::protocol::sse::EventStream;
use crate::protocol::{Message, MessageKind, Messages};

/// What the body of a message contains. It is fed with the bytes of the body as they come, without the
/// framing of the transfer.
#[derive(Clone, Debug)]
pub(in crate::protocol) enum BodyContent {
    /// Bytes that are only kept.
    Opaque,
    /// Server-sent events.
    Events(Box<EventStream>),
    /// The messages of a call of gRPC.
    Calls(MessageReader),
    /// The media type is unknown.
    Unnamed(Box<UnnamedBody>),
}

impl BodyContent {
    /// The content of the body of a message whose head is decoded.
    pub(in crate::protocol) fn of(head: &Message) -> Self {
        if !head.encodings.is_empty() {
            return Self::Opaque;
        }
        match (head.kind, essence(head.media_type.as_deref().unwrap_or_default()).as_ref()) {
            (MessageKind::Response, "text/event-stream") => Self::Events(Box::default()),
            _ => MessageReader::of(head).map_or(Self::Opaque, Self::Calls),
        }
    }

    /// Adds bytes to the body of `message`, and the messages within them to `out`.
    pub(in crate::protocol) fn data(
        &mut self,
        message: &mut Message,
        data: &[u8],
        time: Timestamp,
        out: &mut Messages,
    ) {
        message.add_body(data, out.body_limit());
        message.last = time;
        match self {
            Self::Opaque => {}
            Self::Events(events) => events.data(message, data, time, out),
            Self::Calls(messages) => messages.data(message, data, time, out),
            Self::Unnamed(body) => body.data(message, data, time, out),
        }
    }

    /// Handles that what was added last was the end of a frame of the transfer.
    pub(in crate::protocol) fn end_frame(&mut self, out: &mut Messages) {
        if let Self::Unnamed(body) = self {
            body.end_frame(out);
        }
    }

    /// Whether the media type is unknown, and the body is a sequence of messages as calls have it.
    pub(in crate::protocol) fn is_unnamed_call(&self) -> bool {
        matches!(self, Self::Unnamed(body) if body.has_messages())
    }

    /// Adds missing bytes to the body of `message`.
    pub(in crate::protocol) fn gap(&mut self, message: &mut Message, missing: u64, out: &mut Messages) {
        message.add_body_gap(missing);
        match self {
            Self::Opaque => {}
            Self::Events(events) => events.gap(missing, out),
            Self::Calls(messages) => messages.gap(Some(missing), out),
            Self::Unnamed(body) => body.gap(Some(missing), out),
        }
    }

    /// Handles a gap that may contain a part of the body of `message`.
    pub(in crate::protocol) fn uncertain_gap(&mut self, message: &mut Message, out: &mut Messages) {
        message.partial.may_lack = true;
        match self {
            Self::Opaque => {}
            Self::Events(events) => events.gap(0, out),
            Self::Calls(messages) => messages.gap(None, out),
            Self::Unnamed(body) => body.gap(None, out),
        }
    }

    /// Ends the body, complete or not.
    pub(in crate::protocol) fn end(&mut self, message: &mut Message, out: &mut Messages) {
        match self {
            Self::Opaque => {}
            Self::Events(events) => events.end(out),
            Self::Calls(messages) => {
                messages.end(out);
                push_count(message, messages.count());
                messages.add_trailers(message);
            }
            Self::Unnamed(body) => {
                body.end(out);
                if body.has_messages() {
                    push_count(message, body.count());
                }
            }
        }
    }

    /// The approximate memory that it takes beside the message.
    pub(in crate::protocol) fn held_bytes(&self) -> usize {
        match self {
            Self::Opaque | Self::Events(_) => 0,
            Self::Calls(messages) => messages.held_bytes(),
            Self::Unnamed(body) => body.held_bytes(),
        }
    }
}

/// Adds how many messages the body of a message had. None if that is unknown.
fn push_count(message: &mut Message, count: Option<u64>) {
    let field = match message.kind {
        MessageKind::Request => &RPC_REQUESTS,
        MessageKind::Response | MessageKind::Event => &RPC_RESPONSES,
    };
    message.fields.push((field, count.map_or(FieldValue::Unknown, FieldValue::Number)));
}

/// A media type without its parameters, in lower case.
pub(in crate::protocol) fn essence(media_type: &str) -> Cow<'_, str> {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if essence.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(essence.to_ascii_lowercase())
    } else {
        Cow::Borrowed(essence)
    }
}
