//! Bodies whose media type is unknown, which may be sequences of messages.
//!
//! Senders write whole messages before they wait, so the end of a message is the end of a frame sooner or
//! later. If it is, and the body was read from its first byte, the five bytes before each message have said
//! how many bytes there would be: that is certain enough. Until then messages are held back.

use jiff::Timestamp;

use super::{MessageReader, NEXT, PREFIX, State, System};
use crate::protocol::{Message, Messages};

/// The most messages that are held back. Nobody writes so many in one piece as a rule.
const MAX_HELD: usize = 16;

/// A body whose media type is unknown.
#[derive(Clone, Debug)]
pub(in crate::protocol) struct UnnamedBody {
    reader: MessageReader,
    held: Vec<Message>,
    verdict: Verdict,
}

/// Whether a body is a sequence of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Unclear,
    Messages,
    Other,
}

impl UnnamedBody {
    /// A body of which nothing is known.
    pub(in crate::protocol) fn unclear() -> Self {
        let reader = MessageReader {
            system: System::Grpc,
            media_type: None,
            encoding: None,
            base64: None,
            count: Some(0),
            state: NEXT,
        };
        Self { reader, held: Vec::new(), verdict: Verdict::Unclear }
    }

    /// The body of a call.
    pub(in crate::protocol) fn of_call() -> Self {
        Self { verdict: Verdict::Messages, ..Self::unclear() }
    }

    /// Whether it is a sequence of messages.
    pub(in crate::protocol) fn has_messages(&self) -> bool {
        self.verdict == Verdict::Messages
    }

    /// The number of messages. None if it is unknown, because some may be missing.
    pub(in crate::protocol) fn count(&self) -> Option<u64> {
        self.reader.count()
    }

    /// The approximate memory that it takes.
    pub(in crate::protocol) fn held_bytes(&self) -> usize {
        self.reader.held_bytes().saturating_add(self.held.iter().map(Message::size).sum())
    }

    /// Adds bytes of the body of `parent`.
    pub(in crate::protocol) fn data(
        &mut self,
        parent: &Message,
        data: &[u8],
        time: Timestamp,
        out: &mut Messages,
    ) {
        match self.verdict {
            Verdict::Messages => self.reader.data(parent, data, time, out),
            Verdict::Unclear => {
                let mut found = Messages::new(out.body_limit());
                self.reader.data(parent, data, time, &mut found);
                self.held.extend(found.drain());
                if self.held.len() > MAX_HELD || matches!(self.reader.state, State::Lost) {
                    self.give_up();
                }
            }
            Verdict::Other => {}
        }
    }

    /// Handles that what was added last was the end of a frame.
    pub(in crate::protocol) fn end_frame(&mut self, out: &mut Messages) {
        let is_between = matches!(self.reader.state, State::Prefix(_, 0, _));
        // Bytes that are all zero look like empty messages.
        let has_content = self.held.iter().any(|message| message.length > PREFIX as u64);
        if self.verdict == Verdict::Unclear && is_between && has_content {
            self.verdict = Verdict::Messages;
            self.held.drain(..).for_each(|message| out.push(message));
        }
    }

    /// Handles missing bytes of the body. `missing` is None if it is unknown how many there are.
    pub(in crate::protocol) fn gap(&mut self, missing: Option<u64>, out: &mut Messages) {
        if self.has_messages() {
            self.reader.gap(missing, out);
        } else {
            self.give_up();
        }
    }

    /// Handles the end of the body.
    pub(in crate::protocol) fn end(&mut self, out: &mut Messages) {
        if self.has_messages() {
            self.reader.end(out);
        } else {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.verdict = Verdict::Other;
        self.held = Vec::new();
        self.reader.state = State::Lost;
    }
}
