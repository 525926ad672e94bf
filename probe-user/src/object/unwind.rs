//! Where functions begin and end, by what unwinding needs: it is loaded with the program, so stripping keeps it.
//!
//! Owns the table that unwinding searches (`.eh_frame_hdr`), of which nothing is kept in memory, and the list of frames
//! (`.eh_frame`), which is read where the linker made no table: in programs that are linked statically. How to unwind is
//! of no interest here.

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection as _};

use super::read::Extent;
use super::{Object, ObjectError, VirtAddr};

/// Entries of the table: the largest browsers have a million.
const MAX_FUNCTIONS: u64 = 8_000_000;
/// Bytes of the list of frames: programs with 50 MB of code have 8 MB.
const MAX_FRAMES: u64 = 48 << 20;
/// Bytes of an entry of the table: where a function begins and where its frame is, relative to the table.
const ENTRY: u64 = 8;
const WHAT: &str = "the table for unwinding";

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extents {
    /// Its entry.
    pub address: VirtAddr,
    /// Bytes of its code; there may be padding in them.
    pub size: u64,
}

/// The functions of an object by address, as far as unwinding knows them.
#[derive(Debug)]
pub struct Frames<'o> {
    object: &'o Object,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// The table: its address and entries.
    Table(u64, Extent),
    /// By address.
    List(Vec<Extents>),
}

impl Object {
    /// What unwinding knows of functions; nothing, in an object that cannot be unwound.
    pub fn frames(&self) -> Result<Frames<'_>, ObjectError> {
        let source = match self.unwind_table()? {
            Some((address, entries)) => Source::Table(address, entries),
            None => Source::List(self.list()?),
        };
        Ok(Frames { object: self, source })
    }

    fn unwind_table(&self) -> Result<Option<(u64, Extent)>, ObjectError> {
        let Some((address, extent)) = self.segments.unwind else { return Ok(None) };
        let head = self.reader.bytes(WHAT, extent.head(12), 12)?;
        // Version 1; the encodings of three values: any, `udata4`, `datarel | sdata4`. No linker writes others.
        let (Some([1, _, 0x03, 0x3b]), Some(count)) = (head.first_chunk(), head.get(8..12)) else {
            return Ok(None);
        };
        let count = count.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        if count > MAX_FUNCTIONS {
            return Err(ObjectError::TooLarge { what: WHAT, found: count, limit: MAX_FUNCTIONS });
        }
        let entries = extent.tail(12).head(count * ENTRY);
        Ok((entries.length == count * ENTRY).then_some((address, entries)))
    }

    /// Frames that are broken end the list: what is before them is as good as ever.
    fn list(&self) -> Result<Vec<Extents>, ObjectError> {
        let Some((address, extent)) = self.frame_section else { return Ok(Vec::new()) };
        let bytes = self.reader.bytes("the frames for unwinding", extent, MAX_FRAMES)?;
        let section = EhFrame::new(&bytes, LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame(address);
        let mut entries = section.entries(&bases);
        let mut list = Vec::new();
        while let Ok(Some(entry)) = entries.next() {
            if let CieOrFde::Fde(partial) = entry
                && let Ok(frame) = partial.parse(EhFrame::cie_from_offset)
            {
                list.push(Extents { address: VirtAddr(frame.initial_address()), size: frame.len() });
            }
        }
        list.sort_unstable();
        Ok(list)
    }
}

impl Frames<'_> {
    /// The function that has `address` inside; none when its frame is not known. In the table, code without a frame belongs
    /// to the function before it.
    pub fn at(&self, address: VirtAddr) -> Result<Option<Extents>, ObjectError> {
        let Some(segment) = self.object.segments.executable(address) else { return Ok(None) };
        let end = segment.address.saturating_add(segment.extent.length);
        let found = match &self.source {
            Source::Table(base, entries) => self.search(*base, *entries, address, end)?,
            Source::List(list) => {
                let after = list.partition_point(|function| function.address <= address);
                after.checked_sub(1).and_then(|last| list.get(last)).copied()
            }
        };
        // Both are a stranger's: neither order nor size is proven.
        let fits = |found: &Extents| {
            let inside = address.0.checked_sub(found.address.0).is_some_and(|inside| inside < found.size);
            inside && found.address.0 >= segment.address && found.size <= end - found.address.0
        };
        Ok(found.filter(fits))
    }

    fn search(
        &self,
        base: u64,
        entries: Extent,
        address: VirtAddr,
        end: u64,
    ) -> Result<Option<Extents>, ObjectError> {
        let count = entries.length / ENTRY;
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.begin(base, entries, middle)? <= address.0 {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let Some(last) = low.checked_sub(1) else { return Ok(None) };
        let begin = self.begin(base, entries, last)?;
        let next = if low < count { self.begin(base, entries, low)?.min(end) } else { end };
        Ok(next.checked_sub(begin).map(|size| Extents { address: VirtAddr(begin), size }))
    }

    fn begin(&self, base: u64, entries: Extent, index: u64) -> Result<u64, ObjectError> {
        let bytes = self.object.reader.bytes(WHAT, entries.tail(index * ENTRY).head(4), 4)?;
        let relative = bytes.first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
        Ok(base.wrapping_add_signed(relative.into()))
    }
}
