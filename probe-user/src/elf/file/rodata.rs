//! Searches constant data, for example for a version string.

use std::ops::ControlFlow;

use memchr::memmem::Finder;

use super::reader::{FileRange, Reader};
use crate::elf::ObjectError;

/// Bytes read of one object: programs that contain a TLS library have up to 50 MB of constants.
const MAX_RODATA: u64 = 64 << 20;

/// A match of a needle.
#[derive(Clone, Copy, Debug)]
pub struct Hit<'a> {
    /// The index of the needle.
    pub needle: usize,
    /// The byte before the match; none at the start of the data.
    pub before: Option<u8>,
    /// The text from the match to the next NUL.
    pub text: &'a [u8],
}

pub(in crate::elf) fn find<T>(
    reader: &Reader,
    extents: &[FileRange],
    needles: &[&[u8]],
    context: usize,
    mut accept: impl FnMut(Hit<'_>) -> Option<T>,
) -> Result<Option<T>, ObjectError> {
    let finders: Vec<_> = needles.iter().map(Finder::new).collect();
    let mut left = MAX_RODATA;
    for extent in extents {
        let extent = extent.head(left);
        left -= extent.length;
        // The overlap completes a match at the end of a chunk. Such a match may be reported twice.
        let result = reader.chunks("constant data", extent, (1, context as u64), |_, chunk| {
            for (needle, finder) in finders.iter().enumerate() {
                for place in finder.find_iter(chunk) {
                    let rest = chunk.get(place..).unwrap_or_default();
                    let end = memchr::memchr(0, rest.get(..context).unwrap_or(rest));
                    let text = rest.get(..end.unwrap_or(context.min(rest.len()))).unwrap_or_default();
                    let before = place.checked_sub(1).and_then(|before| chunk.get(before)).copied();
                    if let Some(result) = accept(Hit { needle, before, text }) {
                        return ControlFlow::Break(result);
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        if result.is_some() {
            return Ok(result);
        }
    }
    Ok(None)
}
