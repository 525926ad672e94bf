//! The bytes of a connection → requests and responses.

use jiff::Timestamp;

use super::api::{Api, PRODUCE, SASL_HANDSHAKE};
use super::contents::{Contents, TopicIds, no_topic_ids};
use super::detect::{starts_request, starts_response};
use super::header::{self, HeaderRead, RESPONSE_HEADER, RequestHeader, is_response_tagged};
use super::walk::Walk;
use super::{CLIENT, KAFKA, OPERATION, SYSTEM, VERSION};
use crate::event::{Direction, FieldValue, Role};
use crate::protocol::correlation::{Correlated, Correlation};
use crate::protocol::{
    Decoder, Desync, Detect, Gap, GapCause, Hints, Input, Message, MessageKind, Messages, Step,
};

/// Decodes a connection.
#[derive(Debug)]
pub(super) struct KafkaDecoder {
    /// The direction of requests. None until it is known.
    client: Option<Direction>,
    requests: Side,
    responses: Side,
    correlation: Correlation<Asked>,
    ids: TopicIds,
    /// Whether the client authenticates by what is no request: it has length and bytes only.
    authenticates: bool,
}

/// What was asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    key: i16,
    version: i16,
    api: &'static Api,
}

/// The state of one direction.
#[derive(Debug)]
struct Side {
    /// Whether a message is searched for, because bytes are missing.
    is_searching: bool,
    open: Option<Box<OpenMessage>>,
}

/// A message that is being read.
#[derive(Debug)]
struct OpenMessage {
    message: Message,
    asked: Option<Asked>,
    /// The number that request and response have in common.
    number: u32,
    /// The bytes that follow.
    left: u64,
    walk: Walk,
    contents: Contents,
    /// Whether it was searched for, so that its parts have to prove that it is one.
    was_searched: bool,
    /// Whether bytes of it are missing, or it is not in the form of its version.
    is_damaged: bool,
}

impl KafkaDecoder {
    pub(super) fn new(hints: &Hints) -> Self {
        let side = || Side { is_searching: !hints.from_start, open: None };
        Self {
            client: hints.role.map(client_direction),
            requests: side(),
            responses: side(),
            correlation: Correlation::new(hints),
            ids: no_topic_ids(),
            authenticates: false,
        }
    }

    fn side(&mut self, from: Direction) -> &mut Side {
        if self.client == Some(from) { &mut self.requests } else { &mut self.responses }
    }

    fn step(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let client = match self.client {
            Some(client) => client,
            None => match RequestHeader::read(first_call(input)) {
                HeaderRead::Yes(_) => *self.client.insert(from),
                HeaderRead::More => return Ok(Step::More),
                HeaderRead::No => *self.client.insert(from.other()),
            },
        };
        if self.side(from).open.is_some() {
            return Ok(self.body(from, input, out));
        }
        if self.side(from).is_searching
            && let Some(step) = self.search(from, input)
        {
            return Ok(step);
        }
        if from == client { self.request(input, out) } else { self.response(input, out) }
    }

    /// Searches for a call that begins a message. None if one begins here.
    fn search(&mut self, from: Direction, input: Input<'_>) -> Option<Step> {
        let is_client = self.client == Some(from);
        for start in input.call_starts() {
            let data = input.data.get(start..).unwrap_or_default();
            let found = if is_client {
                starts_request(data)
            } else {
                starts_response(data, |number| self.correlation.is_pending(number))
            };
            match (found, start) {
                (Detect::No, _) => {}
                (Detect::Yes, 0) => return None,
                (Detect::NeedMore, 0) => return Some(Step::More),
                (_, start) => return Some(Step::Skipped(start)),
            }
        }
        Some(Step::Skipped(input.data.len()))
    }

