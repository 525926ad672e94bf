//! The bytes of a connection → requests and responses.

use super::body::{MongoBody, MongoContents};
use super::command::MongoCommand;
use super::detect::starts_message;
use super::header::{HEADER, MORE_TO_COME, MongoHeader, opcode};
use super::reply::MongoReply;
use super::{MONGODB, NOT_DECODED};
use crate::event::{Direction, FieldValue, Role};
use crate::protocol::correlation::{Correlated, Correlation};
use crate::protocol::database::{
    AFFECTED_ROWS, BATCH, COLLECTION, ERROR_TYPE, NAMESPACE, OPERATION, QUERY, RETURNED_ROWS, STATUS,
    STATUS_MESSAGE, SYSTEM,
};
use crate::protocol::{
    Decoder, Desync, Detect, Gap, GapCause, Hints, Input, Message, MessageKind, Messages, Step,
};

/// Commands that change documents.
const WRITES: &[&str] = &["bulkWrite", "delete", "findAndModify", "findandmodify", "insert", "update"];

/// Decodes a connection.
#[derive(Debug)]
pub(super) struct MongoDecoder {
    /// The direction of requests. None until it is known.
    client: Option<Direction>,
    requests: Side,
    responses: Side,
    correlation: Correlation<Asked>,
    /// The responses that follow one without being asked for: the id that they answer, and of the exchange.
    exhaust: Option<(u32, Option<u64>)>,
}

/// What was asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    is_write: bool,
}

/// The state of one direction.
#[derive(Debug)]
struct Side {
    /// Whether a message is searched for, because bytes are missing.
    is_searching: bool,
    open: Option<Box<OpenMongoMessage>>,
}

/// A message that is being read.
#[derive(Debug)]
struct OpenMongoMessage {
    message: Message,
    header: MongoHeader,
    body: MongoBody,
    asked: Option<Asked>,
}

impl MongoDecoder {
    pub(super) fn new(hints: &Hints) -> Self {
        let side = || Side { is_searching: !hints.from_start, open: None };
        Self {
            client: hints.role.map(client_direction),
            requests: side(),
            responses: side(),
            correlation: Correlation::new(hints),
            exhaust: None,
        }
    }

    fn side(&mut self, from: Direction) -> &mut Side {
        if self.client == Some(from) { &mut self.requests } else { &mut self.responses }
    }

    fn step(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        if self.client.is_none() {
            let start = input.call_starts().next().unwrap_or(0);
            let Some(header) = MongoHeader::read(input.data.get(start..).unwrap_or_default()) else {
                return Ok(Step::More);
            };
            self.client = Some(if header.response_to == 0 { from } else { from.other() });
        }
        if self.side(from).open.is_some() {
            return Ok(self.body(from, input, out));
        }
        if self.side(from).is_searching
            && let Some(step) = self.search(from, input)
        {
            return Ok(step);
        }
        self.header(from, input)
    }

    /// Searches for a call that begins a message. None if one begins here.
    fn search(&mut self, from: Direction, input: Input<'_>) -> Option<Step> {
        let is_client = self.client.map(|client| client == from);
        for start in input.call_starts() {
            match (starts_message(input.data.get(start..).unwrap_or_default(), is_client), start) {
                (Detect::No, _) => {}
                (Detect::Yes, 0) => return None,
                (Detect::NeedMore, 0) => return Some(Step::More),
                (_, start) => return Some(Step::Skipped(start)),
            }
        }
        Some(Step::Skipped(input.data.len()))
    }

    /// Reads the header of a message.
    fn header(&mut self, from: Direction, input: Input<'_>) -> Result<Step, Desync> {
        let Some(header) = MongoHeader::read(input.data) else { return Ok(Step::More) };
        let is_client = self.client == Some(from);
        if !header.is_valid() || (header.response_to == 0) != is_client {
            return Err(Desync("no message"));
        }
        let kind = if is_client { MessageKind::Request } else { MessageKind::Response };
        let first = input.time(0).unwrap_or_default();
        let mut message = Message::new(MONGODB.name, kind, from, first);
        message.last = input.time(HEADER - 1).unwrap_or(first);
        message.length = HEADER as u64;
        let mut asked = None;
        if is_client {
            message.fields.push((&SYSTEM, FieldValue::Text(MONGODB.name.to_owned())));
        } else if let Some((id, exchange)) = self.exhaust
            && id == header.response_to
        {
            (message.kind, message.id) = (MessageKind::Event, exchange);
        } else {
            match self.correlation.response(header.response_to, first) {
                Correlated::To(request) => (message.id, asked) = (Some(request.id), Some(request.what)),
                Correlated::Wait => return Ok(Step::More),
                Correlated::Unknown => {}
            }
        }
        let contents = if is_client {
            MongoContents::Command(MongoCommand::default())
        } else {
            MongoContents::Reply(MongoReply::default())
        };
        let left = u64::from(header.length).saturating_sub(HEADER as u64);
        let body = MongoBody::new(header.opcode, left, contents);
        let side = self.side(from);
        side.is_searching = false;
        side.open = Some(Box::new(OpenMongoMessage { message, header, body, asked }));
        Ok(Step::Taken(HEADER))
    }

