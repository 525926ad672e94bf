//! The GNU build id.

use std::fmt::Write as _;

use super::header::Segments;
use super::reader::{FileRange, Reader};

/// Size limit of a note segment in bytes: build id, ABI and property notes have less than 200.
const MAX_NOTES: u64 = 64 * 1024;
/// Size limit of a build id in bytes: SHA-1 has 20, `--build-id=0x…` may have more.
const MAX_BUILD_ID: usize = 64;

/// `NT_GNU_BUILD_ID` (elf.h).
const BUILD_ID: u32 = 3;

/// The build id in hexadecimal. Unreadable notes are treated as missing, because nothing depends on them.
pub(in crate::elf) fn build_id(reader: &Reader, segments: &Segments) -> Option<String> {
    segments.notes.iter().take(16).find_map(|extent| in_range(reader, *extent))
}

/// The build id in a range of notes.
pub(in crate::elf) fn in_range(reader: &Reader, extent: FileRange) -> Option<String> {
    let bytes = reader.bytes("a note", extent.head(MAX_NOTES), MAX_NOTES).ok()?;
    let id = find(&bytes)?;
    Some(id.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

fn find(mut notes: &[u8]) -> Option<&[u8]> {
    while let Some((head, rest)) = notes.split_at_checked(12) {
        let field =
            |n: usize| head.get(n..).and_then(<[u8]>::first_chunk).map(|word| u32::from_le_bytes(*word));
        let (name_size, size) = (usize::try_from(field(0)?).ok()?, usize::try_from(field(4)?).ok()?);
        let (name, rest) = rest.split_at_checked(name_size.checked_next_multiple_of(4)?)?;
        let description = rest.get(..size)?;
        if name == b"GNU\0" && field(8)? == BUILD_ID {
            return (1..=MAX_BUILD_ID).contains(&size).then_some(description);
        }
        notes = rest.get(size.checked_next_multiple_of(4)?..)?;
    }
    None
}
