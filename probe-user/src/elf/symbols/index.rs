//! All functions of an object by address, without their names in memory.
//!
//! Decides which symbols count as functions, and where a function ends. Names stay in the file;
//! [`super::names`] reads them on demand.
#[cfg(test)]
mod tests;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use object::LittleEndian as LE;
use object::elf::{self, Sym64};
use object::pod;
use serde::Serialize;

use super::debug_file::DebugSearch;
use super::names::{Strings, SymbolTableKind};
use super::table::{MAX_DYNAMIC_STRINGS, MAX_STRINGS, MAX_SYMBOLS, SymbolTable};
use crate::elf::file::header::Segments;
use crate::elf::file::reader::Reader;
use crate::elf::go::{Go, GoError};
use crate::elf::{Object, ObjectError, VirtAddr};
use crate::error_chain;

/// Limit of the functions of one object, 24 bytes each: the largest browsers with `.symtab` have two million.
const MAX_FUNCTIONS: usize = 4_000_000;
/// How many entries before an address are checked for the function that contains it.
const MAX_BACK: usize = 64;
/// Limit of the executable segments that are used: linkers make one or two.
const MAX_SEGMENTS: usize = 64;

/// The visibility of a function, from the narrowest to the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Binding {
    /// Visible in its own source file only.
    Local,
    /// Visible to every object, unless another object defines it too.
    Weak,
    /// Visible to every object, unless it is hidden.
    Global,
}

/// One name of one function: its address, and the offset of the name in the file.
#[derive(Clone, Copy, Debug)]
pub(in crate::elf) struct Entry {
    pub address: u64,
    /// Size of the function in bytes; 0 when the file does not give it.
    size: u32,
    /// Offset of the name in the strings of its source.
    pub name: u32,
    /// Index of its source in [`Index::sources`].
    pub source: u8,
    pub binding: Binding,
    pub form: SymbolForm,
}

/// What the table says about a function apart from its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::elf) enum SymbolForm {
    /// Nothing special.
    Plain,
    /// The resolver of an IFUNC.
    Resolver,
    /// A function written in Go's assembler.
    Assembler,
}

/// The function that contains an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocatedFunction {
    /// The address of its entry.
    pub address: VirtAddr,
    /// The size of its code in bytes; see [`LocatedFunction::is_sized`].
    pub size: u64,
    /// Whether the file gives the size. Otherwise the function is assumed to reach up to the next one.
    pub is_sized: bool,
    /// The distance of the requested address from the entry.
    pub offset: u64,
}

/// All functions of an object, by address.
#[derive(Debug, Default)]
pub struct Index {
    /// Sorted by address.
    pub(in crate::elf) entries: Vec<Entry>,
    pub(in crate::elf) sources: Vec<Strings>,
    notes: Vec<String>,
    go: Option<Go>,
    /// The start and the end of each executable segment.
    segments: Vec<(u64, u64)>,
}

impl Object {
    /// Builds the index of all functions that the object's tables name.
    ///
    /// A table that cannot be read becomes a note of the index.
    pub fn index(&self) -> Result<Index, ObjectError> {
        let segments = self.segments.executables().take(MAX_SEGMENTS);
        let segments = segments.map(|load| (load.address, load.address + load.extent.length)).collect();
        let mut index = Index { segments, ..Index::default() };
        let own = self.tables.iter().map(|table| (&self.reader, table));
        let separate = match &self.debug {
            DebugSearch::Found(_, debug) => Some((&debug.reader, &debug.symbols)),
            DebugSearch::NotSearched | DebugSearch::Missing(_) => None,
        };
        for (reader, table) in own.chain(separate) {
            let before = index.entries.len();
            let added = index.add_table(reader, &self.segments, table);
            let checked = added.and_then(|()| {
                if !Arc::ptr_eq(reader, &self.reader) {
                    index.retain_framed(before, &self.framed_starts()?);
                }
                Ok(())
            });
            if let Err(error) = checked {
                index.entries.truncate(before);
                index.notes.push(format!("{} not used: {}", table.name(), error_chain::in_one_line(&error)));
            }
        }
        if let Err(error) = index.add_go(self) {
            index
                .notes
                .push(format!("Go's table of functions not used: {}", error_chain::in_one_line(&error)));
        }
        index.entries.sort_unstable_by_key(|entry| (entry.address, entry.source, entry.name));
        Ok(index)
    }
}

