//! Where functions begin, by the table that unwinding searches (`.eh_frame_hdr`): it is loaded, so stripping keeps it.
//!
//! Owns that table alone; what it points to, the unwinding itself, is of no interest. Nothing of it is kept in memory.

use super::{Object, ObjectError, VirtAddr};
use crate::object::read::Extent;

/// Entries of the table: the largest browsers have a million.
const MAX_FUNCTIONS: u64 = 8_000_000;
/// Bytes of an entry: where a function begins and where its description is, relative to the table.
const ENTRY: u64 = 8;
/// Version 1; how the next three values are encoded: any, `udata4`, and `datarel | sdata4`. No linker writes another.
const FORM: [u8; 4] = [1, 0, 0x03, 0x3b];

/// A function as the table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extents {
    /// Its entry.
    pub address: VirtAddr,
    /// Bytes up to the next function or the end of the segment, with the padding between them.
    pub size: u64,
}

/// The table.
struct Table {
    address: u64,
    entries: Extent,
}

impl Object {
    /// The function that has `address` inside, by the table for unwinding; none when there is no such table, or it does not
    /// know the address. Code without a description of its own belongs to the function before it.
    pub fn unwound(&self, address: VirtAddr) -> Result<Option<Extents>, ObjectError> {
        let Some(table) = self.unwind_table()? else { return Ok(None) };
        let Some(segment) = self.segments.executable(address) else { return Ok(None) };
        let (mut low, mut high) = (0, table.entries.length / ENTRY);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.begin(&table, middle)? <= address.0 {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let Some(last) = low.checked_sub(1) else { return Ok(None) };
        let begin = self.begin(&table, last)?;
        if begin < segment.address {
            return Ok(None);
        }
        let end = segment.address.saturating_add(segment.extent.length);
        let next = if low < table.entries.length / ENTRY { self.begin(&table, low)? } else { end };
        // The table is a stranger's: its order is not proven.
        let size = next.min(end).checked_sub(begin).filter(|size| address.0 - begin < *size);
        Ok(size.map(|size| Extents { address: VirtAddr(begin), size }))
    }

    fn unwind_table(&self) -> Result<Option<Table>, ObjectError> {
        const WHAT: &str = "the table for unwinding";
        let Some((address, extent)) = self.segments.unwind else { return Ok(None) };
        let head = self.reader.bytes(WHAT, extent.head(12), 12)?;
        let (Some(form), Some(count)) = (head.first_chunk::<4>(), head.get(8..12)) else { return Ok(None) };
        if (form[0], &form[2..]) != (FORM[0], &FORM[2..]) {
            return Ok(None);
        }
        let count = count.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        if count > MAX_FUNCTIONS {
            return Err(ObjectError::TooLarge { what: WHAT, found: count, limit: MAX_FUNCTIONS });
        }
        let entries = extent.tail(12).head(count * ENTRY);
        Ok((entries.length == count * ENTRY).then_some(Table { address, entries }))
    }

    fn begin(&self, table: &Table, index: u64) -> Result<u64, ObjectError> {
        let entry = table.entries.tail(index * ENTRY).head(4);
        let bytes = self.reader.bytes("the table for unwinding", entry, 4)?;
        let relative = bytes.first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
        Ok(table.address.wrapping_add_signed(relative.into()))
    }
}
