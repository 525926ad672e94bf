//! One real ELF file, parsed once.
//!
//! This room reads ELF files within limits, resolves symbols, translates virtual addresses to file offsets,
//! and decodes the instructions around a probe. It trusts no byte of the file: every read is bounded and
//! nothing panics. It never maps the file into memory, because a file that shrinks while it is mapped would
//! kill ctrace with SIGBUS.
//!
//! | folder | what is in it |
//! |---|---|
//! | `file` | the structures of the file; only `file::reader` reads from it |
//! | [`symbols`] | functions by address and by name, versions, demangling, symbolization |
//! | `functions` | function bounds in a file without symbols |
//! | [`code`] | instruction decoding, and the offsets where a uprobe may be placed |
//! | `analysis` | what code refers to and computes: the building blocks of signatures |
//! | `go`, [`usdt`] | Go's own tables; the notes that describe USDT probes |

mod analysis;
pub mod code;
mod file;
mod functions;
mod linkage;
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

pub use analysis::abstract_state::{AbstractValue, Assumption};
pub use analysis::data_flow::{CallArguments, Callee, Effect, Flow};
pub use analysis::guarded_call::NotGuarded;
pub use analysis::panic_locations::{Location, Pointers};
pub use analysis::references::Uses;
pub use analysis::string_refs::{StringPattern, StringRef};
pub use code::exits::{ExitSite, UncertainExits};
pub use code::function_body::AmbiguousCode;
pub use code::post_prologue::{NoPostPrologueSite, PostPrologueSite};
pub use code::probe_site::{NoReturn, Returns, SiteError};
pub use error::ObjectError;
pub use file::rodata::Hit;
pub use functions::eh_frame::{FunctionBounds, FunctionTable};
pub use go::{Go, GoAbi, GoError, GoVersion};
pub use linkage::Linkage;
pub use symbols::debug_file::{DebugFile, DebugFileError, DebugSearch};
pub use symbols::demangle::Language;
pub use symbols::index::{Binding, Index, LocatedFunction};
pub use symbols::names::Name;
pub use symbols::select::{ElfFunction, FunctionKind, FunctionName};
pub use symbols::symbolize::{ObjectSymbolizer, SymbolizedFrame};
pub use symbols::table::{Symbol, SymbolFilter};
pub use usdt::{Usdt, UsdtProbes, UsdtSite};

use file::header::Segments;
use file::reader::{FileRange, Reader};
use file::{dynamic, header, note, relocation, rodata, section};
use symbols::debug_file::DebugLink;
use symbols::table;

/// The offset in a file at which the kernel places a uprobe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct FileOffset(pub u64);

/// A virtual address as symbols and program headers give it, before relocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct VirtAddr(pub u64);

/// Upper limit of what [`Object::code`] returns, in bytes. No function that we analyse is larger.
const MAX_CODE: u64 = 64 * 1024;

/// An executable or shared ELF file for x86-64, with the symbols that the caller asked for.
#[derive(Clone, Debug)]
pub struct Object {
    reader: Arc<Reader>,
    segments: Segments,
    soname: Option<String>,
    needed: Vec<String>,
    entry: VirtAddr,
    is_program: bool,
    /// Whether the file is loaded at the addresses it names (`ET_EXEC`).
    is_fixed: bool,
    /// The symbol tables. The one that the loader uses comes first.
    tables: Vec<table::SymbolTable>,
    /// The loader's relocations, except those of the PLT.
    relocations: Option<FileRange>,
    /// The relocations of the PLT.
    plt: Option<FileRange>,
    build_id: Option<String>,
    debug_link: Option<DebugLink>,
    debug: DebugSearch,
    symbols: BTreeMap<String, Vec<Symbol>>,
    /// Slots of the global offset table that the loader fills with a wanted function of this object.
    slots: BTreeMap<u64, String>,
    /// Constant data, as the section headers locate it. If empty, all read-only segments are searched
    /// instead.
    rodata: Vec<FileRange>,
    /// `.eh_frame`: its address and where it is in the file.
    frame_section: Option<(u64, FileRange)>,
    /// The notes that describe USDT probes.
    probes: Vec<FileRange>,
    probes_base: Option<u64>,
    notes: Vec<String>,
}

