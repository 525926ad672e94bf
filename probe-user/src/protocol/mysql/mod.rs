//! MySQL and MariaDB: their protocol of clients and servers.
//!
//! Owns the decoder of one connection. A command is an exchange with its response, whose end depends on the
//! command ([`response`]). Whether the end of the columns has a packet of its own is known by what both ends
//! agreed on, or by the packets themselves. Commands have no numbers: after a loss, pairs are only formed
//! again when nothing is outstanding ([`IdleProof`]).

mod client;
mod exchange;
mod packet;
mod response;
mod server;

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::database::idle::IdleProof;
use super::database::sql::{Backslash, Dialect, Family};
use super::database::{FIELDS, SYSTEM, overview};
use super::{Decoder, Desync, Detect, Gap, GapCause, Hints, Input, Messages, Prefix, Protocol, Step};
use crate::event::{Direction, Role};

use exchange::{ExchangeCut, OpenExchange, PreparedText};
use packet::{Capabilities, PacketRest};

/// The name in messages.
const NAME: &str = "mysql";
/// The most commands that wait for their responses.
const MAX_PENDING: usize = 256;
/// The most statements of a connection.
const MAX_STATEMENTS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// The most starts of calls in one direction that are tried at a time.
const MAX_STARTS: usize = 16;

/// MySQL.
pub(super) const MYSQL: Protocol = Protocol {
    name: NAME,
    help: "MySQL and MariaDB",
    ports: &[3306],
    has_exchanges: true,
    fields: FIELDS,
    overview: |request, response| {
        let system = request.or(response).and_then(|message| message.text(&SYSTEM));
        overview(if system == Some("mariadb") { "MariaDB" } else { "MySQL" }, request, response)
    },
    detect,
    open: |hints| Box::new(MySqlDecoder::new(hints)),
};

fn detect(prefix: &Prefix<'_>) -> Detect {
    if prefix.hints.alpn.is_some() {
        return Detect::No;
    }
    let [sent, received] = prefix.sides();
    let ways: &[(Input<'_>, Input<'_>)] = match prefix.hints.role {
        Some(Role::Client) => &[(sent, received)],
        Some(Role::Server) => &[(received, sent)],
        None => &[(sent, received), (received, sent)],
    };
    let one = if prefix.hints.from_start { detect_start } else { detect_joined };
    ways.iter().map(|(client, server)| one(*client, *server)).fold(Detect::No, likelier)
}

fn likelier(one: Detect, other: Detect) -> Detect {
    match (one, other) {
        (Detect::Yes, _) | (_, Detect::Yes) => Detect::Yes,
        (Detect::NeedMore, _) | (_, Detect::NeedMore) => Detect::NeedMore,
        (Detect::No, Detect::No) => Detect::No,
    }
}

/// The server begins with a greeting. Within TLS, the client does, because the greeting came before.
fn detect_start(client: Input<'_>, server: Input<'_>) -> Detect {
    match (client.data, server.data) {
        ([], []) => Detect::NeedMore,
        ([], server) => packet::greets(server),
        (client, _) => packet::logs_in(client),
    }
}

fn detect_joined(client: Input<'_>, server: Input<'_>) -> Detect {
    let best = |input: Input<'_>, of: fn(&[u8]) -> Detect| {
        let starts = input.call_starts().take(MAX_STARTS);
        starts.filter_map(|start| input.data.get(start..)).map(of).fold(Detect::No, likelier)
    };
    match (best(client, packet::asks), best(server, packet::answers)) {
        (Detect::Yes, Detect::Yes) => Detect::Yes,
        (Detect::No, _) | (_, Detect::No) if !client.data.is_empty() && !server.data.is_empty() => Detect::No,
        (Detect::No, Detect::No) => Detect::No,
        _ => Detect::NeedMore,
    }
}

/// Decodes a connection.
#[derive(Debug)]
struct MySqlDecoder {
    /// The direction in which the client sends.
    client: Option<Direction>,
    frontend: Side,
    backend: Side,
    /// What both ends agreed on. None if that was not seen.
    capabilities: Option<Capabilities>,
    /// Whether there is no packet between columns and rows.
    deprecates_eof: Option<bool>,
    /// The name of the system, if it is known.
    system: Option<&'static str>,
    namespace: Option<String>,
    /// The commands that were not answered, in order.
    pending: VecDeque<OpenExchange>,
    /// The number of the last exchange.
    last_number: u64,
    /// None as long as each response belongs to the first pending command.
    lost: Option<IdleProof>,
    /// Whether the client has sent a command before it had the response to the previous one.
    pipelines: bool,
    /// What the client sent for the next execution.
    long_data: Option<OpenExchange>,
    statements: LruCache<u32, Arc<PreparedText>>,
    last_statement: Option<u32>,
    dialect: Dialect,
}

/// The state of one direction.
#[derive(Debug)]
struct Side {
    reading: Reading,
    /// Whether the next packet continues the previous one, which was as long as one can be.
    continues: bool,
}

#[derive(Debug)]
enum Reading {
    /// Before the first packet.
    Start,
    Packet,
    /// The part of a packet that does not matter.
    Rest(PacketRest),
    /// Bytes are missing, so the beginning of a message is searched for.
    Search,
}

