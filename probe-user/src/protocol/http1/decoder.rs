//! The bytes of a connection → requests and responses.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::HTTP1;
use super::body::{BodyGap, BodyState, MessageEnd, OpenHttpMessage};
use super::fields::{Switch, asks_to_upgrade, push_target, push_violations};
use super::framing::{BodyLength, answer_body, request_body};
use super::head::{
    LONG_HEAD, MAX_HEAD, MessageHead, StartLine, detect_joined, may_start, section_length, skip_empty_lines,
    starts_with_method,
};
use super::pairing::{Answer, Candidates, Method, Pairing, ResponseSide, SentRequest};
use crate::event::{Direction, FieldValue, Role};
use crate::protocol::http::head::elements;
use crate::protocol::http::{METHOD, RESPONSE_HEADERS, RESPONSE_VIOLATIONS, STATUS, VERSION};
use crate::protocol::{
    Decoder, Desync, Detect, Gap, Hints, Input, Message, MessageKind, Messages, RpcCall, Step,
};

/// The most calls that wait for their responses. Beyond this, the responses are of no known method.
const MAX_CALLS: usize = 256;

/// Decodes a connection.
#[derive(Debug)]
pub(super) struct Http1Decoder {
    pairing: Pairing,
    transmit: Side,
    receive: Side,
    /// A response that waits for its request, for the case that the request never comes.
    waiting_response: Option<Message>,
    /// The calls that were not answered yet, by the ids of their requests.
    calls: VecDeque<(u64, RpcCall)>,
}

