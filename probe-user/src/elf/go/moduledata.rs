//! Where the code of a Go program begins, by the structure that its runtime starts from (moduledata).
//!
//! From Go 1.26 on the table of functions does not say it, and before it says where `.text` begins, which is
//! not the same in programs with C in them.

use std::ops::ControlFlow;

use memchr::memmem::Finder;
use object::LittleEndian as LE;
use object::elf::{self, Rela64};
use object::pod;

use crate::elf::file::reader::FileRange;
use crate::elf::{Object, VirtAddr};

/// Words of `runtime.moduledata` from Go 1.16 to 1.26: the table of functions, then names and lists as six
/// slices, two more words around them, and these three.
const MIN_PC: u64 = 20 * 8;
const MAX_PC: u64 = 21 * 8;
const TEXT: u64 = 22 * 8;

/// Relocations of one program: large ones have a million.
const MAX_RELOCATIONS: u64 = 20_000_000;
/// Bytes of data that are searched for the structure.
const MAX_SEARCHED: u64 = 256 << 20;
/// Places that have the table's address and are looked at.
const MAX_PLACES: usize = 64;

impl Object {
    /// The address that offsets of the table are counted from: `first` and `end` are those of the first
    /// function and behind the last one, `said` what the table says.
    pub(super) fn go_text(&self, table: u64, first: u64, end: u64, said: u64) -> Option<u64> {
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
        text.or_else(|| Some(said).filter(|said| *said != 0).filter(is_code))
    }

    /// What may be the structure where the table's address is in the file.
    fn modules_in_place(&self, table: u64) -> impl Iterator<Item = (u64, u64, u64)> {
        let needle = table.to_le_bytes();
        let finder = Finder::new(&needle);
        let mut left = MAX_SEARCHED;
        let mut places: Vec<FileRange> = Vec::new();
        for load in self.segments.data_first().into_iter().take(super::MAX_SEGMENTS) {
            let extent = load.extent.head(left);
            left -= extent.length;
            // What cannot be read has no structure.
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

    /// The same where the loader writes the addresses.
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

    /// Visits the relocations that are the object's base plus a number: where, and the number.
    fn relative(&self, mut visit: impl FnMut(u64, u64)) {
        const SIZE: usize = size_of::<Rela64<LE>>();
        let Some(table) = self.relocations else { return };
        let table = table.head((table.length.min(MAX_RELOCATIONS * SIZE as u64) / SIZE as u64) * SIZE as u64);
        // What cannot be read has no structure.
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
