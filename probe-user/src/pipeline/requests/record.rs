//! Exchanges and messages → the bodies of records.

use std::borrow::Cow;

use super::super::exchange::Exchange;
use super::RequestSettings;
use crate::event::{
    Field, FieldKind, MessageBody, Overview, Request, RequestSide, Role, StreamMessage, UnpairedReason,
};
use crate::protocol::content::{Content, ContentEnd, Schema, Whole, decode};
use crate::protocol::{Message, MessageKind, NamedBody, Protocol, RpcCall, named_body};

/// The request and the response of an exchange, as far as they were seen.
type Sides = (Option<Box<Message>>, Option<Box<Message>>);

/// Why an exchange is reported.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReportReason {
    /// Why one of its messages is alone.
    pub(super) unpaired: Option<UnpairedReason>,
    /// Why the connection ends, if that is why the exchange does.
    pub(super) ending: Option<UnpairedReason>,
    /// Whether all bytes of the connection were seen.
    pub(super) is_gapless: bool,
}

/// The record of an exchange.
pub(super) fn request(
    connection: u64,
    (mut request, response): Sides,
    ReportReason { unpaired, ending, is_gapless }: ReportReason,
    protocols: &[&'static Protocol],
    settings: &RequestSettings,
) -> Box<Request> {
    let mut answered_early = false;
    if let (Some(request), Some(response)) = (&mut request, &response) {
        let has_ended = !response.partial.lacks_end;
        let is_closed = ending == Some(UnpairedReason::Closed) && is_gapless;
        // RFC 9112 (9.5): a client that sees such a response stops sending, and closes the connection.
        let stops = is_closed && request.partial.lacks_end && !request.is_evicted;
        answered_early = has_ended && (request.is_abandoned || stops);
        if answered_early {
            request.partial.lacks_end = false;
        }
    }
    let both = || request.iter().chain(&response);
    let protocol = both().next().map_or("", |message| message.protocol);
    let exchange = both().find_map(|message| message.key()).map(|key| format!("{connection}{key}"));
    let entry = protocols.iter().find(|entry| entry.name == protocol);
    let overview = entry
        .map_or_else(Overview::default, |entry| (entry.overview)(request.as_deref(), response.as_deref()));
    let overview = settings.redaction.overview(overview);
    let is_cut = both().any(|message| message.partial.lacks_end && message.partial.missing == 0);
    let is_evicted = both().any(|message| message.is_evicted);
    let cut_off = if is_evicted { Some(UnpairedReason::Evicted) } else { ending.filter(|_| is_cut) };
    let asked = request.as_ref().and_then(|request| request.call.clone());
    // The response may have begun before its request was decoded.
    let answer = asked.map(|call| RpcCall { sender: Role::Server, ..call });
    let response = response.map(|mut response| {
        response.call = response.call.take().or(answer);
        response
    });
    let side = |message: Option<Box<Message>>| message.map(|message| side(*message, settings));
    let (request, response) = (side(request), side(response));
    Box::new(Request {
        protocol,
        exchange,
        overview,
        request,
        response,
        unpaired,
        cut_off,
        open_for: None,
        answered_early,
        role: None,
    })
}

/// The record of a message that is a part of an exchange.
pub(super) fn stream_message(
    connection: u64,
    number: Option<u64>,
    message: Message,
    protocols: &[&'static Protocol],
    settings: &RequestSettings,
) -> Box<StreamMessage> {
    let protocol = message.protocol;
    let exchange = message.key().map(|key| format!("{connection}{key}"));
    let entry = protocols.iter().find(|entry| entry.name == protocol);
    let overview = entry.map_or_else(Overview::default, |entry| (entry.overview)(Some(&message), None));
    let shown = if overview.protocol.is_empty() { protocol.into() } else { overview.protocol };
    Box::new(StreamMessage {
        protocol,
        shown,
        exchange,
        number,
        role: None,
        message: side(message, settings),
    })
}

/// The messages of an exchange, and why one of them is alone. None for a message that is a part of one.
pub(super) fn sides(exchange: Exchange) -> Result<(Sides, Option<UnpairedReason>), Box<Message>> {
    match exchange {
        Exchange::Complete { request, response } => Ok(((Some(request), Some(response)), None)),
        Exchange::Unpaired { message, reason } => Ok((
            match message.kind {
                MessageKind::Response => (None, Some(message)),
                _ => (Some(message), None),
            },
            Some(reason),
        )),
        Exchange::Event(message) => Err(message),
    }
}

fn side(message: Message, settings: &RequestSettings) -> RequestSide {
    let Message { direction, first, last, length, partial, .. } = message;
    let body = settings.body.and_then(|limit| body(&message, limit, settings.schema.as_ref()));
    let is_shown = |field: &Field| settings.headers || field.kind != FieldKind::Headers;
    let fields = message.fields.into_iter().filter(|(field, _)| is_shown(field));
    let fields = fields.map(|(field, value)| match settings.redaction.value(field, &value) {
        Cow::Owned(redacted) => (field, redacted),
        Cow::Borrowed(_) => (field, value),
    });
    let fields = fields.collect();
    RequestSide { direction, first, last, length, partial, fields, body }
}

/// The first bytes of a body, with its encodings undone.
fn body(message: &Message, limit: usize, schema: Option<&Schema>) -> Option<MessageBody> {
    if message.body_length == 0 {
        return None;
    }
    let kept = message.body().0;
    let whole = if kept.len() as u64 == message.body_length { Whole::Yes } else { Whole::No };
    let Content { data, end } = decode(&message.encodings, &kept, whole, limit);
    let mut is_cut = match end {
        ContentEnd::Whole => false,
        ContentEnd::UnknownEncoding(_) => (data.len() as u64) < message.body_length,
        _ => true,
    };
    let (encodings, problem) = match end {
        ContentEnd::Whole | ContentEnd::Cut | ContentEnd::Limit => (Vec::new(), None),
        ContentEnd::ExpandsTooMuch => {
            (Vec::new(), Some("it expands too much to be decoded further".to_owned()))
        }
        ContentEnd::Damaged(name) => (Vec::new(), Some(format!("what follows is no valid {name}"))),
        ContentEnd::UnknownEncoding(names) => (names.split(", ").map(str::to_owned).collect(), None),
    };
    let whole = if is_cut { Whole::No } else { Whole::Yes };
    let named = schema.filter(|_| encodings.is_empty() && problem.is_none());
    let named =
        named.and_then(|schema| named_body(schema, message, message.call.as_ref(), (&data, whole), limit));
    let (named, problem) = match named {
        None => (None, problem),
        Some(Ok(NamedBody { messages, is_whole })) => {
            is_cut |= !is_whole;
            (Some(messages), None)
        }
        Some(Err(why)) => (None, Some(why)),
    };
    Some(MessageBody {
        data,
        media_type: message.media_type.clone(),
        is_cut,
        in_messages: false,
        encodings,
        named,
        problem,
    })
}
