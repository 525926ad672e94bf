//! The bytes of a connection → messages, in whatever protocols it uses.
//!
//! Owns which protocol that is, and the bytes that its decoder has not consumed yet. A conversation may
//! switch to another protocol (an upgrade), and a decoder may own conversations for the bodies that it finds.
//! A decoder never gets bytes that are joined over a gap, and the bytes that wait are bounded.

use std::fmt;

use jiff::Timestamp;

use super::{
    CallMark, Chunk, Decoder, Desync, Detect, Gap, GapCause, Hints, Input, Messages, Prefix, Protocol, Step,
};
use crate::event::{Direction, Plaintext, Role};

/// The most bytes that wait in one direction until a decoder consumes them. Bodies are consumed as they come,
/// so this must hold the head of a message.
const MAX_WAITING: usize = 256 * 1024;
/// The most bytes of both directions that are used to detect a protocol.
const MAX_PREFIX: usize = 64 * 1024;
/// How often detection is attempted on a connection that was joined in the middle. A large body may be
/// transferred first, in calls of 16 KiB and less.
const MAX_ATTEMPTS: u32 = 4096;
/// How often a decoder may fail without a message in between, before its protocol counts as a wrong guess.
const MAX_DESYNCS: u32 = 8;
/// How often a conversation may switch to another protocol.
const MAX_UPGRADES: u32 = 16;

/// A conversation between the two ends of a connection, or within the bodies of another conversation.
#[derive(Debug)]
pub struct Conversation {
    protocols: &'static [&'static Protocol],
    hints: Hints,
    state: ConversationState,
    transmit: Unread,
    receive: Unread,
    /// The number within the enclosing conversation.
    number: u64,
    upgrades: u32,
    attempts: u32,
    desyncs: u32,
    undecoded: u64,
}

#[derive(Debug)]
enum ConversationState {
    Detecting,
    Decoding(&'static Protocol, Box<dyn Decoder>),
    Unknown,
}

/// The bytes of one direction that were not consumed yet.
#[derive(Default)]
struct Unread {
    data: Vec<u8>,
    /// The offset of the first byte in the stream.
    offset: u64,
    marks: Vec<CallMark>,
}

impl fmt::Debug for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = Plaintext::of(&self.data);
        f.debug_struct("Unread").field("data", &data).field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Unread {
    fn input(&self) -> Input<'_> {
        Input { data: &self.data, offset: self.offset, marks: &self.marks }
    }

    fn append(&mut self, chunk: &Chunk<'_>) {
        if self.data.is_empty() {
            self.offset = chunk.offset;
            self.marks.clear();
        }
        self.data.extend_from_slice(chunk.data);
        if self.marks.last().is_none_or(|last| chunk.mark.starts_call || last.call != chunk.mark.call) {
            self.marks.push(chunk.mark);
        }
    }

    /// Removes bytes. Returns how many there were.
    fn take(&mut self, bytes: usize) -> u64 {
        let bytes = bytes.min(self.data.len());
        self.data.drain(..bytes);
        self.offset = self.offset.saturating_add(bytes as u64);
        let passed = self.marks.iter().take_while(|mark| mark.offset <= self.offset).count();
        self.marks.drain(..passed.saturating_sub(1));
        bytes as u64
    }

    fn clear(&mut self) -> u64 {
        self.take(self.data.len())
    }
}

