//! Characters that JSON does not escape and that act on a terminal.
//!
//! Outside of strings a JSON line is ASCII, so such a character is always inside a string, where an escape
//! sequence means the same.

use std::io::Write;

use crate::terminal::escape::acts_on_terminal;

/// The first UTF-8 bytes of these characters: DEL, C1 controls, and characters that change the direction of
/// text. JSON itself escapes the C0 controls.
const FIRST_BYTES: [u8; 3] = [0x7f, 0xc2, 0xe2];

/// Escapes these characters in `line` from `start` on.
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

/// The position of the next such character. Their first bytes are rare, so most of a line is searched at the
/// speed of memory.
fn find(bytes: &[u8]) -> Option<usize> {
    let [del, control, direction] = FIRST_BYTES;
    memchr::memchr3_iter(del, control, direction, bytes)
        .find(|at| bytes.get(*at..).is_some_and(|special| decode(special).is_some()))
}

/// The character at the start of `bytes` and the bytes after it, if it acts on a terminal. The first byte is
/// one of [`FIRST_BYTES`].
fn decode(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let length = match bytes.first()? {
        0x7f => 1,
        0xc2 => 2,
        _ => 3,
    };
    let (character, after) = bytes.split_at_checked(length)?;
    let character = std::str::from_utf8(character).ok()?.chars().next()?;
    acts_on_terminal(character).then_some((u32::from(character), after))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn every_character_that_a_terminal_acts_on_begins_with_one_of_three_bytes() {
        for character in (' '..=char::MAX).filter(|character| acts_on_terminal(*character)) {
            let first = character.encode_utf8(&mut [0; 4]).as_bytes().first().copied();
            assert!(first.is_some_and(|first| FIRST_BYTES.contains(&first)), "{character:?}");
        }
    }

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
