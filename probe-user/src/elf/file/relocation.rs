//! Relocations that fill the global offset table: they say which slot leads to which function.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use object::LittleEndian as LE;
use object::elf::{self, Rela64};
use object::pod;

use super::reader::{FileRange, Reader};
use crate::elf::ObjectError;

/// Limit of the entries: there is one per imported function.
const MAX_RELOCATIONS: u64 = 4_000_000;

/// The GOT slots of the symbols with the given indices.
pub(in crate::elf) fn jump_slots(
    reader: &Reader,
    table: FileRange,
    symbols: &HashMap<u32, String>,
) -> Result<BTreeMap<u64, String>, ObjectError> {
    const WHAT: &str = "the relocations of the PLT";
    const SIZE: u64 = size_of::<Rela64<LE>>() as u64;
    let mut slots = BTreeMap::new();
    if symbols.is_empty() {
        return Ok(slots);
    }
    let count = table.length / SIZE;
    if count > MAX_RELOCATIONS {
        return Err(ObjectError::TooLarge { what: WHAT, found: count, limit: MAX_RELOCATIONS });
    }
    // A hostile file may name one symbol in every relocation, so stop after as many slots as symbols.
    let enough = symbols.len();
    reader.chunks(WHAT, table.head(count * SIZE), (SIZE, 0), |_, chunk| {
        let (list, _) = pod::slice_from_bytes::<Rela64<LE>>(chunk, chunk.len() / size_of::<Rela64<LE>>())
            .unwrap_or_default();
        for entry in list.iter().filter(|entry| entry.r_type(LE, false) == elf::R_X86_64_JUMP_SLOT) {
            if let Some(name) = symbols.get(&entry.r_sym(LE, false)) {
                slots.insert(entry.r_offset.get(LE), name.clone());
                if slots.len() >= enough {
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(slots)
}

/// Limit of the slots of functions: the largest browsers have some 20 000.
const MAX_SLOTS: usize = 1 << 18;

/// The indices of the symbols whose addresses the loader writes to slots of the global offset table, by slot.
pub(in crate::elf) fn symbol_slots(
    reader: &Reader,
    tables: impl IntoIterator<Item = FileRange>,
) -> Result<BTreeMap<u64, u32>, ObjectError> {
    const WHAT: &str = "relocations";
    const SIZE: u64 = size_of::<Rela64<LE>>() as u64;
    let mut slots = BTreeMap::new();
    for table in tables {
        let count = (table.length / SIZE).min(MAX_RELOCATIONS);
        reader.chunks(WHAT, table.head(count * SIZE), (SIZE, 0), |_, chunk| {
            let (list, _) = pod::slice_from_bytes::<Rela64<LE>>(chunk, chunk.len() / size_of::<Rela64<LE>>())
                .unwrap_or_default();
            let is_slot = |entry: &&Rela64<LE>| {
                matches!(entry.r_type(LE, false), elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_GLOB_DAT)
            };
            slots.extend(
                list.iter().filter(is_slot).map(|entry| (entry.r_offset.get(LE), entry.r_sym(LE, false))),
            );
            if slots.len() < MAX_SLOTS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
    }
    Ok(slots)
}
