//! What the client sends.

use std::sync::Arc;

use jiff::Timestamp;

use super::exchange::{ExchangeCut, MySqlCommand, NamespaceEffect, OpenExchange, PreparedText};
use super::packet::{self, Capabilities, FULL, HEAD, PacketHead, PacketRest};
use super::response::ResponseState;
use super::{MAX_PENDING, MySqlDecoder, Reading};
use crate::event::Direction;
use crate::protocol::database::idle::QueryForm;
use crate::protocol::database::sql::{self, MAX_TEXT, TokenKind, Tokens};
use crate::protocol::{Desync, Detect, Input, Messages, Step};

/// The bytes of a payload that matter: a statement, what precedes it, and whether it is longer.
const WANTED: usize = MAX_TEXT + 8;
/// The execution of the statement that was prepared last.
const LAST_PREPARED: u32 = u32::MAX;

/// The part of a packet that is there.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    first: Timestamp,
    last: Timestamp,
    taken: usize,
}

impl Bounds {
    fn of(input: Input<'_>, taken: usize) -> Self {
        let time = |index| input.time(index).unwrap_or_default();
        Self { first: time(0), last: time(taken.saturating_sub(1)), taken }
    }
}

impl MySqlDecoder {
    pub(super) fn read_client(&mut self, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        match self.frontend.reading {
            Reading::Start => match packet::logs_in(input.data) {
                Detect::No => Err(Desync("no login")),
                Detect::NeedMore => Ok(Step::More),
                Detect::Yes => Ok(self.log_in(input, out)),
            },
            Reading::Packet => self.client_packet(input, out),
            Reading::Rest(rest) => Ok(self.client_rest(rest, input, out)),
            Reading::Search => {
                let starts = input.call_starts();
                let found =
                    starts.map(|start| (start, packet::asks(input.data.get(start..).unwrap_or_default())));
                match { found }.find(|(_, found)| *found != Detect::No) {
                    None => Ok(Step::Skipped(input.data.len())),
                    Some((start, _)) if start > 0 => Ok(Step::Skipped(start)),
                    Some((_, Detect::Yes)) => {
                        self.frontend.reading = Reading::Packet;
                        self.client_packet(input, out)
                    }
                    Some(_) => Ok(Step::More),
                }
            }
        }
    }

    /// Reads what a client logs in with. What authenticates it is passed over.
    fn log_in(&mut self, input: Input<'_>, out: &mut Messages) -> Step {
        let Some(head) = PacketHead::read(input.data) else { return Step::More };
        let Some(payload) = input.data.get(HEAD..HEAD + head.length) else { return Step::More };
        let flags = u64::from(packet::u32_at(payload, 0).unwrap_or(0));
        if head.length == 32 && flags & Capabilities::SSL != 0 {
            let taken = HEAD + head.length;
            return Step::Upgrade { taken, to: None, extensions: None, unanswered: None };
        }
        let extended = match flags & Capabilities::OF_MYSQL {
            0 => u64::from(packet::u32_at(payload, 28).unwrap_or(0)) << 32,
            _ => 0,
        };
        let capabilities = Capabilities(flags | extended);
        self.capabilities = Some(capabilities);
        self.deprecates_eof = Some(capabilities.has(Capabilities::DEPRECATE_EOF));
        if flags & Capabilities::OF_MYSQL == 0 {
            self.system = Some("mariadb");
        }
        if capabilities.has(Capabilities::CONNECT_WITH_DB) {
            self.namespace = database(payload, capabilities);
        }
        let bounds = Bounds::of(input, HEAD + head.length);
        let mut exchange = self.new_exchange(MySqlCommand::Connect, bounds);
        exchange.sequence = head.sequence.wrapping_add(1);
        exchange.add_request(bounds.taken, bounds.last);
        self.pending.push_back(exchange);
        self.frontend.reading = Reading::Packet;
        self.emit_complete(out);
        Step::Taken(bounds.taken)
    }

    fn new_exchange(&mut self, command: MySqlCommand, bounds: Bounds) -> OpenExchange {
        self.last_number += 1;
        let from = self.client.unwrap_or(Direction::Transmit);
        let mut exchange = OpenExchange::new(self.last_number, command, from, bounds.first);
        exchange.is_paired = self.lost.is_none();
        exchange.describe(self.system, self.namespace.as_deref());
        exchange
    }

