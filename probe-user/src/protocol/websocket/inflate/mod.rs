//! DEFLATE (RFC 1951) for a stream of which a part may not have been captured.
//!
//! Compressed messages refer to earlier ones. A reference to bytes that were not captured yields as many
//! unknown bytes, and so does a reference to these. All other bytes are right: which codes are used does not
//! depend on what they refer to. Thus a connection that was joined in the middle becomes readable by and by,
//! without a guess.

mod huffman;
mod window;

pub(super) use window::{Earlier, Inflated};

use huffman::Code;
use window::Window;

/// What a message ends with, which is not transferred (RFC 7692, 7.2.1).
const END: [u8; 4] = [0, 0, 0xff, 0xff];
/// The lengths of the symbols from 257 on: the shortest, and how many bits are added.
#[rustfmt::skip]
const LENGTHS: [(u16, u8); 29] = [
    (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0), (9, 0), (10, 0), (11, 1), (13, 1), (15, 1), (17, 1),
    (19, 2), (23, 2), (27, 2), (31, 2), (35, 3), (43, 3), (51, 3), (59, 3), (67, 4), (83, 4), (99, 4),
    (115, 4), (131, 5), (163, 5), (195, 5), (227, 5), (258, 0),
];
/// The same of distances.
#[rustfmt::skip]
const DISTANCES: [(u16, u8); 30] = [
    (1, 0), (2, 0), (3, 0), (4, 0), (5, 1), (7, 1), (9, 2), (13, 2), (17, 3), (25, 3), (33, 4), (49, 4),
    (65, 5), (97, 5), (129, 6), (193, 6), (257, 7), (385, 7), (513, 8), (769, 8), (1025, 9), (1537, 9),
    (2049, 10), (3073, 10), (4097, 11), (6145, 11), (8193, 12), (12289, 12), (16385, 13), (24577, 13),
];
/// The order of the lengths of the codes for lengths.
const LENGTH_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// A message that inflates to more than this many times its size is not inflated further. Text inflates to
/// ten times its size.
const MAX_RATIO: u64 = 200;
/// The size up to which the ratio does not matter.
const RATIO_MATTERS: u64 = 1 << 20;

/// Why a message cannot be inflated further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InflateError {
    Damaged,
    ExpandsTooMuch,
}

/// Receives the output.
pub(super) type Out<'a> = dyn FnMut(Inflated<'_>) + 'a;

/// Inflates the messages of one direction.
pub(super) struct Inflater {
    window: Window,
    block: Block,
    /// Whether the block is marked as the last one. Others may follow all the same (RFC 7692, 7.2.3.5).
    is_last: bool,
    literals: Code,
    distances: Code,
    /// Input that was not used yet: less than a symbol, or than the head of a block.
    rest: Vec<u8>,
    /// How many bits of its first byte were used.
    used_bits: usize,
    /// The bytes of the message that were used.
    used: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Head,
    /// So many bytes follow as they are.
    Stored(usize),
    Coded,
}

/// Whether a step was done, or needs more input.
enum Progress {
    Done,
    NeedsMore,
}

impl Inflater {
    pub(super) fn new(earlier: Earlier) -> Self {
        Self {
            window: Window::new(earlier),
            block: Block::Head,
            is_last: false,
            literals: Code::default(),
            distances: Code::default(),
            rest: Vec::new(),
            used_bits: 0,
            used: 0,
        }
    }

