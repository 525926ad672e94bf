//! Symbol tables, filtered while they are scanned: a table of 100 MB costs one pass and no memory.
//!
//! The string table is searched for the wanted names first, which leaves a small set of offsets. A symbol is
//! then wanted if the offset of its name is in that set; no other name is read.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;

use memchr::memmem::Finder;
use memchr::{memchr, memchr2_iter, memrchr};
use object::LittleEndian as LE;
use object::elf::{self, Sym64};
use object::pod;

use super::index::Binding;
use crate::elf::file::header::Segments;
use crate::elf::file::reader::{FileRange, Reader};
use crate::elf::{ObjectError, VirtAddr};

/// Limit of the symbols: 240 MB, several times as much as the largest browsers with `.symtab` have.
pub(in crate::elf) const MAX_SYMBOLS: u64 = 10_000_000;
/// Size limit of `.dynstr`: large C++ libraries have 6 MB, Haskell programs that export everything 37 MB
/// (pandoc).
pub(in crate::elf) const MAX_DYNAMIC_STRINGS: u64 = 64 << 20;
/// Size limit of `.strtab`: unstripped browsers have about 150 MB.
pub(in crate::elf) const MAX_STRINGS: u64 = 256 << 20;
/// Longest name in bytes: mangled C++ and Rust names have a few KiB at most.
const MAX_NAME: usize = 64 * 1024;
/// Limit of matches in one string table: linkers merge equal strings, so there is usually one per name.
const MAX_PLACES: usize = 4096;
/// Limit of functions that share a name, as when similar libraries are linked into one file.
const MAX_SAME_NAME: usize = 16;

/// For a name that is wanted because of a part of it: how many bytes it may have on each side of that part.
const MAX_AROUND: usize = 512;

/// The names of the functions to find.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SymbolFilter {
    names: BTreeSet<String>,
    parts: BTreeSet<String>,
}

impl SymbolFilter {
    /// Adds all functions whose names contain one of these parts. Empty parts are ignored.
    #[must_use]
    pub fn or_containing<S: Into<String>>(mut self, parts: impl IntoIterator<Item = S>) -> Self {
        let parts = parts.into_iter().map(Into::into);
        self.parts.extend(parts.filter(|part: &String| !part.is_empty() && part.len() < MAX_AROUND));
        self
    }
}

impl<S: Into<String>> FromIterator<S> for SymbolFilter {
    /// Matches these names. Empty ones and those beyond 64 KiB, which no function has, are left out.
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        let names = names.into_iter().map(Into::into);
        let names = names.filter(|name: &String| !name.is_empty() && name.len() < MAX_NAME).collect();
        Self { names, parts: BTreeSet::new() }
    }
}

/// A function as the symbol table describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// The address of its entry.
    pub address: VirtAddr,
    /// The size of its code in bytes; 0 when the file does not give it.
    pub size: u64,
}

/// A symbol table with its strings.
#[derive(Clone, Copy, Debug)]
pub(in crate::elf) struct SymbolTable {
    pub symbols: FileRange,
    pub strings: FileRange,
    /// Whether this is the loader's table, `.dynsym`.
    pub dynamic: bool,
}

impl SymbolTable {
    pub(in crate::elf) const fn name(&self) -> &'static str {
        if self.dynamic { ".dynsym" } else { ".symtab" }
    }
}

/// The wanted symbols of all tables.
#[derive(Debug, Default)]
pub(in crate::elf) struct FoundSymbols {
    symbols: BTreeMap<String, Vec<(Binding, Symbol)>>,
    /// The indices of the symbols in the loader's table, by which relocations refer to them.
    pub indices: HashMap<u32, String>,
}

impl FoundSymbols {
    /// Drops local functions that share their name with a global one.
    pub(in crate::elf) fn into_symbols(self) -> BTreeMap<String, Vec<Symbol>> {
        let pick = |list: Vec<(Binding, Symbol)>| {
            let widest = list.iter().map(|(binding, _)| *binding).max();
            list.into_iter()
                .filter(|(binding, _)| Some(*binding) == widest)
                .map(|(_, symbol)| symbol)
                .collect()
        };
        self.symbols.into_iter().map(|(name, list)| (name, pick(list))).collect()
    }

    fn add(&mut self, name: &str, binding: Binding, symbol: Symbol) {
        let list = self.symbols.entry(name.to_owned()).or_default();
        let same = list.iter_mut().find(|(_, other)| other.address == symbol.address);
        if let Some((widest, _)) = same {
            *widest = binding.max(*widest);
        } else if list.len() < MAX_SAME_NAME {
            list.push((binding, symbol));
        }
    }
}

