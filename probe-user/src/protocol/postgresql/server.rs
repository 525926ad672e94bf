//! What the server answers.

use jiff::Timestamp;

use super::chain::{READY, ready_end};
use super::reply::{ServerError, ServerReply};
use super::unit::{Asked, Cut};
use super::wire::{self, HEAD, Rest, Sender, TaggedHead};
use super::{Discards, NAME, Pairing, PostgreSqlDecoder, Reading};
use crate::event::{Direction, FieldValue};
use crate::protocol::database::sql::Backslash;
use crate::protocol::database::{COLLECTION, OPERATION, SYSTEM};
use crate::protocol::{Desync, Input, Message, MessageKind, Messages, Step};

/// A message of the server, of which the body may be there in part.
#[derive(Clone, Copy, Debug)]
struct Answer<'a> {
    tag: u8,
    body: &'a [u8],
    first: Timestamp,
    last: Timestamp,
    taken: usize,
}

/// What a message is to the entry that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    /// More follows.
    Partly,
    Finally,
    /// It failed. The server discards what follows, up to the next Sync.
    WithError,
}

/// The bytes of a body that matter.
fn wanted(head: TaggedHead) -> usize {
    let most = match head.tag {
        b'E' | b'A' => 8 * 1024,
        b'C' => 128,
        b'S' => 256,
        b'Z' => 1,
        _ => 0,
    };
    head.body.min(most)
}

fn answers(asked: Asked, tag: u8) -> Option<Answers> {
    use Answers::{Finally, Partly, WithError};
    let (partly, finally): (&[u8], &[u8]) = match asked {
        Asked::Connect => (b"RKv", b"ZE"),
        Asked::Encryption => (b"", b"E"),
        Asked::Query => (b"TDCIGHWdcE", b"Z"),
        Asked::Parse => (b"", b"1"),
        Asked::Bind => (b"", b"2"),
        Asked::Describe => (b"t", b"Tn"),
        Asked::Execute => (b"DGHWdc", b"CIs"),
        Asked::Close => (b"", b"3"),
        Asked::Sync => (b"E", b"Z"),
        Asked::Function => (b"VE", b"Z"),
        Asked::CopyEnd | Asked::Discarded => return None,
    };
    match tag {
        _ if partly.contains(&tag) => Some(Partly),
        _ if finally.contains(&tag) => Some(Finally),
        b'E' => Some(WithError),
        _ => None,
    }
}

impl PostgreSqlDecoder {
    pub(super) fn read_server(&mut self, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        match self.backend.reading {
            Reading::Rest(rest) => Ok(self.server_rest(rest, input, out)),
            Reading::Search => Ok(match ready_end(input) {
                Some(end) => {
                    self.backend.reading = Reading::Message;
                    if let Pairing::Lost(lost) = &mut self.pairing {
                        lost.proof.restart();
                    }
                    Step::Skipped(end)
                }
                // The next call may show that these are the last bytes of a response.
                None if input.data.len() > READY => Step::Skipped(input.data.len() - READY),
                None => Step::More,
            }),
            Reading::Startup | Reading::Message => self.server_message(input, out),
        }
    }

    fn server_rest(&mut self, mut rest: Rest, input: Input<'_>, out: &mut Messages) -> Step {
        let taken = input.data.len().min(usize::try_from(rest.left).unwrap_or(usize::MAX));
        let last = input.time(taken.saturating_sub(1)).unwrap_or_default();
        if let Some(unit) = rest.unit.and_then(|number| self.unit_mut(number)) {
            unit.add_response(taken, (last, last));
        } else if let Pairing::Lost(lost) = &mut self.pairing
            && let Some((response, _)) = &mut lost.response
        {
            response.length = response.length.saturating_add(taken as u64);
            response.last = last;
        }
        rest.left -= taken as u64;
        self.backend.reading = if rest.left > 0 { Reading::Rest(rest) } else { Reading::Message };
        self.emit_complete(out);
        Step::Taken(taken)
    }

