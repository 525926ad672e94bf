//! One direction of a stream: a request or a response that is being transferred.

use jiff::Timestamp;

use super::fields::{self, Lookup};
use super::hpack::HeaderList;
use super::tunnel::{Connect, DataPart};
use crate::event::{Direction, FieldValue, Role};
use crate::protocol::grpc::UnnamedBody;
use crate::protocol::http::body::BodyContent;
use crate::protocol::http::head::error_of;
use crate::protocol::{Message, MessageKind, Messages, RpcCall, http};

const LONG_LIST: &str = "header list longer than 64 KiB in a frame, or 256 KiB in all";

/// A header list, with the frames that it came in.
#[derive(Debug)]
pub(super) struct FieldBlock {
    /// None if it was lost.
    pub list: Option<HeaderList>,
    /// Whether it ends the stream.
    pub ends_stream: bool,
    /// When the first and the last byte were transferred.
    pub first: Timestamp,
    pub last: Timestamp,
    /// The length of the frames.
    pub length: u64,
    /// How many of these bytes are missing.
    pub missing: u64,
    /// Whether it was passed over because it is too long.
    pub is_too_long: bool,
}

/// A request or a response that is not complete.
#[derive(Clone, Debug)]
pub(super) struct Half {
    message: Message,
    sender: Role,
    head: Head,
    /// The value of Content-Length.
    content_length: Option<u64>,
    content: BodyContent,
    /// What it asks for, if it is a request with the method CONNECT.
    connect: Option<Connect>,
    /// The approximate memory that the message takes without its body.
    head_bytes: usize,
    /// Whether its header list is too long to be shown as a whole.
    is_list_too_long: bool,
}

/// The header list at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    /// It is to come.
    Expected,
    /// It came, but what it is depends on what follows: it may be an interim response.
    Unsure,
    /// It came, or it was lost.
    Past,
}

impl Half {
    pub(super) fn new(
        protocol: &'static str,
        sender: Role,
        from: Direction,
        id: u32,
        time: Timestamp,
    ) -> Self {
        let kind = match sender {
            Role::Client => MessageKind::Request,
            Role::Server => MessageKind::Response,
        };
        let mut message = Message::new(protocol, kind, from, time);
        message.id = Some(id.into());
        message.fields.push((&http::VERSION, FieldValue::Text("2".to_owned())));
        Self {
            message,
            sender,
            head: Head::Expected,
            content_length: None,
            content: BodyContent::Opaque,
            connect: None,
            head_bytes: 0,
            is_list_too_long: false,
        }
    }

    /// The approximate memory that it takes.
    pub(super) fn held_bytes(&self) -> usize {
        self.head_bytes + self.message.body().0.len() + self.content.held_bytes()
    }

    pub(super) fn may_lack(&self) -> bool {
        self.message.partial.may_lack
    }

    /// Whether it has all that its Content-Length announces.
    pub(super) fn has_whole_body(&self) -> bool {
        let partial = &self.message.partial;
        let is_whole = partial.missing == 0 && !partial.may_lack && !partial.lacks_start;
        is_whole && self.message.body_length > 0 && self.content_length == Some(self.message.body_length)
    }

    pub(super) fn message(&self) -> &Message {
        &self.message
    }

    /// Sets the call that it answers.
    pub(super) fn set_call(&mut self, call: RpcCall) {
        self.message.call = Some(call);
    }

    pub(super) fn connect(&self) -> Option<&Connect> {
        self.connect.as_ref()
    }

    /// Whether it is a response that agrees to a request.
    pub(super) fn is_success(&self) -> bool {
        let status = self.message.field(&http::STATUS);
        matches!(status, Some(FieldValue::Number(200..300))) && self.sender == Role::Server
    }

    fn add_length(&mut self, length: usize) {
        self.message.length = self.message.length.saturating_add(length as u64);
    }

    /// Adds a header list: the head, an interim response, or trailers.
    pub(super) fn block(&mut self, block: &FieldBlock, out: &mut Messages) {
        self.add_block(block, out);
        self.head_bytes = self.message.size().saturating_sub(self.message.body().0.len());
    }

