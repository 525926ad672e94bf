//! The output that later references may be to.

use super::{InflateError, Out};

/// How far back a reference may be.
const SIZE: usize = 32 * 1024;

/// What is before the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::websocket) enum Earlier {
    /// Nothing: a reference to it is an error.
    Nothing,
    /// Bytes that were not captured, or none.
    Unknown,
}

/// Output.
#[derive(Clone, Copy)]
pub(in crate::protocol::websocket) enum Inflated<'a> {
    Known(&'a [u8]),
    /// So many bytes that are unknown.
    Unknown(usize),
}

pub(super) struct Window {
    earlier: Earlier,
    /// The last bytes, as a ring once there are as many as possible.
    data: Vec<u8>,
    /// Which of them are unknown. Empty if none can be.
    unknown: Vec<bool>,
    unknown_count: usize,
    /// Where the next byte goes.
    next: usize,
    /// The beginning of the output that was not passed on yet.
    begin: usize,
    /// Whether that is unknown.
    is_unknown: bool,
    /// The bytes of the message.
    total: u64,
    has_wrapped: bool,
}

impl Window {
    pub(super) fn new(earlier: Earlier) -> Self {
        Self {
            earlier,
            data: Vec::new(),
            unknown: Vec::new(),
            unknown_count: 0,
            next: 0,
            begin: 0,
            is_unknown: false,
            total: 0,
            has_wrapped: false,
        }
    }

    pub(super) fn size(&self) -> usize {
        self.data.capacity() + self.unknown.capacity()
    }

    /// Adds a byte, which may be unknown.
    pub(super) fn put(&mut self, byte: Option<u8>, out: &mut Out<'_>) {
        if byte.is_none() != self.is_unknown {
            self.flush(out);
            self.is_unknown = byte.is_none();
        }
        let value = byte.unwrap_or(0);
        match self.data.get_mut(self.next) {
            Some(slot) => *slot = value,
            None => self.data.push(value),
        }
        if self.earlier == Earlier::Unknown {
            self.mark(byte);
        }
        self.next += 1;
        self.total = self.total.saturating_add(1);
        if self.next == SIZE {
            self.flush(out);
            (self.next, self.begin, self.has_wrapped) = (0, 0, true);
        }
    }

    /// Notes whether the byte that was just added is unknown.
    fn mark(&mut self, byte: Option<u8>) {
        let is_unknown = byte.is_none();
        self.unknown_count += usize::from(is_unknown);
        match self.unknown.get_mut(self.next) {
            Some(slot) => self.unknown_count -= usize::from(std::mem::replace(slot, is_unknown)),
            None => self.unknown.push(is_unknown),
        }
        // From now on nothing can refer to anything that is unknown.
        if self.unknown_count == 0 && self.data.len() == SIZE {
            (self.earlier, self.unknown) = (Earlier::Nothing, Vec::new());
        }
    }

    /// Adds bytes again that are `distance` back.
    pub(super) fn copy(
        &mut self,
        length: usize,
        distance: usize,
        out: &mut Out<'_>,
    ) -> Result<(), InflateError> {
        let mut from = self.index(distance);
        for _ in 0..length {
            let byte = match from {
                Some(index) if self.unknown.get(index) == Some(&true) => None,
                Some(index) => self.data.get(index).copied(),
                None if self.earlier == Earlier::Nothing => return Err(InflateError::Damaged),
                None => None,
            };
            self.put(byte, out);
            from = match from {
                Some(index) if index + 1 == SIZE => Some(0),
                Some(index) => Some(index + 1),
                None => self.index(distance),
            };
        }
        Ok(())
    }

    /// Where the byte is that is `distance` back. None if that is before the first one.
    fn index(&self, distance: usize) -> Option<usize> {
        let filled = self.data.len();
        let behind = filled.checked_sub(distance)?;
        Some(if filled == SIZE { (self.next + behind) % SIZE } else { behind })
    }

    /// Passes on the output that was not passed on yet.
    pub(super) fn flush(&mut self, out: &mut Out<'_>) {
        let piece = self.data.get(self.begin..self.next).unwrap_or_default();
        self.begin = self.next;
        match piece.len() {
            0 => {}
            length if self.is_unknown => out(Inflated::Unknown(length)),
            _ => out(Inflated::Known(piece)),
        }
    }

    /// Begins another message.
    pub(super) fn begin_message(&mut self) {
        (self.total, self.has_wrapped) = (0, false);
    }

    /// The bytes of the message.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// How many bytes may be added until it wraps around.
    pub(super) fn room(&self) -> usize {
        SIZE - self.next
    }

    /// Whether it has wrapped around since this was asked.
    pub(super) fn has_wrapped(&mut self) -> bool {
        std::mem::take(&mut self.has_wrapped)
    }
}