    /// Reads the header of a request.
    fn request(&mut self, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let header = match RequestHeader::read(input.data) {
            HeaderRead::Yes(header) => header,
            HeaderRead::More => return Ok(Step::More),
            HeaderRead::No if self.authenticates => return Ok(raw(input)),
            HeaderRead::No => return Err(Desync("no request")),
        };
        let mut message = new_message(
            MessageKind::Request,
            self.client.unwrap_or(Direction::Transmit),
            input,
            header.taken,
        );
        message.fields.push((&OPERATION, FieldValue::Text(header.api.name.to_owned())));
        message.fields.push((&VERSION, FieldValue::Number(header.version.unsigned_abs().into())));
        if let Some(client) = header.client {
            message.fields.push((&CLIENT, FieldValue::Text(client.to_owned())));
        }
        let walk = header.walk();
        self.authenticates = header.key == SASL_HANDSHAKE && header.version == 0;
        let side = &mut self.requests;
        side.open = Some(Box::new(OpenMessage {
            message,
            asked: Some(Asked { key: header.key, version: header.version, api: header.api }),
            number: header.correlation,
            left: header.length.saturating_sub(header.taken as u64),
            walk,
            contents: Contents::default(),
            was_searched: std::mem::take(&mut side.is_searching),
            is_damaged: false,
        }));
        self.close_complete(self.client.unwrap_or(Direction::Transmit), out);
        Ok(Step::Taken(header.taken))
    }

    /// Reads the header of a response.
    fn response(&mut self, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let (length, number) = match header::response(input.data) {
            HeaderRead::Yes(header) => header,
            HeaderRead::More => return Ok(Step::More),
            HeaderRead::No => return Err(Desync("no response")),
        };
        let from = self.client.map_or(Direction::Receive, Direction::other);
        let mut message = new_message(MessageKind::Response, from, input, RESPONSE_HEADER);
        let asked = match self.correlation.response(number, message.first) {
            Correlated::To(request) => {
                message.id = Some(request.id);
                Some(request.what)
            }
            Correlated::Wait if self.authenticates => return Ok(raw(input)),
            Correlated::Wait => return Ok(Step::More),
            Correlated::Unknown => None,
        };
        let known = asked.filter(|asked| asked.version <= asked.api.newest);
        let walk = known.map_or_else(Walk::rest, |Asked { key, version, api }| {
            let walk = Walk::new(api.response, version, api.form(version));
            if is_response_tagged(key, api, version) { walk.behind_tags() } else { walk }
        });
        let side = &mut self.responses;
        side.open = Some(Box::new(OpenMessage {
            message,
            asked,
            number,
            left: length.saturating_sub(RESPONSE_HEADER as u64),
            walk,
            contents: Contents::default(),
            was_searched: std::mem::take(&mut side.is_searching),
            is_damaged: false,
        }));
        self.close_complete(from, out);
        Ok(Step::Taken(RESPONSE_HEADER))
    }

