//! Foreign bytes → bytes that a terminal only displays.
//!
//! Owns the list of characters that never reach a terminal as they are: control characters (C0, DEL, C1), and
//! format characters, which are invisible or change the order of the displayed text (CVE-2021-42574).
//! Backslashes stay as they are: text output is for people, and programs read JSON.

use std::fmt::Write as _;

/// Appends a name (container, comm, path) on one line. Every control character is escaped.
pub(crate) fn name(foreign: &[u8], out: &mut String) {
    for chunk in foreign.utf8_chunks() {
        for character in chunk.valid().chars() {
            push(character, out);
        }
        raw(chunk.invalid(), out);
    }
}

/// Appends lines of our own that contain names. Line ends stay, and everything else is escaped as in a name.
pub(crate) fn lines(foreign: &[u8], out: &mut String) {
    for (index, line) in foreign.split(|byte| *byte == b'\n').enumerate() {
        if index > 0 {
            out.push('\n');
        }
        name(line, out);
    }
}

/// Appends payload. Tabs and line ends (`\n`, `\r\n`) stay, and everything else is escaped as in a name.
pub(crate) fn payload(foreign: &[u8], out: &mut String) {
    for chunk in foreign.utf8_chunks() {
        let mut rest = chunk.valid();
        // Almost all payload consists of long runs that need no escaping.
        while let Some(at) = rest.find(|c: char| !is_plain(c)) {
            let (plain, special) = rest.split_at(at);
            out.push_str(plain);
            let mut characters = special.chars();
            match characters.next() {
                Some('\r') if special.starts_with("\r\n") => {}
                Some(special) => push(special, out),
                None => {}
            }
            rest = characters.as_str();
        }
        out.push_str(rest);
        raw(chunk.invalid(), out);
    }
}

/// Whether a person can read payload: UTF-8 without control characters other than tabs and line ends. A
/// character that is cut at the end does not make the payload binary.
pub(crate) fn is_readable(payload: &[u8]) -> bool {
    let text = match simdutf8::compat::from_utf8(payload) {
        Ok(text) => text,
        Err(error) if error.error_len().is_some() => return false,
        Err(error) => {
            let whole = payload.get(..error.valid_up_to()).unwrap_or_default();
            std::str::from_utf8(whole).unwrap_or_default()
        }
    };
    !text.is_empty() && text.chars().all(|c| !c.is_control() || matches!(c, '\t' | '\r' | '\n'))
}

/// Whether a terminal only displays a character.
pub(crate) fn is_harmless(character: char) -> bool {
    !acts_on_terminal(character) && !is_format(character)
}

/// Whether a terminal acts on a character: a control character (C0, DEL, C1), or one that changes the
/// direction of text. The other format characters are merely invisible.
pub(crate) fn acts_on_terminal(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn is_plain(character: char) -> bool {
    match character {
        ' '..='~' | '\n' | '\t' => true,
        _ => is_harmless(character),
    }
}

fn push(character: char, out: &mut String) {
    match character {
        '\t' => out.push_str("\\t"),
        '\r' => out.push_str("\\r"),
        '\n' => out.push_str("\\n"),
        '\0'..='\x1f' | '\x7f' => raw(&[u8::try_from(character).unwrap_or_default()], out),
        _ if !is_harmless(character) => {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{{{:04x}}}", u32::from(character));
        }
        _ => out.push(character),
    }
}

fn raw(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        let _ = write!(out, "\\x{byte:02x}");
    }
}

/// Format characters (Unicode category Cf) and the line and paragraph separators.
fn is_format(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
        | '\u{8e2}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: &[(&[u8], &str, &str)] = &[
        // foreign, as a name, as payload
        (b"tls-server", "tls-server", "tls-server"),
        ("größe 日本 🙂".as_bytes(), "größe 日本 🙂", "größe 日本 🙂"),
        (b"\x1b[2J\x1b]0;x\x07", "\\x1b[2J\\x1b]0;x\\x07", "\\x1b[2J\\x1b]0;x\\x07"),
        (b"a\0b\x7f", "a\\x00b\\x7f", "a\\x00b\\x7f"),
        (
            "\u{80}\u{9b}31m\u{9f}".as_bytes(),
            "\\u{0080}\\u{009b}31m\\u{009f}",
            "\\u{0080}\\u{009b}31m\\u{009f}",
        ),
        (b"\x9b31m\xff\xfe", "\\x9b31m\\xff\\xfe", "\\x9b31m\\xff\\xfe"),
        (
            "\u{202a}\u{202e}\u{2066}\u{2069}".as_bytes(),
            "\\u{202a}\\u{202e}\\u{2066}\\u{2069}",
            "\\u{202a}\\u{202e}\\u{2066}\\u{2069}",
        ),
        (
            "\u{200b}\u{200e}\u{61c}\u{feff}\u{e0041}\u{2028}".as_bytes(),
            "\\u{200b}\\u{200e}\\u{061c}\\u{feff}\\u{e0041}\\u{2028}",
            "\\u{200b}\\u{200e}\\u{061c}\\u{feff}\\u{e0041}\\u{2028}",
        ),
        (b"a\nb\r\nc\td\re", "a\\nb\\r\\nc\\td\\re", "a\nb\nc\td\\re"),
        (b"\r\r\n\r", "\\r\\r\\n\\r", "\\r\n\\r"),
        (b"C:\\x1b", "C:\\x1b", "C:\\x1b"),
        (b"", "", ""),
    ];

    #[test]
    fn foreign_bytes_are_escaped() {
        for (foreign, as_name, as_payload) in CASES {
            let (mut got_name, mut got_payload) = (String::new(), String::new());
            name(foreign, &mut got_name);
            payload(foreign, &mut got_payload);
            assert_eq!(got_name, *as_name);
            assert_eq!(got_payload, *as_payload);
        }
    }

    #[test]
    fn line_ends_of_lines_stay() {
        let mut text = String::new();
        lines(b"a\x1b[31m:\r\n\tb\xff\n", &mut text);
        assert_eq!(text, "a\\x1b[31m:\\r\n\\tb\\xff\n");
    }

    #[test]
    fn no_character_gets_through() {
        for character in '\0'..=char::MAX {
            let mut buffer = [0; 4];
            let foreign = character.encode_utf8(&mut buffer).as_bytes();
            let (mut as_name, mut as_payload) = (String::new(), String::new());
            name(foreign, &mut as_name);
            payload(foreign, &mut as_payload);
            assert!(as_name.chars().all(|c| !c.is_control() && !is_format(c)), "{character:?}");
            assert!(!acts_on_terminal(character) || !is_harmless(character), "{character:?}");
            let harmless = |c: char| matches!(c, '\n' | '\t') || !c.is_control() && !is_format(c);
            assert!(as_payload.chars().all(harmless), "{character:?}");
        }
    }

    #[test]
    fn text_is_told_from_binary() {
        for (payload, expected) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], true),
            (b"a\tb\rc", true),
            ("größe".as_bytes(), true),
            (b"gr\xc3", true),
            (b"\xc3", false),
            (b"gr\xc3x", false),
            (b"\x1b[0m", false),
            ("\u{85}".as_bytes(), false),
            (b"a\0", false),
            (b"", false),
        ] {
            assert_eq!(is_readable(payload), expected, "{payload:?}");
        }
    }
}
