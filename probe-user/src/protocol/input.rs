//! What a decoder is given of one direction of a connection: bytes in order, or how many of them are missing.

use std::fmt;

use jiff::Timestamp;

use crate::event::Plaintext;

/// Bytes that follow on what was given of the direction before; all of one call.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    /// Offset of the first byte in the stream of its direction.
    pub offset: u64,
    /// The bytes, at least one.
    pub data: &'a [u8],
    /// Whose bytes they are.
    pub mark: CallMark,
}

/// The call that moved bytes, for what begins at an offset of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallMark {
    /// Offset in the stream of the first byte that is meant.
    pub offset: u64,
    /// Number of the call on the connection.
    pub call: u64,
    /// When the call returned.
    pub time: Timestamp,
    /// Whether that byte is the first of the call: programs write whole messages more often than not.
    pub starts_call: bool,
}

/// Bytes that are missing between what was given before and what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Offset of the first missing byte in the stream of its direction.
    pub offset: u64,
    /// How many are missing, at least one.
    pub length: u64,
    /// Why.
    pub cause: GapCause,
}

/// Why bytes are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapCause {
    /// A limit on the bytes of a call cut them (`--max-bytes`).
    Truncated,
    /// They did not come: they were lost on the way, or are not in the recording.
    Lost,
    /// They came, but the decoder could not make sense of them: they were passed over up to the next call.
    Desync,
    /// They came, but the decoder waited for more of them than may wait.
    TooLong,
}

/// The bytes of one direction that a decoder has not taken yet, without a gap.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The bytes.
    pub data: &'a [u8],
    /// Offset of the first one in the stream of its direction.
    pub offset: u64,
    /// The calls that moved them, in the order of their offsets. The first one is that of the first byte.
    pub marks: &'a [CallMark],
}

impl<'a> Input<'a> {
    /// No bytes.
    pub const EMPTY: Input<'static> = Input { data: &[], offset: 0, marks: &[] };

    /// The call that moved the byte at `index`; none if there is no such byte.
    pub fn mark(&self, index: usize) -> Option<CallMark> {
        self.data.get(index)?;
        let offset = self.offset.checked_add(index as u64)?;
        self.marks.iter().take_while(|mark| mark.offset <= offset).last().copied()
    }

    /// When the call returned that moved the byte at `index`.
    pub fn time(&self, index: usize) -> Option<Timestamp> {
        Some(self.mark(index)?.time)
    }

    /// Indices of the bytes that are the first of their calls.
    pub fn call_starts(&self) -> impl Iterator<Item = usize> + use<'a> {
        let (offset, length) = (self.offset, self.data.len());
        let starts = self.marks.iter().filter(|mark| mark.starts_call);
        let index = move |mark: &CallMark| usize::try_from(mark.offset.checked_sub(offset)?).ok();
        starts.filter_map(index).filter(move |index| *index < length)
    }
}

impl fmt::Debug for Chunk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, data, mark } = self;
        let mut shown = f.debug_struct("Chunk");
        shown.field("offset", offset).field("data", &Plaintext::of(data)).field("mark", mark).finish()
    }
}

impl fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data, offset, marks } = self;
        let mut shown = f.debug_struct("Input");
        shown.field("data", &Plaintext::of(data)).field("offset", offset).field("marks", marks).finish()
    }
}
