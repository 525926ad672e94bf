//! Bodies of any bytes, encoded in any way and of any type: what is shown of them is bounded.

use anyhow::{Result, ensure};
use ctrace::protocol::content::{View, Whole, decode, view};

const ENCODINGS: [&str; 5] = ["gzip", "deflate", "br", "zstd", "identity"];
const TYPES: [&str; 6] = [
    "application/json",
    "multipart/form-data; boundary=b",
    "application/x-www-form-urlencoded",
    "text/plain; charset=utf-16",
    "text/html; charset=iso-2022-jp",
    "image/png",
];
const LIMIT: usize = 64 * 1024;

/// Decodes a body. The first byte of an input chooses its encodings, the second one its type, or the length
/// of a type that follows. An error is a finding.
pub fn run(input: &[u8]) -> Result<()> {
    let &[encoding, kind, ref data @ ..] = input else { return Ok(()) };
    let whole = if encoding & 1 == 0 { Whole::Yes } else { Whole::No };
    let limit = if encoding & 2 == 0 { LIMIT } else { 100 };
    let names = [encoding >> 2 & 7, encoding >> 5 & 7];
    let names = names.into_iter().filter_map(|name| ENCODINGS.get(usize::from(name)));
    let encodings: Vec<String> = names.map(|&name| name.to_owned()).collect();
    let (own, data) = match TYPES.get(usize::from(kind)) {
        Some(_) => (None, data),
        None => data
            .split_at_checked(usize::from(kind) - TYPES.len())
            .map_or((None, data), |(own, data)| (Some(String::from_utf8_lossy(own).into_owned()), data)),
    };
    let content = decode(&encodings, data, whole, limit);
    ensure!(content.data.len() <= limit, "{content:?}");
    let media_type = own.as_deref().or(TYPES.get(usize::from(kind)).copied());
    match view(media_type, &content.data, whole, limit) {
        View::Json(json) => ensure!(json.text.len() <= limit, "{json:?}"),
        // U+FFFD takes three bytes, in place of one.
        View::Text(text) => ensure!(text.len() <= limit * 3, "{} bytes of text", text.len()),
        View::Form(fields) => ensure!(fields.len() <= 1000, "{} fields", fields.len()),
        View::Multipart(parts) => ensure!(parts.len() <= 100, "{} parts", parts.len()),
        View::Protobuf(_) | View::Bytes | View::UnknownCharset(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_body_is_decoded() -> Result<()> {
        for encoding in 0..=255 {
            for kind in 0..16 {
                run(&[encoding, kind])?;
                run(&[[encoding, kind].as_slice(), b"{\"a\":[1,true]}"].concat())?;
                run(&[[encoding, kind].as_slice(), b"--b\r\nContent-Type: a\r\n\r\nx\r\n--b--"].concat())?;
            }
        }
        run(&(0..=255).cycle().take(4096).collect::<Vec<u8>>())
    }
}
