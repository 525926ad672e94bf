//! WebSocket (RFC 6455) with permessage-deflate (RFC 7692).
//!
//! Owns the frames of both directions and what messages they make up. All messages of a conversation belong
//! to one exchange, the conversation itself.

mod detect;
mod extensions;
mod frame;
mod inflate;
mod message;

use super::http::PART_COMPRESSED;
use super::{Decoder, Desync, Gap, GapCause, Hints, Input, Message, MessageKind, Messages, Protocol, Step};
use crate::event::{Direction, Field, FieldKind, FieldValue, Outcome, Overview, Role};

use extensions::Agreement;
use frame::{CONTINUATION, MAX_SEARCH, WebSocketFrameHead};
use inflate::{Earlier, Inflater};
use message::{OpenWebSocketMessage, Transformation};

const TYPE: Field = Field {
    path: "websocket.message.type",
    help: "`text`, `binary`, `ping`, `pong` or `close`",
    kind: FieldKind::Text,
};
const FRAMES: Field = Field {
    path: "websocket.message.frames",
    help: "In how many frames the message came, if there were several",
    kind: FieldKind::Number,
};
const NOT_DECODED: Field = Field {
    path: "websocket.message.not_decoded",
    help: "Why the message is not shown as a whole: `context unknown` (it is compressed, and refers to \
           messages that were not captured), `part missing`, `damaged`, `expands too much`, \
           `unknown extension`",
    kind: FieldKind::Text,
};
const CLOSE_CODE: Field = Field {
    path: "websocket.close.code",
    help: "Why the connection is closed, as a number",
    kind: FieldKind::Number,
};
const CLOSE_REASON: Field =
    Field { path: "websocket.close.reason", help: "The same in words", kind: FieldKind::Text };

/// WebSocket. HTTP upgrades to it, and gives the extensions in [`Hints::extensions`].
pub(super) const WEBSOCKET: Protocol = Protocol {
    name: "websocket",
    help: "WebSocket, also compressed",
    ports: &[],
    has_exchanges: false,
    fields: &[TYPE, FRAMES, PART_COMPRESSED, NOT_DECODED, CLOSE_CODE, CLOSE_REASON],
    overview,
    detect: detect::detect,
    open: |hints| Box::new(WebSocketDecoder::new(hints)),
};

/// The key of all messages of a conversation.
const CONVERSATION: u64 = 1;
/// The evidence for the place of the first frame on a connection that certainly uses WebSocket: one frame
/// that is a call of its own.
const FIRST_EVIDENCE: u32 = 13;
/// The evidence after a gap: two such frames, or five that follow each other.
const GAP_EVIDENCE: u32 = 25;