impl Side {
    fn exchange(&self) -> Option<u64> {
        match &self.reading {
            Reading::Rest(rest) => rest.exchange,
            _ => None,
        }
    }
}

impl MySqlDecoder {
    fn new(hints: &Hints) -> Self {
        let side = || Side {
            reading: if hints.from_start { Reading::Start } else { Reading::Search },
            continues: false,
        };
        let mut decoder = Self {
            client: None,
            frontend: side(),
            backend: side(),
            capabilities: None,
            deprecates_eof: None,
            system: None,
            namespace: None,
            pending: VecDeque::new(),
            last_number: 0,
            lost: (!hints.from_start).then(IdleProof::default),
            pipelines: false,
            long_data: None,
            statements: LruCache::new(MAX_STATEMENTS),
            last_statement: None,
            dialect: Dialect { family: Family::MySql, backslash: Backslash::Escapes },
        };
        decoder.learn(hints);
        decoder
    }

    /// The direction in which the client sends, as far as its bytes show it.
    fn find_client(&mut self, from: Direction, input: Input<'_>) -> Option<Direction> {
        if self.client.is_none() {
            let is_start = matches!(self.frontend.reading, Reading::Start);
            let begins = |of: fn(&[u8]) -> Detect| {
                let starts = input.call_starts().filter(|_| !is_start).chain(is_start.then_some(0));
                starts.filter_map(|start| input.data.get(start..)).any(|data| of(data) == Detect::Yes)
            };
            let is_client = begins(if is_start { packet::logs_in } else { packet::asks });
            let is_server = is_start && begins(packet::greets);
            self.client = match (is_client, is_server) {
                (true, _) => Some(from),
                (false, true) => Some(from.other()),
                (false, false) => None,
            };
        }
        self.client
    }

    fn pending_mut(&mut self, number: u64) -> Option<&mut OpenExchange> {
        self.pending.iter_mut().find(|exchange| exchange.number == number)
    }

    /// Adds the exchanges that are complete, in order.
    fn emit_complete(&mut self, out: &mut Messages) {
        let under_way = [self.frontend.exchange(), self.backend.exchange()];
        while let Some(exchange) = self
            .pending
            .pop_front_if(|exchange| exchange.is_answered() && !under_way.contains(&Some(exchange.number)))
        {
            self.finish(&exchange);
            let last = exchange.response.as_ref().map_or(exchange.request.last, |response| response.last);
            if let Some(proof) = self.lost.as_mut().filter(|_| exchange.response.is_some()) {
                proof.response(last);
            }
            exchange.emit(ExchangeCut::Nothing, out);
        }
    }

    /// Handles that it is no longer known what is outstanding: what waits is unpaired.
    fn lose(&mut self, out: &mut Messages) {
        for exchange in std::mem::take(&mut self.pending) {
            exchange.emit(ExchangeCut::Unpaired, out);
        }
        self.long_data = None;
        let before = if self.pipelines { IdleProof::of_pipelining_client() } else { IdleProof::default() };
        self.lost.get_or_insert(before).restart();
        (self.backend.reading, self.backend.continues) = (Reading::Search, false);
        // A USE may be among what was missed, and a statement may have another number.
        self.namespace = None;
        self.statements.clear();
        self.last_statement = None;
    }
}

impl Decoder for MySqlDecoder {
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
        let is_client = self.client == Some(from);
        let side = if is_client { &mut self.frontend } else { &mut self.backend };
        let mut left = gap.length;
        if let Reading::Rest(rest) = &mut side.reading
            && gap.cause != GapCause::Desync
        {
            // The packet's length shows how much of the gap belongs to it.
            let (exchange, missing) = (rest.exchange, left.min(rest.left));
            rest.left -= missing;
            left -= missing;
            if rest.left == 0 {
                side.reading = Reading::Packet;
            }
            let open = exchange.and_then(|number| self.pending_mut(number));
            if let Some(message) = open.and_then(|open| open.message_mut(from)) {
                message.length = message.length.saturating_add(missing);
                message.partial.missing = message.partial.missing.saturating_add(missing);
            }
            self.emit_complete(out);
        }
        if left > 0 {
            self.lose(out);
            if is_client || self.client.is_none() {
                (self.frontend.reading, self.frontend.continues) = (Reading::Search, false);
            }
        }
    }

    fn end(&mut self, out: &mut Messages) {
        let cut = if self.lost.is_none() { ExchangeCut::End } else { ExchangeCut::Unpaired };
        for exchange in std::mem::take(&mut self.pending) {
            exchange.emit(cut, out);
        }
    }

    fn role(&self) -> Option<Role> {
        Some(match self.client? {
            Direction::Transmit => Role::Client,
            Direction::Receive => Role::Server,
        })
    }

    fn under_way(&self, out: &mut Messages) {
        if self.lost.is_none() {
            for exchange in &self.pending {
                exchange.clone().emit(ExchangeCut::End, out);
            }
        }
    }

    fn held_bytes(&self) -> usize {
        let statements = self.statements.iter().map(|(_, prepared)| prepared.size());
        self.pending.iter().map(OpenExchange::size).chain(statements).sum()
    }
}

#[cfg(test)]
mod tests;