    fn server_message(&mut self, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        if let Some(step) = self.encryption(input) {
            return Ok(step);
        }
        let Some(head) = wire::head(input.data, Sender::Server)? else { return Ok(Step::More) };
        let Some(body) = input.data.get(HEAD..HEAD + wanted(head)) else { return Ok(Step::More) };
        let whole = HEAD.saturating_add(head.body);
        let taken = input.data.len().min(whole);
        let time = |index| input.time(index).unwrap_or_default();
        let answer = Answer { tag: head.tag, body, first: time(0), last: time(taken - 1), taken };
        let unit = if self.is_exact() {
            if matches!(answer.tag, b'N' | b'S' | b'A') {
                self.announcement(answer, out)
            } else if self.waits_for_client(answer) {
                return Ok(Step::More);
            } else {
                self.answer(answer, out)
            }
        } else {
            self.unpaired_answer(answer, out);
            None
        };
        if taken < whole {
            self.backend.reading = Reading::Rest(Rest { left: (whole - taken) as u64, unit });
        }
        self.emit_complete(out);
        Ok(Step::Taken(taken))
    }

    /// The answer to the question for encryption has one byte.
    fn encryption(&mut self, input: Input<'_>) -> Option<Step> {
        self.entries.front().filter(|entry| entry.asked == Asked::Encryption)?;
        match input.data.first()? {
            b'N' => {
                self.entries.pop_front();
                Some(Step::Taken(1))
            }
            b'S' | b'G' => Some(Step::Upgrade { taken: 1, to: None, extensions: None, unanswered: None }),
            _ => None,
        }
    }

    /// Whether the client has to be seen first.
    fn waits_for_client(&mut self, answer: Answer<'_>) -> bool {
        while self.entries.pop_front_if(|entry| entry.asked == Asked::CopyEnd).is_some() {}
        match self.entries.front() {
            None => answer.tag != b'E' || !ServerError::read(answer.body).is_unsolicited(),
            Some(entry) => entry.unit.is_some() && entry.unit == self.frontend.unit(),
        }
    }

    /// What the server says without being asked. It belongs to the exchange that is under way.
    fn announcement(&mut self, answer: Answer<'_>, out: &mut Messages) -> Option<u64> {
        self.notice(answer, out);
        let front = self.entries.front().and_then(|entry| entry.unit)?;
        let unit = self.unit_mut(front).filter(|unit| answer.first >= unit.request.first)?;
        if answer.tag == b'A' {
            return None;
        }
        unit.add_response(answer.taken, (answer.first, answer.last));
        Some(front)
    }

    fn notice(&mut self, answer: Answer<'_>, out: &mut Messages) {
        match answer.tag {
            b'S' => {
                let parameter =
                    wire::text(answer.body).and_then(|(name, rest)| Some((name, wire::text(rest)?.0)));
                match parameter {
                    Some((b"standard_conforming_strings", b"off")) => {
                        self.dialect.backslash = Backslash::Escapes;
                    }
                    Some((b"standard_conforming_strings", _)) => self.dialect.backslash = Backslash::IsText,
                    _ => {}
                }
            }
            b'A' => {
                let mut message = self.event(answer);
                let text = answer.body.get(4..).and_then(wire::text);
                message.fields.push((&OPERATION, FieldValue::Text("NOTIFICATION".to_owned())));
                if let Some((channel, rest)) = text {
                    let channel = String::from_utf8_lossy(channel).into_owned();
                    message.fields.push((&COLLECTION, FieldValue::Text(channel)));
                    message.add_body(wire::text(rest).map_or(rest, |(payload, _)| payload), out.body_limit());
                }
                out.push(message);
            }
            _ => {}
        }
    }

    fn event(&self, answer: Answer<'_>) -> Message {
        let mut message = Message::new(NAME, MessageKind::Event, self.server(), answer.first);
        message.length = answer.taken as u64;
        message.last = answer.last;
        message.fields.push((&SYSTEM, FieldValue::Text(NAME.to_owned())));
        message
    }

    fn server(&self) -> Direction {
        self.client.map_or(Direction::Receive, Direction::other)
    }

    /// Handles an answer to the first entry. Returns the unit that it belongs to.
    fn answer(&mut self, answer: Answer<'_>, out: &mut Messages) -> Option<u64> {
        let Some(entry) = self.entries.front() else {
            let mut message = self.event(answer);
            ServerError::read(answer.body).push_to(&mut message);
            out.push(message);
            return None;
        };
        let (asked, number) = (entry.asked, entry.unit);
        let Some(answers) = answers(asked, answer.tag) else {
            // The two directions are out of step.
            self.lose(out);
            self.unpaired_answer(answer, out);
            return None;
        };
        let mut is_fatal = false;
        if let Some(unit) = number.and_then(|number| self.unit_mut(number)) {
            unit.add_response(answer.taken, (answer.first, answer.last));
            unit.reply.message(answer.tag, answer.body);
            is_fatal = answer.tag == b'E' && unit.reply.is_fatal();
        }
        if answer.tag == b'Z' && answer.body == b"I" {
            self.names.end_transaction();
        }
        match answers {
            _ if is_fatal => self.pop_unit(number),
            Answers::Finally => self.pop_answered(answer.tag),
            Answers::WithError => self.discard(number, answer.last),
            Answers::Partly if asked == Asked::Execute && matches!(answer.tag, b'G' | b'W') => {
                self.begin_copy(number);
            }
            Answers::Partly => {}
        }
        number
    }