    fn add_block(&mut self, block: &FieldBlock, out: &mut Messages) {
        self.message.length = self.message.length.saturating_add(block.length);
        self.message.partial.missing = self.message.partial.missing.saturating_add(block.missing);
        self.message.last = block.last;
        let shown = block.list.as_ref().and_then(fields::is_head);
        let has_body = self.message.body_length > 0;
        let is_head = match (self.head, shown) {
            // This may be a head or trailers.
            (Head::Expected, None) if block.list.is_some() && block.ends_stream => {
                return self.miss_head(out);
            }
            (Head::Expected, shown) => shown != Some(false),
            // Of two lists that do not end the stream, the first one was an interim response.
            (Head::Unsure, Some(true)) => true,
            (Head::Unsure, _) => !block.ends_stream && !has_body,
            (Head::Past, _) => false,
        };
        if is_head {
            self.begin(block);
            return;
        }
        if self.head == Head::Expected {
            // These are trailers.
            self.miss_head(out);
        }
        self.head = Head::Past;
        let field = match self.sender {
            Role::Client => &http::REQUEST_TRAILERS,
            Role::Server => &http::RESPONSE_TRAILERS,
        };
        self.message.fields.retain(|(has, _)| *has != field);
        let trailers = block
            .list
            .as_ref()
            .map_or(FieldValue::Unknown, |list| FieldValue::Headers(fields::headers(list, 0)));
        self.message.fields.push((field, trailers));
        self.status(block.list.as_ref());
    }

    fn begin(&mut self, block: &FieldBlock) {
        let status = block.list.as_ref().map_or(Lookup::Unknown, |list| fields::pseudo(list, ":status"));
        let is_interim =
            matches!(status, Lookup::Value(status) if status.len() == 3 && status.starts_with('1'));
        if self.sender == Role::Server && is_interim && !block.ends_stream {
            return;
        }
        let may_be_interim = self.sender == Role::Server && status == Lookup::Unknown && !block.ends_stream;
        self.head = if may_be_interim { Head::Unsure } else { Head::Past };
        self.message.first = block.first;
        self.message.fields.truncate(1);
        let list = block.list.as_ref();
        match self.sender {
            Role::Client => fields::add_request(&mut self.message, list),
            Role::Server => fields::add_response(&mut self.message, list),
        }
        self.message.partial.lacks_start |= list.is_none();
        if block.is_too_long || list.is_some_and(|list| list.is_cut) {
            self.is_list_too_long = true;
        }
        let Some(list) = list else { return };
        self.content_length = match fields::lookup(list, "content-length") {
            Lookup::Value(length) => length.parse().ok(),
            Lookup::Unknown | Lookup::Absent => None,
        };
        self.content = self.content_of(list);
        self.connect = fields::connect(list).filter(|_| self.sender == Role::Client);
        if block.ends_stream {
            self.status(Some(list));
        }
    }

    fn content_of(&self, list: &HeaderList) -> BodyContent {
        let is_unnamed = fields::lookup(list, "content-type") == Lookup::Unknown;
        if !is_unnamed || !self.message.encodings.is_empty() {
            return BodyContent::of(&self.message);
        }
        let is_call = self.message.field(&http::RPC_SYSTEM).is_some();
        BodyContent::Unnamed(Box::new(if is_call { UnnamedBody::of_call() } else { UnnamedBody::unclear() }))
    }

    /// Handles that the head was not captured.
    pub(super) fn miss_head(&mut self, out: &mut Messages) {
        self.message.partial.lacks_start = true;
        self.head = Head::Past;
        match self.sender {
            Role::Client => fields::add_request(&mut self.message, None),
            Role::Server => fields::add_response(&mut self.message, None),
        }
        self.lose_bytes(out);
    }

    /// Adds the status of a call from the list that ends the stream.
    fn status(&mut self, list: Option<&HeaderList>) {
        if self.sender == Role::Client {
            return;
        }
        match list {
            Some(list) => {
                if self.content.is_unnamed_call() {
                    fields::add_rpc_system_of_trailers(&mut self.message, list);
                }
                fields::add_rpc_status(&mut self.message, list);
            }
            None if self.message.field(&http::RPC_SYSTEM).is_some() => {
                self.message.fields.push((&http::RPC_STATUS, FieldValue::Unknown));
            }
            None => {}
        }
    }

    /// Adds bytes of the body that one call transferred.
    pub(super) fn data(&mut self, part: DataPart<'_>, out: &mut Messages) {
        self.before_body(out);
        self.add_length(part.data.len());
        self.content.data(&mut self.message, part.data, part.time, out);
        if part.ends_frame {
            self.content.end_frame(out);
        }
    }