    fn client_rest(&mut self, mut rest: PacketRest, input: Input<'_>, out: &mut Messages) -> Step {
        let taken = input.data.len().min(usize::try_from(rest.left).unwrap_or(usize::MAX));
        let bounds = Bounds::of(input, taken);
        if let Some(exchange) = rest.exchange.and_then(|number| self.pending_mut(number)) {
            exchange.add_request(taken, bounds.last);
        }
        rest.left -= taken as u64;
        self.frontend.reading = if rest.left > 0 { Reading::Rest(rest) } else { Reading::Packet };
        self.emit_complete(out);
        Step::Taken(taken)
    }

    fn client_packet(&mut self, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let Some(head) = PacketHead::read(input.data) else { return Ok(Step::More) };
        let Some(payload) = input.data.get(HEAD..HEAD + head.length.min(WANTED)) else {
            return Ok(Step::More);
        };
        let whole = HEAD + head.length;
        let bounds = Bounds::of(input, input.data.len().min(whole));
        let sends_file = self.pending.front().is_some_and(|open| open.state == ResponseState::File);
        let number = if self.frontend.continues || sends_file || head.sequence != 0 {
            // More of the previous command: its text, a file, what authenticates the client.
            self.pending.back().map(|exchange| exchange.number)
        } else {
            let Some(command) = payload.first().map(|number| MySqlCommand::Numbered(*number)) else {
                return Err(Desync("an empty command"));
            };
            if command.name().is_none() {
                return Err(Desync("an unknown command"));
            }
            self.command(command, payload, bounds, out)
        };
        if let Some(exchange) = number.and_then(|number| self.pending_mut(number)) {
            exchange.add_request(bounds.taken, bounds.last);
            exchange.sequence = head.sequence.wrapping_add(1);
        }
        self.frontend.continues = head.length == FULL;
        if bounds.taken < whole {
            let rest = PacketRest { left: (whole - bounds.taken) as u64, exchange: number };
            self.frontend.reading = Reading::Rest(rest);
        }
        self.emit_complete(out);
        Ok(Step::Taken(bounds.taken))
    }

    /// Handles a command. Returns the number of its exchange.
    fn command(
        &mut self,
        command: MySqlCommand,
        payload: &[u8],
        bounds: Bounds,
        out: &mut Messages,
    ) -> Option<u64> {
        self.end_uncertain(out);
        if !command.is_one_way() {
            self.count(bounds, out);
        }
        if self.pending.len() >= MAX_PENDING {
            self.lose(out);
        }
        let body = payload.get(1..).unwrap_or_default();
        if command == MySqlCommand::QUIT {
            return None;
        }
        let mut exchange = self.new_exchange(command, bounds);
        if command == MySqlCommand::SEND_LONG_DATA {
            let taken = bounds.taken;
            self.long_data.get_or_insert(exchange).add_request(taken, bounds.last);
            return None;
        }
        match command {
            MySqlCommand::QUERY => self.query(&mut exchange, body),
            MySqlCommand::PREPARE => exchange.prepared = Some(self.read_sql(body)),
            MySqlCommand::INIT_DB => {
                let name = String::from_utf8_lossy(body).into_owned();
                exchange.effect = NamespaceEffect::Use(Some(name));
            }
            MySqlCommand::CHANGE_USER => exchange.effect = NamespaceEffect::Use(self.changed_database(body)),
            MySqlCommand::CLOSE | MySqlCommand::RESET | MySqlCommand::FETCH => {
                self.refer(&mut exchange, body);
            }
            _ if command.executes() => {
                self.refer(&mut exchange, body);
                if let Some(data) = self.long_data.take() {
                    exchange.request.first = data.request.first;
                    exchange.request.length = data.request.length;
                }
            }
            _ => {}
        }
        if command == MySqlCommand::CLOSE
            && let Some(id) = exchange.statement
        {
            self.statements.pop(&id);
        }
        let number = exchange.number;
        self.pending.push_back(exchange);
        Some(number)
    }

    /// The end of a prepared statement's description is not known as long as it was not seen whether there is
    /// a packet for it. If there is no such packet before the next command, the response has ended.
    fn end_uncertain(&mut self, out: &mut Messages) {
        if let Some(open) = self.pending.back_mut()
            && open.state == (ResponseState::PreparedEnd { columns: 0 })
            && self.deprecates_eof.is_none()
        {
            open.state = ResponseState::Done;
            open.reply.may_lack_end = true;
            self.emit_complete(out);
        }
    }