fn overview(request: Option<&Message>, response: Option<&Message>) -> Overview {
    let message = request.or(response);
    let field = |field: &Field| message.and_then(|message| message.field(field));
    let text = |value: &FieldValue| match value {
        FieldValue::Text(text) => Some(text.clone()),
        FieldValue::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let status = field(&CLOSE_CODE).and_then(text);
    let outcome = match status.as_deref() {
        None => Outcome::Unknown,
        Some("1000" | "1001") => Outcome::Success,
        Some("1011" | "1012" | "1013" | "1014") => Outcome::ServerError,
        Some(_) => Outcome::ClientError,
    };
    Overview {
        protocol: "WebSocket".into(),
        method: field(&TYPE).and_then(text),
        status,
        outcome,
        ..Overview::default()
    }
}

#[derive(Debug)]
struct WebSocketDecoder {
    role: Option<Role>,
    agreement: Agreement,
    transmit: Side,
    receive: Side,
}

/// One direction.
struct Side {
    position: Position,
    /// The message whose frames are being read.
    message: Option<OpenWebSocketMessage>,
    /// None until the first compressed message.
    inflater: Option<Inflater>,
    /// What an inflater would have to know.
    earlier: Earlier,
    /// Whether compressed messages do not refer to earlier ones.
    is_reset: bool,
}

/// What comes next in one direction.
#[derive(Clone, Copy, Debug)]
enum Position {
    /// The head of a frame. Whether frames were searched for, so that their form has to prove that they are
    /// some.
    Head(Certainty),
    /// The rest of the payload of a frame.
    Payload { head: WebSocketFrameHead, done: u64, certainty: Certainty },
    /// Anything. A frame is where there is enough evidence for it.
    Search(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certainty {
    /// The connection was followed from the upgrade on.
    Certain,
    /// Frames were searched for.
    Searched,
}

impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Side").field("position", &self.position).finish_non_exhaustive()
    }
}

impl WebSocketDecoder {
    fn new(hints: &Hints) -> Self {
        let agreement = Agreement::of(hints);
        let (position, earlier) = if hints.from_start {
            (Position::Head(Certainty::Certain), Earlier::Nothing)
        } else {
            (Position::Search(FIRST_EVIDENCE), Earlier::Unknown)
        };
        let side = |direction| {
            let is_reset = agreement.resets(sender(hints.role, direction));
            Side { position, message: None, inflater: None, earlier, is_reset }
        };
        Self {
            role: hints.role,
            agreement,
            transmit: side(Direction::Transmit),
            receive: side(Direction::Receive),
        }
    }

    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::Transmit => &mut self.transmit,
            Direction::Receive => &mut self.receive,
        }
    }

    /// Searches for a frame at the beginnings of calls. None if one begins here.
    fn search(&mut self, from: Direction, input: Input<'_>, needed: u32) -> Option<Step> {
        let roles = match sender(self.role, from) {
            Some(role) => vec![role],
            None => vec![Role::Client, Role::Server],
        };
        for start in input.call_starts() {
            let chains =
                roles.iter().map(|role| (frame::chain(input, start, *role, self.agreement, needed), *role));
            let best = chains
                .filter_map(|(evidence, role)| Some((evidence?.bits, role)))
                .max_by_key(|(bits, _)| *bits);
            let Some((bits, role)) = best else { continue };
            let is_enough = bits >= needed;
            if !is_enough && input.data.len() - start > MAX_SEARCH {
                continue;
            }
            if start > 0 {
                return Some(Step::Skipped(start));
            }
            if !is_enough {
                return Some(Step::More);
            }
            self.role = self.role.or(Some(if from == Direction::Transmit { role } else { role.other() }));
            self.side(from).position = Position::Head(Certainty::Searched);
            return None;
        }
        Some(Step::Skipped(input.data.len()))
    }

    /// Reads the head of a frame, and a control frame as a whole.
    fn head(
        &mut self,
        from: Direction,
        input: Input<'_>,
        certainty: Certainty,
        out: &mut Messages,
    ) -> Result<Step, Desync> {
        let agreement = self.agreement;
        let sender = sender(self.role, from);
        let Some(head) = WebSocketFrameHead::parse(input.data)? else { return Ok(Step::More) };
        head.check(agreement)?;
        if certainty == Certainty::Searched
            && sender.is_some_and(|sender| !head.is_regular(sender, agreement))
        {
            return Err(Desync("no frame where one was expected"));
        }
        let Some(first) = input.time(0) else { return Ok(Step::More) };
        if head.is_control() {
            let size = usize::try_from(head.length).unwrap_or(usize::MAX).saturating_add(head.size);
            let Some(frame) = input.data.get(..size) else { return Ok(Step::More) };
            let mut message = new_message(from, first);
            message.last = input.time(size - 1).unwrap_or(first);
            message.length = size as u64;
            let mut payload = frame.get(head.size..).unwrap_or_default().to_vec();
            if let Some(mask) = head.mask {
                frame::unmask(&mut payload, mask, 0);
            }
            message::control(&head, &payload, &mut message, out.body_limit());
            out.push(message);
            return Ok(Step::Taken(size));
        }
        let last = input.time(head.size - 1).unwrap_or(first);
        let side = self.side(from);
        if head.opcode != CONTINUATION {
            side.close(Ending::CutOff, out);
        }
        let open = side.message.get_or_insert_with(|| {
            let mut message = new_message(from, first);
            message.partial.lacks_start = head.opcode == CONTINUATION;
            let transformation = if head.is_deflated(agreement) {
                Transformation::Deflate
            } else if head.is_extended() {
                Transformation::Unknown
            } else if head.opcode == CONTINUATION && agreement.may_deflate {
                // The first frame would say whether it is compressed.
                Transformation::Lost
            } else {
                Transformation::None
            };
            OpenWebSocketMessage::new(message, &head, transformation)
        });
        open.begin_frame(head.size, last);
        side.position = Position::Payload { head, done: 0, certainty };
        side.end_frame(out);
        Ok(Step::Taken(head.size))
    }

    /// Reads some of the payload of a frame.
    fn payload(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Step {
        let side = self.side(from);
        let Position::Payload { head, done, .. } = &mut side.position else { return Step::More };
        let Some(open) = &mut side.message else { return Step::More };
        let left = usize::try_from(head.length - *done).unwrap_or(usize::MAX);
        let data = input.data.get(..left).unwrap_or(input.data);
        let length = data.len();
        let time = input.time(length.saturating_sub(1)).unwrap_or(open.message.last);
        if side.inflater.is_none() && open.transformation == Transformation::Deflate {
            side.inflater = Some(Inflater::new(side.earlier));
        }
        match head.mask {
            Some(mask) => {
                let mut data = data.to_vec();
                frame::unmask(&mut data, mask, *done);
                open.add(&data, time, side.inflater.as_mut(), out.body_limit());
            }
            None => open.add(data, time, side.inflater.as_mut(), out.body_limit()),
        }
        *done += length as u64;
        side.end_frame(out);
        Step::Taken(length)
    }
}

