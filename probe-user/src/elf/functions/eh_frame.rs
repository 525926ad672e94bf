//! Function bounds from the unwind tables. These are loaded with the program, so stripping does not remove
//! them.
//!
//! Searches the unwinder's binary search table (`.eh_frame_hdr`) in the file, without keeping it in memory.
//! Statically linked programs may have no such table; their list of frames (`.eh_frame`) is read instead. The
//! unwind instructions themselves are not needed. Where most of the code has no frames (some browsers and
//! JavaScript runtimes), `call_targets` finds more.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection as _};

use super::call_targets::CallSites;
use crate::elf::file::reader::FileRange;
use crate::elf::file::relocation;
use crate::elf::symbols::table;
use crate::elf::{Object, ObjectError, VirtAddr};

/// Limit of the callers of one function.
const MAX_CALLERS: usize = 8192;
/// Limit of the entries of the table: the largest browsers have a million.
const MAX_FUNCTIONS: u64 = 8_000_000;
/// Size limit of the list of frames in bytes: programs with 50 MB of code have 8 MB.
const MAX_FRAMES: u64 = 48 << 20;
/// Size of a table entry: the function's start and its frame, both relative to the table.
const ENTRY: u64 = 8;
const WHAT: &str = "the table for unwinding";

/// The bounds of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FunctionBounds {
    /// The address of its entry.
    pub address: VirtAddr,
    /// The size of its code in bytes, which may include padding.
    pub size: u64,
}

/// Functions of an object by address, as far as the unwind tables and call targets cover them.
#[derive(Debug)]
pub struct FunctionTable<'o> {
    object: &'o Object,
    source: Source,
    /// The calls of the code, found when they are first needed.
    sites: OnceCell<Vec<CallSites>>,
    /// Whether the unwind tables describe only a part of the code.
    is_sparse: bool,
    /// The symbols of slots of the global offset table.
    slots: OnceCell<BTreeMap<u64, u32>>,
    /// Cached answers of [`FunctionTable::never_returns`].
    pub(in crate::elf) ends: RefCell<BTreeMap<VirtAddr, bool>>,
}

#[derive(Debug)]
enum Source {
    /// `.eh_frame_hdr`: its address and where its entries are in the file.
    Table(u64, FileRange),
    /// The frames of `.eh_frame`, sorted by address.
    List(Vec<FunctionBounds>),
}

impl Object {
    /// The functions that the unwind tables of this object describe; none if it cannot be unwound.
    pub fn frames(&self) -> Result<FunctionTable<'_>, ObjectError> {
        let source = match self.unwind_table()? {
            Some((address, entries)) => Source::Table(address, entries),
            None => Source::List(self.list()?),
        };
        let frames = match &source {
            Source::Table(_, entries) => entries.length / ENTRY,
            Source::List(list) => list.len() as u64,
        };
        let (sites, slots) = (OnceCell::new(), OnceCell::new());
        let is_sparse = self.is_sparse(frames);
        Ok(FunctionTable { object: self, source, sites, is_sparse, slots, ends: RefCell::default() })
    }

    fn unwind_table(&self) -> Result<Option<(u64, FileRange)>, ObjectError> {
        let Some((address, extent)) = self.segments.unwind else { return Ok(None) };
        let head = self.reader.bytes(WHAT, extent.head(12), 12)?;
        // Version 1, and the encodings of three values: any, `udata4`, `datarel | sdata4`. No linker writes
        // others.
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

    /// The frames of `.eh_frame`. A broken frame ends the list; the frames before it are still valid.
    fn list(&self) -> Result<Vec<FunctionBounds>, ObjectError> {
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
                list.push(FunctionBounds { address: VirtAddr(frame.initial_address()), size: frame.len() });
            }
        }
        list.sort_unstable();
        Ok(list)
    }
}

