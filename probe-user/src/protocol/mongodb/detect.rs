//! Whether a connection uses MongoDB's protocol.

use super::header::MongoHeader;
use crate::event::{Direction, Role};
use crate::protocol::{Detect, Input, Prefix};

/// The most starts of calls that are tried at a time.
const MAX_STARTS: usize = 16;

/// The header of a message and what follows it suffice, also in the middle.
pub(super) fn detect(prefix: &Prefix<'_>) -> Detect {
    if prefix.hints.alpn.is_some() {
        return Detect::No;
    }
    let sides = [(Direction::Transmit, prefix.transmit), (Direction::Receive, prefix.receive)];
    let mut all = Detect::No;
    for (from, input) in sides {
        let is_client = prefix.hints.role.map(|role| (role == Role::Client) == (from == Direction::Transmit));
        let found = match (prefix.hints.from_start, input.data.is_empty()) {
            (true, true) => Detect::NeedMore,
            (true, false) => starts_message(input.data, is_client),
            (false, _) => middle(input, is_client),
        };
        match found {
            Detect::Yes => return Detect::Yes,
            // Servers do not send anything before they are asked.
            Detect::No if prefix.hints.from_start => return Detect::No,
            Detect::NeedMore => all = Detect::NeedMore,
            Detect::No => {}
        }
    }
    all
}

/// Whether a call of a direction begins with a message.
fn middle(input: Input<'_>, is_client: Option<bool>) -> Detect {
    let starts = input.call_starts().take(MAX_STARTS);
    starts.fold(Detect::No, |all, start| {
        match (all, starts_message(input.data.get(start..).unwrap_or_default(), is_client)) {
            (Detect::Yes, _) | (_, Detect::Yes) => Detect::Yes,
            (Detect::NeedMore, _) | (_, Detect::NeedMore) => Detect::NeedMore,
            (Detect::No, Detect::No) => Detect::No,
        }
    })
}

/// Whether bytes begin with a message of the client or of the server.
pub(super) fn starts_message(data: &[u8], is_client: Option<bool>) -> Detect {
    let found = MongoHeader::detect(data);
    let is_request = MongoHeader::read(data).map(|header| header.response_to == 0);
    match (is_request, is_client) {
        (Some(is_request), Some(is_client)) if is_request != is_client => Detect::No,
        _ => found,
    }
}