    /// Reads a piece of a message.
    fn body(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Step {
        let Some(open) = &mut self.side(from).open else { return Step::More };
        let Some(taken) = open.body.take(input.data) else { return Step::More };
        open.message.length = open.message.length.saturating_add(taken as u64);
        if let Some(last) = taken.checked_sub(1).and_then(|last| input.time(last)) {
            open.message.last = last;
        }
        if open.body.left == 0 {
            self.close(from, out);
        }
        Step::Taken(taken)
    }

    /// Adds the message that is being read.
    fn close(&mut self, from: Direction, out: &mut Messages) {
        let Some(open) = self.side(from).open.take() else { return };
        let OpenMongoMessage { mut message, header, body, asked } = *open;
        message.partial.lacks_end = body.left > 0;
        if let Some(compressor) = body.not_decoded {
            message.fields.push((&NOT_DECODED, FieldValue::Text(compressor.to_owned())));
        }
        let has_more = body.flags & MORE_TO_COME != 0;
        match body.contents {
            MongoContents::Command(command) => {
                let is_legacy_write = matches!(
                    header.opcode,
                    opcode::UPDATE | opcode::INSERT | opcode::DELETE | opcode::KILL_CURSORS
                );
                message.is_one_way = (has_more || is_legacy_write) && body.left == 0;
                let is_write = command.name.as_deref().is_some_and(|name| WRITES.contains(&name));
                message.id = Some(if message.is_one_way {
                    self.correlation.unanswered()
                } else {
                    self.correlation.request(header.id, message.first, Asked { is_write })
                });
                push_command(&mut message, command);
            }
            MongoContents::Reply(reply) => {
                if has_more {
                    self.exhaust = Some((header.id, message.id));
                } else if message.kind == MessageKind::Event {
                    self.exhaust = None;
                }
                push_reply(&mut message, reply, asked);
            }
        }
        out.push(message);
    }
}

fn push_command(message: &mut Message, command: MongoCommand) {
    let texts =
        [(&NAMESPACE, command.database), (&OPERATION, command.name), (&COLLECTION, command.collection)];
    for (field, text) in texts {
        message.fields.extend(text.map(|text| (field, FieldValue::Text(text))));
    }
    if !command.statement.is_empty() {
        message.fields.push((&QUERY, FieldValue::Statement(command.statement)));
    }
    message.fields.extend(command.batch.map(|batch| (&BATCH, FieldValue::Number(batch))));
}

fn push_reply(message: &mut Message, reply: MongoReply, asked: Option<Asked>) {
    let affected = asked.filter(|asked| asked.is_write).and_then(|_| reply.affected());
    message.fields.extend(reply.rows.map(|rows| (&RETURNED_ROWS, FieldValue::Number(rows))));
    message.fields.extend(affected.map(|rows| (&AFFECTED_ROWS, FieldValue::Number(rows))));
    if !reply.is_error() {
        return;
    }
    let code = reply.code.map(|code| code.to_string());
    let name = reply.code_name.or_else(|| code.clone()).unwrap_or_else(|| "error".to_owned());
    message.fields.extend(code.map(|code| (&STATUS, FieldValue::Text(code))));
    message.fields.extend(reply.message.map(|text| (&STATUS_MESSAGE, FieldValue::Text(text))));
    message.fields.push((&ERROR_TYPE, FieldValue::Text(name)));
}

impl Decoder for MongoDecoder {
    fn learn(&mut self, hints: &Hints) {
        self.client = self.client.or(hints.role.map(client_direction));
    }

    fn data(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let mut taken = 0;
        loop {
            let data = input.data.get(taken..).unwrap_or_default();
            if data.is_empty() {
                return Ok(if taken == 0 { Step::More } else { Step::Taken(taken) });
            }
            let rest = Input { data, offset: input.offset.saturating_add(taken as u64), marks: input.marks };
            match self.step(from, rest, out) {
                Ok(Step::Taken(bytes)) => taken += bytes,
                // What was consumed is settled before anything else.
                _ if taken > 0 => return Ok(Step::Taken(taken)),
                other => return other,
            }
        }
    }

    fn gap(&mut self, from: Direction, gap: Gap, out: &mut Messages) {
        if let Some(open) = &mut self.side(from).open {
            let missing = gap.length.min(open.body.left);
            open.body.lose(missing);
            open.message.length = open.message.length.saturating_add(missing);
            open.message.partial.missing = open.message.partial.missing.saturating_add(missing);
            let is_complete = open.body.left == 0;
            if gap.length <= missing && gap.cause != GapCause::Desync {
                if is_complete {
                    self.close(from, out);
                }
                return;
            }
            self.close(from, out);
        }
        if self.client != Some(from.other()) {
            self.correlation.lose_requests();
        }
        self.exhaust = None;
        self.side(from).is_searching = true;
    }

    fn end(&mut self, out: &mut Messages) {
        for direction in [Direction::Transmit, Direction::Receive] {
            self.close(direction, out);
        }
    }

    fn role(&self) -> Option<Role> {
        Some(match self.client? {
            Direction::Transmit => Role::Client,
            Direction::Receive => Role::Server,
        })
    }

    fn held_bytes(&self) -> usize {
        let side =
            |side: &Side| side.open.as_ref().map_or(0, |open| open.message.size() + open.body.held_bytes());
        side(&self.requests) + side(&self.responses) + self.correlation.size()
    }
}

/// The direction of requests, by the role of the process.
fn client_direction(role: Role) -> Direction {
    match role {
        Role::Client => Direction::Transmit,
        Role::Server => Direction::Receive,
    }
}
