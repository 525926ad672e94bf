//! Object: one real ELF file, parsed once.
//!
//! Owns reading ELF with limits, symbols, virtual address → file offset, and decoding instructions
//! where a probe goes. It never trusts a byte of the file: every read is bounded, nothing panics, and
//! nothing is mapped into memory (a file that shrinks would then kill ctrace with SIGBUS).
//!
//! | folder | what is in it |
//! |---|---|
//! | `file` | the file's own structures; `reader` alone reads it |
//! | [`symbols`] | functions by address and by name, versions, demangling, addresses back to names |
//! | `functions` | where functions begin in a file without symbols |
//! | [`code`] | decoding of instructions, and where a uprobe may sit |
//! | `analysis` | what code refers to and does; what signatures are made of |
//! | `go`, [`usdt`] | Go's tables, notes of USDT probes |

mod analysis;
pub mod code;
mod file;
mod functions;
pub mod symbols;

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use serde::Serialize;

use crate::error_chain;

mod error;
#[cfg(test)]
pub(crate) mod fixture;
mod go;
#[cfg(test)]
mod tests;
pub mod usdt;

pub use analysis::abstract_state::{Assumption, Value};
pub use analysis::data_flow::{Call, Callee, Effect, Flow};
pub use analysis::guarded_call::NotGuarded;
pub use analysis::panic_locations::{Location, Pointers};
pub use analysis::references::Uses;
pub use analysis::string_refs::{Pattern, StringRef};
pub use code::function_body::AmbiguousCode;
pub use code::post_prologue::{NoPostPrologueSite, PostPrologueSite};
pub use code::probe_site::{NoReturn, Returns, SiteError};
pub use error::ObjectError;
pub use file::rodata::Hit;
pub use functions::eh_frame::{FunctionBounds, FunctionTable};
pub use go::{Go, GoAbi, GoError, GoVersion};
pub use symbols::demangle::Language;
pub use symbols::index::{Binding, Found, Index};
pub use symbols::names::Name;
pub use symbols::select::{Function, FunctionName, Kind};
pub use symbols::symbolize::{ObjectSymbolizer, SymbolizedFrame};
pub use symbols::table::{Symbol, SymbolFilter};
pub use usdt::{Usdt, UsdtProbes, UsdtSite};

use file::header::Segments;
use file::reader::{FileRange, Reader};
use file::{dynamic, header, note, relocation, rodata, section};
use symbols::table;

/// An offset in a file, where the kernel puts a uprobe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct FileOffset(pub u64);

/// A virtual address as in the file's symbols and program headers (before relocation).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct VirtAddr(pub u64);

/// Bytes of code that [`Object::code`] gives at the most: more than any function that is looked into.
const MAX_CODE: u64 = 64 * 1024;

/// An ELF file for x86-64, executable or shared, with what was asked for of its symbols.
#[derive(Clone, Debug)]
pub struct Object {
    reader: Arc<Reader>,
    segments: Segments,
    soname: Option<String>,
    needed: Vec<String>,
    entry: VirtAddr,
    is_program: bool,
    /// Whether it is loaded at its own addresses (`ET_EXEC`).
    is_fixed: bool,
    /// The symbol tables, the loader's first.
    tables: Vec<table::Table>,
    /// The loader's relocations, without those of the PLT.
    relocations: Option<FileRange>,
    build_id: Option<String>,
    symbols: BTreeMap<String, Vec<Symbol>>,
    /// Slots of the global offset table that the loader fills with a wanted function of this object.
    slots: BTreeMap<u64, String>,
    /// Constant data, by the section headers; empty: not known, search all read-only segments.
    rodata: Vec<FileRange>,
    /// The frames for unwinding: address and bytes.
    frame_section: Option<(u64, FileRange)>,
    /// The notes of USDT probes, and where their base is.
    probes: Vec<FileRange>,
    probes_base: Option<u64>,
    notes: Vec<String>,
}

