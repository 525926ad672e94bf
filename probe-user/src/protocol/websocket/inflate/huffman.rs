//! Huffman codes.

use super::{Bits, InflateError};

/// The longest code in bits.
const MAX_LENGTH: usize = 15;
/// Codes of up to this length are looked up, longer ones, which are rare, are searched.
const LOOKUP_BITS: usize = 9;

/// Which codes may leave sequences of bits without a meaning.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Incomplete {
    No,
    /// A code of one symbol, which is a single bit long, or of none.
    OneCode,
}

/// A code.
#[derive(Default)]
pub(super) struct Code {
    /// The number of codes of each length.
    counts: [u16; MAX_LENGTH + 1],
    /// The symbols by length, and by number within one.
    symbols: Vec<u16>,
    /// For the next bits: the symbol, and in the lowest 4 bits the length of its code. 0: it is longer.
    lookup: Vec<u16>,
}

impl Code {
    /// The code whose symbols have codes of these lengths. 0: the symbol is not used.
    pub(super) fn new(lengths: &[u8], incomplete: Incomplete) -> Result<Self, InflateError> {
        let mut counts = [0_u16; MAX_LENGTH + 1];
        for length in lengths {
            *counts.get_mut(usize::from(*length)).ok_or(InflateError::Damaged)? += 1;
        }
        counts[0] = 0;
        // The sequences of bits that are left after each length.
        let mut left = 1_i32;
        for count in counts.iter().skip(1) {
            left = left * 2 - i32::from(*count);
            if left < 0 {
                return Err(InflateError::Damaged);
            }
        }
        let is_single = counts.iter().skip(2).all(|count| *count == 0);
        if left > 0 && (incomplete == Incomplete::No || !is_single) {
            return Err(InflateError::Damaged);
        }
        // The place of the first symbol of each length, and its code.
        let mut places = [0_usize; MAX_LENGTH + 2];
        let mut firsts = [0_usize; MAX_LENGTH + 2];
        let (mut place, mut first) = (0, 0);
        for ((count, place_of), first_of) in counts.iter().zip(&mut places).zip(&mut firsts) {
            (*place_of, *first_of) = (place, first);
            place += usize::from(*count);
            first = (first + usize::from(*count)) << 1;
        }
        let mut symbols = vec![0; place];
        let mut lookup = vec![0; 1 << LOOKUP_BITS];
        for (symbol, length) in (0_u16..).zip(lengths).filter(|(_, length)| **length > 0) {
            let length = usize::from(*length);
            let (Some(place), Some(code)) = (places.get_mut(length), firsts.get_mut(length)) else {
                continue;
            };
            if let Some(slot) = symbols.get_mut(*place) {
                *slot = symbol;
            }
            if length <= LOOKUP_BITS {
                let reversed = code.reverse_bits() >> (usize::BITS as usize - length);
                let entry = symbol << 4 | u16::try_from(length).unwrap_or(0);
                lookup.iter_mut().skip(reversed).step_by(1 << length).for_each(|slot| *slot = entry);
            }
            *place += 1;
            *code += 1;
        }
        Ok(Self { counts, symbols, lookup })
    }

    pub(super) fn size(&self) -> usize {
        (self.symbols.len() + self.lookup.len()) * size_of::<u16>()
    }

    /// Reads a symbol. None if there are too few bits.
    pub(super) fn decode(&self, bits: &mut Bits<'_>) -> Result<Option<u16>, InflateError> {
        let (word, available) = bits.peek();
        let index = usize::try_from(word & ((1 << LOOKUP_BITS) - 1)).unwrap_or(0);
        let entry = self.lookup.get(index).copied().unwrap_or(0);
        if entry > 0 {
            let length = usize::from(entry & 0xf);
            if length > available {
                return Ok(None);
            }
            bits.position += length;
            return Ok(Some(entry >> 4));
        }
        let (mut code, mut first, mut place) = (0, 0, 0);
        for (length, count) in (1..).zip(self.counts.iter().skip(1)) {
            if length > available {
                return Ok(None);
            }
            let count = usize::from(*count);
            code |= usize::from(word >> (length - 1) & 1 == 1);
            if code < first + count {
                bits.position += length;
                let symbol = self.symbols.get(place + code - first).copied();
                return symbol.map(Some).ok_or(InflateError::Damaged);
            }
            place += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err(InflateError::Damaged)
    }
}

/// The codes of a block that does not bring its own.
pub(super) fn fixed() -> (Code, Code) {
    let literals =
        [(8, 144), (9, 112), (7, 24), (8, 8)].map(|(length, times)| [length].repeat(times)).concat();
    let code = |lengths: &[u8]| Code::new(lengths, Incomplete::No).unwrap_or_default();
    (code(&literals), code(&[5; 32]))
}
