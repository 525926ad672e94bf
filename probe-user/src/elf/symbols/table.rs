//! Symbol tables, filtered while they are scanned: tables of 100 MB cost one pass and no memory.
//!
//! First the string table is searched for the wanted names: what remains is a small set of offsets.
//! Then a symbol is wanted if its name's offset is in the set; no other name is ever looked at.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;

use memchr::memmem::Finder;
use memchr::{memchr, memrchr};
use object::LittleEndian as LE;
use object::elf::{self, Sym64};
use object::pod;

use super::index::Binding;
use crate::elf::file::header::Segments;
use crate::elf::file::reader::{FileRange, Reader};
use crate::elf::{ObjectError, VirtAddr};

/// Entries of a symbol table: 240 MB, several times that of the largest browsers with `.symtab`.
pub(in crate::elf) const MAX_SYMBOLS: u64 = 10_000_000;
/// Bytes of `.dynstr`: large C++ libraries have 6 MB, Haskell programs that export all of themselves 37
/// (pandoc).
pub(in crate::elf) const MAX_DYNAMIC_STRINGS: u64 = 64 << 20;
/// Bytes of `.strtab`: unstripped browsers have about 150 MB.
pub(in crate::elf) const MAX_STRINGS: u64 = 256 << 20;
/// Bytes of one name: C++ and Rust mangle to some KiB at the most.
const MAX_NAME: usize = 64 * 1024;
/// Places of wanted names in one string table: linkers merge equal strings, so one each is usual.
const MAX_PLACES: usize = 4096;
/// Functions of one name: several only where libraries with equal names are linked into one file.
const MAX_SAME_NAME: usize = 16;

/// Bytes of a name that is wanted for what it contains, on each side of that.
const MAX_AROUND: usize = 512;

/// The names of the functions to look for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SymbolFilter {
    names: BTreeSet<String>,
    parts: BTreeSet<String>,
}

impl SymbolFilter {
    /// And all functions whose names contain one of these, which are not empty.
    #[must_use]
    pub fn or_containing<S: Into<String>>(mut self, parts: impl IntoIterator<Item = S>) -> Self {
        let parts = parts.into_iter().map(Into::into);
        self.parts.extend(parts.filter(|part: &String| !part.is_empty() && part.len() < MAX_AROUND));
        self
    }
}

impl<S: Into<String>> FromIterator<S> for SymbolFilter {
    /// Of these names; empty ones and those beyond 64 KiB, which no function has, are left out.
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        let names = names.into_iter().map(Into::into);
        let names = names.filter(|name: &String| !name.is_empty() && name.len() < MAX_NAME).collect();
        Self { names, parts: BTreeSet::new() }
    }
}

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its entry.
    pub address: VirtAddr,
    /// Bytes of its code; 0 when the file does not say.
    pub size: u64,
}

/// A symbol table with its strings.
#[derive(Clone, Copy, Debug)]
pub(in crate::elf) struct Table {
    pub symbols: FileRange,
    pub strings: FileRange,
    /// The loader's table, `.dynsym`.
    pub dynamic: bool,
}

impl Table {
    pub(in crate::elf) const fn name(&self) -> &'static str {
        if self.dynamic { ".dynsym" } else { ".symtab" }
    }
}

/// What was found in all tables.
#[derive(Debug, Default)]
pub(in crate::elf) struct Found {
    symbols: BTreeMap<String, Vec<(Binding, Symbol)>>,
    /// The numbers of the symbols in the loader's table, which relocations refer to.
    pub indices: HashMap<u32, String>,
}

impl Found {
    /// Global ones only, where there are some: a local function of the same name is a namesake.
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
        let known = list.iter_mut().find(|(_, known)| known.address == symbol.address);
        if let Some((known, _)) = known {
            *known = binding.max(*known);
        } else if list.len() < MAX_SAME_NAME {
            list.push((binding, symbol));
        }
    }
}

/// Adds the wanted functions of one table that are defined in executable code.
pub(in crate::elf) fn scan(
    reader: &Reader,
    segments: &Segments,
    table: &Table,
    wanted: &SymbolFilter,
    found: &mut Found,
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

/// The addresses of names of data or code, in one table; a name that several have is left out.
pub(in crate::elf) fn addresses(
    reader: &Reader,
    table: &Table,
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
            let known = found.entry(name.as_ref()).or_insert(Some(address));
            *known = known.filter(|known| *known == address);
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

/// Where wanted names are in the string table of a symbol table. Linkers merge strings by their ends,
/// so a name may begin in the middle of another one; a version (`@…`) may follow it.
fn places<'w>(
    reader: &Reader,
    table: &Table,
    wanted: &'w SymbolFilter,
) -> Result<HashMap<u64, Cow<'w, str>>, ObjectError> {
    let (what, limit, ends): (_, _, &[u8]) = if table.dynamic {
        ("the dynamic string table", MAX_DYNAMIC_STRINGS, b"\0")
    } else {
        ("the string table", MAX_STRINGS, b"\0@")
    };
    if table.strings.length > limit {
        return Err(ObjectError::TooLarge { what, found: table.strings.length, limit });
    }
    let names: Vec<(&str, Vec<u8>)> = wanted
        .names
        .iter()
        .flat_map(|name| ends.iter().map(move |end| (name.as_str(), [name.as_bytes(), &[*end]].concat())))
        .collect();
    let finders: Vec<_> = names.iter().map(|(name, text)| (*name, Finder::new(text))).collect();
    let parts: Vec<_> = wanted.parts.iter().map(Finder::new).collect();
    let around = if parts.is_empty() { 0 } else { 2 * MAX_AROUND as u64 };
    let overlap = names.iter().map(|(_, text)| text.len() as u64).max().unwrap_or(0).max(around);
    let mut places = HashMap::new();
    let overflow = reader.chunks(what, table.strings, (1, overlap), |at, chunk| {
        for (name, finder) in &finders {
            for place in finder.find_iter(chunk) {
                places.insert(at + place as u64, Cow::Borrowed(*name));
                if places.len() > MAX_PLACES {
                    return ControlFlow::Break(places.len() as u64);
                }
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

/// The whole name that has `place` inside, of a chunk that begins at `at`, and where it begins; none if it is
/// not all in the chunk: then it is in the one before or after it.
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
