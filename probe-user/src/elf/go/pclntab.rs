//! Go's function table (pclntab): the name and the entry of each function.
//!
//! Reads the layouts of Go 1.2, 1.16, 1.18 and 1.20 (debug/gosym/pclntab.go in Go's sources has them all).
//! Every number in it is checked against the file before it is used.

use std::ops::ControlFlow;

use super::{Go, GoError};
use crate::elf::file::reader::FileRange;
use crate::elf::{Object, ObjectError, VirtAddr};

/// What follows the first byte of all magics: three more bytes, two zeros, the instruction quantum of x86-64,
/// and the size of a pointer.
pub(super) const MAGIC_END: &[u8] = b"\xff\xff\xff\x00\x00\x01\x08";

/// Limit of the functions: the largest programs have about half a million.
const MAX_FUNCTIONS: u64 = 2_000_000;
/// How much of the fixed part of a function's record is read, in bytes.
const RECORD: u64 = 44;
/// Flag of a function's record: written in assembler (`abi.FuncFlagAsm`).
const ASSEMBLER: u8 = 4;

/// The layouts of the table, each named after the first Go version that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    V12,
    V116,
    V118,
    V120,
}

impl Layout {
    fn new(magic: u8) -> Option<Self> {
        match magic {
            0xfb => Some(Self::V12),
            0xfa => Some(Self::V116),
            0xf0 => Some(Self::V118),
            0xf1 => Some(Self::V120),
            _ => None,
        }
    }

    /// Size of an entry of the function list; its first half is the address of the function.
    const fn entry_size(self) -> u64 {
        if self.has_offsets() { 8 } else { 16 }
    }

    /// Whether entries are offsets from the start of the code rather than addresses.
    const fn has_offsets(self) -> bool {
        matches!(self, Self::V118 | Self::V120)
    }

    /// The offset of the flags in a function's record.
    const fn flags(self) -> Option<usize> {
        match self {
            Self::V12 | Self::V116 => None,
            Self::V118 => Some(37),
            Self::V120 => Some(41),
        }
    }
}

/// The validated header of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub layout: Layout,
    /// The address that it is loaded at.
    pub address: u64,
    count: u64,
    /// The start of the code according to the header; 0 if it does not say (Go 1.26).
    pub text: u64,
    names: FileRange,
    /// The function list and the records after it, which are addressed relative to the start of the list.
    list: FileRange,
}

/// The function table of a program.
#[derive(Clone, Debug)]
pub(in crate::elf) struct PclnTable {
    head: Head,
    text: u64,
    end: u64,
}

/// A function in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::elf) struct Listed {
    pub address: u64,
    /// The distance to the next function, so it includes padding.
    pub size: u32,
    /// The offset of the name in the name table.
    pub name: u32,
    pub is_assembler: bool,
}

impl Object {
    /// Parses the header of a table. `rest` reaches from there to the end of the segment.
    pub(super) fn go_head(&self, rest: FileRange, address: u64) -> Option<Head> {
        let bytes = self.reader.bytes("the header of pclntab", rest.head(72), 72).ok()?;
        let layout = Layout::new(*bytes.first()?)?;
        let word = |n: usize| {
            bytes.get(8 + n * 8..).and_then(<[u8]>::first_chunk).map(|word| u64::from_le_bytes(*word))
        };
        let count = word(0).filter(|count| (1..=MAX_FUNCTIONS).contains(count))?;
        let (text, names, list) = match layout {
            Layout::V12 => (0, rest, rest.tail(16)),
            Layout::V116 => (0, between(rest, word(2)?, word(3)?)?, inner(rest, word(6)?)?),
            Layout::V118 | Layout::V120 => {
                (word(2)?, between(rest, word(3)?, word(4)?)?, inner(rest, word(7)?)?)
            }
        };
        let needed = count * layout.entry_size() + layout.entry_size() / 2;
        (needed <= list.length).then_some(Head { layout, address, count, text, names, list })
    }

    /// The table that follows a header. None if it is not a table after all.
    pub(super) fn go_table(&self, head: &Head) -> Result<Option<PclnTable>, GoError> {
        let size = head.layout.entry_size();
        let field = |at| self.word(head.list, at).map(|word| head.entry(word));
        let (Some(first), Some(end)) = (field(0), field(head.count * size)) else {
            return Ok(None);
        };
        if first >= end && !(first == 0 && end == 0) {
            return Ok(None);
        }
        let mut relocated = false;
        let text = if head.layout.has_offsets() {
            self.go_text(head.address, first, end, head.text)
        } else {
            // Not an address in this object: a relocation would supply it.
            relocated = self.segments.executable(VirtAddr(first)).is_none();
            Some(0).filter(|_| !relocated)
        };
        let Some(text) = text else {
            return Err(if relocated { GoError::Relocated } else { GoError::NoText });
        };
        Ok(Some(PclnTable { head: *head, text, end: text.saturating_add(end) }))
    }
}

