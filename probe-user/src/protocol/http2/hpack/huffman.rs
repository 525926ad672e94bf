//! The Huffman code of HPACK (RFC 7541, Appendix B).
//!
//! The code is canonical: codes of one length are consecutive numbers in the order of their symbols, and each
//! length continues where the previous one ended. So the lengths alone define it.

/// The symbols: all bytes, and the end of the string.
const SYMBOLS: usize = 257;
/// The symbol for the end of the string, which must not occur in one.
const END: usize = 256;
/// The longest code.
const MAX_BITS: usize = 30;

/// The length of each symbol's code in bits.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// The codes of one length.
#[derive(Clone, Copy)]
struct CodeRange {
    /// The first one.
    first: u32,
    /// How many there are.
    count: u32,
    /// The position of the first one's symbol in [`ORDERED`].
    position: u32,
}

/// The symbols in the order of their codes.
static ORDERED: [u8; END] = ordered();
/// The codes by their length.
static RANGES: [CodeRange; MAX_BITS + 1] = ranges();

#[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated at compile time")]
const fn ordered() -> [u8; END] {
    let mut ordered = [0; END];
    let (mut bits, mut next) = (1, 0);
    while bits <= MAX_BITS {
        let mut symbol = 0;
        while symbol < END {
            if LENGTHS[symbol] as usize == bits {
                ordered[next] = symbol as u8;
                next += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    ordered
}

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn ranges() -> [CodeRange; MAX_BITS + 1] {
    let mut ranges = [CodeRange { first: 0, count: 0, position: 0 }; MAX_BITS + 1];
    let (mut bits, mut code, mut position) = (1, 0, 0);
    while bits <= MAX_BITS {
        code <<= 1;
        let (mut symbol, mut count) = (0, 0);
        while symbol < END {
            if LENGTHS[symbol] as usize == bits {
                count += 1;
            }
            symbol += 1;
        }
        ranges[bits] = CodeRange { first: code, count, position };
        code += count;
        position += count;
        bits += 1;
    }
    ranges
}

/// Decodes a string. None if it is not in this code.
pub(super) fn decode(encoded: &[u8]) -> Option<Vec<u8>> {
    // The shortest code has 5 bits.
    let mut decoded = Vec::with_capacity(encoded.len().saturating_mul(8) / 5);
    let (mut code, mut bits) = (0_u32, 0_usize);
    for byte in encoded {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            bits += 1;
            let range = RANGES.get(bits)?;
            if let Some(index) = code.checked_sub(range.first).filter(|index| *index < range.count) {
                decoded.push(*ORDERED.get(usize::try_from(range.position + index).ok()?)?);
                (code, bits) = (0, 0);
            }
        }
    }
    // The rest of the last byte is filled with ones.
    (bits < 8 && code == (1 << bits) - 1).then_some(decoded)
}
