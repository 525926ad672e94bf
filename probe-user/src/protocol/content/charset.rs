//! Bytes → text by its character set. Only user of encoding_rs.

use encoding_rs::{Encoding, UTF_8};

use super::Whole;

/// Decodes text. A byte-order mark takes precedence over `charset`, as browsers do it, and without both it is
/// UTF-8. U+FFFD stands for what is invalid. The error is the name of a character set that is unknown.
pub(super) fn text(data: &[u8], charset: Option<&str>, is_whole: Whole) -> Result<String, String> {
    let encoding = match charset.map(str::trim).filter(|name| !name.is_empty()) {
        None => UTF_8,
        Some(name) => Encoding::for_label(name.as_bytes()).ok_or_else(|| name.to_owned())?,
    };
    let mut decoder = encoding.new_decoder();
    let capacity = decoder.max_utf8_buffer_length(data.len()).unwrap_or(data.len());
    let mut text = String::with_capacity(capacity);
    // What is left of a character that was cut off is left out, unless that is the end.
    let _ = decoder.decode_to_string(data, &mut text, is_whole == Whole::Yes);
    Ok(text)
}