impl Head {
    /// The address or offset in the first word of a list entry.
    fn entry(&self, word: u64) -> u64 {
        if self.layout.has_offsets() { word & u64::from(u32::MAX) } else { word }
    }
}

impl Go {
    /// Where the names are in the file.
    pub(in crate::elf) fn names(&self) -> FileRange {
        self.table.head.names
    }

    /// All functions, sorted by address, as in the table.
    pub(in crate::elf) fn functions(&self, object: &Object) -> Result<Vec<Listed>, ObjectError> {
        let PclnTable { head, text, end } = &self.table;
        let layout = head.layout;
        let size = layout.entry_size();
        let half = usize::try_from(size / 2).unwrap_or(4);
        let mut places: Vec<(u64, u64)> = Vec::new();
        let list = head.list.head(head.count * size);
        object.reader.chunks("Go's list of functions", list, (size, 0), |_, chunk| {
            for entry in chunk.chunks_exact(half * 2) {
                let (entry, record) = entry.split_at(half);
                places.push((text.saturating_add(number(entry)), number(record)));
            }
            ControlFlow::<()>::Continue(())
        })?;
        if !places.is_sorted_by_key(|(address, _)| *address) {
            return Err(ObjectError::Broken { what: "Go's list of functions is not in order" });
        }
        let ends = places.iter().skip(1).map(|(address, _)| *address).chain([*end]);
        let mut functions: Vec<(u64, Listed)> = places
            .iter()
            .zip(ends)
            .map(|((address, record), end)| {
                let size = u32::try_from(end.saturating_sub(*address)).unwrap_or(u32::MAX);
                (*record, Listed { address: *address, size, name: u32::MAX, is_assembler: false })
            })
            .collect();
        functions.sort_unstable_by_key(|(record, _)| *record);
        // The layout of Go 1.2 counts records from the start of the table.
        let base = if layout == Layout::V12 { 16 } else { 0 };
        self.records(object, &mut functions, base)?;
        let mut functions: Vec<_> = functions
            .into_iter()
            .map(|(_, function)| function)
            .filter(|function| function.name != u32::MAX)
            .collect();
        functions.sort_unstable_by_key(|function| function.address);
        Ok(functions)
    }

    /// Reads the records of `functions`, which are sorted by record.
    fn records(
        &self,
        object: &Object,
        functions: &mut [(u64, Listed)],
        base: u64,
    ) -> Result<(), ObjectError> {
        let layout = self.table.head.layout;
        let name_at = if layout.has_offsets() { 4 } else { 8 };
        let Some(last) = functions.last().map(|(record, _)| record.saturating_add(RECORD)) else {
            return Ok(());
        };
        let records = self.table.head.list.head(last.saturating_sub(base));
        let mut rest = functions.iter_mut().peekable();
        object.reader.chunks("Go's records of functions", records, (1, RECORD), |at, chunk| {
            let is_last = at + chunk.len() as u64 >= records.length;
            while let Some((record, function)) = rest.peek_mut() {
                let inside = record.checked_sub(base).and_then(|record| record.checked_sub(at));
                let begin = inside.and_then(|inside| usize::try_from(inside).ok());
                let bytes = begin.and_then(|begin| chunk.get(begin..)).unwrap_or_default();
                if bytes.len() < usize::try_from(RECORD).unwrap_or(0) && !is_last {
                    return ControlFlow::Continue(());
                }
                if let Some(name) = bytes.get(name_at..).and_then(<[u8]>::first_chunk) {
                    function.name = u32::from_le_bytes(*name);
                }
                let flags = layout.flags().and_then(|at| bytes.get(at));
                function.is_assembler = flags.is_some_and(|flags| flags & ASSEMBLER != 0);
                rest.next();
            }
            ControlFlow::Break(())
        })?;
        Ok(())
    }
}

/// A little-endian number of four or eight bytes.
fn number(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => bytes.first_chunk().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes))),
    }
}

fn inner(rest: FileRange, at: u64) -> Option<FileRange> {
    (at >= 64 && at < rest.length).then(|| rest.tail(at))
}

fn between(rest: FileRange, begin: u64, end: u64) -> Option<FileRange> {
    (begin < end && end < rest.length).then(|| rest.tail(begin).head(end - begin))
}
