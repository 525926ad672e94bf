//! The only code that reads the file: ranges are checked against its size and read into bounded memory.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use crate::elf::ObjectError;

/// Bytes that are in memory at once while a table is scanned.
const CHUNK: u64 = 1 << 20;

/// A range of the file, not yet checked against its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::elf) struct FileRange {
    /// The offset of its first byte.
    pub offset: u64,
    /// Its size in bytes.
    pub length: u64,
}

impl FileRange {
    /// The range without its first `count` bytes.
    pub(in crate::elf) const fn tail(self, count: u64) -> Self {
        let count = if count < self.length { count } else { self.length };
        Self { offset: self.offset.saturating_add(count), length: self.length - count }
    }

    /// At most the first `count` bytes of the range.
    pub(in crate::elf) const fn head(self, count: u64) -> Self {
        Self { offset: self.offset, length: if count < self.length { count } else { self.length } }
    }
}

/// A file that is read in ranges.
#[derive(Debug)]
pub(in crate::elf) struct Reader {
    file: File,
    size: u64,
}

impl Reader {
    pub(in crate::elf) const fn new(file: File, size: u64) -> Self {
        Self { file, size }
    }

    pub(in crate::elf) const fn size(&self) -> u64 {
        self.size
    }

    /// Fails unless the range is inside the file.
    pub(in crate::elf) fn check(&self, what: &'static str, extent: FileRange) -> Result<(), ObjectError> {
        let end = extent.offset.saturating_add(extent.length);
        if end > self.size {
            return Err(ObjectError::Truncated { what, end, size: self.size });
        }
        Ok(())
    }

    /// The bytes of a range, which may have at most `limit` bytes.
    pub(in crate::elf) fn bytes(
        &self,
        what: &'static str,
        extent: FileRange,
        limit: u64,
    ) -> Result<Vec<u8>, ObjectError> {
        if extent.length > limit {
            return Err(ObjectError::TooLarge { what, found: extent.length, limit });
        }
        self.check(what, extent)?;
        let mut bytes = vec![0; saturating_usize(extent.length)];
        self.fill(what, extent.offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Visits a range in chunks of about 1 MiB, each a multiple of `unit` bytes. The last `overlap` bytes of
    /// a chunk are repeated at the start of the next one. The visitor gets the offset of the chunk within the
    /// range.
    pub(in crate::elf) fn chunks<B>(
        &self,
        what: &'static str,
        extent: FileRange,
        (unit, overlap): (u64, u64),
        mut visit: impl FnMut(u64, &[u8]) -> ControlFlow<B>,
    ) -> Result<Option<B>, ObjectError> {
        self.check(what, extent)?;
        let step = CHUNK.next_multiple_of(unit.max(1));
        let mut buffer = vec![0; saturating_usize((step + overlap).min(extent.length))];
        let mut at = 0;
        while at < extent.length {
            let rest = extent.tail(at).head(step + overlap);
            let chunk = buffer.get_mut(..saturating_usize(rest.length)).unwrap_or_default();
            self.fill(what, rest.offset, chunk)?;
            if let ControlFlow::Break(result) = visit(at, chunk) {
                return Ok(Some(result));
            }
            at += step;
        }
        Ok(None)
    }

    fn fill(&self, what: &'static str, offset: u64, buffer: &mut [u8]) -> Result<(), ObjectError> {
        self.file.read_exact_at(buffer, offset).map_err(|source| ObjectError::Read { what, offset, source })
    }
}

/// Converts a length that its caller has limited to far less than the address space.
fn saturating_usize(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
