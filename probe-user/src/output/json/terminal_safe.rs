//! Characters that JSON lets through and a terminal acts on.
//!
//! Outside of strings a JSON line is ASCII, so such a character is always inside one, where it may as well
//! be written as an escape sequence.

use std::io::Write;

/// Escapes them in what was appended to `line` from `start` on.
pub(super) fn escape(line: &mut Vec<u8>, start: usize) {
    let Some(first) = line.get(start..).and_then(find) else { return };
    let tail = line.split_off(start + first);
    let mut rest = tail.as_slice();
    while let Some(at) = find(rest) {
        let (plain, special) = rest.split_at(at);
        line.extend_from_slice(plain);
        rest = match decode(special) {
            Some((code, after)) => {
                // Writing to a vector does not fail.
                let _ = write!(line, "\\u{code:04x}");
                after
            }
            None => special,
        };
    }
    line.extend_from_slice(rest);
}

/// Where the next one is. Their first bytes are rare, so that most of a line is passed over at the speed of
/// memory.
fn find(bytes: &[u8]) -> Option<usize> {
    memchr::memchr3_iter(0x7f, 0xc2, 0xe2, bytes)
        .find(|at| bytes.get(*at..).is_some_and(|special| decode(special).is_some()))
}

/// DEL, the C1 control characters (U+009B begins an escape sequence), and the characters that change the
/// direction of text (U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069).
fn decode(bytes: &[u8]) -> Option<(u32, &[u8])> {
    match bytes {
        [0x7f, after @ ..] => Some((0x7f, after)),
        [0xc2, low @ 0x80..=0x9f, after @ ..] => Some((u32::from(*low), after)),
        [0xe2, 0x80, low @ (0x8e | 0x8f | 0xaa..=0xae), after @ ..] => {
            Some((0x2000 | u32::from(low & 0x3f), after))
        }
        [0xe2, 0x81, low @ 0xa6..=0xa9, after @ ..] => Some((0x2040 | u32::from(low & 0x3f), after)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::escape;

    #[test]
    fn only_what_acts_on_a_terminal_is_escaped_and_comes_back() {
        for code in (0x7f..0x300).chain(0x2000..0x2100) {
            let character = char::from_u32(code).unwrap();
            let text = format!("é{character}x{character}€");
            let mut line = b"before\x7f".to_vec();
            let start = line.len();
            line.extend_from_slice(serde_json::to_string(&text).unwrap().as_bytes());
            escape(&mut line, start);
            let written = std::str::from_utf8(line.get(start..).unwrap()).unwrap();
            assert_eq!(serde_json::from_str::<String>(written).unwrap(), text, "{code:x}");
            let acts = matches!(code, 0x7f..=0x9f | 0x200e | 0x200f | 0x202a..=0x202e | 0x2066..=0x2069);
            assert_eq!(written.contains(character), !acts, "{code:x}");
            assert_eq!(line.get(..start).unwrap(), b"before\x7f");
        }
    }
}
