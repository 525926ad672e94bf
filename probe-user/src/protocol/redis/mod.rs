//! Redis, and what speaks its protocol: Valkey, KeyDB, Dragonfly. RESP2 and RESP3.
//!
//! Owns the decoder of one connection. A command is paired with its reply by counting ([`pairing`]); what the
//! server sends without being asked (messages of channels, MONITOR, invalidations) is an event.

mod command;
mod decoder;
mod detect;
mod pairing;
mod reply;
mod resp;

use super::database::{self, FIELDS, STATUS};
use super::{Message, Protocol};
use crate::event::{Outcome, Overview};

/// Redis.
pub(super) const REDIS: Protocol = Protocol {
    name: "redis",
    help: "Redis and Valkey (RESP2 and RESP3)",
    ports: &[6379, 6380, 26379],
    fields: FIELDS,
    has_exchanges: true,
    overview,
    detect: detect::detect,
    open: |hints| Box::new(decoder::RedisDecoder::new(hints)),
};

fn overview(request: Option<&Message>, response: Option<&Message>) -> Overview {
    let mut overview = database::overview("Redis", request, response);
    // The key is at another node of the cluster.
    if let Some("MOVED" | "ASK") = response.and_then(|response| response.text(&STATUS)) {
        overview.outcome = Outcome::Redirect;
    }
    overview
}

#[cfg(test)]
mod tests;
