//! Whether a connection uses Kafka's protocol, and where a message begins.

use super::header::{self, HeaderRead, RequestHeader};
use crate::event::{Direction, Role};
use crate::protocol::{Detect, Input, Prefix};

/// The most starts of calls that are tried at a time.
const MAX_STARTS: usize = 16;
/// The longest first request of a connection. Clients begin with what versions there are, or with metadata.
const MAX_FIRST: u64 = 1 << 20;

/// A request at the beginning of a connection suffices. In the middle, one that has the name of its client,
/// and that ends where the call does or another one begins.
pub(super) fn detect(prefix: &Prefix<'_>) -> Detect {
    if prefix.hints.alpn.is_some() {
        return Detect::No;
    }
    let sides = [(Direction::Transmit, prefix.transmit), (Direction::Receive, prefix.receive)];
    let mut all = Detect::No;
    for (from, input) in sides {
        let is_client = prefix.hints.role.map(|role| (role == Role::Client) == (from == Direction::Transmit));
        let other = if from == Direction::Transmit { prefix.receive } else { prefix.transmit };
        let found = match (prefix.hints.from_start, is_client) {
            (_, Some(false)) => Detect::No,
            (true, _) => start(input, other),
            (false, _) => middle(input),
        };
        match found {
            Detect::Yes => return Detect::Yes,
            Detect::NeedMore => all = Detect::NeedMore,
            Detect::No => {}
        }
    }
    all
}

/// Whether a connection begins with a request. Brokers do not send anything before it.
fn start(client: Input<'_>, server: Input<'_>) -> Detect {
    if client.data.is_empty() {
        return if server.data.is_empty() { Detect::NeedMore } else { Detect::No };
    }
    if server.time(0).is_some_and(|answered| client.time(0).is_some_and(|asked| answered < asked)) {
        return Detect::No;
    }
    match RequestHeader::read(client.data) {
        HeaderRead::Yes(header) if header.length > MAX_FIRST || !header.is_known() => Detect::No,
        HeaderRead::Yes(header) if header.client.is_none_or(str::is_empty) => ends_well(client.data, &header),
        HeaderRead::Yes(_) => Detect::Yes,
        HeaderRead::No => Detect::No,
        HeaderRead::More => Detect::NeedMore,
    }
}

/// Whether a call of a direction begins with a request.
fn middle(input: Input<'_>) -> Detect {
    let starts = input.call_starts().take(MAX_STARTS);
    starts.fold(Detect::No, |all, start| {
        match (all, starts_request(input.data.get(start..).unwrap_or_default())) {
            (Detect::Yes, _) | (_, Detect::Yes) => Detect::Yes,
            (Detect::NeedMore, _) | (_, Detect::NeedMore) => Detect::NeedMore,
            (Detect::No, Detect::No) => Detect::No,
        }
    })
}

/// Whether bytes begin with a request that names its client.
pub(super) fn starts_request(data: &[u8]) -> Detect {
    let header = match RequestHeader::read(data) {
        HeaderRead::Yes(header) => header,
        HeaderRead::No => return Detect::No,
        HeaderRead::More => return Detect::NeedMore,
    };
    if header.client.is_none_or(str::is_empty) || !header.is_known() {
        return Detect::No;
    }
    ends_well(data, &header)
}

/// Whether a request is there as a whole, and has the parts of its kind.
fn ends_well(data: &[u8], header: &RequestHeader<'_>) -> Detect {
    let length = usize::try_from(header.length).unwrap_or(usize::MAX);
    let Some(mut rest) = data.get(header.taken..length) else {
        // A large one may be records, which take long to come.
        return if header.length > MAX_FIRST { Detect::No } else { Detect::NeedMore };
    };
    let mut walk = header.walk();
    while !rest.is_empty() {
        match walk.next(rest) {
            Ok(Some((taken, _))) => rest = rest.get(taken..).unwrap_or_default(),
            Ok(None) | Err(_) => return Detect::No,
        }
    }
    if walk.ends_here() || walk.is_rest() { Detect::Yes } else { Detect::No }
}

/// Whether bytes begin with a response to a request that waits for one.
pub(super) fn starts_response(data: &[u8], is_pending: impl Fn(u32) -> bool) -> Detect {
    match header::response(data) {
        HeaderRead::Yes((_, number)) if is_pending(number) => Detect::Yes,
        HeaderRead::Yes(_) | HeaderRead::No => Detect::No,
        HeaderRead::More => Detect::NeedMore,
    }
}
