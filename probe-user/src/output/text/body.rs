//! The bodies of messages, as far as a person can read them.

use std::fmt::{self, Write as _};

use super::request::bytes;
use super::{Payload, escape, hexdump};
use crate::event::MessageBody;
use crate::protocol::content::{FormField, FormPart, View, Whole, view};

/// The most bytes of text of a body, which has white space that was added.
const MAX_TEXT: usize = 4 << 20;

/// Appends a body, and what is to be said about it, as lines.
pub(super) fn content(body: &MessageBody, payload: Payload, out: &mut String) -> fmt::Result {
    let MessageBody { data, media_type, is_cut, in_messages: _, encodings, named, problem } = body;
    let whole = if *is_cut { Whole::No } else { Whole::Yes };
    match payload {
        Payload::Hex => hexdump::hex(data, 0, out),
        Payload::Auto if !encodings.is_empty() => {
            let words: Vec<&str> = encodings.iter().map(String::as_str).collect();
            opaque(data.len(), &words, out)?;
        }
        Payload::Auto if let Some(messages) = named => {
            for message in messages {
                end_line(out);
                plain(
                    view(Some("application/json"), message.as_bytes(), Whole::Yes, MAX_TEXT),
                    &[],
                    None,
                    out,
                )?;
            }
        }
        Payload::Auto => match view(media_type.as_deref(), data, whole, MAX_TEXT) {
            View::Multipart(parts) => parts.iter().try_for_each(|part| self::part(part, out))?,
            shown => plain(shown, data, media_type.as_deref(), out)?,
        },
    }
    let more = if *is_cut { Some("…") } else { None };
    for note in problem.as_deref().into_iter().chain(more) {
        end_line(out);
        escape::name(note.as_bytes(), out);
    }
    Ok(())
}

/// Appends what has no parts.
fn plain(view: View<'_>, data: &[u8], media_type: Option<&str>, out: &mut String) -> fmt::Result {
    match view {
        View::Json(json) => escape::payload(json.text.as_bytes(), out),
        View::Protobuf(message) => escape::payload(message.text.as_bytes(), out),
        View::Text(text) => escape::payload(text.as_bytes(), out),
        View::Form(fields) => {
            for FormField { name, value } in fields {
                end_line(out);
                escape::name(name.as_bytes(), out);
                out.push_str(" = ");
                escape::name(value.as_bytes(), out);
            }
        }
        View::UnknownCharset(name) => opaque(data.len(), &["of text in", &name], out)?,
        View::Bytes | View::Multipart(_) => opaque(data.len(), media_type.as_slice(), out)?,
    }
    Ok(())
}

fn part(
    FormPart { name, file_name, media_type, data, whole }: &FormPart<'_>,
    out: &mut String,
) -> fmt::Result {
    end_line(out);
    out.push_str("--");
    for word in [name, file_name, media_type].into_iter().flatten() {
        out.push(' ');
        escape::name(word.as_bytes(), out);
    }
    out.push('\n');
    // The parts of forms are text, unless they say what else they are.
    plain(view(media_type.as_deref().or(Some("text/plain")), data, *whole, MAX_TEXT), data, None, out)
}

/// `[31 B image/png]`
fn opaque(length: usize, words: &[&str], out: &mut String) -> fmt::Result {
    write!(out, "[{}", bytes(length as u64))?;
    for word in words {
        out.push(' ');
        escape::name(word.as_bytes(), out);
    }
    out.push(']');
    Ok(())
}

fn end_line(out: &mut String) {
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn bodies_are_shown_as_what_they_are() {
        let form = "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--\r\n";
        for (media_type, encodings, is_cut, data, expected) in [
            ("application/json", "", false, r#"{"a": [1]}"#, "{\n  \"a\": [\n    1\n  ]\n}"),
            ("text/plain", "", true, "a\u{1b}[2J\nb", "a\\x1b[2J\nb\n…"),
            ("image/png", "", false, "\u{0}\u{1}", "[2 B image/png]"),
            ("text/plain", "snappy", false, "abc", "[3 B snappy]"),
            ("application/x-www-form-urlencoded", "", false, "a=1&b=%0a", "a = 1\nb = \\n"),
            ("multipart/form-data; boundary=x", "", false, form, "-- a\n1"),
        ] {
            let body = MessageBody {
                data: data.as_bytes().to_vec(),
                media_type: Some(media_type.to_owned()),
                is_cut,
                in_messages: false,
                encodings: Some(encodings.to_owned()).filter(|name| !name.is_empty()).into_iter().collect(),
                named: None,
                problem: None,
            };
            let mut out = String::new();
            content(&body, Payload::Auto, &mut out).unwrap();
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn messages_with_names() {
        let messages = [r#"{"a":1}"#, "{}", r#""\u001b""#, "1.5"];
        let mut body = MessageBody {
            data: b"\0\xff".to_vec(),
            media_type: Some("application/grpc".to_owned()),
            is_cut: true,
            in_messages: false,
            encodings: Vec::new(),
            named: Some(messages.map(str::to_owned).to_vec()),
            problem: None,
        };
        let mut check = |payload, named: Option<&[&str]>, expected: &str| {
            body.named = named.map(|named| named.iter().map(|&text| text.to_owned()).collect());
            let mut out = String::new();
            content(&body, payload, &mut out).unwrap();
            assert_eq!(out, expected);
        };
        check(Payload::Auto, Some(&messages), "{\n  \"a\": 1\n}\n{}\n\"\\u001b\"\n1.5\n…");
        check(Payload::Auto, Some(&[]), "…");
        check(Payload::Auto, None, "[2 B application/grpc]\n…");
    }
}
