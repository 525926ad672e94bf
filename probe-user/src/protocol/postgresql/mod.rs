//! PostgreSQL, protocol 3: what clients ask of servers, and of poolers that speak as servers do.
//!
//! Owns the decoder of one connection. A query is an exchange, and so is each execution of a prepared
//! statement with the messages that prepare it ([`unit`]). Responses come in the order of the messages that
//! ask for them, so that pairing is following both directions in step ([`server`]). After a loss, pairs are
//! only formed again when nothing is outstanding ([`IdleProof`]).

mod chain;
mod client;
mod names;
mod reply;
mod server;
mod unit;
mod wire;

use std::collections::VecDeque;

use jiff::Timestamp;

use super::database::idle::IdleProof;
use super::database::sql::{Backslash, Dialect, Family};
use super::database::{FIELDS, overview};
use super::{Decoder, Desync, Detect, Gap, GapCause, Hints, Input, Message, Messages, Protocol, Step};
use crate::event::{Direction, Role};

use names::Names;
use reply::ServerReply;
use unit::{AwaitedAnswer, Unit};
use wire::Rest;

/// The name in messages.
const NAME: &str = "postgresql";
/// The most messages of a client that wait for their answers.
const MAX_ENTRIES: usize = 1024;
/// The most bytes of requests that wait for their answers.
const MAX_HELD: usize = 2 << 20;

/// PostgreSQL.
pub(super) const POSTGRESQL: Protocol = Protocol {
    name: NAME,
    help: "PostgreSQL, also through poolers",
    ports: &[5432, 6432],
    has_exchanges: true,
    fields: FIELDS,
    overview: |request, response| overview("PostgreSQL", request, response),
    detect: chain::detect,
    open: |hints| Box::new(PostgreSqlDecoder::new(hints)),
};

/// Decodes a connection.
#[derive(Debug)]
struct PostgreSqlDecoder {
    /// The direction in which the client sends.
    client: Option<Direction>,
    frontend: Side,
    backend: Side,
    /// The exchanges that are not complete, in the order of their requests.
    units: VecDeque<Unit>,
    /// The messages of the client that wait for an answer.
    entries: VecDeque<AwaitedAnswer>,
    /// The number of the unit that more messages may belong to.
    open_unit: Option<u64>,
    /// The number of the last unit.
    last_unit: u64,
    discards: Discards,
    pairing: Pairing,
    /// Whether the client has asked for more before it had the answer.
    pipelines: bool,
    names: Names,
    namespace: Option<String>,
    dialect: Dialect,
}

/// What the server discards of what the client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Discards {
    Nothing,
    /// All, up to the next Sync: there was an error at this time.
    Rest(Timestamp),
    /// Sync and Flush, while it reads what is copied to it.
    SyncsOfCopy,
}

#[derive(Debug)]
enum Pairing {
    /// The next answer is that to the first entry.
    Exact,
    /// It is not known what is outstanding.
    Lost(Box<LostPairing>),
}

/// What is known while it is not known which answers are outstanding.
#[derive(Debug, Default)]
struct LostPairing {
    proof: IdleProof,
    /// When the messages began that the next Sync ends.
    group: Option<Timestamp>,
    /// The response that is being read, and what it says.
    response: Option<(Message, ServerReply)>,
}

/// The state of one direction.
#[derive(Debug)]
struct Side {
    reading: Reading,
}

impl Side {
    /// The unit that a message belongs to of which more bytes follow.
    fn unit(&self) -> Option<u64> {
        match &self.reading {
            Reading::Rest(rest) => rest.unit,
            _ => None,
        }
    }
}

#[derive(Debug)]
enum Reading {
    /// What has no tag: the first messages of a client, and the answer to the question for encryption.
    Startup,
    Message,
    /// The part of a message that does not matter.
    Rest(Rest),
    /// Bytes are missing, so the beginning of a message is searched for.
    Search,
}

impl PostgreSqlDecoder {
    fn new(hints: &Hints) -> Self {
        let side = |reading| Side { reading };
        let (frontend, backend, pairing) = if hints.from_start {
            (side(Reading::Startup), side(Reading::Message), Pairing::Exact)
        } else {
            (side(Reading::Search), side(Reading::Search), Pairing::Lost(Box::default()))
        };
        let mut decoder = Self {
            client: None,
            frontend,
            backend,
            units: VecDeque::new(),
            entries: VecDeque::new(),
            open_unit: None,
            last_unit: 0,
            discards: Discards::Nothing,
            pairing,
            pipelines: false,
            names: Names::default(),
            namespace: None,
            dialect: Dialect { family: Family::PostgreSql, backslash: Backslash::IsText },
        };
        decoder.learn(hints);
        decoder
    }

    /// The direction in which the client sends, as far as its bytes show it.
    fn find_client(&mut self, from: Direction, input: Input<'_>) -> Option<Direction> {
        if self.client.is_none() {
            let is_client = match self.frontend.reading {
                Reading::Startup => wire::startup(input.data) == Detect::Yes,
                _ => input.call_starts().any(|start| chain::asks(input, start) == Detect::Yes),
            };
            let is_server =
                matches!(self.backend.reading, Reading::Search) && chain::ready_end(input).is_some();
            self.client = match (is_client, is_server) {
                (true, _) => Some(from),
                (false, true) => Some(from.other()),
                (false, false) => None,
            };
        }
        self.client
    }

