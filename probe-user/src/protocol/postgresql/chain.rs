//! Whether bytes are PostgreSQL's, and where a message begins among any.
//!
//! What a client sends at once is a chain of messages up to a Sync or a query. What a server sends ends with
//! a ReadyForQuery, whose six bytes are nearly fixed.

use super::NAME;
use super::wire::{self, HEAD, Sender, startup};
use crate::event::Role;
use crate::protocol::database::sql::begins_statement;
use crate::protocol::{Detect, Input, Prefix};

/// The bytes of a ReadyForQuery.
pub(super) const READY: usize = 6;
/// The most starts of calls in one direction that are tried at a time.
const MAX_STARTS: usize = 16;
/// The longest message that is waited for.
const MAX_MESSAGE: usize = 32 * 1024;
/// The messages that suffice without a Sync, if one of them executes something.
const MIN_CHAIN: usize = 3;
/// Detects the protocol.
pub(super) fn detect(prefix: &Prefix<'_>) -> Detect {
    if prefix.hints.alpn.as_deref().is_some_and(|name| name != NAME) {
        return Detect::No;
    }
    let [sent, received] = prefix.sides();
    let ways: &[(Input<'_>, Input<'_>)] = match prefix.hints.role {
        Some(Role::Client) => &[(sent, received)],
        Some(Role::Server) => &[(received, sent)],
        None => &[(sent, received), (received, sent)],
    };
    let one = if prefix.hints.from_start { detect_start } else { detect_joined };
    let found = ways.iter().map(|(client, server)| one(*client, *server));
    found.fold(Detect::No, |all, found| match (all, found) {
        (Detect::Yes, _) | (_, Detect::Yes) => Detect::Yes,
        (Detect::NeedMore, _) | (_, Detect::NeedMore) => Detect::NeedMore,
        (Detect::No, Detect::No) => Detect::No,
    })
}

fn detect_start(client: Input<'_>, server: Input<'_>) -> Detect {
    // The record of the first request may be late.
    let may_answer = |data: &[u8]| match data {
        [] | [b'N' | b'S' | b'G'] => true,
        data => matches!(data.first(), Some(b'R' | b'E' | b'v')) && wire::head(data, Sender::Server).is_ok(),
    };
    match client.data {
        [] if may_answer(server.data) => Detect::NeedMore,
        [] => Detect::No,
        data => startup(data),
    }
}

fn detect_joined(client: Input<'_>, server: Input<'_>) -> Detect {
    let starts = client.call_starts().take(MAX_STARTS);
    let asked = starts.map(|start| asks(client, start)).fold(Detect::No, |all, found| match (all, found) {
        (Detect::Yes, _) | (_, Detect::Yes) => Detect::Yes,
        (Detect::NeedMore, _) | (_, Detect::NeedMore) => Detect::NeedMore,
        (Detect::No, Detect::No) => Detect::No,
    });
    let answered = is_ready(server.data) || ready_end(server).is_some();
    match (asked, answered) {
        (Detect::Yes, true) => Detect::Yes,
        (Detect::No, false) => Detect::No,
        _ => Detect::NeedMore,
    }
}

/// Whether bytes end with a ReadyForQuery.
fn is_ready(data: &[u8]) -> bool {
    matches!(data.last_chunk::<READY>(), Some([b'Z', 0, 0, 0, 5, b'I' | b'T' | b'E']))
}

/// The first start of a call before which there is a ReadyForQuery. It is the end of a response.
pub(super) fn ready_end(input: Input<'_>) -> Option<usize> {
    input.call_starts().find(|start| input.data.get(..*start).is_some_and(is_ready))
}

/// Whether a call of a client begins here, with whole messages.
pub(super) fn asks(input: Input<'_>, start: usize) -> Detect {
    let mut data = input.data.get(start..).unwrap_or_default();
    let (mut messages, mut executes) = (0, false);
    loop {
        if messages >= MIN_CHAIN && executes {
            return Detect::Yes;
        }
        let head = match wire::head(data, Sender::Client) {
            Err(_) => return Detect::No,
            Ok(head) => head.filter(|head| head.body <= MAX_MESSAGE),
        };
        let Some(head) = head else {
            return if data.len() < HEAD { Detect::NeedMore } else { Detect::No };
        };
        let Some((message, rest)) = data.split_at_checked(HEAD + head.body) else { return Detect::NeedMore };
        let body = message.get(HEAD..).unwrap_or_default();
        match head.tag {
            b'S' => return Detect::Yes,
            b'Q' => return if is_query(body) { Detect::Yes } else { Detect::No },
            b'P' if is_parse(body) => {}
            b'B' if is_bind(body) => {}
            b'D' | b'C' if matches!(body, [b'S' | b'P', name @ .., 0] if !name.contains(&0)) => {}
            b'E' if is_execute(body) => executes = true,
            b'H' => {}
            _ => return Detect::No,
        }
        messages += 1;
        data = rest;
    }
}

fn is_query(body: &[u8]) -> bool {
    let Some((text, [])) = wire::text(body) else { return false };
    begins_statement(text)
}

fn is_parse(body: &[u8]) -> bool {
    let types = wire::text(body).and_then(|(_, rest)| wire::text(rest)).map(|(_, types)| types);
    let Some((count, types)) = types.and_then(|types| types.split_first_chunk::<2>()) else { return false };
    types.len() == 4 * usize::from(u16::from_be_bytes(*count))
}

fn is_bind(body: &[u8]) -> bool {
    let formats = wire::text(body).and_then(|(_, rest)| wire::text(rest)).map(|(_, formats)| formats);
    let Some((count, rest)) = formats.and_then(|formats| formats.split_first_chunk::<2>()) else {
        return false;
    };
    rest.len() >= 2 * usize::from(u16::from_be_bytes(*count)) + 4
}

fn is_execute(body: &[u8]) -> bool {
    wire::text(body).is_some_and(|(_, rows)| rows.len() == 4)
}