impl FunctionTable<'_> {
    pub(in crate::elf) fn object(&self) -> &Object {
        self.object
    }

    /// The function that contains `address`, if it can be determined.
    pub fn at(&self, address: VirtAddr) -> Result<Option<FunctionBounds>, ObjectError> {
        match self.framed(address)? {
            Some(found) => Ok(Some(found)),
            None if self.is_sparse => self.object.by_code(self.sites()?, address),
            None => Ok(None),
        }
    }

    /// The addresses at which functions begin, from the unwind tables only.
    pub(in crate::elf) fn frame_starts(&self) -> Result<BTreeSet<u64>, ObjectError> {
        let (table, entries) = match &self.source {
            Source::List(list) => return Ok(list.iter().map(|frame| frame.address.0).collect()),
            Source::Table(address, entries) => (*address, *entries),
        };
        let mut all = BTreeSet::new();
        self.object.reader.chunks(WHAT, entries, (ENTRY, 0), |_, chunk| {
            let (list, _) = chunk.as_chunks::<8>();
            let starts = list.iter().map(|&[a, b, c, d, ..]| i32::from_le_bytes([a, b, c, d]));
            all.extend(starts.map(|start| table.wrapping_add_signed(start.into())));
            ControlFlow::<()>::Continue(())
        })?;
        Ok(all)
    }

    /// The addresses of what seem to be calls of these functions, or jumps to them, also through words that
    /// hold their addresses.
    pub fn callers_of(&self, targets: &[VirtAddr], slots: &[u64]) -> Result<Vec<VirtAddr>, ObjectError> {
        let sites = self.sites()?;
        let mut found = if slots.is_empty() { Vec::new() } else { self.object.slot_users(slots)? };
        for target in targets {
            found.extend(sites.iter().flat_map(|sites| sites.of(*target)).take(MAX_CALLERS));
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn sites(&self) -> Result<&[CallSites], ObjectError> {
        if self.sites.get().is_none() {
            // The cell was empty a moment ago and this type is not shared between threads, so this cannot
            // fail.
            let _ = self.sites.set(self.object.call_sites()?);
        }
        Ok(self.sites.get().map_or(&[], Vec::as_slice))
    }

    /// The function of this file to which a slot of the global offset table leads, unless the loader finds
    /// one of the same name in another file first.
    pub(in crate::elf) fn slot_target(&self, slot: VirtAddr) -> Result<Option<VirtAddr>, ObjectError> {
        let object = self.object;
        let Some(table) = object.tables.first().filter(|table| table.dynamic) else { return Ok(None) };
        if self.slots.get().is_none() {
            let relocations = object.plt.into_iter().chain(object.relocations);
            // As for the call targets, this cannot fail.
            let _ = self.slots.set(relocation::symbol_slots(&object.reader, relocations)?);
        }
        match self.slots.get().and_then(|slots| slots.get(&slot.0)) {
            Some(index) => table::function(&object.reader, &object.segments, table, *index),
            None => Ok(None),
        }
    }

    /// The function at `address`, from the unwind tables only.
    fn framed(&self, address: VirtAddr) -> Result<Option<FunctionBounds>, ObjectError> {
        let Some(segment) = self.object.segments.executable(address) else { return Ok(None) };
        let end = segment.address.saturating_add(segment.extent.length);
        let found = match &self.source {
            Source::Table(base, entries) => self.search(*base, *entries, address)?,
            Source::List(list) => {
                let after = list.partition_point(|function| function.address <= address);
                after.checked_sub(1).and_then(|last| list.get(last)).copied()
            }
        };
        // Both tables come from a foreign file, so neither their order nor the sizes can be trusted.
        let fits = |found: &FunctionBounds| {
            let inside = address.0.checked_sub(found.address.0).is_some_and(|inside| inside < found.size);
            inside && found.address.0 >= segment.address && found.size <= end - found.address.0
        };
        Ok(found.filter(fits))
    }

    fn search(
        &self,
        base: u64,
        entries: FileRange,
        address: VirtAddr,
    ) -> Result<Option<FunctionBounds>, ObjectError> {
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
        Ok(self
            .frame_size(base, entries, last, begin)?
            .map(|size| FunctionBounds { address: VirtAddr(begin), size }))
    }

    /// The size that the frame of an entry covers. Not all code has a frame: without this check, such code
    /// would be attributed to the function before it.
    fn frame_size(
        &self,
        base: u64,
        entries: FileRange,
        index: u64,
        begin: u64,
    ) -> Result<Option<u64>, ObjectError> {
        let frame = base.wrapping_add_signed(self.number(entries.tail(index * ENTRY + 4))?.into());
        let Some(extent) = self.object.segments.from(frame) else { return Ok(None) };
        // A frame holds its length, a pointer to the shared part, the first address and the size. All
        // compilers encode the address relative to itself (`pcrel | sdata4`); with any other encoding it does
        // not match the entry.
        let relative = self.number(extent.tail(8))?;
        let is_it = frame.wrapping_add(8).wrapping_add_signed(relative.into()) == begin;
        let size = self.number(extent.tail(12))?;
        Ok(u64::try_from(size).ok().filter(|_| is_it))
    }

    fn begin(&self, base: u64, entries: FileRange, index: u64) -> Result<u64, ObjectError> {
        Ok(base.wrapping_add_signed(self.number(entries.tail(index * ENTRY))?.into()))
    }

    /// The number at the start of a range.
    fn number(&self, extent: FileRange) -> Result<i32, ObjectError> {
        let bytes = self.object.reader.bytes(WHAT, extent.head(4), 4)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes)))
    }
}
