//! A protocol for the tests that has the features of real ones.
//!
//! A frame is a kind, an id, a length in three digits, and that many bytes: `q7 005hello`. `q` is a request
//! and `a` the response to the `q` with the same id, in any order. `n` contains bytes of a conversation of
//! lines within this one, whose number is the id. `u` requests to switch to lines, and `U` agrees. `e` stands
//! alone.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::line::LINE;
use crate::event::{Direction, Field, FieldKind, FieldValue, Overview};
use crate::protocol::{
    CallMark, Chunk, Conversation, Decoder, Desync, Detect, Gap, GapCause, Hints, Input, Message,
    MessageKind, Messages, Prefix, Protocol, Step,
};

const KIND: Field = Field { path: "frame.kind", help: "What the frame is", kind: FieldKind::Text };
const ID: Field = Field { path: "frame.id", help: "Its number", kind: FieldKind::Number };
/// The bytes before the body of a frame.
const HEAD: usize = 6;

pub(crate) const FRAME: Protocol = Protocol {
    name: "frame",
    help: "Frames with ids, answered in any order",
    ports: &[9],
    has_exchanges: true,
    fields: &[KIND, ID],
    overview: |_, _| Overview::default(),
    detect,
    open: |hints| Box::new(FrameDecoder { hints: hints.clone(), ..FrameDecoder::default() }),
};

fn detect(prefix: &Prefix<'_>) -> Detect {
    if prefix.hints.alpn.as_deref() == Some("frame") {
        return Detect::Yes;
    }
    let mut all = Detect::No;
    for side in prefix.sides() {
        let starts = side.call_starts().filter(|start| *start == 0 || !prefix.hints.from_start);
        for start in starts {
            match Head::parse(&side.data[start..]) {
                Ok(Some(_)) => return Detect::Yes,
                Ok(None) => all = Detect::NeedMore,
                Err(_) => {}
            }
        }
    }
    all
}

struct Head {
    kind: u8,
    id: u64,
    length: usize,
}

impl Head {
    fn parse(data: &[u8]) -> Result<Option<Self>, Desync> {
        let Some(head) = data.get(..HEAD) else { return Ok(None) };
        let &[kind, id, b' ', ref digits @ ..] = head else { return Err(Desync("no head of a frame")) };
        let length = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        let length = length.ok_or(Desync("no length"))?;
        if !b"qanuUe".contains(&kind) || !id.is_ascii_digit() {
            return Err(Desync("no kind of frame"));
        }
        Ok(Some(Self { kind, id: (id - b'0').into(), length }))
    }
}

/// A frame whose body is not complete.
#[derive(Debug)]
struct OpenFrame {
    kind: u8,
    message: Message,
    rest: u64,
}

#[derive(Debug, Default)]
struct FrameDecoder {
    hints: Hints,
    /// The frame that is being read, by direction.
    open: BTreeMap<bool, OpenFrame>,
    /// Whether bytes were lost, so that the next frame is searched for, by direction.
    lost: BTreeMap<bool, bool>,
    nested: BTreeMap<u64, Conversation>,
    /// The number of bytes that each nested conversation got, by direction.
    given: BTreeMap<(u64, bool), u64>,
    has_asked_to_upgrade: bool,
}

impl FrameDecoder {
    fn body(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Step {
        let side = from == Direction::Transmit;
        let Some(open) = self.open.get_mut(&side) else { return Step::More };
        let length = usize::try_from(open.rest).unwrap().min(input.data.len());
        let (data, mark) = (&input.data[..length], input.mark(length - 1).unwrap());
        open.rest -= length as u64;
        open.message.add_body(data, out.body_limit());
        open.message.last = mark.time;
        if open.kind == b'n' {
            let id = open.message.id.unwrap();
            let offset = self.given.entry((id, side)).or_default();
            let mark = CallMark { offset: *offset, starts_call: false, ..mark };
            let chunk = Chunk { offset: *offset, data, mark };
            *offset += length as u64;
            let hints = Hints { from_start: true, alpn: None, ..self.hints.clone() };
            let nested = self.nested.entry(id);
            nested.or_insert_with(|| Conversation::of(&LINE, hints).within(id)).data(from, &chunk, out);
        }
        self.close_complete(from, out);
        Step::Taken(length)
    }

    /// Adds the frame that is being read, if it is complete.
    fn close_complete(&mut self, from: Direction, out: &mut Messages) {
        if self.open.get(&(from == Direction::Transmit)).is_some_and(|open| open.rest == 0) {
            self.close(from, out);
        }
    }

    /// Adds the frame that is being read, because no more of it comes.
    fn close(&mut self, from: Direction, out: &mut Messages) {
        let Some(open) = self.open.remove(&(from == Direction::Transmit)) else { return };
        let OpenFrame { kind, mut message, rest } = open;
        message.partial.lacks_end = rest > 0;
        if kind != b'n' {
            out.push(message);
        }
    }

    fn begin(&mut self, from: Direction, head: &Head, time: Timestamp) {
        let kind = match head.kind {
            b'q' | b'u' => MessageKind::Request,
            b'a' | b'U' => MessageKind::Response,
            _ => MessageKind::Event,
        };
        let mut message = Message::new(FRAME.name, kind, from, time);
        message.id = Some(head.id);
        message.length = (HEAD + head.length) as u64;
        message.fields = vec![
            (&KIND, FieldValue::Text(char::from(head.kind).to_string())),
            (&ID, FieldValue::Number(head.id)),
        ];
        let open = OpenFrame { kind: head.kind, message, rest: head.length as u64 };
        self.open.insert(from == Direction::Transmit, open);
    }
}

impl Decoder for FrameDecoder {
    fn data(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let side = from == Direction::Transmit;
        if self.open.contains_key(&side) {
            return Ok(self.body(from, input, out));
        }
        if self.has_asked_to_upgrade && side {
            // The meaning of this depends on the answer.
            return Ok(Step::More);
        }
        if self.lost.remove(&side).is_some() || (!self.hints.from_start && Head::parse(input.data).is_err()) {
            // After a gap, a frame most likely begins where a call does.
            let head = |start: &usize| Head::parse(&input.data[*start..]).is_ok();
            let next = input.call_starts().find(head).unwrap_or(input.data.len());
            let is_sure = next == 0 && input.data.len() >= HEAD;
            if !is_sure {
                self.lost.insert(side, true);
                return Ok(if next == 0 { Step::More } else { Step::Skipped(next) });
            }
        }
        let Some(head) = Head::parse(input.data)? else { return Ok(Step::More) };
        self.begin(from, &head, input.time(0).unwrap());
        self.has_asked_to_upgrade |= head.kind == b'u';
        self.close_complete(from, out);
        if head.kind == b'U' {
            return Ok(Step::Upgrade { taken: HEAD, to: Some(&LINE), extensions: None, unanswered: None });
        }
        Ok(Step::Taken(HEAD))
    }

    fn gap(&mut self, from: Direction, gap: Gap, out: &mut Messages) {
        let side = from == Direction::Transmit;
        if let Some(open) = self.open.get_mut(&side)
            && gap.cause != GapCause::Desync
        {
            // The frame's length shows how much of the gap belongs to it.
            let missing = gap.length.min(open.rest);
            open.rest -= missing;
            open.message.add_body_gap(missing);
            if gap.length == missing {
                return self.close_complete(from, out);
            }
            self.close(from, out);
        }
        self.lost.insert(side, true);
    }

    fn end(&mut self, out: &mut Messages) {
        self.close(Direction::Transmit, out);
        self.close(Direction::Receive, out);
        self.nested.values_mut().for_each(|nested| nested.end(out));
    }
}