    /// Adds bytes of a DATA frame that are no part of the body.
    pub(super) fn overhead(&mut self, bytes: usize, time: Timestamp, out: &mut Messages) {
        self.before_body(out);
        self.add_length(bytes);
        self.message.last = time;
    }

    /// Handles missing bytes of the body, whose number is known.
    pub(super) fn data_gap(&mut self, missing: u64, out: &mut Messages) {
        self.before_body(out);
        self.message.length = self.message.length.saturating_add(missing);
        self.content.gap(&mut self.message, missing, out);
    }

    fn before_body(&mut self, out: &mut Messages) {
        if self.head == Head::Expected {
            self.miss_head(out);
        }
        self.head = Head::Past;
    }

    /// Handles a gap that may contain a part of it.
    pub(super) fn lose_bytes(&mut self, out: &mut Messages) {
        self.content.uncertain_gap(&mut self.message, out);
    }

    /// Gives it up to make room.
    pub(super) fn evict(mut self, role: Option<Role>, out: &mut Messages) {
        self.message.is_evicted = true;
        self.break_off(None, role, out);
    }

    /// Sets when the last byte so far was transferred.
    pub(super) fn set_last(&mut self, time: Timestamp) {
        self.message.last = time;
    }

    /// Adds the message, because it is complete.
    pub(super) fn end(self, role: Option<Role>, out: &mut Messages) {
        self.finish(End::Complete, role, out);
    }

    /// Makes it the response to the request with which the previous protocol ended.
    pub(super) fn answer_before_upgrade(&mut self, request: u64) {
        (self.message.id, self.message.is_before_upgrade) = (Some(request), true);
    }

    /// Adds the request, because it is answered and broken off. RFC 9113 (8.1) allows a server to answer
    /// before it has got the whole request, and to tell the client that the rest is not needed.
    pub(super) fn abandon(mut self, error: Option<FieldValue>, role: Option<Role>, out: &mut Messages) {
        self.message.is_abandoned = true;
        self.break_off(error, role, out);
    }

    /// Adds the message, because no more of it comes. `error` is the reason if it was broken off.
    pub(super) fn break_off(self, error: Option<FieldValue>, role: Option<Role>, out: &mut Messages) {
        self.finish(End::BrokenOff(error), role, out);
    }

    fn finish(mut self, end: End, role: Option<Role>, out: &mut Messages) {
        let is_complete = matches!(end, End::Complete);
        let length = self.content_length.filter(|_| is_complete);
        // Content-Length shows whether a gap contained a part of it.
        let missing = length.and_then(|length| length.checked_sub(self.message.body_length));
        if let Some(missing) = missing.filter(|_| self.message.partial.may_lack) {
            self.message.add_body_gap(missing);
            self.message.partial.may_lack = false;
        }
        if self.sender == Role::Client && self.content.is_unnamed_call() {
            fields::add_rpc_method(&mut self.message);
        }
        self.content.end(&mut self.message, out);
        let message = &mut self.message;
        message.partial.lacks_end |= !is_complete && !message.is_abandoned;
        let (size, violations) = match self.sender {
            Role::Client => (&http::REQUEST_BODY_SIZE, &http::REQUEST_VIOLATIONS),
            Role::Server => (&http::RESPONSE_BODY_SIZE, &http::RESPONSE_VIOLATIONS),
        };
        let has = message.body_length;
        let is_known = !message.partial.may_lack;
        message.fields.push((size, if is_known { FieldValue::Number(has) } else { FieldValue::Unknown }));
        // A response to HEAD has a length, but no body.
        let other = length.filter(|length| is_known && has > 0 && has != *length);
        let other = other.map(|length| format!("the body has {has} bytes, but Content-Length says {length}"));
        let too_long = self.is_list_too_long.then(|| LONG_LIST.to_owned());
        let found: Vec<String> = too_long.into_iter().chain(other).collect();
        if !found.is_empty() {
            message.fields.push((violations, FieldValue::List(found)));
        }
        let error = match end {
            End::BrokenOff(error) => error,
            End::Complete if self.sender == Role::Server => error_of(message, role),
            End::Complete => None,
        };
        message.fields.extend(error.map(|error| (&http::ERROR_TYPE, error)));
        out.push(self.message);
    }
}

/// How a message ends.
enum End {
    Complete,
    BrokenOff(Option<FieldValue>),
}
