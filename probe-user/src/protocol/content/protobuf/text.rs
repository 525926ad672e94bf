//! Protocol buffers without their schema: the numbers of fields, and what their wire types say of the values.
//!
//! The wire does not tell texts, messages and bytes apart. What is readable is taken for a text, unless it
//! has control characters and is a well-formed message.

use std::fmt::{self, Write as _};

use super::super::Whole;
use super::wire::{self, NoField, WireField, WireValue};

/// The deepest nesting of messages that is shown. What is nested deeper is shown as bytes.
const MAX_DEPTH: usize = 32;
/// The most bytes of a value that are shown in hexadecimal digits.
const MAX_HEX: usize = 64;
const INDENT: &str = "  ";

/// A message as text.
#[derive(Clone, PartialEq, Eq)]
pub struct ProtobufText {
    /// The text: a line per field, and its number in front of it.
    pub text: String,
    /// Whether that is all. Otherwise it ends early, because the body was not kept as a whole, or because of
    /// the limit.
    pub is_whole: bool,
}

impl fmt::Debug for ProtobufText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, is_whole } = self;
        write!(f, "ProtobufText({} bytes, whole: {is_whole})", text.len())
    }
}

/// A message as text. None if the bytes are none.
pub(in super::super) fn text(data: &[u8], is_whole: Whole, limit: usize) -> Option<ProtobufText> {
    let mut out = String::new();
    // What is to be shown of the messages that are open, outermost first.
    let mut open = vec![data];
    let mut is_cut = is_whole == Whole::No;
    while let Some(rest) = open.last_mut() {
        if rest.is_empty() {
            open.pop();
            if !open.is_empty() {
                line(&mut out, open.len() - 1, "}").ok()?;
            }
            continue;
        }
        if out.len() >= limit {
            is_cut = true;
            break;
        }
        // Only the outermost message can be cut: the others were checked.
        let field = match (field(rest), is_whole) {
            (Ok(WireField { value: WireValue::Cut(_), .. }), Whole::Yes) => return None,
            (Ok(field), _) => field,
            (Err(NoField::Cut), Whole::No) => break,
            _ => return None,
        };
        let depth = open.len() - 1;
        match field.value {
            WireValue::Bytes(bytes) if open.len() < MAX_DEPTH && is_shown_as_message(bytes) => {
                line(&mut out, depth, &format!("{} {{", field.number)).ok()?;
                open.push(bytes);
            }
            value => line(&mut out, depth, &format!("{}: {}", field.number, shown(&value))).ok()?,
        }
    }
    Some(ProtobufText { text: out, is_whole: !is_cut })
}

/// Removes the first field. Groups are no longer used, and would make too many bytes look like a message.
fn field<'a>(rest: &mut &'a [u8]) -> Result<WireField<'a>, NoField> {
    match wire::field(rest)? {
        WireField { value: WireValue::Group(_), .. } => Err(NoField::Malformed),
        field => Ok(field),
    }
}

/// Whether all bytes are fields, of which messages may be among the values.
fn is_message(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        match field(&mut rest) {
            Ok(WireField { value: WireValue::Cut(_), .. }) | Err(_) => return false,
            Ok(_) => {}
        }
    }
    true
}

pub(super) fn is_shown_as_message(bytes: &[u8]) -> bool {
    let is_text = readable(bytes).is_some_and(|text| !text.contains(char::is_control));
    !is_text && is_message(bytes)
}

/// The bytes as text, if they have no characters that texts do not have.
pub(super) fn readable(bytes: &[u8]) -> Option<&str> {
    let text = str::from_utf8(bytes).ok()?;
    let is_odd = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    (!text.contains(is_odd)).then_some(text)
}

