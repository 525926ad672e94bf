//! Finds the start of a Go program's code through moduledata, the structure that Go's runtime starts from.
//!
//! From Go 1.26 on the pclntab does not contain that address. Before, it contains the start of `.text`, which
//! is a different address in programs that contain C.

use std::ops::ControlFlow;

use memchr::memmem::Finder;
use object::LittleEndian as LE;
use object::elf::{self, Rela64};
use object::pod;

use crate::elf::file::reader::FileRange;
use crate::elf::{Object, VirtAddr};

/// Offsets of three words of `runtime.moduledata`, from Go 1.16 to 1.26. Before them are the pclntab pointer,
/// names and lists as six slices, and two more words.
const MIN_PC: u64 = 20 * 8;
const MAX_PC: u64 = 21 * 8;
const TEXT: u64 = 22 * 8;

/// Limit of the relocations: large programs have a million.
const MAX_RELOCATIONS: u64 = 20_000_000;
/// Limit of the data that is searched for the structure, in bytes.
const MAX_SEARCHED: u64 = 256 << 20;
/// Limit of the places with the address of the pclntab that are tried.
const MAX_PLACES: usize = 64;

impl Object {
    /// The address to which offsets in the pclntab are relative. `first` is the offset of the first function,
    /// `end` the end of the last one, and `recorded` the address that the pclntab itself contains.
    pub(super) fn go_text(&self, table: u64, first: u64, end: u64, recorded: u64) -> Option<u64> {
        let is_code = |text: &u64| {
            let (first, last) = (text.checked_add(first), text.checked_add(end.saturating_sub(1)));
            let code = |address: Option<u64>| {
                address.is_some_and(|address| self.segments.executable(VirtAddr(address)).is_some())
            };
            code(first) && code(last)
        };
        let agrees = |(min, max, text): &(u64, u64, u64)| {
            *min == text.wrapping_add(first) && *max == text.wrapping_add(end)
        };
        let in_place = self.modules_in_place(table).find(agrees);
        let found = in_place.or_else(|| self.modules_by_relocation(table).into_iter().find(agrees));
        let text = found.map(|(_, _, text)| text).filter(is_code);
        text.or_else(|| Some(recorded).filter(|recorded| *recorded != 0).filter(is_code))
    }

    /// Candidates for the structure in files whose data contain the pclntab's address.
    fn modules_in_place(&self, table: u64) -> impl Iterator<Item = (u64, u64, u64)> {
        let needle = table.to_le_bytes();
        let finder = Finder::new(&needle);
        let mut left = MAX_SEARCHED;
        let mut places: Vec<FileRange> = Vec::new();
        for load in self.segments.data_first().into_iter().take(super::MAX_SEGMENTS) {
            let extent = load.extent.head(left);
            left -= extent.length;
            // A segment that cannot be read cannot contain the structure.
            let _ = self.reader.chunks("data of the program", extent, (8, 8), |at, chunk| {
                let hits = finder.find_iter(chunk).map(|place| at + place as u64);
                places.extend(hits.map(|place| load.extent.tail(place)).take(MAX_PLACES));
                if places.len() < MAX_PLACES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
        }
        places.into_iter().filter_map(|place| {
            Some((self.word(place, MIN_PC)?, self.word(place, MAX_PC)?, self.word(place, TEXT)?))
        })
    }

    /// Candidates for the structure in files whose addresses are filled in by relocations.
    fn modules_by_relocation(&self, table: u64) -> Vec<(u64, u64, u64)> {
        let mut places = Vec::new();
        self.relative(|place, value| {
            if value == table && places.len() < MAX_PLACES {
                places.push((place, [None; 3]));
            }
        });
        if places.is_empty() {
            return Vec::new();
        }
        self.relative(|place, value| {
            for (module, words) in &mut places {
                let inside = place.wrapping_sub(*module);
                for (word, at) in words.iter_mut().zip([MIN_PC, MAX_PC, TEXT]) {
                    if inside == at {
                        *word = Some(value);
                    }
                }
            }
        });
        let complete = |(_, words): (u64, [Option<u64>; 3])| match words {
            [Some(min), Some(max), Some(text)] => Some((min, max, text)),
            _ => None,
        };
        places.into_iter().filter_map(complete).collect()
    }

    /// Visits the relative relocations (base plus addend): place and addend.
    fn relative(&self, mut visit: impl FnMut(u64, u64)) {
        const SIZE: usize = size_of::<Rela64<LE>>();
        let Some(table) = self.relocations else { return };
        let table = table.head((table.length.min(MAX_RELOCATIONS * SIZE as u64) / SIZE as u64) * SIZE as u64);
        // A table that cannot be read cannot lead to the structure.
        let _ = self.reader.chunks("relocations", table, (SIZE as u64, 0), |_, chunk| {
            let (list, _) =
                pod::slice_from_bytes::<Rela64<LE>>(chunk, chunk.len() / SIZE).unwrap_or_default();
            for entry in list.iter().filter(|entry| entry.r_type(LE, false) == elf::R_X86_64_RELATIVE) {
                visit(entry.r_offset.get(LE), entry.r_addend.get(LE).cast_unsigned());
            }
            ControlFlow::<()>::Continue(())
        });
    }
}
