//! HTTP/1.0 and HTTP/1.1: RFC 9110 and RFC 9112.
//!
//! Owns the decoder of one connection. Messages are read as they are: a message whose end is unclear to
//! recipients (request smuggling) is never joined with what follows it. Requests are numbered, and a response
//! gets the number of its request only if no loss of bytes makes that doubtful ([`pairing`]).

mod body;
mod decoder;
mod fields;
mod framing;
mod head;
mod pairing;

use super::http::{FIELDS, overview};
use super::{Detect, Prefix, Protocol};
use decoder::{Http1Decoder, detect_in_call};

/// HTTP/1.
pub(super) const HTTP1: Protocol = Protocol {
    name: "http1",
    help: "HTTP/1.0 and HTTP/1.1",
    ports: &[80, 443, 8000, 8080, 8443],
    has_exchanges: true,
    fields: FIELDS,
    overview,
    detect,
    open: |hints| Box::new(Http1Decoder::new(hints)),
};

/// A complete start line is unmistakable. The name that was negotiated does not suffice, because a connection
/// may have switched to another protocol before it was joined.
fn detect(prefix: &Prefix<'_>) -> Detect {
    let names = ["http/1.1", "http/1.0"];
    if prefix.hints.alpn.as_deref().is_some_and(|name| !names.contains(&name)) {
        return Detect::No;
    }
    let mut sides = [Detect::No; 2];
    for (detected, side) in sides.iter_mut().zip(prefix.sides()) {
        let starts = side.call_starts().filter(|_| !prefix.hints.from_start);
        *detected = match prefix.hints.from_start {
            true if side.data.is_empty() => Detect::NeedMore,
            true => head::detect_start(side.data),
            false => starts.map(|start| detect_in_call(side, start)).fold(Detect::No, likelier),
        };
    }
    let [one, other] = sides;
    // The first bytes of both directions have to fit.
    if prefix.hints.from_start && sides.contains(&Detect::No) && !sides.contains(&Detect::Yes) {
        return Detect::No;
    }
    likelier(one, other)
}

fn likelier(one: Detect, other: Detect) -> Detect {
    match (one, other) {
        (Detect::Yes, _) | (_, Detect::Yes) => Detect::Yes,
        (Detect::NeedMore, _) | (_, Detect::NeedMore) => Detect::NeedMore,
        (Detect::No, Detect::No) => Detect::No,
    }
}

#[cfg(test)]
mod tests;
