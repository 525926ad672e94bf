//! Escapes sixteen bytes at a time, on processors that can shuffle bytes within a vector (SSSE3).
//!
//! A quote becomes a backslash and itself, `\n` a backslash and `n`: in both cases a byte is inserted. Which
//! bytes of eight are followed by which is looked up by the mask of those that must be escaped. The rare
//! control characters that become six bytes are left to the caller's way.

use std::arch::x86_64::{
    __m128i, _mm_and_si128, _mm_andnot_si128, _mm_cmpeq_epi8, _mm_cvtsi128_si64, _mm_min_epu8,
    _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8, _mm_setzero_si128, _mm_shuffle_epi8,
    _mm_unpackhi_epi64, _mm_unpacklo_epi64,
};

use super::{EscapeRoom, put};

/// The bytes of a vector.
const LANES: usize = size_of::<__m128i>();
/// How control characters are named after a backslash, by their lower half. All others have no name.
const NAMES: [u8; LANES] = *b"\0\0\0\0\0\0\0\0btn\0fr\0\0";
/// In a shuffle, what yields zero instead of a byte.
const NO_BYTE: i8 = i8::MIN;

/// How eight bytes and a backslash behind them are shuffled, by the mask of the bytes that get a backslash.
static SHUFFLES: [[u8; LANES]; 256] = shuffles();

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn shuffles() -> [[u8; LANES]; 256] {
    const BACKSLASH: u8 = 8;
    let mut table = [[NO_BYTE.cast_unsigned(); LANES]; 256];
    let mut mask = 0;
    while mask < table.len() {
        let (mut at, mut byte) = (0, 0);
        while byte < BACKSLASH {
            if mask >> byte & 1 != 0 {
                table[mask][at] = BACKSLASH;
                at += 1;
            }
            table[mask][at] = byte;
            at += 1;
            byte += 1;
        }
        mask += 1;
    }
    table
}

/// Stores bytes, escaped, in `escaped`, if the processor can do it. Returns the length.
pub(super) fn escape(bytes: &[u8], escaped: &mut EscapeRoom) -> Option<usize> {
    if !(is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("popcnt")) {
        return None;
    }
    #[expect(unsafe_code, reason = "the compiler cannot know which processor this is")]
    // SAFETY: the processor has what the function is compiled for, as was just asked.
    let length = unsafe { escape_vectors(bytes, escaped) };
    Some(length)
}

#[target_feature(enable = "ssse3,popcnt")]
fn escape_vectors(bytes: &[u8], escaped: &mut EscapeRoom) -> usize {
    let (quote, backslash) = (all(b'"'), all(b'\\'));
    let mut length = 0;
    let (vectors, tail) = bytes.as_chunks();
    for bytes in vectors {
        let vector = load(bytes);
        let control = _mm_cmpeq_epi8(_mm_min_epu8(vector, all(0x1f)), vector);
        let other = _mm_or_si128(_mm_cmpeq_epi8(vector, quote), _mm_cmpeq_epi8(vector, backslash));
        let mask = mask(_mm_or_si128(control, other));
        if mask == 0 {
            store(vector, length, escaped);
            length += LANES;
            continue;
        }
        let name = names(vector);
        if self::mask(_mm_and_si128(control, _mm_cmpeq_epi8(name, _mm_setzero_si128()))) != 0 {
            for byte in bytes {
                length += put(*byte, length, escaped);
            }
            continue;
        }
        let named = _mm_or_si128(_mm_andnot_si128(control, vector), _mm_and_si128(control, name));
        let (low, high) = (_mm_unpacklo_epi64(named, backslash), _mm_unpackhi_epi64(named, backslash));
        for (half, mask) in [(low, mask & 0xff), (high, mask >> 8)] {
            let shuffle = SHUFFLES.get(usize::from(mask)).unwrap_or(&NAMES);
            store(_mm_shuffle_epi8(half, load(shuffle)), length, escaped);
            length += LANES / 2 + mask.count_ones() as usize;
        }
    }
    for byte in tail {
        length += put(*byte, length, escaped);
    }
    length
}

/// The name of each control character that has one, and zero for the others.
#[target_feature(enable = "ssse3")]
fn names(vector: __m128i) -> __m128i {
    // A shuffle looks at the lower half of a byte alone, unless its highest bit is set.
    let upper = _mm_andnot_si128(all(0x0f), vector);
    let is_low = _mm_cmpeq_epi8(upper, _mm_setzero_si128());
    let index = _mm_or_si128(vector, _mm_andnot_si128(is_low, _mm_set1_epi8(NO_BYTE)));
    _mm_shuffle_epi8(load(&NAMES), index)
}

#[target_feature(enable = "ssse3")]
fn all(byte: u8) -> __m128i {
    _mm_set1_epi8(byte.cast_signed())
}

/// A bit for each byte, which is either all ones or zero.
#[target_feature(enable = "ssse3")]
fn mask(vector: __m128i) -> u16 {
    // The upper half is zero.
    (_mm_movemask_epi8(vector) & 0xffff).try_into().unwrap_or(u16::MAX)
}

#[target_feature(enable = "ssse3")]
fn load(bytes: &[u8; LANES]) -> __m128i {
    match bytes.as_chunks() {
        ([low, high], _) => _mm_set_epi64x(i64::from_le_bytes(*high), i64::from_le_bytes(*low)),
        _ => _mm_setzero_si128(),
    }
}

#[target_feature(enable = "ssse3")]
fn store(vector: __m128i, at: usize, escaped: &mut EscapeRoom) {
    // A batch never needs more than the room that there is.
    let room = escaped.get_mut(at..).and_then(|room| room.first_chunk_mut::<LANES>());
    if let Some(room) = room
        && let ([low, high], _) = room.as_chunks_mut()
    {
        *low = _mm_cvtsi128_si64(vector).to_le_bytes();
        *high = _mm_cvtsi128_si64(_mm_unpackhi_epi64(vector, vector)).to_le_bytes();
    }
}
