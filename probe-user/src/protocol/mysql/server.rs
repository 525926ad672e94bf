//! What the server sends.

use jiff::Timestamp;

use super::exchange::{MySqlCommand, NamespaceEffect, OpenExchange};
use super::packet::{self, Capabilities, FULL, HEAD, PacketHead, PacketRest};
use super::response::{KnownResponse, ResponsePacket, ResponseState};
use super::{MySqlDecoder, Reading};
use crate::protocol::database::sql::Backslash;
use crate::protocol::{Desync, Detect, Input, Messages, Step};

/// The bytes of a payload that matter.
const WANTED: usize = 1024;

/// Where a packet is in the stream.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    first: Timestamp,
    last: Timestamp,
    taken: usize,
}

impl MySqlDecoder {
    pub(super) fn read_server(&mut self, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        match self.backend.reading {
            Reading::Rest(rest) => Ok(self.server_rest(rest, input, out)),
            Reading::Start => self.greeting(input, out),
            Reading::Packet => self.server_packet(input, out),
            Reading::Search => {
                if self.pending.is_empty() {
                    return Ok(Step::Skipped(input.data.len()));
                }
                let starts = input.call_starts();
                let found =
                    starts.map(|start| (start, packet::answers(input.data.get(start..).unwrap_or_default())));
                match { found }.find(|(_, found)| *found != Detect::No) {
                    None => Ok(Step::Skipped(input.data.len())),
                    Some((start, _)) if start > 0 => Ok(Step::Skipped(start)),
                    Some((_, Detect::Yes)) => {
                        self.backend.reading = Reading::Packet;
                        if let Some(proof) = &mut self.lost {
                            proof.restart();
                        }
                        self.server_packet(input, out)
                    }
                    Some(_) => Ok(Step::More),
                }
            }
        }
    }

    /// The server begins, unless that was before TLS.
    fn greeting(&mut self, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let Some(head) = PacketHead::read(input.data) else { return Ok(Step::More) };
        if head.sequence != 0 {
            self.backend.reading = Reading::Packet;
            return self.server_packet(input, out);
        }
        let Some(payload) = input.data.get(HEAD..HEAD + head.length) else { return Ok(Step::More) };
        match payload.split_first() {
            Some((10, rest)) => {
                let version = packet::text(rest).map(|(version, _)| String::from_utf8_lossy(version));
                let is_mariadb = version.is_some_and(|version| version.contains("MariaDB"));
                self.system = Some(if is_mariadb { "mariadb" } else { "mysql" });
            }
            // An error: too many connections, a host that may not connect.
            Some((0xff, _)) => {}
            _ => return Err(Desync("no greeting")),
        }
        self.backend.reading = Reading::Packet;
        Ok(Step::Taken(HEAD + head.length))
    }

    fn server_rest(&mut self, mut rest: PacketRest, input: Input<'_>, out: &mut Messages) -> Step {
        let taken = input.data.len().min(usize::try_from(rest.left).unwrap_or(usize::MAX));
        let last = input.time(taken.saturating_sub(1)).unwrap_or_default();
        if let Some(exchange) = rest.exchange.and_then(|number| self.pending_mut(number)) {
            exchange.add_response(taken, (last, last));
        }
        rest.left -= taken as u64;
        self.backend.reading = if rest.left > 0 { Reading::Rest(rest) } else { Reading::Packet };
        self.emit_complete(out);
        Step::Taken(taken)
    }

    fn server_packet(&mut self, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let Some(head) = PacketHead::read(input.data) else { return Ok(Step::More) };
        let Some(payload) = input.data.get(HEAD..HEAD + head.length.min(WANTED)) else {
            return Ok(Step::More);
        };
        let whole = HEAD + head.length;
        let taken = input.data.len().min(whole);
        let time = |index| input.time(index).unwrap_or_default();
        let bounds = Bounds { first: time(0), last: time(taken - 1), taken };
        let Some(front) = self.pending.front() else { return Ok(self.unasked(whole)) };
        if self.lost.is_none() && self.frontend.exchange() == Some(front.number) {
            return Ok(Step::More);
        }
        let number = front.number;
        let packet = ResponsePacket { length: head.length, payload };
        if !self.response_packet(head, packet, bounds) {
            self.lose(out);
            return Err(Desync("no packet of this response"));
        }
        if taken < whole {
            let rest = PacketRest { left: (whole - taken) as u64, exchange: Some(number) };
            self.backend.reading = Reading::Rest(rest);
        }
        let upgrade = self.compression(number);
        self.emit_complete(out);
        Ok(match upgrade {
            Some(()) => Step::Upgrade { taken, to: None, extensions: None, unanswered: None },
            None => Step::Taken(taken),
        })
    }

    /// A packet that no command has asked for yet: its record may be late, or it is not known.
    fn unasked(&self, length: usize) -> Step {
        match self.lost {
            None => Step::More,
            Some(_) => Step::Skipped(length),
        }
    }

    /// Handles a packet of the response to the first command. Returns whether it can be one.
    fn response_packet(&mut self, head: PacketHead, packet: ResponsePacket<'_>, bounds: Bounds) -> bool {
        let known = KnownResponse { capabilities: self.capabilities, deprecates_eof: self.deprecates_eof };
        let continues = std::mem::replace(&mut self.backend.continues, head.length == FULL);
        let Some(open) = self.pending.front_mut() else { return false };
        if head.sequence != open.sequence {
            return false;
        }
        open.sequence = open.sequence.wrapping_add(1);
        open.add_response(bounds.taken, (bounds.first, bounds.last));
        if continues {
            return true;
        }
        let Some(state) = open.reply.packet(open.state, open.command, packet, known) else { return false };
        open.state = state;
        self.deprecates_eof = self.deprecates_eof.or(open.reply.deprecates_eof);
        true
    }

    /// Handles that a connection is compressed from now on.
    fn compression(&mut self, number: u64) -> Option<()> {
        let capabilities = self.capabilities?;
        let open = self.pending.front_mut().filter(|open| open.number == number)?;
        if open.command != MySqlCommand::Connect
            || open.state != ResponseState::Done
            || open.reply.has_error()
        {
            return None;
        }
        let name = if capabilities.has(Capabilities::COMPRESS) {
            "zlib"
        } else if capabilities.has(Capabilities::ZSTD) && self.system != Some("mariadb") {
            "zstd"
        } else {
            return None;
        };
        open.reply.compression = Some(name);
        Some(())
    }

    /// Handles that a response is complete.
    pub(super) fn finish(&mut self, exchange: &OpenExchange) {
        if let Some(is_text) = exchange.reply.has_no_escapes() {
            self.dialect.backslash = if is_text { Backslash::IsText } else { Backslash::Escapes };
        }
        if let NamespaceEffect::Use(name) = &exchange.effect
            && !exchange.reply.has_error()
        {
            self.namespace.clone_from(name);
        }
        if let (MySqlCommand::PREPARE, Some(prepared)) = (exchange.command, &exchange.prepared)
            && let Some(id) = exchange.reply.statement
        {
            self.statements.put(id, std::sync::Arc::clone(prepared));
            self.last_statement = Some(id);
        }
        if matches!(exchange.command, MySqlCommand::CHANGE_USER | MySqlCommand::Numbered(0x1f)) {
            self.statements.clear();
        }
    }
}
