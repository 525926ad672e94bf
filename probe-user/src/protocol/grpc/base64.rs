//! Base64 as it comes (RFC 4648, section 4): several texts in a row, each of which may be padded.

/// What is not decoded yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Base64Stream {
    /// The bits of the characters of the current group.
    bits: u32,
    /// How many characters of it have come, with the padding.
    characters: u32,
    padding: u32,
}

/// The text is not base64.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotBase64;

impl Base64Stream {
    /// Adds the bytes of all groups that are complete.
    pub(super) fn decode(&mut self, text: &[u8], out: &mut Vec<u8>) -> Result<(), NotBase64> {
        for &character in text {
            let value = match character {
                b'A'..=b'Z' => character - b'A',
                b'a'..=b'z' => character - b'a' + 26,
                b'0'..=b'9' => character - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'=' if self.characters >= 2 => {
                    self.padding += 1;
                    0
                }
                _ => return Err(NotBase64),
            };
            if self.padding > 0 && character != b'=' {
                return Err(NotBase64);
            }
            self.bits = self.bits << 6 | u32::from(value);
            self.characters += 1;
            if self.characters == 4 {
                let [_, bytes @ ..] = self.bits.to_be_bytes();
                let padding = usize::try_from(self.padding).unwrap_or_default();
                out.extend(bytes.iter().take(bytes.len().saturating_sub(padding)));
                *self = Self::default();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_in_any_pieces() {
        let check = |text: &str, expected: Option<&[u8]>| {
            for split in 1..=text.len().max(1) {
                let (mut stream, mut out) = (Base64Stream::default(), Vec::new());
                let is_valid =
                    text.as_bytes().chunks(split).all(|part| stream.decode(part, &mut out).is_ok());
                assert_eq!(is_valid.then_some(&*out), expected, "{text} by {split}");
            }
        };
        check("", Some(b""));
        check("AAEC/+8=", Some(b"\0\x01\x02\xff\xef"));
        check("YQ==YmM=", Some(b"abc"));
        check("YQ", Some(b""));
        check("Y===", None);
        check("YQ=a", None);
        check("YQ-_", None);
    }
}
