//! The headers of messages, and how certain it is that bytes are one.

use crate::protocol::Detect;

/// The length of a header.
pub(super) const HEADER: usize = 16;
/// The longest message.
const MAX_MESSAGE: u32 = 48_000_000 + 16 * 1024;
/// The bytes of a message of the current form that are looked at: its header, flags, the kind of its first
/// section, and the length of that.
const LOOKED_AT: usize = HEADER + 4 + 1 + 4;

/// The forms of messages.
pub(super) mod opcode {
    pub(in crate::protocol::mongodb) const REPLY: u32 = 1;
    pub(in crate::protocol::mongodb) const UPDATE: u32 = 2001;
    pub(in crate::protocol::mongodb) const INSERT: u32 = 2002;
    pub(in crate::protocol::mongodb) const QUERY: u32 = 2004;
    pub(in crate::protocol::mongodb) const GET_MORE: u32 = 2005;
    pub(in crate::protocol::mongodb) const DELETE: u32 = 2006;
    pub(in crate::protocol::mongodb) const KILL_CURSORS: u32 = 2007;
    pub(in crate::protocol::mongodb) const COMPRESSED: u32 = 2012;
    pub(in crate::protocol::mongodb) const MSG: u32 = 2013;
}

/// The flags of a message: a checksum follows, others follow without being asked for, others may follow.
pub(super) const CHECKSUM: u32 = 1;
pub(super) const MORE_TO_COME: u32 = 2;
const EXHAUST_ALLOWED: u32 = 1 << 16;

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MongoHeader {
    /// The length of the whole message.
    pub(super) length: u32,
    pub(super) id: u32,
    /// The id of the message that it answers, or 0.
    pub(super) response_to: u32,
    pub(super) opcode: u32,
}

/// A number of 32 bits.
pub(super) fn number(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

impl MongoHeader {
    /// Reads a header. None if more bytes are needed, or if they are none.
    pub(super) fn read(data: &[u8]) -> Option<Self> {
        let at = |index| number(data, index);
        Some(Self { length: at(0)?, id: at(4)?, response_to: at(8)?, opcode: at(12)? })
    }

    pub(super) fn is_valid(self) -> bool {
        let is_known = match self.opcode {
            opcode::MSG | opcode::COMPRESSED => true,
            opcode::REPLY => self.response_to != 0,
            opcode::UPDATE..=opcode::INSERT | opcode::QUERY..=opcode::KILL_CURSORS => self.response_to == 0,
            _ => false,
        };
        is_known && self.length > 20 && self.length <= MAX_MESSAGE
    }

    /// Whether a request or a response begins here, by more than the header.
    pub(super) fn detect(data: &[u8]) -> Detect {
        let Some(header) = Self::read(data) else {
            // The last byte of each number of it is mostly zero.
            let is_long = data.get(3).is_some_and(|byte| *byte > 2);
            return if is_long { Detect::No } else { Detect::NeedMore };
        };
        if !header.is_valid() {
            return Detect::No;
        }
        let Some(head) = data.get(..LOOKED_AT) else { return Detect::NeedMore };
        let length = header.length as usize;
        let rest = length.saturating_sub(LOOKED_AT - 4);
        let is_likely = match header.opcode {
            opcode::MSG => {
                let (flags, section) = (number(head, HEADER), head.get(HEADER + 4).copied());
                let document = number(head, HEADER + 5).unwrap_or(0) as usize;
                let is_lawful =
                    flags.is_some_and(|flags| flags & !(CHECKSUM | MORE_TO_COME | EXHAUST_ALLOWED) == 0);
                is_lawful && section.is_some_and(|kind| kind < 2) && document >= 5 && document <= rest
            }
            opcode::COMPRESSED => {
                let original = number(head, HEADER);
                let is_known = matches!(original, Some(opcode::MSG | opcode::QUERY | opcode::REPLY));
                is_known
                    && number(head, HEADER + 4).is_some_and(|size| size <= MAX_MESSAGE)
                    && head.get(HEADER + 8).is_some_and(|compressor| *compressor < 4)
            }
            // Flags, and the name of a collection, which has a dot.
            opcode::QUERY => {
                number(head, HEADER).is_some_and(|flags| flags < 256)
                    && head.get(HEADER + 4).is_some_and(u8::is_ascii_graphic)
            }
            opcode::REPLY => number(head, HEADER).is_some_and(|flags| flags < 16),
            _ => false,
        };
        if is_likely { Detect::Yes } else { Detect::No }
    }
}