impl Index {
    /// The number of names. One function may have several.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the tables name no function.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The tables that could not be read, each with the reason.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Go's function table, if the object has one.
    pub fn go(&self) -> Option<&Go> {
        self.go.as_ref()
    }

    /// The function that contains `address`.
    pub fn at(&self, address: VirtAddr) -> Option<LocatedFunction> {
        let after = self.entries.partition_point(|entry| entry.address <= address.0);
        let before = self.entries.get(..after)?;
        // The closest entry may be an alias or a short function inside a longer one, so look further back.
        before.iter().rev().take(MAX_BACK).find_map(|entry| {
            let (size, is_sized) = self.size(VirtAddr(entry.address));
            let offset = address.0 - entry.address;
            (offset < size).then_some(LocatedFunction {
                address: VirtAddr(entry.address),
                size,
                is_sized,
                offset,
            })
        })
    }

    /// All entries at one address.
    pub(in crate::elf) fn entries_at(&self, address: VirtAddr) -> &[Entry] {
        let begin = self.entries.partition_point(|entry| entry.address < address.0);
        let rest = self.entries.get(begin..).unwrap_or_default();
        let count = rest.partition_point(|entry| entry.address == address.0);
        rest.get(..count).unwrap_or_default()
    }

    /// The size of the function at an address, and whether the file gives it.
    pub(in crate::elf) fn size(&self, address: VirtAddr) -> (u64, bool) {
        let here = self.entries_at(address);
        let end = self.segments.iter().find(|(begin, end)| (*begin..*end).contains(&address.0));
        let space = end.map_or(0, |(_, end)| end - address.0);
        // The first names suffice: only a hostile file has thousands of aliases.
        let largest = |is_go: bool| {
            let of = here.iter().take(MAX_BACK).filter(|entry| self.is_go(entry) == is_go);
            of.map(|entry| entry.size).max().filter(|size| *size > 0)
        };
        // Sizes from Go's table include padding, so prefer those of the symbol tables.
        if let Some(size) = largest(false).or_else(|| largest(true)) {
            return (u64::from(size).min(space), true);
        }
        let next = self.entries.partition_point(|entry| entry.address <= address.0);
        let next = self.entries.get(next).map(|entry| entry.address - address.0);
        (next.map_or(space, |next| next.min(space)), false)
    }

    /// Whether an entry comes from Go's table.
    pub(in crate::elf) fn is_go(&self, entry: &Entry) -> bool {
        self.sources
            .get(usize::from(entry.source))
            .is_some_and(|strings| strings.origin == SymbolTableKind::Go)
    }

    fn add_go(&mut self, object: &Object) -> Result<(), GoError> {
        let Some(go) = object.go()? else { return Ok(()) };
        let functions = go.functions(object)?;
        let source = self.source(Strings {
            reader: Arc::clone(&object.reader),
            extent: go.names(),
            origin: SymbolTableKind::Go,
        })?;
        let space = MAX_FUNCTIONS.saturating_sub(self.entries.len());
        let is_code = |address| self.segments.iter().any(|(begin, end)| (*begin..*end).contains(&address));
        let entries =
            functions.into_iter().filter(|function| is_code(function.address)).map(|function| Entry {
                address: function.address,
                size: function.size,
                name: function.name,
                source,
                binding: Binding::Global,
                form: if function.is_assembler { SymbolForm::Assembler } else { SymbolForm::Plain },
            });
        self.entries.extend(entries.take(space));
        self.go = Some(go);
        Ok(())
    }