    /// Reads a piece of a message.
    fn body(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Step {
        let Self { client, requests, responses, ids, .. } = self;
        let side = if *client == Some(from) { requests } else { responses };
        let Some(open) = &mut side.open else { return Step::More };
        let left = usize::try_from(open.left).unwrap_or(usize::MAX);
        let data = input.data.get(..left).unwrap_or(input.data);
        let taken = match open.walk.next(data) {
            Ok(Some((taken, found))) => {
                if let Some(found) = found {
                    open.contents.add(found, ids);
                }
                taken
            }
            Ok(None) if (data.len() as u64) < open.left => return Step::More,
            _ => {
                // It ends within a part, or its form is another one.
                open.damage();
                data.len()
            }
        };
        open.take(taken as u64);
        if let Some(last) = taken.checked_sub(1).and_then(|last| input.time(last)) {
            open.message.last = last;
        }
        self.close_complete(from, out);
        Step::Taken(taken)
    }

    /// Adds the message that is being read, if nothing of it follows. Returns whether that is so.
    fn close_complete(&mut self, from: Direction, out: &mut Messages) -> bool {
        let is_complete = self.side(from).open.as_ref().is_some_and(|open| open.left == 0);
        if is_complete {
            self.close(from, out);
        }
        is_complete
    }

    /// Adds the message that is being read.
    fn close(&mut self, from: Direction, out: &mut Messages) {
        let Some(open) = self.side(from).open.take() else { return };
        let OpenMessage {
            mut message,
            asked,
            number,
            left,
            mut walk,
            mut contents,
            was_searched,
            is_damaged,
        } = *open;
        message.partial.lacks_end = left > 0;
        let is_whole = left == 0 && !is_damaged && walk.ends_here();
        if message.kind == MessageKind::Request {
            let is_one_way = asked.is_some_and(|asked| asked.key == PRODUCE) && contents.acks == Some(0);
            message.is_one_way = is_one_way && left == 0;
            message.id = match asked {
                Some(asked) if !is_one_way => Some(self.correlation.request(number, message.first, asked)),
                _ => Some(self.correlation.unanswered()),
            };
            if left > 0 {
                self.correlation.lose_requests();
            }
        } else if was_searched && !is_whole {
            // Bytes that look like the number of a request prove little.
            message.id = None;
            contents = Contents::default();
        }
        if is_damaged || left > 0 {
            contents.lose();
        }
        if message.id.is_some() {
            contents.push(&mut message);
        }
        out.push(message);
    }

    fn lose(&mut self, from: Direction) {
        if self.client != Some(from.other()) {
            self.correlation.lose_requests();
            self.authenticates = false;
        }
        if self.client.is_none() {
            (self.requests.is_searching, self.responses.is_searching) = (true, true);
        }
        self.side(from).is_searching = true;
    }
}

impl OpenMessage {
    fn take(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
        self.message.length = self.message.length.saturating_add(bytes);
    }

    fn damage(&mut self) {
        self.is_damaged = true;
        self.walk = Walk::rest();
    }
}

impl Decoder for KafkaDecoder {
    fn learn(&mut self, hints: &Hints) {
        self.client = self.client.or(hints.role.map(client_direction));
    }

    fn data(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let mut taken = 0;
        loop {
            let data = input.data.get(taken..).unwrap_or_default();
            let rest = Input { data, offset: input.offset.saturating_add(taken as u64), marks: input.marks };
            if data.is_empty() {
                return Ok(if taken == 0 { Step::More } else { Step::Taken(taken) });
            }
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
            let missing = gap.length.min(open.left);
            if !open.walk.lose(missing) {
                open.is_damaged = true;
            }
            open.take(missing);
            open.message.partial.missing = open.message.partial.missing.saturating_add(missing);
            let is_within = gap.length <= missing && gap.cause != GapCause::Desync;
            if is_within {
                self.close_complete(from, out);
                return;
            }
            self.close(from, out);
        }
        self.lose(from);
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
            |side: &Side| side.open.as_ref().map_or(0, |open| open.message.size() + open.contents.size());
        let ids: usize = self.ids.iter().map(|(id, name)| id.len() + name.len() + 64).sum();
        side(&self.requests) + side(&self.responses) + self.correlation.size() + ids
    }
}

/// The direction of requests, by the role of the process.
fn client_direction(role: Role) -> Direction {
    match role {
        Role::Client => Direction::Transmit,
        Role::Server => Direction::Receive,
    }
}

/// The bytes from the first call that begins among them.
fn first_call(input: Input<'_>) -> &[u8] {
    let start = input.call_starts().next().unwrap_or(0);
    input.data.get(start..).unwrap_or_default()
}

/// Passes over bytes by which a client authenticates, which have a length before them.
fn raw(input: Input<'_>) -> Step {
    let length = input.data.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    let Some(length) = length else { return Step::More };
    let whole = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(4);
    if input.data.len() < whole { Step::More } else { Step::Skipped(whole) }
}

fn new_message(kind: MessageKind, from: Direction, input: Input<'_>, header: usize) -> Message {
    let first: Timestamp = input.time(0).unwrap_or_default();
    let mut message = Message::new(KAFKA.name, kind, from, first);
    message.last = input.time(header.saturating_sub(1)).unwrap_or(first);
    message.length = header as u64;
    if kind == MessageKind::Request {
        message.fields.push((&SYSTEM, FieldValue::Text(KAFKA.name.to_owned())));
    }
    message
}