/// Adds the wanted functions of one table that are defined in executable code.
pub(in crate::elf) fn scan(
    reader: &Reader,
    segments: &Segments,
    table: &SymbolTable,
    wanted: &SymbolFilter,
    found: &mut FoundSymbols,
) -> Result<(), ObjectError> {
    const SIZE: usize = size_of::<Sym64<LE>>();
    let count = table.symbols.length / SIZE as u64;
    if count > MAX_SYMBOLS {
        return Err(ObjectError::TooLarge { what: "a symbol table", found: count, limit: MAX_SYMBOLS });
    }
    let places = places(reader, table, wanted)?;
    if places.is_empty() {
        return Ok(());
    }
    let whole = table.symbols.head(count * SIZE as u64);
    reader.chunks("a symbol table", whole, (SIZE as u64, 0), |at, chunk| {
        let (list, _) = pod::slice_from_bytes::<Sym64<LE>>(chunk, chunk.len() / SIZE).unwrap_or_default();
        for (index, entry) in (at / SIZE as u64..).zip(list) {
            if entry.st_type() != elf::STT_FUNC || entry.st_shndx.get(LE) == elf::SHN_UNDEF {
                continue;
            }
            let Some(name) = places.get(&u64::from(entry.st_name.get(LE))) else { continue };
            let symbol = Symbol { address: VirtAddr(entry.st_value.get(LE)), size: entry.st_size.get(LE) };
            if segments.executable(symbol.address).is_none() {
                continue;
            }
            if table.dynamic
                && let Ok(index) = u32::try_from(index)
            {
                found.indices.insert(index, name.to_string());
            }
            let local = entry.st_bind() == elf::STB_LOCAL;
            found.add(name, if local { Binding::Local } else { Binding::Global }, symbol);
        }
        ControlFlow::<()>::Continue(())
    })?;
    Ok(())
}

/// The function that the symbol with this index defines. None if it is not in executable code of this file,
/// or is chosen when the file is loaded.
pub(in crate::elf) fn function(
    reader: &Reader,
    segments: &Segments,
    table: &SymbolTable,
    index: u32,
) -> Result<Option<VirtAddr>, ObjectError> {
    const SIZE: u64 = size_of::<Sym64<LE>>() as u64;
    let bytes = reader.bytes("a symbol", table.symbols.tail(u64::from(index) * SIZE).head(SIZE), SIZE)?;
    let Ok((entry, _)) = pod::from_bytes::<Sym64<LE>>(&bytes) else { return Ok(None) };
    let is_function = entry.st_type() == elf::STT_FUNC && entry.st_shndx.get(LE) != elf::SHN_UNDEF;
    let address = VirtAddr(entry.st_value.get(LE));
    Ok(segments.executable(address).filter(|_| is_function).map(|_| address))
}

/// The addresses of named data or code in one table. A name with several addresses is left out.
pub(in crate::elf) fn addresses(
    reader: &Reader,
    table: &SymbolTable,
    wanted: &SymbolFilter,
) -> Result<BTreeMap<String, VirtAddr>, ObjectError> {
    const SIZE: usize = size_of::<Sym64<LE>>();
    let count = (table.symbols.length / SIZE as u64).min(MAX_SYMBOLS);
    let places = places(reader, table, wanted)?;
    let mut found: BTreeMap<&str, Option<VirtAddr>> = BTreeMap::new();
    let whole = table.symbols.head(if places.is_empty() { 0 } else { count * SIZE as u64 });
    reader.chunks("a symbol table", whole, (SIZE as u64, 0), |_, chunk| {
        let (list, _) = pod::slice_from_bytes::<Sym64<LE>>(chunk, chunk.len() / SIZE).unwrap_or_default();
        for entry in list.iter().filter(|entry| is_place(entry)) {
            let Some(name) = places.get(&u64::from(entry.st_name.get(LE))) else { continue };
            let address = VirtAddr(entry.st_value.get(LE));
            let unique = found.entry(name.as_ref()).or_insert(Some(address));
            *unique = unique.filter(|unique| *unique == address);
        }
        ControlFlow::<()>::Continue(())
    })?;
    let sure = found.into_iter().filter_map(|(name, address)| Some((name.to_owned(), address?)));
    Ok(sure.collect())
}

fn is_place(entry: &Sym64<LE>) -> bool {
    let section = entry.st_shndx.get(LE);
    section != elf::SHN_UNDEF
        && section != elf::SHN_ABS
        && matches!(entry.st_type(), elf::STT_OBJECT | elf::STT_NOTYPE | elf::STT_FUNC)
}