    fn add_table(
        &mut self,
        reader: &Arc<Reader>,
        segments: &Segments,
        table: &SymbolTable,
    ) -> Result<(), ObjectError> {
        const SIZE: usize = size_of::<Sym64<LE>>();
        let limit = if table.dynamic { MAX_DYNAMIC_STRINGS } else { MAX_STRINGS };
        let (count, strings) = (table.symbols.length / SIZE as u64, table.strings.length);
        for (what, found, limit) in
            [("a symbol table", count, MAX_SYMBOLS), ("a string table", strings, limit)]
        {
            if found > limit {
                return Err(ObjectError::TooLarge { what, found, limit });
            }
        }
        reader.check("a string table", table.strings)?;
        let origin = if table.dynamic { SymbolTableKind::Dynamic } else { SymbolTableKind::Static };
        let source = self.source(Strings { reader: Arc::clone(reader), extent: table.strings, origin })?;
        let code: Vec<_> = segments.executables().take(MAX_SEGMENTS).collect();
        let overflow = reader.chunks(
            "a symbol table",
            table.symbols.head(count * SIZE as u64),
            (SIZE as u64, 0),
            |_, chunk| {
                let (list, _) =
                    pod::slice_from_bytes::<Sym64<LE>>(chunk, chunk.len() / SIZE).unwrap_or_default();
                for symbol in list {
                    let address = VirtAddr(symbol.st_value.get(LE));
                    let Some(form) = form(symbol) else { continue };
                    if !code.iter().any(|load| load.offset_of(address).is_some()) {
                        continue;
                    }
                    if self.entries.len() >= MAX_FUNCTIONS {
                        return ControlFlow::Break(());
                    }
                    self.entries.push(Entry {
                        address: address.0,
                        size: u32::try_from(symbol.st_size.get(LE)).unwrap_or(u32::MAX),
                        name: symbol.st_name.get(LE),
                        source,
                        binding: binding(symbol),
                        form,
                    });
                }
                ControlFlow::Continue(())
            },
        )?;
        match overflow {
            Some(()) => Err(too_many()),
            None => Ok(()),
        }
    }

    /// Removes the entries from this one on that are not where the object's own unwind table has a function,
    /// and limits their sizes: they are from another file.
    fn retain_framed(&mut self, from: usize, starts: &BTreeSet<u64>) {
        let mut added = self.entries.split_off(from);
        let count = added.len();
        added.retain(|entry| starts.contains(&entry.address));
        for entry in &mut added {
            let next = starts.range(entry.address.saturating_add(1)..).next();
            let space = next.map_or(u64::MAX, |next| next - entry.address);
            entry.size = entry.size.min(u32::try_from(space).unwrap_or(u32::MAX));
        }
        if count > added.len() {
            let more = count - added.len();
            self.notes.push(format!(
                "{more} functions of the debug file not used: the file itself does not show that they begin there"
            ));
        }
        self.entries.append(&mut added);
    }

    pub(in crate::elf) fn source(&mut self, strings: Strings) -> Result<u8, ObjectError> {
        let number = u8::try_from(self.sources.len()).map_err(|_| too_many())?;
        self.sources.push(strings);
        Ok(number)
    }
}

fn too_many() -> ObjectError {
    let limit = MAX_FUNCTIONS as u64;
    ObjectError::TooLarge { what: "the list of functions", found: limit + 1, limit }
}

/// The form of a symbol. None if it is not a function, or not defined in this object.
fn form(symbol: &Sym64<LE>) -> Option<SymbolForm> {
    if symbol.st_shndx.get(LE) == elf::SHN_UNDEF {
        return None;
    }
    match symbol.st_type() {
        elf::STT_FUNC => Some(SymbolForm::Plain),
        elf::STT_GNU_IFUNC => Some(SymbolForm::Resolver),
        _ => None,
    }
}

fn binding(symbol: &Sym64<LE>) -> Binding {
    match symbol.st_bind() {
        elf::STB_LOCAL => Binding::Local,
        elf::STB_WEAK => Binding::Weak,
        _ => Binding::Global,
    }
}
