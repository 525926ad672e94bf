//! Payload → a JSON string, eight bytes at a time.
//!
//! Most of the time of the JSON sink is spent here. Owns no knowledge of records. Names go through
//! serde_json like everything else that is short.

/// Appends text as a JSON string (RFC 8259, section 7), in quotes.
pub(super) fn push(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut rest = bytes;
    while let Some((plain, byte, after)) = split(rest) {
        out.extend_from_slice(plain);
        push_escape(byte, out);
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// The bytes before the first that must be escaped, that one, and the bytes after it.
#[inline]
fn split(bytes: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let (words, tail) = bytes.as_chunks::<8>();
    let in_words = words.iter().zip((0..).step_by(8)).find_map(|(word, at)| match special(*word) {
        0 => None,
        mask => Some(at + (mask.trailing_zeros() / 8) as usize),
    });
    let in_tail = || tail.iter().position(|byte| matches!(byte, ..0x20 | b'"' | b'\\'));
    let at = in_words.or_else(|| Some(bytes.len() - tail.len() + in_tail()?))?;
    let (plain, special) = bytes.split_at_checked(at)?;
    let (byte, after) = special.split_first()?;
    Some((plain, *byte, after))
}

/// A set top bit in each byte that must be escaped; bytes after the first such one may be wrong.
#[inline]
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

fn push_escape(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn check(text: &str) {
        let mut got = Vec::new();
        push(text, &mut got);
        assert_eq!(String::from_utf8(got).unwrap(), serde_json::to_string(text).unwrap(), "{text:?}");
    }

    #[test]
    fn strings_are_as_serde_json_has_them() {
        check("");
        for character in ('\0'..='\u{3ff}').chain(['\u{2028}', '\u{202e}', '\u{ffff}', '\u{10ffff}']) {
            for before in 0..17 {
                let plain = "~".repeat(before);
                check(&format!("{plain}{character}"));
                check(&format!("{plain}{character}\u{7f}!\"#[\\]{character}é{plain}"));
            }
        }
        let mut state = 1_u64;
        for length in 0..500 {
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