/// The state of one direction.
#[derive(Debug)]
struct Side {
    sends: Sends,
    reading: Reading,
    /// How much of the bytes that are not consumed yet was searched for the end of a head.
    scanned: usize,
    /// Whether there are bytes that are not consumed yet.
    is_waiting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sends {
    /// Not known yet.
    Unknown,
    Requests,
    Responses,
}

#[derive(Debug)]
enum Reading {
    /// Bytes are missing, so the beginning of a message is searched for.
    Search,
    Head,
    Body(Box<OpenHttpMessage>),
}

/// What was done with some bytes.
enum Progress {
    /// More bytes are needed.
    More,
    /// They were consumed.
    Taken(usize),
    /// They could not be made sense of.
    Skipped(usize),
    /// They were consumed, and another protocol follows.
    Switch { taken: usize, switch: Switch },
}

impl Http1Decoder {
    pub(super) fn new(hints: &Hints) -> Self {
        let side = || Side {
            sends: Sends::Unknown,
            reading: if hints.from_start { Reading::Head } else { Reading::Search },
            scanned: 0,
            is_waiting: false,
        };
        Self {
            pairing: Pairing::new(hints),
            transmit: side(),
            receive: side(),
            waiting_response: None,
            calls: VecDeque::new(),
        }
    }

    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::Transmit => &mut self.transmit,
            Direction::Receive => &mut self.receive,
        }
    }

    fn step(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Progress, Desync> {
        match &self.side(from).reading {
            Reading::Search => Ok(self.search(from, input)),
            Reading::Head => self.head(from, input, out),
            Reading::Body(_) => Ok(self.body(from, input, out)),
        }
    }

    /// Searches for a call that begins a message.
    fn search(&mut self, from: Direction, input: Input<'_>) -> Progress {
        let side = self.side(from);
        let sends = side.sends;
        let starts = input.call_starts().filter_map(|start| {
            let found = starts_message(input, start, sends);
            (found != Detect::No).then_some((start, found))
        });
        let Some((start, found)) = starts.into_iter().next() else {
            return Progress::Skipped(input.data.len());
        };
        if start > 0 {
            return Progress::Skipped(start);
        }
        if found == Detect::NeedMore {
            return Progress::More;
        }
        (side.reading, side.scanned) = (Reading::Head, 0);
        Progress::Taken(0)
    }

    /// Reads the head of a message.
    fn head(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Progress, Desync> {
        let empty = input.data.len() - skip_empty_lines(input.data).len();
        if empty > 0 {
            self.side(from).scanned = 0;
            return Ok(Progress::Taken(empty));
        }
        if self.side(from).sends == Sends::Requests && self.pairing.awaits_switch() {
            // Which protocol this is in depends on the response.
            return Ok(Progress::More);
        }
        let side = self.side(from);
        let length = section_length(input.data, &mut side.scanned);
        if length.is_none() && input.data.len() <= MAX_HEAD {
            return if may_start(input.data) { Ok(Progress::More) } else { Err(Desync("no start line")) };
        }
        let length = length.filter(|length| *length <= MAX_HEAD);
        let taken = length.unwrap_or(input.data.len().min(MAX_HEAD));
        let mut head = input.data.get(..taken).and_then(MessageHead::parse).ok_or(Desync("no start line"))?;
        if length.is_none() {
            head.violations.add(LONG_HEAD);
        }
        let sends = match head.start {
            StartLine::Request { .. } => Sends::Requests,
            StartLine::Status { .. } => Sends::Responses,
        };
        self.settle_roles(from, sends)?;
        let (first, last) = (input.time(0).unwrap_or_default(), input.time(taken - 1).unwrap_or_default());
        let bounds = HeadBounds { from, taken, first, last };
        let progress = match sends {
            Sends::Requests => Progress::Taken(self.request(head, &bounds, out)),
            Sends::Responses | Sends::Unknown => self.response(head, &bounds, out),
        };
        if !matches!(progress, Progress::More) {
            self.side(from).scanned = 0;
            self.saw_bytes(from, last);
        }
        Ok(progress)
    }

    /// The direction of a message shows which end is the client.
    fn settle_roles(&mut self, from: Direction, sends: Sends) -> Result<(), Desync> {
        let has = self.side(from).sends;
        if has != Sends::Unknown {
            return if has == sends { Ok(()) } else { Err(Desync("a message of the other end")) };
        }
        let other = if sends == Sends::Requests { Sends::Responses } else { Sends::Requests };
        (self.transmit.sends, self.receive.sends) =
            if from == Direction::Transmit { (sends, other) } else { (other, sends) };
        Ok(())
    }

    fn request(&mut self, mut head: MessageHead, bounds: &HeadBounds, out: &mut Messages) -> usize {
        // Nothing but this looks at the start line any more.
        let start = std::mem::replace(&mut head.start, StartLine::Status { version: 1, code: 0 });
        let StartLine::Request { method, target, version } = start else { return bounds.taken };
        let mut message = bounds.message(MessageKind::Request, version);
        push_target(&mut message, &method, &target, version, &mut head);
        let kind = Method::of(&method);
        message.fields.push((&METHOD, FieldValue::Text(method)));
        let length = match kind {
            // Whether the bytes after it are a body, depends on the response.
            Method::Connect => BodyLength::Known(0),
            _ => request_body(&mut head, version),
        };
        let asks_to_switch = kind == Method::Connect || asks_to_upgrade(&head.headers);
        if self.pairing.ends_response(bounds.first) {
            self.close_without_body(bounds.from, out);
        }
        let responses = self.response_side();
        let sent = SentRequest { method: kind, asks_to_switch, time: bounds.first };
        message.id = self.pairing.request(sent, responses);
        let expects = elements(&head.headers, "expect").any(|expected| expected == "100-continue");
        self.open(head, message, length, bounds);
        if let Reading::Body(open) = &mut self.side(bounds.from).reading {
            open.may_lack_body = expects && version > 0;
            let call = open.message.id.zip(open.message.call.clone());
            self.calls.extend(call);
            if self.calls.len() > MAX_CALLS {
                self.calls.pop_front();
            }
        }
        self.close_complete(bounds.from, out);
        bounds.taken
    }

    fn response(&mut self, mut head: MessageHead, bounds: &HeadBounds, out: &mut Messages) -> Progress {
        let StartLine::Status { version, code } = head.start else { return Progress::More };
        let mut message = bounds.message(MessageKind::Response, version);
        message.fields.push((&STATUS, FieldValue::Number(code.into())));
        self.pairing.confirm_idle(bounds.first);
        if code < 200 && code != 101 {
            return self.interim(head, message, out);
        }
        let answer = self.pairing.response(bounds.first);
        let mut may_lack_body = false;
        let (request, length) = match answer {
            Answer::Wait => {
                self.waiting_response.get_or_insert_with(|| {
                    message.fields.push((&RESPONSE_HEADERS, FieldValue::Headers(head.headers)));
                    message
                });
                return Progress::More;
            }
            Answer::To(request) => {
                (Some(request), answer_body(&mut head, version, code, Some(request.sent.method)))
            }
            Answer::Unknown(candidates) => {
                let length = answer_body(&mut head, version, code, None);
                may_lack_body = candidates == Candidates::Unseen;
                let is_certain = candidates != Candidates::SomeWithoutBody || length == BodyLength::Known(0);
                (None, if is_certain { length } else { BodyLength::Unclear })
            }
        };
        self.waiting_response = None;
        message.id = request.map(|request| request.id);
        message.call = message.id.and_then(|id| self.answered_call(id));
        let switch = Switch::of(&head.headers, code, request);
        if let Some(switch @ Switch { unanswered: Some(_), .. }) = switch {
            // It only says that the next protocol answers.
            message.kind = MessageKind::Event;
            message.fields.push((&RESPONSE_HEADERS, FieldValue::Headers(head.headers)));
            out.push(message);
            return Progress::Switch { taken: bounds.taken, switch };
        }
        self.open(head, message, length, bounds);
        if let Reading::Body(open) = &mut self.side(bounds.from).reading {
            open.may_lack_body = may_lack_body;
        }
        self.close_complete(bounds.from, out);
        match switch {
            Some(switch) => Progress::Switch { taken: bounds.taken, switch },
            None => Progress::Taken(bounds.taken),
        }
    }

    /// The call that a response answers. Earlier ones will not be answered any more.
    fn answered_call(&mut self, id: u64) -> Option<RpcCall> {
        while self.calls.front().is_some_and(|(has, _)| *has < id) {
            self.calls.pop_front();
        }
        let (_, call) = self.calls.pop_front_if(|(has, _)| *has == id)?;
        Some(call.answer())
    }

    /// An interim response is a part of the exchange, and not the answer.
    fn interim(&mut self, head: MessageHead, mut message: Message, out: &mut Messages) -> Progress {
        let request = self.pairing.next();
        if request.is_none() && self.pairing.is_exact() {
            return Progress::More;
        }
        let taken = usize::try_from(message.length).unwrap_or(usize::MAX);
        message.kind = MessageKind::Event;
        message.id = request.map(|request| request.id);
        message.fields.push((&RESPONSE_HEADERS, FieldValue::Headers(head.headers)));
        push_violations(&mut message, &RESPONSE_VIOLATIONS, head.violations);
        out.push(message);
        Progress::Taken(taken)
    }

    /// Begins the body of a message.
    fn open(&mut self, head: MessageHead, message: Message, length: BodyLength, bounds: &HeadBounds) {
        let open = OpenHttpMessage::new(head, message, length);
        self.side(bounds.from).reading = Reading::Body(Box::new(open));
    }

    /// Reads the body of a message.
    fn body(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Progress {
        let sends = self.side(from).sends;
        let is_response = sends == Sends::Responses;
        let Reading::Body(open) = &self.side(from).reading else { return Progress::More };
        if open.may_lack_body && !open.has_begun && input.call_starts().next() == Some(0) {
            let is_answered = is_response || !open.message.id.is_some_and(|id| self.pairing.is_pending(id));
            match starts_message(input, 0, sends) {
                Detect::Yes if is_answered => {
                    // The server did not want the body of the request, or the response is to a HEAD.
                    self.close(from, if is_response { MessageEnd::Unknown } else { MessageEnd::Known }, out);
                    return Progress::Taken(0);
                }
                Detect::NeedMore if is_answered => return Progress::More,
                _ => {}
            }
        }
        let Reading::Body(open) = &mut self.side(from).reading else { return Progress::More };
        let taken = open.read(input, out);
        if taken > 0 {
            let last = open.message.last;
            self.saw_bytes(from, last);
        }
        let is_closed = self.close_complete(from, out);
        if taken == 0 && !is_closed { Progress::More } else { Progress::Taken(taken) }
    }

    /// Adds the message that is being read, if nothing of it follows. Returns whether that is so.
    fn close_complete(&mut self, from: Direction, out: &mut Messages) -> bool {
        let Reading::Body(open) = &self.side(from).reading else { return false };
        let body = open.body;
        if !matches!(body, BodyState::Complete | BodyState::Broken) {
            return false;
        }
        self.close(from, MessageEnd::of(body), out);
        if body == BodyState::Broken {
            self.lose(from);
        }
        true
    }

    /// Adds the message that is being read.
    fn close(&mut self, from: Direction, end: MessageEnd, out: &mut Messages) {
        let Reading::Body(open) = std::mem::replace(&mut self.side(from).reading, Reading::Head) else {
            return;
        };
        let message = open.finish(end, out);
        if message.kind == MessageKind::Response {
            self.pairing.end_response(message.last);
        }
        out.push(message);
    }

    /// Adds the response of the other end if it may have no body and nothing of one was seen.
    fn close_without_body(&mut self, client: Direction, out: &mut Messages) {
        let server = client.other();
        let side = self.side(server);
        let is_waiting = side.is_waiting;
        if let Reading::Body(open) = &side.reading
            && open.may_lack_body
            && !open.has_begun
            && !is_waiting
        {
            self.close(server, MessageEnd::Unknown, out);
        }
    }

    /// Searches for the next message, because the end of the current one is not known.
    fn lose(&mut self, from: Direction) {
        match self.side(from).sends {
            Sends::Requests => self.pairing.lose_requests(),
            Sends::Responses => self.pairing.lose_responses(),
            Sends::Unknown => self.pairing.lose_count(),
        }
        let side = self.side(from);
        (side.reading, side.scanned, side.is_waiting) = (Reading::Search, 0, false);
    }

    /// Notes when bytes were transferred.
    fn saw_bytes(&mut self, from: Direction, time: Timestamp) {
        self.pairing.saw_bytes(time);
        if self.side(from).sends == Sends::Responses {
            self.pairing.saw_response_bytes(time);
        }
    }

    fn response_side(&self) -> ResponseSide {
        let side = if self.transmit.sends == Sends::Responses { &self.transmit } else { &self.receive };
        match side.reading {
            Reading::Head if !side.is_waiting => ResponseSide::BetweenMessages,
            _ => ResponseSide::WithinMessage,
        }
    }
}

impl Decoder for Http1Decoder {
    fn data(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let mut taken = 0;
        loop {
            let data = input.data.get(taken..).unwrap_or_default();
            let rest = Input { data, offset: input.offset.saturating_add(taken as u64), marks: input.marks };
            self.side(from).is_waiting = !data.is_empty();
            let progress = if data.is_empty() { Ok(Progress::More) } else { self.step(from, rest, out) };
            let progress = match progress {
                // What was consumed is settled before anything else.
                Ok(Progress::More | Progress::Skipped(_)) | Err(_) if taken > 0 => {
                    return Ok(Step::Taken(taken));
                }
                progress => progress?,
            };
            match progress {
                Progress::More => return Ok(Step::More),
                Progress::Taken(bytes) => taken += bytes,
                Progress::Skipped(bytes) => {
                    if let Some(time) = rest.time(bytes.saturating_sub(1)) {
                        self.saw_bytes(from, time);
                    }
                    return Ok(Step::Skipped(bytes));
                }
                Progress::Switch { taken: bytes, switch: Switch { to, extensions, unanswered } } => {
                    return Ok(Step::Upgrade { taken: taken + bytes, to, extensions, unanswered });
                }
            }
        }
    }

    fn gap(&mut self, from: Direction, gap: Gap, out: &mut Messages) {
        if self.side(from).sends == Sends::Responses
            && let Some(mut response) = self.waiting_response.take()
        {
            response.partial.lacks_end = true;
            out.push(response);
        }
        let side = self.side(from);
        side.is_waiting = false;
        if let Reading::Body(open) = &mut side.reading {
            let is_within = open.gap(gap.length, out) == BodyGap::Within;
            // A message that is broken off here is lost as well.
            if is_within {
                self.close_complete(from, out);
                return;
            }
            let end = MessageEnd::of(open.body);
            self.close(from, end, out);
        }
        self.lose(from);
    }

    fn end(&mut self, out: &mut Messages) {
        for direction in [Direction::Transmit, Direction::Receive] {
            let end = match &self.side(direction).reading {
                Reading::Body(open) if open.body == BodyState::UntilClose => MessageEnd::Known,
                Reading::Body(open) => MessageEnd::of(open.body),
                Reading::Search | Reading::Head => continue,
            };
            self.close(direction, end, out);
        }
        if let Some(mut response) = self.waiting_response.take() {
            response.partial.lacks_end = true;
            out.push(response);
        }
    }

    fn role(&self) -> Option<Role> {
        match self.transmit.sends {
            Sends::Requests => Some(Role::Client),
            Sends::Responses => Some(Role::Server),
            Sends::Unknown => None,
        }
    }

    fn under_way(&self, out: &mut Messages) {
        for side in [&self.transmit, &self.receive] {
            if let Reading::Body(open) = &side.reading {
                let message = open.as_ref().clone().finish(MessageEnd::Unknown, out);
                out.push(message);
            }
        }
    }

    fn held_bytes(&self) -> usize {
        let side = |side: &Side| match &side.reading {
            Reading::Body(open) => open.message.size(),
            Reading::Search | Reading::Head => 0,
        };
        let waiting = self.waiting_response.as_ref().map_or(0, Message::size);
        let calls = self.calls.iter().map(|(_, call)| size_of::<(u64, RpcCall)>() + call.method.len());
        side(&self.transmit) + side(&self.receive) + waiting + self.pairing.size() + calls.sum::<usize>()
    }
}

/// Where a head is in the stream.
struct HeadBounds {
    from: Direction,
    taken: usize,
    first: Timestamp,
    last: Timestamp,
}

impl HeadBounds {
    fn message(&self, kind: MessageKind, version: u8) -> Message {
        let mut message = Message::new(HTTP1.name, kind, self.from, self.first);
        message.last = self.last;
        message.length = self.taken as u64;
        let text = if version == 1 { "1.1".to_owned() } else { format!("1.{version}") };
        message.fields.push((&VERSION, FieldValue::Text(text)));
        message
    }
}

/// Whether a message begins at `start`, which is the start of a call.
pub(super) fn detect_in_call(input: Input<'_>, start: usize) -> Detect {
    starts_message(input, start, Sends::Unknown)
}

/// Whether a message of a side begins at `start`, which is the start of a call. Only one whose start line is
/// within one call counts, because the calls before it may be parts of anything.
fn starts_message(input: Input<'_>, start: usize, sends: Sends) -> Detect {
    let mut next_calls = input.call_starts().filter(|next| *next > start);
    let mut next_call = next_calls.next();
    let until =
        |end: Option<usize>| input.data.get(start..end.unwrap_or(input.data.len())).unwrap_or_default();
    let mut call = until(next_call);
    if let [_] = call
        && next_call.is_some()
    {
        // Go's server reads the first byte of a request alone, if it comes early.
        let end = next_calls.next();
        if starts_with_method(until(end)) {
            (next_call, call) = (end, until(end));
        }
    }
    let line = skip_empty_lines(call);
    let may_be_status = line.iter().zip(b"HTTP/").all(|(byte, expected)| byte == expected);
    let is_other = match sends {
        Sends::Unknown => false,
        Sends::Requests => line.starts_with(b"HTTP/"),
        Sends::Responses => !may_be_status,
    };
    match detect_joined(call) {
        _ if is_other => Detect::No,
        Detect::NeedMore if next_call.is_some() => Detect::No,
        detect => detect,
    }
}