    /// The approximate memory that it takes.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>()
            + self.window.size()
            + self.rest.len()
            + self.literals.size()
            + self.distances.size()
    }

    /// Forgets what messages may refer to, because a part of it is missing, and the message that is being
    /// inflated.
    pub(super) fn forget(&mut self) {
        self.window = Window::new(Earlier::Unknown);
        self.reset();
    }

    fn reset(&mut self) {
        (self.block, self.is_last, self.used_bits, self.used) = (Block::Head, false, 0, 0);
        self.rest.clear();
        self.window.begin_message();
    }

    /// Inflates the next bytes of a message.
    pub(super) fn inflate(&mut self, data: &[u8], out: &mut Out<'_>) -> Result<(), InflateError> {
        let mut input = std::mem::take(&mut self.rest);
        input.extend_from_slice(data);
        let mut bits = Bits { data: &input, position: self.used_bits };
        let result = self.run(&mut bits, out);
        self.window.flush(out);
        let used = bits.position / 8;
        self.used_bits = bits.position % 8;
        self.used = self.used.saturating_add(used as u64);
        input.drain(..used.min(input.len()));
        self.rest = input;
        result
    }

    /// Ends a message.
    pub(super) fn end_message(&mut self, out: &mut Out<'_>) -> Result<(), InflateError> {
        let is_boundary =
            |this: &Self| this.block == Block::Head && this.used_bits == 0 && this.rest.is_empty();
        let result = if is_boundary(self) && self.is_last {
            Ok(())
        } else {
            let result = self.inflate(&END, out);
            if is_boundary(self) { result } else { result.and(Err(InflateError::Damaged)) }
        };
        self.reset();
        result
    }

    fn run(&mut self, bits: &mut Bits<'_>, out: &mut Out<'_>) -> Result<(), InflateError> {
        loop {
            let begin = bits.position;
            let progress = match self.block {
                Block::Head => self.head(bits)?,
                Block::Stored(length) => self.stored(length, bits, out),
                Block::Coded => self.symbol(bits, out)?,
            };
            if let Progress::NeedsMore = progress {
                bits.position = begin;
                return Ok(());
            }
            // Where this is checked must not depend on how the input is cut.
            if self.window.has_wrapped() {
                let used = self.used.saturating_add(bits.position as u64 / 8);
                if self.window.total() > used.saturating_mul(MAX_RATIO).max(RATIO_MATTERS) {
                    return Err(InflateError::ExpandsTooMuch);
                }
            }
        }
    }

    /// Reads the head of a block.
    fn head(&mut self, bits: &mut Bits<'_>) -> Result<Progress, InflateError> {
        let Some(head) = bits.take(3) else { return Ok(Progress::NeedsMore) };
        let block = match head >> 1 {
            0 => {
                bits.align();
                let Some(lengths) = bits.take(32) else { return Ok(Progress::NeedsMore) };
                let length = lengths & 0xffff;
                if length != !lengths >> 16 {
                    return Err(InflateError::Damaged);
                }
                Block::Stored(usize::try_from(length).unwrap_or(0))
            }
            1 => {
                (self.literals, self.distances) = huffman::fixed();
                Block::Coded
            }
            2 => {
                let Some((literals, distances)) = codes(bits)? else { return Ok(Progress::NeedsMore) };
                (self.literals, self.distances) = (literals, distances);
                Block::Coded
            }
            _ => return Err(InflateError::Damaged),
        };
        (self.block, self.is_last) = (block, head & 1 == 1);
        if block == Block::Stored(0) {
            self.block = Block::Head;
        }
        Ok(Progress::Done)
    }

    fn stored(&mut self, length: usize, bits: &mut Bits<'_>, out: &mut Out<'_>) -> Progress {
        let data = bits.bytes(length.min(self.window.room()));
        if data.is_empty() {
            return Progress::NeedsMore;
        }
        for byte in data {
            self.window.put(Some(*byte), out);
        }
        let left = length - data.len();
        self.block = if left == 0 { Block::Head } else { Block::Stored(left) };
        Progress::Done
    }

    /// Reads a byte, a reference, or the end of the block.
    fn symbol(&mut self, bits: &mut Bits<'_>, out: &mut Out<'_>) -> Result<Progress, InflateError> {
        let Some(symbol) = self.literals.decode(bits)? else { return Ok(Progress::NeedsMore) };
        if let Ok(byte) = u8::try_from(symbol) {
            self.window.put(Some(byte), out);
            return Ok(Progress::Done);
        }
        if symbol == 256 {
            if self.is_last {
                bits.align();
            }
            self.block = Block::Head;
            return Ok(Progress::Done);
        }
        let Some(length) = extended(&LENGTHS, usize::from(symbol - 257), bits)? else {
            return Ok(Progress::NeedsMore);
        };
        let Some(distance) = self.distances.decode(bits)? else { return Ok(Progress::NeedsMore) };
        let Some(distance) = extended(&DISTANCES, usize::from(distance), bits)? else {
            return Ok(Progress::NeedsMore);
        };
        self.window.copy(length, distance, out)?;
        Ok(Progress::Done)
    }
}