/// How a message ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Whole,
    CutOff,
}

impl Side {
    /// Ends the frame that is being read, if it is complete, and the message with its last frame.
    fn end_frame(&mut self, out: &mut Messages) {
        let Position::Payload { head, done, certainty } = self.position else { return };
        if done < head.length {
            return;
        }
        self.position = Position::Head(certainty);
        if head.is_final {
            self.close(Ending::Whole, out);
        }
    }

    /// Adds the message that is being read, if there is one.
    fn close(&mut self, ending: Ending, out: &mut Messages) {
        let Some(mut open) = self.message.take() else { return };
        if ending == Ending::CutOff {
            open.message.partial.lacks_end = true;
        }
        open.end(ending, self.inflater.as_mut(), out.body_limit());
        if self.is_reset {
            self.inflater = None;
        }
        out.push(open.into_message());
    }

    /// Forgets what later messages may refer to.
    fn forget(&mut self) {
        if self.is_reset {
            self.inflater = None;
            return;
        }
        self.earlier = Earlier::Unknown;
        if let Some(inflater) = &mut self.inflater {
            inflater.forget();
        }
    }

    fn held_bytes(&self) -> usize {
        self.message.as_ref().map_or(0, |open| open.message.size())
            + self.inflater.as_ref().map_or(0, Inflater::size)
    }
}

impl Decoder for WebSocketDecoder {
    fn data(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        if let Position::Search(needed) = self.side(from).position
            && let Some(step) = self.search(from, input, needed)
        {
            return Ok(step);
        }
        match self.side(from).position {
            Position::Payload { .. } => Ok(self.payload(from, input, out)),
            Position::Head(certainty) => self.head(from, input, certainty, out),
            Position::Search(_) => Ok(Step::More),
        }
    }

    fn gap(&mut self, from: Direction, gap: Gap, out: &mut Messages) {
        let side = self.side(from);
        let mut left = gap.length;
        if let Position::Payload { head, done, .. } = &mut side.position
            && let Some(open) = &mut side.message
            && gap.cause != GapCause::Desync
        {
            // The frame's length shows how much of the gap belongs to it.
            let missing = left.min(head.length - *done);
            *done += missing;
            left -= missing;
            open.add_gap(missing);
            side.forget();
            side.end_frame(out);
        }
        if left > 0 {
            side.forget();
            side.close(Ending::CutOff, out);
            side.position = Position::Search(GAP_EVIDENCE);
        }
    }

    fn end(&mut self, out: &mut Messages) {
        self.transmit.close(Ending::CutOff, out);
        self.receive.close(Ending::CutOff, out);
    }

    fn held_bytes(&self) -> usize {
        self.transmit.held_bytes() + self.receive.held_bytes()
    }
}

/// The end that sends in a direction.
fn sender(role: Option<Role>, direction: Direction) -> Option<Role> {
    match direction {
        Direction::Transmit => role,
        Direction::Receive => role.map(Role::other),
    }
}

fn new_message(from: Direction, time: jiff::Timestamp) -> Message {
    let mut message = Message::new(WEBSOCKET.name, MessageKind::Event, from, time);
    message.id = Some(CONVERSATION);
    message
}

#[cfg(test)]
mod tests;
