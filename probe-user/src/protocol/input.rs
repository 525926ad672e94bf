//! The input of a decoder for one direction of a connection: bytes in order, or the number of missing ones.

use std::fmt;

use jiff::Timestamp;

use crate::event::Plaintext;

/// Bytes that follow the previous ones of the direction without a gap. All belong to one call.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    /// The offset of the first byte in the stream of its direction.
    pub offset: u64,
    /// The bytes, at least one.
    pub data: &'a [u8],
    /// The call that the bytes belong to.
    pub mark: CallMark,
}

/// The call that transferred bytes, for the part of the stream that begins at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallMark {
    /// The offset of that part's first byte in the stream.
    pub offset: u64,
    /// The number of the call on the connection.
    pub call: u64,
    /// When the bytes were transferred: at the beginning of a call that sends, at the return of one that
    /// receives.
    pub time: Timestamp,
    /// Whether that byte is the first of the call. Most programs write whole messages in one call.
    pub starts_call: bool,
}

/// Bytes that are missing between the previous ones and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The offset of the first missing byte in the stream of its direction.
    pub offset: u64,
    /// How many are missing, at least one.
    pub length: u64,
    /// The cause.
    pub cause: GapCause,
}

/// Why bytes are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapCause {
    /// A limit on the bytes of a call cut them (`--max-bytes`).
    Truncated,
    /// They never arrived: they were lost on the way, or are not in the recording.
    Lost,
    /// They arrived, but the decoder could not make sense of them. They were skipped up to the next call.
    Desync,
    /// They arrived, but the decoder left more of them waiting than the limit allows.
    TooLong,
}

/// The bytes of one direction that a decoder has not consumed yet, without a gap.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The bytes.
    pub data: &'a [u8],
    /// The offset of the first byte in the stream of its direction.
    pub offset: u64,
    /// The calls that transferred the bytes, ordered by offset. The first one is that of the first byte.
    pub marks: &'a [CallMark],
}

impl<'a> Input<'a> {
    /// No bytes.
    pub const EMPTY: Input<'static> = Input { data: &[], offset: 0, marks: &[] };

    /// The call that transferred the byte at `index`. None if there is no such byte.
    pub fn mark(&self, index: usize) -> Option<CallMark> {
        self.data.get(index)?;
        let offset = self.offset.checked_add(index as u64)?;
        self.marks.iter().take_while(|mark| mark.offset <= offset).last().copied()
    }

    /// When the byte at `index` was transferred.
    pub fn time(&self, index: usize) -> Option<Timestamp> {
        Some(self.mark(index)?.time)
    }

    /// The first `length` bytes in the parts that different calls transferred, each with its time.
    pub fn calls(&self, length: usize) -> impl Iterator<Item = (&'a [u8], Timestamp)> + use<'a> {
        let (mut rest, mut offset) = (self.data.get(..length).unwrap_or(self.data), self.offset);
        let mut marks = self.marks.iter().peekable();
        std::iter::from_fn(move || {
            let mut current = *marks.peek()?;
            while let Some(next) = marks.next_if(|mark| mark.offset <= offset) {
                current = next;
            }
            let end = marks.peek().map_or(u64::MAX, |next| next.offset);
            let length = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
            let (part, after) = rest.split_at(length.min(rest.len()));
            rest = after;
            offset = offset.saturating_add(part.len() as u64);
            (!part.is_empty()).then_some((part, current.time))
        })
    }

    /// The indexes of the bytes that are the first of their calls.
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