/// The number that a symbol and the bits after it stand for.
fn extended(table: &[(u16, u8)], symbol: usize, bits: &mut Bits<'_>) -> Result<Option<usize>, InflateError> {
    let &(base, more) = table.get(symbol).ok_or(InflateError::Damaged)?;
    let more = bits.take(more.into()).and_then(|more| usize::try_from(more).ok());
    Ok(more.map(|more| usize::from(base) + more))
}

/// The codes of a block that brings its own.
fn codes(bits: &mut Bits<'_>) -> Result<Option<(Code, Code)>, InflateError> {
    let count = |bits: &mut Bits<'_>, width, least| Some(usize::try_from(bits.take(width)?).ok()? + least);
    let (Some(literals), Some(distances), Some(lengths)) =
        (count(bits, 5, 257), count(bits, 5, 1), count(bits, 4, 4))
    else {
        return Ok(None);
    };
    if literals > 286 || distances > DISTANCES.len() {
        return Err(InflateError::Damaged);
    }
    let mut of_lengths = [0; 19];
    for at in LENGTH_ORDER.iter().take(lengths) {
        let Some(length) = bits.take(3) else { return Ok(None) };
        if let Some(slot) = of_lengths.get_mut(*at) {
            *slot = u8::try_from(length).unwrap_or(0);
        }
    }
    let code = Code::new(&of_lengths, huffman::Incomplete::No)?;
    let mut all: Vec<u8> = Vec::with_capacity(literals + distances);
    while all.len() < literals + distances {
        let Some(symbol) = code.decode(bits)? else { return Ok(None) };
        let (value, width, least) = match symbol {
            0..=15 => (u8::try_from(symbol).unwrap_or(0), 0, 1),
            16 => (*all.last().ok_or(InflateError::Damaged)?, 2, 3),
            17 => (0, 3, 3),
            _ => (0, 7, 11),
        };
        let Some(times) = count(bits, width, least) else { return Ok(None) };
        all.extend(std::iter::repeat_n(value, times));
    }
    if all.len() > literals + distances || all.get(256) == Some(&0) {
        return Err(InflateError::Damaged);
    }
    let (literals, distances) = all.split_at_checked(literals).ok_or(InflateError::Damaged)?;
    let incomplete = huffman::Incomplete::OneCode;
    Ok(Some((Code::new(literals, incomplete)?, Code::new(distances, incomplete)?)))
}

/// Bits, the lowest one of each byte first.
struct Bits<'a> {
    data: &'a [u8],
    /// The number of bits before the next one.
    position: usize,
}

impl<'a> Bits<'a> {
    /// The next bits, and how many there are: up to 56. Those beyond the end are 0.
    fn peek(&self) -> (u64, usize) {
        let rest = self.data.get(self.position / 8..).unwrap_or_default();
        let word = match rest.first_chunk() {
            Some(word) => u64::from_le_bytes(*word),
            None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        };
        let used = self.position % 8;
        (word >> used, (rest.len() * 8).saturating_sub(used).min(56))
    }

    /// The next `count` bits, up to 32. None if there are fewer.
    fn take(&mut self, count: usize) -> Option<u32> {
        let (word, available) = self.peek();
        if count > available {
            return None;
        }
        self.position += count;
        u32::try_from(word & ((1 << count) - 1)).ok()
    }

    /// Skips the rest of a byte.
    fn align(&mut self) {
        self.position = self.position.next_multiple_of(8);
    }

    /// Up to `count` bytes, from an aligned position.
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let rest = self.data.get(self.position / 8..).unwrap_or_default();
        let bytes = rest.get(..count).unwrap_or(rest);
        self.position += bytes.len() * 8;
        bytes
    }
}

#[cfg(test)]
mod tests;