    fn is_exact(&self) -> bool {
        matches!(self.pairing, Pairing::Exact)
    }

    fn unit_mut(&mut self, number: u64) -> Option<&mut Unit> {
        let first = self.units.front()?.number;
        self.units.get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// Adds the exchanges whose requests and responses are complete, in order.
    fn emit_complete(&mut self, out: &mut Messages) {
        let is_exact = self.is_exact();
        let under_way = [&self.frontend, &self.backend].map(Side::unit);
        while let Some(unit) = self.units.pop_front_if(|unit| {
            let is_answered = unit.outstanding == 0 || !is_exact;
            unit.is_closed && is_answered && !under_way.contains(&Some(unit.number))
        }) {
            unit.emit(&self.describe(), unit::Cut::Nothing, out);
        }
    }

    /// What the requests of the connection have in common.
    fn describe(&self) -> unit::UnitContext<'_> {
        unit::UnitContext { namespace: self.namespace.as_deref() }
    }

    /// Handles that it is no longer known what is outstanding: what waits is unpaired.
    fn lose(&mut self, out: &mut Messages) {
        self.flush(unit::Cut::Unpaired, out);
        for entry in std::mem::take(&mut self.entries) {
            self.names.doubt(entry.effect);
        }
        (self.open_unit, self.discards) = (None, Discards::Nothing);
        match &mut self.pairing {
            Pairing::Lost(lost) => {
                lost.proof.restart();
                lost.group = None;
                if let Some((response, reply)) = lost.response.take() {
                    reply.finish(response, unit::Cut::Unpaired, out);
                }
            }
            Pairing::Exact => {
                let pipelines = self.pipelines;
                let proof = if pipelines { IdleProof::of_pipelining_client() } else { IdleProof::default() };
                self.pairing = Pairing::Lost(Box::new(LostPairing { proof, ..LostPairing::default() }));
            }
        }
    }

    /// Adds what is there of all exchanges.
    fn flush(&mut self, cut: unit::Cut, out: &mut Messages) {
        for unit in std::mem::take(&mut self.units) {
            unit.emit(&self.describe(), cut, out);
        }
    }
}

impl Decoder for PostgreSqlDecoder {
    fn learn(&mut self, hints: &Hints) {
        self.client = self.client.or(match hints.role {
            Some(Role::Client) => Some(Direction::Transmit),
            Some(Role::Server) => Some(Direction::Receive),
            None => None,
        });
    }

    fn data(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        match self.find_client(from, input) {
            Some(client) if client == from => self.read_client(input, out),
            Some(_) => self.read_server(input, out),
            None => Ok(Step::More),
        }
    }

    fn gap(&mut self, from: Direction, gap: Gap, out: &mut Messages) {
        let Some(client) = self.client else {
            (self.frontend.reading, self.backend.reading) = (Reading::Search, Reading::Search);
            return self.lose(out);
        };
        let side = if from == client { &mut self.frontend } else { &mut self.backend };
        let mut left = gap.length;
        if let Reading::Rest(rest) = &mut side.reading
            && gap.cause != GapCause::Desync
        {
            // The message's length shows how much of the gap belongs to it.
            let (unit, missing) = (rest.unit, left.min(rest.left));
            rest.left -= missing;
            left -= missing;
            if rest.left == 0 {
                side.reading = Reading::Message;
            }
            if let Some(unit) = unit.and_then(|number| self.unit_mut(number)) {
                unit.add_gap(
                    if from == client { wire::Sender::Client } else { wire::Sender::Server },
                    missing,
                );
            } else if let Pairing::Lost(lost) = &mut self.pairing
                && from != client
                && let Some((response, _)) = &mut lost.response
            {
                response.partial.missing = response.partial.missing.saturating_add(missing);
                response.length = response.length.saturating_add(missing);
            }
            self.emit_complete(out);
        }
        if left > 0 {
            let side = if from == client { &mut self.frontend } else { &mut self.backend };
            side.reading = Reading::Search;
            self.lose(out);
            if from == client {
                // What was missed may have prepared other statements under these names.
                self.names = Names::default();
            }
        }
    }

    fn end(&mut self, out: &mut Messages) {
        let cut = if self.is_exact() { unit::Cut::End } else { unit::Cut::Unpaired };
        self.flush(cut, out);
        if let Pairing::Lost(lost) = &mut self.pairing
            && let Some((response, reply)) = lost.response.take()
        {
            reply.finish(response, unit::Cut::Unpaired, out);
        }
    }

    fn role(&self) -> Option<Role> {
        Some(match self.client? {
            Direction::Transmit => Role::Client,
            Direction::Receive => Role::Server,
        })
    }

    fn under_way(&self, out: &mut Messages) {
        if self.is_exact() {
            for unit in &self.units {
                unit.clone().emit(&self.describe(), unit::Cut::End, out);
            }
        }
    }

    fn held_bytes(&self) -> usize {
        self.units.iter().map(Unit::size).sum::<usize>()
            + self.entries.iter().map(AwaitedAnswer::size).sum::<usize>()
            + self.names.size()
    }
}

#[cfg(test)]
mod tests;