    fn pop_answered(&mut self, tag: u8) {
        let Some(entry) = self.entries.pop_front() else { return };
        let mut failed = false;
        if let Some(unit) = entry.unit.and_then(|number| self.unit_mut(number)) {
            unit.outstanding = unit.outstanding.saturating_sub(1);
            failed = unit.reply.has_error();
        }
        match entry.asked {
            Asked::Query if failed => self.names.doubt(entry.effect),
            Asked::Execute if tag != b'C' => {}
            _ => self.names.apply(entry.effect),
        }
    }

    /// The server closes the connection: it answers nothing more.
    fn pop_unit(&mut self, number: Option<u64>) {
        self.entries.retain(|entry| entry.unit != number);
        if let Some(unit) = number.and_then(|number| self.unit_mut(number)) {
            unit.outstanding = 0;
            unit.is_closed = true;
        }
        self.open_unit = self.open_unit.filter(|open| Some(*open) != number);
    }

    /// Handles that the server discards what the client has sent after a message that failed.
    fn discard(&mut self, failed: Option<u64>, time: Timestamp) {
        self.discards = Discards::Rest(time);
        while let Some(entry) = self.entries.front() {
            if entry.asked == Asked::Sync {
                self.discards = Discards::Nothing;
                return;
            }
            let number = entry.unit;
            self.entries.pop_front();
            if let Some(unit) = number.and_then(|number| self.unit_mut(number)) {
                unit.outstanding = unit.outstanding.saturating_sub(1);
                if number != failed {
                    unit.skip(time);
                }
            }
        }
    }

    /// While the server reads what is copied to it, it ignores Sync. Clients send one behind each Execute,
    /// and another one behind the end of the data.
    fn begin_copy(&mut self, number: Option<u64>) {
        let end = self.entries.iter().position(|entry| entry.asked == Asked::CopyEnd);
        let before = end.unwrap_or(self.entries.len());
        if end.is_none() {
            self.discards = Discards::SyncsOfCopy;
        }
        let mut index = 0;
        let mut ignored = Vec::new();
        self.entries.retain(|entry| {
            let is_ignored = index < before && entry.asked == Asked::Sync;
            index += 1;
            if is_ignored {
                ignored.extend(entry.unit);
            }
            !is_ignored
        });
        for unit in ignored {
            if let Some(unit) = self.unit_mut(unit) {
                unit.outstanding = unit.outstanding.saturating_sub(1);
            }
        }
        let is_last = number == Some(self.last_unit);
        if let Some(unit) =
            number.filter(|_| is_last && self.open_unit.is_none()).and_then(|n| self.unit_mut(n))
        {
            unit.is_closed = false;
            self.open_unit = number;
        }
    }

    /// Handles an answer to a request that is not known.
    fn unpaired_answer(&mut self, answer: Answer<'_>, out: &mut Messages) {
        let server = self.server();
        if matches!(answer.tag, b'N' | b'S' | b'A') {
            self.notice(answer, out);
        }
        let Pairing::Lost(lost) = &mut self.pairing else { return };
        if lost.response.is_none() && matches!(answer.tag, b'N' | b'S' | b'A' | b'Z') {
            // A Sync by itself, or something that was not asked for.
            if answer.tag == b'Z' {
                lost.proof.response(answer.last);
            }
            return;
        }
        let (response, reply) = lost.response.get_or_insert_with(|| {
            (Message::new(NAME, MessageKind::Response, server, answer.first), ServerReply::default())
        });
        response.length = response.length.saturating_add(answer.taken as u64);
        response.last = answer.last;
        reply.message(answer.tag, answer.body);
        if answer.tag == b'Z' {
            lost.proof.response(answer.last);
            if let Some((response, reply)) = lost.response.take() {
                reply.finish(response, Cut::Nothing, out);
            }
        }
    }
}
