//! The Go version that an object was built with.

use serde::Serialize;

use crate::elf::file::reader::FileRange;
use crate::elf::{Object, VirtAddr};

/// The magic of Go's build information (debug/buildinfo).
pub(super) const MAGIC: &[u8] = b"\xff Go buildinf:";

/// Longest version in bytes: `devel go1.27-0123456789 Tue Jan …` is the longest kind.
const MAX_VERSION: u64 = 256;
/// Size of the header, after which the version follows from Go 1.18 on.
const HEADER: u64 = 32;

/// A Go version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GoVersion {
    /// The full version, such as `go1.24.3`.
    pub text: String,
    /// The minor version, such as 24. None if the text does not have one.
    pub minor: Option<u32>,
}

impl GoVersion {
    fn new(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        let minor = text.split_once("go1.").map(|(_, rest)| rest).map(|rest| {
            let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
            rest.get(..end).unwrap_or_default().parse().ok()
        });
        plain.then(|| Self { text: text.to_owned(), minor: minor.flatten() })
    }
}

impl Object {
    /// Reads the version from the build information that starts at `rest`.
    pub(super) fn go_version(&self, rest: FileRange) -> Option<GoVersion> {
        let bytes =
            self.reader.bytes("build information", rest.head(HEADER + 2 + MAX_VERSION), u64::MAX).ok()?;
        // The size of a pointer, then flags: 2 = the version follows inline, 1 = big-endian.
        match bytes.get(14..16)? {
            [_, flags] if flags & 2 != 0 => {
                let rest = bytes.get(usize::try_from(HEADER).ok()?..)?;
                let (length, rest) = varint(rest)?;
                GoVersion::new(rest.get(..length)?)
            }
            // Before Go 1.18: a pointer to runtime.buildVersion, a string, which is an address and a length.
            [8, 0] => {
                let place = u64::from_le_bytes(*bytes.get(16..)?.first_chunk()?);
                let string = self.segments.from(place)?;
                let (text, length) = (self.word(string, 0)?, self.word(string, 8)?);
                let text = self.segments.from(VirtAddr(text).0)?.head(length.min(MAX_VERSION));
                GoVersion::new(&self.reader.bytes("the version of Go", text, MAX_VERSION).ok()?)
            }
            _ => None,
        }
    }
}

/// A varint of one or two bytes (as in encoding/binary), and what follows it.
fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    match bytes {
        [low @ 0..=0x7f, rest @ ..] => Some((usize::from(*low), rest)),
        [low, high @ 0..=0x7f, rest @ ..] => Some((usize::from(*low & 0x7f) | usize::from(*high) << 7, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::GoVersion;

    #[test]
    fn versions() {
        let cases = [
            ("go1.24.3", Some(Some(24))),
            ("go1.9", Some(Some(9))),
            ("devel go1.27-0123456789 Tue", Some(Some(27))),
            ("go2.1", Some(None)),
            ("", None),
            ("go1.\x1b[2J", None),
        ];
        for (text, expected) in cases {
            assert_eq!(GoVersion::new(text.as_bytes()).map(|version| version.minor), expected, "{text:?}");
        }
    }
}
