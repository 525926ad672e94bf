//! Quotes arguments so that they can be typed into a POSIX shell, on one line that a terminal only displays.
//!
//! Words that need no quotes have none. Words with bytes that a terminal might act on are written as `$'…'`
//! with escape sequences (POSIX.1-2024, bash, ksh, zsh). Pasting a line gives the same bytes.

use std::fmt::Write as _;

use super::escape::is_harmless;

/// Appends an argument.
pub(crate) fn argument(bytes: &[u8], out: &mut String) {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(is_word) => out.push_str(text),
        Ok(text) if text.chars().all(is_harmless) => {
            out.push('\'');
            out.push_str(&text.replace('\'', "'\\''"));
            out.push('\'');
        }
        _ => escaped(bytes, out),
    }
}

/// Appends bytes as `$'…'`.
fn escaped(bytes: &[u8], out: &mut String) {
    out.push_str("$'");
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\\' | '\'' => out.extend(['\\', character]),
                _ if is_harmless(character) => out.push(character),
                _ => octal(character.encode_utf8(&mut [0; 4]).as_bytes(), out),
            }
        }
        octal(chunk.invalid(), out);
    }
    out.push('\'');
}

/// Appends octal escapes. They always have three digits, so that a following digit is not read as a part of
/// them, as can happen after `\x`.
fn octal(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(out, "\\{byte:03o}");
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn quoted(bytes: &[u8]) -> String {
        let mut out = String::new();
        argument(bytes, &mut out);
        out
    }

    #[test]
    fn arguments_are_quoted_as_little_as_they_need() {
        for (bytes, expected) in [
            (&b"-la"[..], "-la"),
            (b"--color=auto", "--color=auto"),
            (b"", "''"),
            (b"a b", "'a b'"),
            (b"it's", "'it'\\''s'"),
            (b"$HOME", "'$HOME'"),
            (b"~", "'~'"),
            (b"back\\slash", "'back\\slash'"),
            ("grö\u{df}e".as_bytes(), "'größe'"),
            (b"a\nb", "$'a\\nb'"),
            (b"\x1b[2J", "$'\\033[2J'"),
            (b"\xff7", "$'\\3777'"),
            ("\u{202e}x".as_bytes(), "$'\\342\\200\\256x'"),
            (b"'\t\\", "$'\\'\\t\\\\'"),
        ] {
            assert_eq!(quoted(bytes), expected);
        }
    }

    #[test]
    fn a_shell_gives_the_same_bytes_back() {
        let mut arguments: Vec<Vec<u8>> = (1..=255_u8).map(|byte| vec![byte, b'7', byte]).collect();
        arguments.push("日本 ' \u{9b}31m \u{2028}".as_bytes().to_vec());
        let line: Vec<String> = arguments.iter().map(|bytes| quoted(bytes)).collect();
        let script = format!("printf '%s\\0' {}", line.join(" "));
        let output = std::process::Command::new("bash")
            .args([std::ffi::OsStr::from_bytes(b"-c"), script.as_ref()])
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        let mut expected = arguments.join(&0);
        expected.push(0);
        assert_eq!(output.stdout, expected);
    }
}