impl Object {
    /// Parses `file`, which has `size` bytes, and keeps only the `wanted` symbols.
    ///
    /// [`ObjectError::is_foreign`] distinguishes a file that is not for us from one that is broken. Damage in
    /// parts that the loader does not need (section headers, `.symtab`) is not an error; it becomes a note.
    pub fn parse(file: File, size: u64, wanted: &SymbolFilter) -> Result<Self, ObjectError> {
        let reader = Reader::new(file, size);
        let header = header::ElfHeader::read(&reader)?;
        let segments = Segments::read(&reader, &header)?;
        let dynamic = dynamic::Dynamic::read(&reader, &segments)?;
        let mut notes = Vec::new();
        let sections = section::Sections::read(&reader, &header).unwrap_or_else(|error| {
            notes.push(format!("section headers not used: {}", error_chain::in_one_line(&error)));
            section::Sections::default()
        });

        let mut found = table::FoundSymbols::default();
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
        let is_executable = segments.interpreter.is_some() && dynamic.soname.is_none();
        Ok(Self {
            build_id,
            debug_link: sections.debug_link,
            debug: DebugSearch::NotSearched,
            entry: header.entry(),
            is_fixed: header.is_fixed(),
            is_program: header.is_fixed() || dynamic.is_pie || is_executable,
            tables,
            relocations: dynamic.relocations,
            plt: dynamic.plt,
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

    /// Whether this is a program rather than a library: it has a fixed address, is marked as an executable
    /// (`DF_1_PIE`), or names an interpreter and has no soname.
    pub fn is_program(&self) -> bool {
        self.is_program
    }

    /// The entry point of the program.
    pub fn entry(&self) -> VirtAddr {
        self.entry
    }

    /// `DT_NEEDED`: the sonames of the libraries that this object is linked against.
    pub fn needed(&self) -> &[String] {
        &self.needed
    }

    /// The GNU build id in hexadecimal.
    pub fn build_id(&self) -> Option<&str> {
        self.build_id.as_deref()
    }

    /// The parts of the file that could not be used, each with the reason.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The wanted functions that this object defines. A name has several entries if several functions share
    /// it, for example when two TLS libraries are linked into one file.
    pub fn symbols(&self) -> &BTreeMap<String, Vec<Symbol>> {
        &self.symbols
    }

    /// All functions of this name; those of the dynamic symbol table come first.
    pub fn functions(&self, name: &str) -> &[Symbol] {
        self.symbols.get(name).map_or(&[], Vec::as_slice)
    }

    /// The function of this name, if there is exactly one.
    pub fn function(&self, name: &str) -> Option<Symbol> {
        match self.functions(name) {
            [symbol] => Some(*symbol),
            _ => None,
        }
    }

    /// A copy of this object in which `functions` are defined as well.
    #[must_use]
    pub fn with_functions(&self, functions: impl IntoIterator<Item = (String, Symbol)>) -> Self {
        let mut named = self.clone();
        for (name, symbol) in functions {
            named.symbols.entry(name).or_default().push(symbol);
        }
        named
    }

    /// A copy of this object in which only `functions` are defined.
    #[must_use]
    pub fn with_only_functions(&self, functions: impl IntoIterator<Item = (String, Symbol)>) -> Self {
        let mut named = self.clone();
        named.symbols.clear();
        named.with_functions(functions)
    }

    /// The file offset of an address in executable code.
    pub fn file_offset(&self, address: VirtAddr) -> Option<FileOffset> {
        let segment = self.segments.executable(address)?;
        segment.offset_of(address).map(FileOffset)
    }

    /// The virtual address of a file offset in executable code.
    pub fn address(&self, offset: FileOffset) -> Option<VirtAddr> {
        self.segments.address_of(offset.0)
    }

    /// The virtual address of a file offset in any loaded segment.
    pub fn loaded_at(&self, offset: FileOffset) -> Option<VirtAddr> {
        self.segments.loaded_at(offset.0).map(VirtAddr)
    }

    /// Whether both addresses are in the same executable segment.
    pub fn same_segment(&self, a: VirtAddr, b: VirtAddr) -> bool {
        match (self.segments.executable(a), self.segments.executable(b)) {
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            _ => false,
        }
    }

    /// Up to `length` bytes of code from `address` on: at most 64 KiB, and not beyond the end of the segment.
    pub fn code(&self, address: VirtAddr, length: u64) -> Result<Vec<u8>, ObjectError> {
        let segment = self.segments.executable(address).ok_or(ObjectError::NotCode { address: address.0 })?;
        let inside = address.0 - segment.address;
        let extent = segment.extent.tail(inside).head(length.min(MAX_CODE));
        self.reader.bytes("code", extent, MAX_CODE)
    }

    /// `length` bytes of constants at an address. None if the file has no such constants.
    fn read_only_bytes(&self, address: u64, length: u64) -> Option<Vec<u8>> {
        let extent = self.segments.read_only_from(address)?.head(length);
        let bytes = self.reader.bytes("constants", extent, MAX_CODE).ok()?;
        (bytes.len() as u64 == length).then_some(bytes)
    }

    /// The wanted function of this object that the loader puts into the GOT slot at `slot`, through which a
    /// PLT stub jumps.
    pub fn slot(&self, slot: VirtAddr) -> Option<&str> {
        self.slots.get(&slot.0).map(String::as_str)
    }

    /// Searches constant data for `needles`, in file order, and stops as soon as `accept` returns something.
    /// The text of a [`Hit`] has at most `context` bytes. Reads at most 64 MiB.
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