fn shown(value: &WireValue<'_>) -> String {
    match value {
        WireValue::Varint(number) => number.to_string(),
        WireValue::Fixed32(number) => format!("{number:#010x}"),
        WireValue::Fixed64(number) => format!("{number:#018x}"),
        WireValue::Group(bytes) => hex(bytes),
        WireValue::Bytes(bytes) => match readable(bytes) {
            Some(text) => format!("{text:?}"),
            None => hex(bytes),
        },
        // A character may be cut.
        WireValue::Cut(bytes) => match bytes.utf8_chunks().next() {
            Some(chunk)
                if bytes.len() - chunk.valid().len() < 4 && readable(chunk.valid().as_bytes()).is_some() =>
            {
                format!("{:?}…", chunk.valid())
            }
            _ => format!("{}…", hex(bytes)),
        },
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut digits = String::from("0x");
    for byte in bytes.iter().take(MAX_HEX) {
        // Writing to a string does not fail.
        let _ = write!(digits, "{byte:02x}");
    }
    if bytes.len() > MAX_HEX {
        let _ = write!(digits, "… ({} bytes)", bytes.len());
    }
    digits
}

fn line(out: &mut String, depth: usize, text: &str) -> fmt::Result {
    if !out.is_empty() {
        out.push('\n');
    }
    write!(out, "{}{text}", INDENT.repeat(depth))
}

/// The messages of a body of gRPC as texts, of which each begins with a dash. None if one of them is none.
pub(in super::super) fn grpc_text(data: &[u8], is_whole: Whole, limit: usize) -> Option<ProtobufText> {
    let mut shown = ProtobufText { text: String::new(), is_whole: is_whole == Whole::Yes };
    let mut rest = data;
    while let Some((&[flag, ref length @ ..], after)) = rest.split_first_chunk::<5>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (message, after, whole) = match after.split_at_checked(length) {
            Some((message, after)) => (message, after, Whole::Yes),
            None if is_whole == Whole::No => (after, &[][..], Whole::No),
            None => return None,
        };
        rest = after;
        line(&mut shown.text, 0, "-").ok()?;
        match flag {
            0 => {
                let message = text(message, whole, limit.saturating_sub(shown.text.len()))?;
                for field in message.text.lines() {
                    line(&mut shown.text, 1, field).ok()?;
                }
                shown.is_whole &= message.is_whole;
            }
            1 => line(&mut shown.text, 1, &format!("{length} bytes, compressed")).ok()?,
            // Trailers of gRPC-Web, and the end of a stream of Connect.
            2 | 3 | 0x80 | 0x81 => {
                line(&mut shown.text, 1, &format!("{length} bytes that end the stream")).ok()?;
            }
            _ => return None,
        }
        if shown.text.len() >= limit {
            shown.is_whole = false;
            break;
        }
    }
    (!shown.text.is_empty()).then_some(shown)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn check(data: &[u8], expected: &[&str]) {
        let text = text(data, Whole::Yes, 10_000).unwrap();
        assert_eq!((text.text.as_str(), text.is_whole), (expected.join("\n").as_str(), true), "{data:?}");
    }

    #[test]
    fn fields() {
        check(b"", &[]);
        check(b"\x08\x96\x01", &["1: 150"]);
        check(b"\x12\x07testing", &["2: \"testing\""]);
        check(b"\x1a\x03\x08\x96\x01", &["3 {", "  1: 150", "}"]);
        check(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", &["1: 18446744073709551615"]);
        check(b"\x0d\0\0\x80\x3f\x11\0\0\0\0\0\0\xf0\x3f", &["1: 0x3f800000", "2: 0x3ff0000000000000"]);
        check(b"\x0a\x02\xff\xfe\x0a\0\x0a\x03\"\n\xc3", &["1: 0xfffe", "1: \"\"", "1: 0x220ac3"]);
        check("\n\u{5}ä\"\nz".as_bytes(), &[r#"1: "ä\"\nz""#]);
        // A message whose bytes are almost readable, and lines that are no message.
        check(b"\x0a\x04\x0a\x02hi", &["1 {", "  1: \"hi\"", "}"]);
        check(b"\x0a\x05a\nb\nc", &["1: \"a\\nb\\nc\""]);
    }

    #[test]
    fn what_is_no_message() {
        for data in [
            &b"\x00\x01"[..],
            b"\x08",
            b"\x0b",
            b"\x0f",
            b"\x0d\0\0",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
        ] {
            assert_eq!(text(data, Whole::Yes, 100), None, "{data:?}");
        }
    }

    #[test]
    fn what_was_not_kept() {
        let check = |data: &[u8], limit, expected: &str| {
            let text = text(data, Whole::No, limit).unwrap();
            assert_eq!((text.text.as_str(), text.is_whole), (expected, false), "{data:?}");
        };
        check(b"\x08\x01\x08", 100, "1: 1");
        check(b"\x12\x07test", 100, "2: \"test\"…");
        check(b"\x12\x07t\xc3", 100, "2: \"t\"…");
        check(b"\x12\x07\x01\xff", 100, "2: 0x01ff…");
        check(&b"\x08\x01".repeat(50), 9, "1: 1\n1: 1");
    }

    #[test]
    fn hostile_messages() {
        // Messages within messages, deeper than is shown.
        let mut data = b"\x08\x01".to_vec();
        for _ in 0..60 {
            let length = u8::try_from(data.len()).unwrap();
            data = [&[0x0a, length], &*data].concat();
        }
        let text = text(&data, Whole::Yes, 10_000).unwrap();
        assert_eq!(text.text.lines().count(), 2 * (MAX_DEPTH - 1) + 1);
        let mut rng = crate::test_rng::TestRng(4);
        for _ in 0..20_000 {
            let data = rng.bytes(&[0x08, 0x0a, 0x12, 1, 2, 3, 5, 40, 0xff]);
            for whole in [Whole::Yes, Whole::No] {
                if let Some(text) = super::text(&data, whole, 200) {
                    assert!(text.text.len() < 200 + 2 * (MAX_HEX + 40 + MAX_DEPTH), "{}", text.text);
                }
                let _ = grpc_text(&data, whole, 200);
            }
        }
    }

    #[test]
    fn bodies_of_grpc() {
        let check = |data: &[u8], whole, expected: &[&str]| {
            let text = grpc_text(data, whole, 1000).map(|text| text.text);
            assert_eq!(text, (!expected.is_empty()).then(|| expected.join("\n")), "{data:?}");
        };
        check(b"\0\0\0\0\x02\x08\x01\0\0\0\0\0", Whole::Yes, &["-", "  1: 1", "-"]);
        check(b"\x01\0\0\0\x02zz", Whole::Yes, &["-", "  2 bytes, compressed"]);
        check(b"\0\0\0\0\x09\x0a\x07abc", Whole::No, &["-", "  1: \"abc\"…"]);
        check(b"\0\0\0\0\x09\x0a\x07abc", Whole::Yes, &[]);
        check(b"\x04\0\0\0\x01a", Whole::Yes, &[]);
        check(b"\0\0\0\0\0\x80\0\0\0\x01a", Whole::Yes, &["-", "-", "  1 bytes that end the stream"]);
    }
}