impl Object {
    /// Reads `file` of `size` bytes, by ranges; of its symbols only the `wanted` ones.
    ///
    /// [`ObjectError::is_foreign`] tells a file that is not for us from one that is broken. What the
    /// loader does not need (section headers, `.symtab`) may be broken: that is a note.
    pub fn parse(file: File, size: u64, wanted: &SymbolFilter) -> Result<Self, ObjectError> {
        let reader = Reader::new(file, size);
        let header = header::Header::read(&reader)?;
        let segments = Segments::read(&reader, &header)?;
        let dynamic = dynamic::Dynamic::read(&reader, &segments)?;
        let mut notes = Vec::new();
        let sections = section::Sections::read(&reader, &header).unwrap_or_else(|error| {
            notes.push(format!("section headers not used: {}", error_chain::in_one_line(&error)));
            section::Sections::default()
        });

        let mut found = table::Found::default();
        if let Some(table) = dynamic.symbols {
            table::scan(&reader, &segments, &table, wanted, &mut found)?;
        }
        let slots = match dynamic.plt {
            Some(plt) => relocation::jump_slots(&reader, plt, &found.indices)?,
            None => BTreeMap::new(),
        };
        let second = sections.dynamic_symbols.filter(|_| dynamic.symbols.is_none());
        for table in [second, sections.symbols].into_iter().flatten() {
            if let Err(error) = table::scan(&reader, &segments, &table, wanted, &mut found) {
                notes.push(format!(
                    "symbols by the section headers not used: {}",
                    error_chain::in_one_line(&error)
                ));
            }
        }
        let build_id = note::build_id(&reader, &segments);
        let tables =
            dynamic.symbols.or(sections.dynamic_symbols).into_iter().chain(sections.symbols).collect();
        let looks_started = segments.has_interpreter && dynamic.soname.is_none();
        Ok(Self {
            build_id,
            entry: header.entry(),
            is_fixed: header.is_fixed(),
            is_program: header.is_fixed() || dynamic.is_pie || looks_started,
            tables,
            relocations: dynamic.relocations,
            soname: dynamic.soname,
            needed: dynamic.needed,
            symbols: found.into_symbols(),
            slots,
            rodata: sections.rodata,
            frame_section: sections.frames,
            probes: sections.probes,
            probes_base: sections.probes_base,
            notes,
            segments,
            reader: Arc::new(reader),
        })
    }

    /// `DT_SONAME`: the name that programs link against, whatever the file is called.
    pub fn soname(&self) -> Option<&str> {
        self.soname.as_deref()
    }

    /// Whether it is a program and not a library: it is at a fixed address, says that it is an executable
    /// (`DF_1_PIE`), or names an interpreter and no soname.
    pub fn is_program(&self) -> bool {
        self.is_program
    }

    /// Where a program is started.
    pub fn entry(&self) -> VirtAddr {
        self.entry
    }

    /// `DT_NEEDED`: the sonames of the libraries that it is linked against.
    pub fn needed(&self) -> &[String] {
        &self.needed
    }

    /// The GNU build id in hexadecimal.
    pub fn build_id(&self) -> Option<&str> {
        self.build_id.as_deref()
    }

    /// What could not be used of the file, with the reason.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The wanted functions that are defined here. A name has several entries when several functions
    /// have it (a file with two TLS libraries linked into it, say).
    pub fn symbols(&self) -> &BTreeMap<String, Vec<Symbol>> {
        &self.symbols
    }

    /// The functions of this name, the dynamic symbol first.
    pub fn functions(&self, name: &str) -> &[Symbol] {
        self.symbols.get(name).map_or(&[], Vec::as_slice)
    }

    /// The function of this name when there is exactly one.
    pub fn function(&self, name: &str) -> Option<Symbol> {
        match self.functions(name) {
            [symbol] => Some(*symbol),
            _ => None,
        }
    }

    /// The same object, with functions of these names as well.
    #[must_use]
    pub fn with_functions(&self, functions: impl IntoIterator<Item = (String, Symbol)>) -> Self {
        let mut named = self.clone();
        for (name, symbol) in functions {
            named.symbols.entry(name).or_default().push(symbol);
        }
        named
    }

    /// Where an address of executable code is in the file.
    pub fn file_offset(&self, address: VirtAddr) -> Option<FileOffset> {
        let segment = self.segments.executable(address)?;
        segment.offset_of(address).map(FileOffset)
    }

    /// The address of a byte of executable code.
    pub fn address(&self, offset: FileOffset) -> Option<VirtAddr> {
        self.segments.address_of(offset.0)
    }

    /// Whether both addresses are executable code of one segment.
    pub fn same_segment(&self, a: VirtAddr, b: VirtAddr) -> bool {
        match (self.segments.executable(a), self.segments.executable(b)) {
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            _ => false,
        }
    }

    /// `length` bytes of code from `address` on, fewer at the end of the segment (64 KiB at the most).
    pub fn code(&self, address: VirtAddr, length: u64) -> Result<Vec<u8>, ObjectError> {
        let segment = self.segments.executable(address).ok_or(ObjectError::NotCode { address: address.0 })?;
        let inside = address.0 - segment.address;
        let extent = segment.extent.tail(inside).head(length.min(MAX_CODE));
        self.reader.bytes("code", extent, MAX_CODE)
    }

    /// The wanted function of this object that the loader puts into the slot of the global offset table
    /// at `slot`, which a PLT stub jumps through.
    pub fn slot(&self, slot: VirtAddr) -> Option<&str> {
        self.slots.get(&slot.0).map(String::as_str)
    }

    /// Searches constant data for `needles`, in the order of their places; the text of a
    /// [`Hit`] has `context` bytes at the most. The first answer of `accept` ends the search. Reads
    /// 64 MiB at the most.
    pub fn find_rodata<T>(
        &self,
        needles: &[&[u8]],
        context: usize,
        accept: impl FnMut(Hit<'_>) -> Option<T>,
    ) -> Result<Option<T>, ObjectError> {
        let extents = if self.rodata.is_empty() { self.segments.read_only() } else { self.rodata.clone() };
        rodata::find(&self.reader, &extents, needles, context, accept)
    }
}
