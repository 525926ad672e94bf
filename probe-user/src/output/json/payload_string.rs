//! Payload → a JSON string, by blocks and by words.
//!
//! Most of the time of the JSON output is spent here. Text of a page has few bytes that must be escaped, JSON
//! has one in every fifth: blocks without any are copied whole. Elsewhere a branch for each quote would be
//! mispredicted, so vectors of bytes are shuffled where the processor can do it, and otherwise each byte is
//! looked up in a table. Owns no knowledge of records. Names go through serde_json like everything else that
//! is short.

#[cfg(target_arch = "x86_64")]
mod vectors;

/// The unit in which bytes without an escape are searched. The compiler makes vector instructions of it.
const BLOCK: usize = 64;
/// The longest escape sequence, `\u001f`.
const LONGEST: usize = 6;
/// The most bytes that are escaped at a time.
const BATCH: usize = 8 * BLOCK;
/// Room for a batch. Vectors and entries of [`ESCAPES`] are stored as a whole, so the last one may reach
/// beyond its length.
type EscapeRoom = [u8; LONGEST * BATCH + 16];

/// How a byte is written: up to six bytes, and their number in the last.
type Escape = [u8; 8];

static ESCAPES: [Escape; 256] = escapes();

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn escapes() -> [Escape; 256] {
    let mut table = [[0; 8]; 256];
    let mut byte = 0_u8;
    loop {
        table[byte as usize] = escape(byte);
        if byte == u8::MAX {
            return table;
        }
        byte += 1;
    }
}

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn escape(byte: u8) -> Escape {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x0c => b'f',
        ..0x20 => {
            let (high, low) = (HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]);
            return [b'\\', b'u', b'0', b'0', high, low, 0, 6];
        }
        _ => return [byte, 0, 0, 0, 0, 0, 0, 1],
    };
    [b'\\', short, 0, 0, 0, 0, 0, 2]
}

/// Appends text as a JSON string (RFC 8259, section 7), in quotes.
pub(super) fn push(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut escaped = [0; size_of::<EscapeRoom>()];
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let (blocks, _) = rest.as_chunks::<BLOCK>();
        let plain = blocks.iter().take_while(|block| is_plain(block)).count();
        let (copied, other) = rest.split_at(plain * BLOCK);
        out.extend_from_slice(copied);
        let (batch, after) = other.split_at(other.len().min(BATCH));
        let length = escape_batch(batch, &mut escaped);
        out.extend_from_slice(escaped.get(..length).unwrap_or_default());
        rest = after;
    }
    out.push(b'"');
}

/// Whether no byte must be escaped.
fn is_plain(block: &[u8; BLOCK]) -> bool {
    // Neither an early return nor a branch: they would keep the compiler from comparing many bytes at once.
    let special = |byte: u8| u8::from(byte < 0x20) | u8::from(byte == b'"') | u8::from(byte == b'\\');
    block.iter().fold(0, |any, byte| any | special(*byte)) == 0
}

/// Stores at most a batch, escaped, and returns the length.
fn escape_batch(bytes: &[u8], escaped: &mut EscapeRoom) -> usize {
    #[cfg(target_arch = "x86_64")]
    if let Some(length) = vectors::escape(bytes, escaped) {
        return length;
    }
    escape_bytes(bytes, escaped)
}

/// The same on any processor.
fn escape_bytes(bytes: &[u8], escaped: &mut EscapeRoom) -> usize {
    let mut length = 0;
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        if special(*word) == 0 {
            store(*word, length, escaped);
            length += word.len();
        } else {
            for byte in word {
                length += put(*byte, length, escaped);
            }
        }
    }
    for byte in tail {
        length += put(*byte, length, escaped);
    }
    length
}

/// Stores a byte, escaped if it must be, and returns how long it is.
fn put(byte: u8, at: usize, escaped: &mut EscapeRoom) -> usize {
    let escape = ESCAPES.get(usize::from(byte)).copied().unwrap_or_default();
    store(escape, at, escaped);
    let [.., length] = escape;
    usize::from(length)
}

fn store(word: [u8; 8], at: usize, escaped: &mut EscapeRoom) {
    // A batch never needs more than the room that there is.
    if let Some(room) = escaped.get_mut(at..).and_then(|room| room.first_chunk_mut()) {
        *room = word;
    }
}

/// A set top bit in each byte that must be escaped; bytes after the first such one may be wrong.
fn special(bytes: [u8; 8]) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let word = u64::from_le_bytes(bytes);
    // Subtracting borrows from the next byte exactly where a byte is less: "Determine if a word has a
    // byte less than n", for n = 0x20, and n = 1 after an exclusive or makes the wanted byte zero.
    let less = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word;
    let equal = |byte: u8| less(word ^ (ONES * u64::from(byte)), 1);
    (less(word, 0x20) | equal(b'"') | equal(b'\\')) & TOPS
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn check(text: &str) {
        let mut got = Vec::new();
        push(text, &mut got);
        assert_eq!(String::from_utf8(got).unwrap(), serde_json::to_string(text).unwrap(), "{text:?}");
        // The way of other processors.
        let (mut escaped, mut got) = ([0; size_of::<EscapeRoom>()], vec![b'"']);
        for batch in text.as_bytes().chunks(BATCH) {
            let length = escape_bytes(batch, &mut escaped);
            got.extend_from_slice(escaped.get(..length).unwrap());
        }
        got.push(b'"');
        assert_eq!(String::from_utf8(got).unwrap(), serde_json::to_string(text).unwrap(), "{text:?}");
    }

    #[test]
    fn strings_are_as_serde_json_has_them() {
        check("");
        for character in ('\0'..='\u{3ff}').chain(['\u{2028}', '\u{202e}', '\u{ffff}', '\u{10ffff}']) {
            for before in (0..17).chain([63, 64, 65, 127, 130]) {
                let plain = "~".repeat(before);
                check(&format!("{plain}{character}"));
                check(&format!("{plain}{character}\u{7f}!\"#[\\]{character}é{plain}"));
            }
        }
        let mut state = 1_u64;
        for length in (0..500).chain([BATCH - 1, BATCH, BATCH + 1, 5 * BATCH]) {
            let text: String = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    char::from_u32((state >> 40) as u32 % 0x180).unwrap()
                })
                .collect();
            check(&text);
        }
    }
}