/// The offsets of the wanted names in the string table. Linkers merge strings with a common end, so a name
/// may start in the middle of another one; a version (`@…`) may follow it.
fn places<'w>(
    reader: &Reader,
    table: &SymbolTable,
    wanted: &'w SymbolFilter,
) -> Result<HashMap<u64, Cow<'w, str>>, ObjectError> {
    let (what, limit, version) = if table.dynamic {
        ("the dynamic string table", MAX_DYNAMIC_STRINGS, 0)
    } else {
        ("the string table", MAX_STRINGS, b'@')
    };
    if table.strings.length > limit {
        return Err(ObjectError::TooLarge { what, found: table.strings.length, limit });
    }
    let names = NameEnds::of(wanted.names.iter().map(String::as_str));
    let parts: Vec<_> = wanted.parts.iter().map(Finder::new).collect();
    let around = if parts.is_empty() { 0 } else { 2 * MAX_AROUND as u64 };
    let overlap = wanted.names.iter().map(|name| name.len() as u64 + 1).max().unwrap_or(0).max(around);
    let mut places = HashMap::new();
    let overflow = reader.chunks(what, table.strings, (1, overlap), |at, chunk| {
        for end in memchr2_iter(0, version, chunk) {
            if !names.may_end_with(end.checked_sub(1).and_then(|last| chunk.get(last))) {
                continue;
            }
            let before = chunk.get(..end).unwrap_or_default();
            for name in names.at_end_of(before) {
                places.insert(at + (end - name.len()) as u64, Cow::Borrowed(name));
            }
            if places.len() > MAX_PLACES {
                return ControlFlow::Break(places.len() as u64);
            }
        }
        for part in &parts {
            for place in part.find_iter(chunk) {
                if let Some((begin, name)) = name_around(chunk, at, place) {
                    places.insert(at + begin as u64, Cow::Owned(name));
                }
                if places.len() > MAX_PLACES {
                    return ControlFlow::Break(places.len() as u64);
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    match overflow {
        Some(found) => Err(ObjectError::TooLarge {
            what: "the list of places of wanted names in a string table",
            found,
            limit: MAX_PLACES as u64,
        }),
        None => Ok(places),
    }
}

/// Names by their last bytes. One pass finds all that end where a string does; a pass for each name takes a
/// hundred times as long.
struct NameEnds<'w> {
    /// How many bytes at the end are compared first: as many as the shortest name has, at most eight.
    tail: usize,
    by_tail: HashMap<u64, Vec<&'w str>>,
    /// Whether a name has this byte as its last one: a hostile table may have a string at each byte.
    is_last: [bool; 256],
}

impl<'w> NameEnds<'w> {
    fn of(names: impl Iterator<Item = &'w str> + Clone) -> Self {
        let tail = names.clone().map(str::len).min().unwrap_or(0).min(size_of::<u64>());
        let mut by_tail: HashMap<_, Vec<_>> = HashMap::new();
        let mut is_last = [false; 256];
        for name in names {
            let last = name.bytes().last().and_then(|last| is_last.get_mut(usize::from(last)));
            if let (Some(key), Some(is_last)) = (last_bytes(name.as_bytes(), tail), last) {
                by_tail.entry(key).or_default().push(name);
                *is_last = true;
            }
        }
        Self { tail, by_tail, is_last }
    }

    fn may_end_with(&self, last: Option<&u8>) -> bool {
        last.and_then(|last| self.is_last.get(usize::from(*last))) == Some(&true)
    }

    /// The names at the end of a text.
    fn at_end_of<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = &'w str> + use<'a, 'w> {
        let names = last_bytes(text, self.tail).and_then(|key| self.by_tail.get(&key));
        names.into_iter().flatten().copied().filter(|name| text.ends_with(name.as_bytes()))
    }
}

/// The last bytes of a text, at most eight, as one number. None if it is shorter.
fn last_bytes(text: &[u8], count: usize) -> Option<u64> {
    let last = text.get(text.len().checked_sub(count)?..)?;
    Some(last.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// The whole name around `place`, and where it starts, in a chunk that starts at `at`. None if the chunk does
/// not contain all of it: then the chunk before or after does.
fn name_around(chunk: &[u8], at: u64, place: usize) -> Option<(usize, String)> {
    let window = place.saturating_sub(MAX_AROUND);
    let begin = match memrchr(0, chunk.get(window..place)?) {
        Some(before) => window + before + 1,
        None if at == 0 && window == 0 => 0,
        None => return None,
    };
    let rest = chunk.get(begin..)?;
    let rest = rest.get(..rest.len().min(2 * MAX_AROUND))?;
    let name = std::str::from_utf8(rest.get(..memchr(0, rest)?)?).ok()?;
    Some((begin, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_where_strings_end() {
        let names = NameEnds::of(["read", "SSL_read", "a_longer_read", "x"].into_iter());
        let found = |text: &str| names.at_end_of(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(found("SSL_read"), ["read", "SSL_read"]);
        assert_eq!(found("x"), ["x"]);
        assert_eq!(found(""), [""; 0]);
        assert_eq!(found("reads"), [""; 0]);
        let names = NameEnds::of(["read", "SSL_read", "a_longer_read"].into_iter());
        let found = |text: &str| names.at_end_of(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(found("\0is_a_longer_read"), ["read", "a_longer_read"]);
        assert_eq!(found("ad"), [""; 0]);
        assert!(NameEnds::of(std::iter::empty()).at_end_of(b"read").next().is_none());
    }
}
