//! The names of functions, read on demand.
//!
//! Turns an entry of the index into its name. Bulk visits follow the order of the file, in one pass over the
//! strings, so a string table of 256 MB is never held in memory.

use std::cell::OnceCell;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::demangle::{Demangled, Language, demangle};
use super::index::{Entry, Index};
use crate::elf::ObjectError;
use crate::elf::file::reader::{FileRange, Reader};

/// Longest name in bytes: mangled C++ and Rust names have a few KiB at most.
pub(in crate::elf) const MAX_NAME: u64 = 64 * 1024;
const MAX_NAME_BYTES: usize = 64 * 1024;
/// Limit of all names that one visit reads. Usually they are as long as the string table; a hostile file
/// could let the name of each symbol start one byte after the previous one.
const MAX_VISITED: u64 = 1 << 30;
/// How many bytes the first attempt to read a name fetches.
const FIRST: u64 = 256;

/// A string table.
#[derive(Clone, Debug)]
pub(in crate::elf) struct Strings {
    /// The file that contains it: the object's own, or that of its debug file.
    pub reader: Arc<Reader>,
    pub extent: FileRange,
    pub origin: SymbolTableKind,
}

/// The table that a string table belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::elf) enum SymbolTableKind {
    /// `.dynsym`.
    Dynamic,
    /// `.symtab`, in which `@VERSION` may follow a name.
    Static,
    /// Go's pclntab.
    Go,
}

/// The name of a function.
#[derive(Debug)]
pub struct Name<'a> {
    raw: &'a str,
    version: Option<&'a str>,
    origin: SymbolTableKind,
    demangled: OnceCell<Option<Demangled>>,
}

impl<'a> Name<'a> {
    pub(in crate::elf) fn new(bytes: &'a [u8], origin: SymbolTableKind) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty())?;
        let (raw, version) = match text.split_once('@') {
            Some((raw, version)) if origin == SymbolTableKind::Static && !raw.is_empty() => {
                (raw, Some(version.trim_start_matches('@')))
            }
            _ => (text, None),
        };
        Some(Self { raw, version, origin, demangled: OnceCell::new() })
    }

    /// The name as in the file, without the symbol's version.
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// The symbol version, such as `GLIBC_2.2.5`. Only `.symtab` has it in the name.
    pub fn version(&self) -> Option<&'a str> {
        self.version
    }

    /// The demangled name, computed on first use. That costs some microseconds, so check [`Self::raw`] first.
    pub fn demangled(&self) -> Option<&Demangled> {
        let demangled = || if self.origin == SymbolTableKind::Go { None } else { demangle(self.raw) };
        self.demangled.get_or_init(demangled).as_ref()
    }

    /// The name as a person writes it.
    pub fn shown(&self) -> &str {
        self.demangled().map_or(self.raw, |name| &name.text)
    }

    /// The language of the function, judging by its name.
    pub fn language(&self) -> Language {
        match self.demangled() {
            _ if self.origin == SymbolTableKind::Go => Language::Go,
            Some(name) => name.language,
            None => Language::C,
        }
    }

    /// Whether this is the name `requested`: raw, demangled, or demangled without parameters.
    pub fn is(&self, requested: &str) -> bool {
        self.raw == requested
            || self.demangled().is_some_and(|name| name.text == requested || name.path == requested)
    }
}

impl Index {
    /// Visits the names of all entries. Entries that share one string are passed together.
    pub(in crate::elf) fn visit(
        &self,
        mut visit: impl FnMut(&Name<'_>, &[u32]) -> ControlFlow<()>,
    ) -> Result<(), ObjectError> {
        let mut order: Vec<u32> = (0..u32::try_from(self.entries.len()).unwrap_or(u32::MAX)).collect();
        let place = |number: &u32| self.entry(*number).map(|entry| (entry.source, entry.name));
        order.sort_unstable_by_key(place);
        let mut left = MAX_VISITED;
        let source = |number: &u32| place(number).map(|(source, _)| source);
        for group in order.chunk_by(|a, b| source(a) == source(b)) {
            let strings =
                group.first().and_then(source).and_then(|source| self.sources.get(usize::from(source)));
            let Some(strings) = strings else { continue };
            let mut rest = group;
            let outcome = strings.reader.chunks("names", strings.extent, (1, MAX_NAME), |at, chunk| {
                let is_last = at + chunk.len() as u64 >= strings.extent.length;
                while let Some(first) = rest.first() {
                    let inside = place(first).map_or(0, |(_, offset)| u64::from(offset)).saturating_sub(at);
                    let text = match text(chunk, inside) {
                        Text::Whole(text) => Some(text),
                        Text::Cut if !is_last => return ControlFlow::Continue(()),
                        Text::Cut | Text::TooLong => None,
                    };
                    let (here, others) =
                        rest.split_at(rest.partition_point(|other| place(other) == place(first)).max(1));
                    rest = others;
                    let Some(text) = text else { continue };
                    let Some(after) = left.checked_sub(text.len() as u64 + 1) else {
                        return ControlFlow::Break(Err(too_much()));
                    };
                    left = after;
                    if let Some(name) = Name::new(text, strings.origin)
                        && visit(&name, here).is_break()
                    {
                        return ControlFlow::Break(Ok(ControlFlow::Break(())));
                    }
                }
                ControlFlow::Break(Ok(ControlFlow::Continue(())))
            })?;
            if let Some(outcome) = outcome
                && outcome?.is_break()
            {
                break;
            }
        }
        Ok(())
    }

    pub(in crate::elf) fn entry(&self, number: u32) -> Option<&Entry> {
        self.entries.get(usize::try_from(number).ok()?)
    }

    /// Reads one name and passes it to `use_`. None if it cannot be read or is not UTF-8.
    pub(in crate::elf) fn with_name<T>(&self, entry: &Entry, use_: impl FnOnce(&Name<'_>) -> T) -> Option<T> {
        let strings = self.sources.get(usize::from(entry.source))?;
        let rest = strings.extent.tail(u64::from(entry.name));
        [FIRST, MAX_NAME]
            .into_iter()
            .find_map(|length| {
                let bytes = strings.reader.bytes("a name", rest.head(length), length).ok()?;
                match text(&bytes, 0) {
                    Text::Whole(_) => Some(bytes),
                    Text::Cut | Text::TooLong => None,
                }
            })
            .and_then(|bytes| match text(&bytes, 0) {
                Text::Whole(text) => Name::new(text, strings.origin).as_ref().map(use_),
                Text::Cut | Text::TooLong => None,
            })
    }
}

enum Text<'a> {
    /// The complete name.
    Whole(&'a [u8]),
    /// The chunk ends before the name does.
    Cut,
    /// The name is longer than any real one.
    TooLong,
}

fn text(chunk: &[u8], at: u64) -> Text<'_> {
    let rest = usize::try_from(at).ok().and_then(|at| chunk.get(at..)).unwrap_or_default();
    let rest = rest.get(..MAX_NAME_BYTES).unwrap_or(rest);
    match memchr::memchr(0, rest).and_then(|end| rest.get(..end)) {
        Some(text) => Text::Whole(text),
        None if rest.len() >= MAX_NAME_BYTES => Text::TooLong,
        None => Text::Cut,
    }
}

fn too_much() -> ObjectError {
    ObjectError::TooLarge { what: "the text of all names", found: MAX_VISITED + 1, limit: MAX_VISITED }
}