    /// Pairs again if nothing is outstanding when a command begins, or counts what is.
    fn count(&mut self, bounds: Bounds, out: &mut Messages) {
        let is_free = self.pending.is_empty();
        let Some(proof) = &mut self.lost else {
            self.pipelines |= !is_free;
            return;
        };
        let is_in_step = matches!(self.backend.reading, Reading::Packet | Reading::Start);
        if is_free && is_in_step && proof.is_idle(bounds.first) {
            self.lost = None;
            return;
        }
        if is_in_step {
            proof.request(bounds.first, QueryForm::Simple);
        }
        if !is_free {
            // It is not known which of them the next response belongs to.
            for exchange in std::mem::take(&mut self.pending) {
                exchange.emit(ExchangeCut::Unpaired, out);
            }
            self.backend.reading = Reading::Search;
        }
    }

    fn query(&self, exchange: &mut OpenExchange, body: &[u8]) {
        let has_attributes = self.capabilities.map(|it| it.has(Capabilities::QUERY_ATTRIBUTES));
        let text = match (has_attributes, body) {
            (Some(true) | None, [0, 1, text @ ..]) => Some(text),
            (Some(true), _) => None,
            (_, text) => Some(text),
        };
        let Some(text) = text else {
            // What follows the values of attributes is not read.
            exchange.effect = NamespaceEffect::Use(None);
            return;
        };
        let prepared = self.read_sql(text);
        let uses = |operation: &str| prepared.operation.as_deref() == Some(operation);
        let lower = || String::from_utf8_lossy(text).to_ascii_lowercase();
        if uses("USE") && prepared.statements == Some(1) {
            let text = String::from_utf8_lossy(text);
            let mut tokens = Tokens::new(&text, self.dialect);
            tokens.next_meaningful();
            let name = tokens.next_meaningful().and_then(|(kind, name)| match kind {
                TokenKind::Word => Some(name.to_owned()),
                TokenKind::Name => Some(name.trim_matches('`').replace("``", "`")),
                _ => None,
            });
            exchange.effect = NamespaceEffect::Use(name);
        } else if (prepared.statements != Some(1) && lower().contains("use")) || uses("DROP") {
            exchange.effect = NamespaceEffect::Use(None);
        }
        exchange.prepared = Some(prepared);
    }

    fn read_sql(&self, text: &[u8]) -> Arc<PreparedText> {
        let sql = sql::read(text, self.dialect);
        Arc::new(PreparedText {
            statement: sql.statement,
            operation: sql.operation,
            statements: sql.statements,
        })
    }

    /// The statement that a command names by its number.
    fn refer(&mut self, exchange: &mut OpenExchange, body: &[u8]) {
        let Some(id) = packet::u32_at(body, 0) else { return };
        if id != LAST_PREPARED {
            exchange.statement = Some(id);
            exchange.prepared = self.statements.get(&id).cloned();
            return;
        }
        let sent = self.pending.iter().rev().find(|open| open.command == MySqlCommand::PREPARE);
        if let Some(open) = sent {
            exchange.prepared.clone_from(&open.prepared);
        } else {
            exchange.statement = self.last_statement;
            exchange.prepared = self.last_statement.and_then(|id| self.statements.get(&id).cloned());
        }
    }

    /// The database of `COM_CHANGE_USER`.
    fn changed_database(&self, body: &[u8]) -> Option<String> {
        self.capabilities.filter(|it| it.has(Capabilities::SECURE_CONNECTION))?;
        let (_, rest) = packet::text(body)?;
        let (length, rest) = rest.split_first()?;
        let (name, _) = packet::text(rest.get(usize::from(*length)..)?)?;
        (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
    }
}

/// The database that a client logs in to.
fn database(payload: &[u8], capabilities: Capabilities) -> Option<String> {
    let (_, rest) = packet::text(payload.get(32..)?)?;
    let rest = if capabilities.has(Capabilities::LENGTH_ENCODED_AUTH) {
        let (length, rest) = packet::number(rest)?;
        rest.get(usize::try_from(length).ok()?..)?
    } else if capabilities.has(Capabilities::SECURE_CONNECTION) {
        let (length, rest) = rest.split_first()?;
        rest.get(usize::from(*length)..)?
    } else {
        packet::text(rest)?.1
    };
    let name = packet::text(rest).map_or(rest, |(name, _)| name);
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}