impl Conversation {
    /// A conversation whose protocol is to be detected from the hints and the first bytes.
    pub fn new(protocols: &'static [&'static Protocol], hints: Hints) -> Self {
        Self {
            protocols,
            hints,
            state: ConversationState::Detecting,
            transmit: Unread::default(),
            receive: Unread::default(),
            number: 0,
            upgrades: 0,
            attempts: 0,
            desyncs: 0,
            undecoded: 0,
        }
    }

    /// A conversation in a protocol that is certain.
    pub fn of(protocol: &'static Protocol, hints: Hints) -> Self {
        let state = ConversationState::Decoding(protocol, (protocol.open)(&hints));
        Self { state, ..Self::new(&[], hints) }
    }

    /// Numbers this conversation within another one, whose decoder owns it. This keeps the ids of its
    /// messages apart from those of other conversations.
    #[must_use]
    pub fn within(self, number: u64) -> Self {
        Self { number, ..self }
    }

    /// The protocol of the conversation. None as long as it is unknown.
    pub fn protocol(&self) -> Option<&'static Protocol> {
        match &self.state {
            ConversationState::Decoding(protocol, _) => Some(protocol),
            ConversationState::Detecting | ConversationState::Unknown => None,
        }
    }

    /// Whether it certainly uses none of the protocols.
    pub fn is_unknown(&self) -> bool {
        matches!(self.state, ConversationState::Unknown)
    }

    /// The hints about the connection, so that the caller can add to them.
    pub fn hints_mut(&mut self) -> &mut Hints {
        &mut self.hints
    }

    /// The role of the process, as far as the connection or its messages show it.
    pub fn role(&self) -> Option<Role> {
        let shown = match &self.state {
            ConversationState::Decoding(_, decoder) => decoder.role(),
            ConversationState::Detecting | ConversationState::Unknown => None,
        };
        self.hints.role.or(shown)
    }

    /// The bytes that wait until a decoder can use them.
    pub fn waiting_bytes(&self) -> usize {
        self.transmit.data.len().saturating_add(self.receive.data.len())
    }

    /// The approximate memory that waiting bytes and incomplete messages take.
    pub fn held_bytes(&self) -> usize {
        let decoder = match &self.state {
            ConversationState::Decoding(_, decoder) => decoder.held_bytes(),
            ConversationState::Detecting | ConversationState::Unknown => 0,
        };
        self.waiting_bytes().saturating_add(decoder)
    }

    /// The bytes that did not become part of a message, because their protocol is unknown or a decoder
    /// skipped them.
    pub fn undecoded_bytes(&self) -> u64 {
        self.undecoded
    }

    /// Adds bytes that follow the previous ones without a gap.
    pub fn data(&mut self, from: Direction, chunk: &Chunk<'_>, out: &mut Messages) {
        if matches!(self.state, ConversationState::Unknown) || out.enter(self.number, self.upgrades).is_err()
        {
            self.undecoded = self.undecoded.saturating_add(chunk.data.len() as u64);
            return;
        }
        if let ConversationState::Decoding(_, decoder) = &mut self.state {
            decoder.learn(&self.hints);
        }
        self.receive_chunk(from, chunk, out);
        self.advance(from, out);
        out.leave();
    }

    /// Handles a gap.
    pub fn gap(&mut self, from: Direction, gap: Gap, out: &mut Messages) {
        if out.enter(self.number, self.upgrades).is_err() {
            return;
        }
        match self.state {
            ConversationState::Detecting => {
                self.undecoded = self.undecoded.saturating_add(self.side(from).clear());
                self.hints.from_start = false;
            }
            ConversationState::Decoding(..) => self.skip(from, gap, out),
            ConversationState::Unknown => {}
        }
        out.leave();
    }

    /// Ends the conversation: no more bytes follow.
    pub fn end(&mut self, out: &mut Messages) {
        if out.enter(self.number, self.upgrades).is_ok() {
            self.give_up(out);
            out.leave();
        }
    }

    /// Handles that no record comes any more of what happened before this time.
    pub fn settle(&mut self, before: Timestamp, out: &mut Messages) {
        let ConversationState::Decoding(_, decoder) = &mut self.state else { return };
        if out.enter(self.number, self.upgrades).is_ok() {
            decoder.settle(before, out);
            out.leave();
        }
    }

    /// Adds copies of the messages that are not complete, and that are no events.
    pub fn under_way(&self, out: &mut Messages) {
        let ConversationState::Decoding(_, decoder) = &self.state else { return };
        if out.enter(self.number, self.upgrades).is_ok() {
            decoder.under_way(out);
            out.leave();
        }
    }

    fn side(&mut self, direction: Direction) -> &mut Unread {
        match direction {
            Direction::Transmit => &mut self.transmit,
            Direction::Receive => &mut self.receive,
        }
    }

    /// Decodes bytes where they are, if none wait before them: most calls transfer whole messages, whose
    /// bytes need not be copied. What the decoder does not consume waits.
    fn receive_chunk(&mut self, from: Direction, chunk: &Chunk<'_>, out: &mut Messages) {
        let is_next = self.side(from).data.is_empty();
        let ConversationState::Decoding(_, decoder) = &mut self.state else {
            return self.side(from).append(chunk);
        };
        if !is_next {
            return self.side(from).append(chunk);
        }
        let input = Input { data: chunk.data, offset: chunk.offset, marks: &[chunk.mark] };
        let messages = out.len();
        let step = decoder.data(from, input, out);
        if out.len() > messages {
            self.desyncs = 0;
        }
        if let Ok(Step::Taken(bytes)) = step {
            let data = chunk.data.get(bytes..).unwrap_or_default();
            if !data.is_empty() {
                let offset = chunk.offset.saturating_add(bytes as u64);
                self.side(from).append(&Chunk { offset, data, mark: chunk.mark });
            }
            return;
        }
        self.side(from).append(chunk);
        let upgrades = self.upgrades;
        self.apply(from, step, out);
        // What waits in the other direction came first.
        while self.upgrades > upgrades && self.decode(from.other(), out) {}
    }

    /// Decodes as much as possible: first the direction with new bytes, then the other one, whose bytes may
    /// have waited for these.
    fn advance(&mut self, from: Direction, out: &mut Messages) {
        let other = from.other();
        while self.detect() {
            let upgrades = self.upgrades;
            if !self.decode(from, out) {
                break;
            }
            // What waits in the other direction came first.
            while self.upgrades > upgrades && self.decode(other, out) {}
        }
        // Each may have waited for the other one.
        while self.detect() && (self.decode(other, out) | self.decode(from, out)) {}
        for direction in [from, other] {
            let length = self.side(direction).data.len();
            if length > MAX_WAITING {
                let gap = Gap { offset: self.side(direction).offset, length: 0, cause: GapCause::TooLong };
                self.skip(direction, gap, out);
            }
        }
    }

    /// Decodes one step. Returns whether that changed anything.
    fn decode(&mut self, from: Direction, out: &mut Messages) -> bool {
        let side = match from {
            Direction::Transmit => &mut self.transmit,
            Direction::Receive => &mut self.receive,
        };
        let ConversationState::Decoding(_, decoder) = &mut self.state else { return false };
        if side.data.is_empty() {
            return false;
        }
        let messages = out.len();
        let step = decoder.data(from, side.input(), out);
        if out.len() > messages {
            self.desyncs = 0;
        }
        self.apply(from, step, out)
    }

    /// Does what a decoder says about the bytes that wait. Returns whether that changed anything.
    fn apply(&mut self, from: Direction, step: Result<Step, Desync>, out: &mut Messages) -> bool {
        let side = self.side(from);
        match step {
            Ok(Step::More | Step::Taken(0) | Step::Skipped(0)) => false,
            Ok(Step::Skipped(bytes)) => {
                let skipped = side.take(bytes);
                self.undecoded = self.undecoded.saturating_add(skipped);
                true
            }
            Ok(Step::Taken(bytes)) => {
                side.take(bytes);
                true
            }
            Ok(Step::Upgrade { taken, to, extensions, unanswered }) => {
                side.take(taken);
                (self.hints.extensions, self.hints.unanswered) = (extensions, unanswered);
                self.upgrade(to, out);
                true
            }
            Err(_) => {
                self.desync(from, out);
                true
            }
        }
    }

    /// Switches both directions to another protocol.
    fn upgrade(&mut self, to: Option<&'static Protocol>, out: &mut Messages) {
        self.hints.role = self.role();
        if let ConversationState::Decoding(_, decoder) = &mut self.state {
            decoder.end(out);
        }
        self.upgrades += 1;
        if self.upgrades > MAX_UPGRADES {
            return self.give_up(out);
        }
        out.next_protocol();
        (self.desyncs, self.attempts) = (0, 0);
        // The negotiated name is that of the previous protocol.
        (self.hints.alpn, self.hints.from_start) = (None, true);
        self.state = match to {
            Some(protocol) => ConversationState::Decoding(protocol, (protocol.open)(&self.hints)),
            None => ConversationState::Detecting,
        };
    }

    /// Skips to the start of the next call, because the decoder cannot make sense of what comes next.
    fn desync(&mut self, from: Direction, out: &mut Messages) {
        self.desyncs += 1;
        if self.desyncs > MAX_DESYNCS {
            return self.give_up(out);
        }
        let side = self.side(from);
        let next = side.input().call_starts().find(|start| *start > 0).unwrap_or(side.data.len());
        let (offset, length) = (side.offset, side.take(next));
        self.undecoded = self.undecoded.saturating_add(length);
        if let ConversationState::Decoding(_, decoder) = &mut self.state {
            decoder.gap(from, Gap { offset, length, cause: GapCause::Desync }, out);
        }
    }

    /// Reports a gap to the decoder. Bytes before the gap that the decoder has not consumed are dropped as
    /// well.
    fn skip(&mut self, from: Direction, gap: Gap, out: &mut Messages) {
        let side = self.side(from);
        let offset = if side.data.is_empty() { gap.offset } else { side.offset };
        let waited = side.clear();
        self.undecoded = self.undecoded.saturating_add(waited);
        let length = gap.length.saturating_add(waited);
        if let ConversationState::Decoding(_, decoder) = &mut self.state {
            decoder.gap(from, Gap { offset, length, ..gap }, out);
        }
    }

    fn give_up(&mut self, out: &mut Messages) {
        if let ConversationState::Decoding(_, decoder) = &mut self.state {
            decoder.end(out);
        }
        self.state = ConversationState::Unknown;
        let waited = self.transmit.clear().saturating_add(self.receive.clear());
        self.undecoded = self.undecoded.saturating_add(waited);
        (self.transmit, self.receive) = (Unread::default(), Unread::default());
    }

    /// Detects the protocol if it is unknown. Returns whether there is a decoder now.
    fn detect(&mut self) -> bool {
        if !matches!(self.state, ConversationState::Detecting) {
            return matches!(self.state, ConversationState::Decoding(..));
        }
        let prefix =
            Prefix { transmit: self.transmit.input(), receive: self.receive.input(), hints: &self.hints };
        match super::detect(self.protocols, &prefix) {
            Ok(protocol) => {
                self.state = ConversationState::Decoding(protocol, (protocol.open)(&self.hints));
                return true;
            }
            Err(Detect::NeedMore) if self.waiting_bytes() <= MAX_PREFIX => return false,
            Err(_) => {}
        }
        // If the conversation was joined in the middle, the next call may begin a message.
        let has_start = prefix.sides().iter().any(|side| side.call_starts().next().is_some());
        self.attempts += u32::from(has_start);
        let waited = self.transmit.clear().saturating_add(self.receive.clear());
        self.undecoded = self.undecoded.saturating_add(waited);
        if self.hints.from_start || self.attempts >= MAX_ATTEMPTS {
            self.state = ConversationState::Unknown;
            (self.transmit, self.receive) = (Unread::default(), Unread::default());
        }
        false
    }
}
