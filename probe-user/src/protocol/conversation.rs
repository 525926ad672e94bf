//! The bytes of a connection → messages, by whatever protocols it speaks.
//!
//! Owns which protocol that is, and the bytes that its decoder has not taken yet. A conversation may go on in
//! another protocol (an upgrade), and a decoder may have conversations of its own for the bodies that it
//! meets. It never hands a decoder bytes that are joined over a gap, and what waits is bounded.

use std::fmt;

use super::{
    CallMark, Chunk, Decoder, Detect, Gap, GapCause, Hints, Input, Messages, Prefix, Protocol, Step,
};
use crate::event::{Direction, Plaintext};

/// Bytes that may wait in one direction for a decoder to take them. Bodies are taken as they come: it is the
/// head of a message that has to fit.
const MAX_WAITING: usize = 256 * 1024;
/// Bytes of both directions from which a protocol is to be told.
const MAX_PREFIX: usize = 64 * 1024;
/// How often that is tried on a connection that was joined in the middle.
const MAX_ATTEMPTS: u32 = 16;
/// How often a decoder may fail without a message in between, before its protocol counts as a wrong guess.
const MAX_DESYNCS: u32 = 8;
/// How often a conversation may go on in another protocol.
const MAX_UPGRADES: u32 = 16;

/// A conversation between the two ends of a connection, or within the bodies of another one.
#[derive(Debug)]
pub struct Conversation {
    protocols: &'static [&'static Protocol],
    hints: Hints,
    state: ConversationState,
    transmit: Unread,
    receive: Unread,
    /// Its number in the conversation around it.
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

/// Bytes of one direction that are not taken yet.
#[derive(Default)]
struct Unread {
    data: Vec<u8>,
    /// Offset in the stream of the first one.
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

    /// Takes bytes out; gives how many there were.
    fn take(&mut self, bytes: usize) -> u64 {
        let bytes = bytes.min(self.data.len());
        self.data.drain(..bytes);
        self.offset = self.offset.saturating_add(bytes as u64);
        let gone = self.marks.iter().take_while(|mark| mark.offset <= self.offset).count();
        self.marks.drain(..gone.saturating_sub(1));
        bytes as u64
    }

    fn clear(&mut self) -> u64 {
        self.take(self.data.len())
    }
}

impl Conversation {
    /// One of which the protocol is to be told, by what is known of it and its first bytes.
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

    /// One in a protocol that is certain.
    pub fn of(protocol: &'static Protocol, hints: Hints) -> Self {
        let state = ConversationState::Decoding(protocol, (protocol.open)(&hints));
        Self { state, ..Self::new(&[], hints) }
    }

    /// The conversation of this number within another one, whose decoder has it: the ids of its messages are
    /// its own.
    #[must_use]
    pub fn within(self, number: u64) -> Self {
        Self { number, ..self }
    }

    /// The protocol that it speaks; none as long as that is not known.
    pub fn protocol(&self) -> Option<&'static Protocol> {
        match &self.state {
            ConversationState::Decoding(protocol, _) => Some(protocol),
            ConversationState::Detecting | ConversationState::Unknown => None,
        }
    }

    /// What is known of it, to add to it.
    pub fn hints_mut(&mut self) -> &mut Hints {
        &mut self.hints
    }

    /// Bytes that wait until a decoder can make sense of them.
    pub fn waiting_bytes(&self) -> usize {
        self.transmit.data.len().saturating_add(self.receive.data.len())
    }

    /// Bytes of which nothing became a message: of an unknown protocol, or passed over by a decoder.
    pub fn undecoded_bytes(&self) -> u64 {
        self.undecoded
    }

    /// Takes bytes that follow on those before.
    pub fn data(&mut self, from: Direction, chunk: &Chunk<'_>, out: &mut Messages) {
        if matches!(self.state, ConversationState::Unknown) || out.enter(self.number, self.upgrades).is_err()
        {
            self.undecoded = self.undecoded.saturating_add(chunk.data.len() as u64);
            return;
        }
        self.side(from).append(chunk);
        self.advance(from, out);
        out.leave();
    }

    /// Takes notice of bytes that are missing.
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

    /// Nothing more comes.
    pub fn end(&mut self, out: &mut Messages) {
        if out.enter(self.number, self.upgrades).is_ok() {
            self.give_up(out);
            out.leave();
        }
    }

    fn side(&mut self, direction: Direction) -> &mut Unread {
        match direction {
            Direction::Transmit => &mut self.transmit,
            Direction::Receive => &mut self.receive,
        }
    }

    /// Decodes what can be decoded: the direction that has new bytes first, then the other one, whose bytes
    /// may have waited for these.
    fn advance(&mut self, from: Direction, out: &mut Messages) {
        let other = match from {
            Direction::Transmit => Direction::Receive,
            Direction::Receive => Direction::Transmit,
        };
        while self.detect() {
            let upgrades = self.upgrades;
            if !self.decode(from, out) {
                break;
            }
            // What waits there came first.
            while self.upgrades > upgrades && self.decode(other, out) {}
        }
        while self.detect() && self.decode(other, out) && self.decode(from, out) {}
        for direction in [from, other] {
            let length = self.side(direction).data.len();
            if length > MAX_WAITING {
                let gap = Gap { offset: self.side(direction).offset, length: 0, cause: GapCause::TooLong };
                self.skip(direction, gap, out);
            }
        }
    }

    /// Decodes once; gives whether that changed anything.
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
        match step {
            Ok(Step::More | Step::Taken(0) | Step::Skipped(0)) => false,
            Ok(Step::Skipped(bytes)) => {
                self.undecoded = self.undecoded.saturating_add(side.take(bytes));
                true
            }
            Ok(Step::Taken(bytes)) => {
                side.take(bytes);
                true
            }
            Ok(Step::Upgrade { taken, to }) => {
                side.take(taken);
                self.upgrade(to, out);
                true
            }
            Err(_) => {
                self.desync(from, out);
                true
            }
        }
    }

    /// What follows in both directions is of another protocol.
    fn upgrade(&mut self, to: Option<&'static Protocol>, out: &mut Messages) {
        if let ConversationState::Decoding(_, decoder) = &mut self.state {
            decoder.end(out);
        }
        self.upgrades += 1;
        if self.upgrades > MAX_UPGRADES {
            return self.give_up(out);
        }
        out.next_protocol();
        (self.desyncs, self.attempts) = (0, 0);
        // What was agreed on is the protocol before.
        (self.hints.alpn, self.hints.from_start) = (None, true);
        self.state = match to {
            Some(protocol) => ConversationState::Decoding(protocol, (protocol.open)(&self.hints)),
            None => ConversationState::Detecting,
        };
    }

    /// The decoder can make no sense of what comes next: it goes on with the next call.
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

    /// Tells the decoder of a gap; what it has not taken before it is not to be had any more, either.
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

    /// Asks which protocol it is, if that is not known; gives whether it is.
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
        // In the middle of something, the next call may begin a message.
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
