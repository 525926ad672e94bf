//! The loader's table (`PT_DYNAMIC`). Every dynamically linked file has it, even when its section headers
//! were stripped.

use std::ops::ControlFlow;

use object::LittleEndian as LE;
use object::elf::{self, Dyn64, Sym64};
use object::pod;

use super::header::Segments;
use super::reader::{FileRange, Reader};
use crate::elf::ObjectError;
use crate::elf::symbols::table::{MAX_SYMBOLS, SymbolTable};

/// Size limit of the table in bytes: 4096 entries. Large programs have a few dozen, mostly `DT_NEEDED`.
const MAX_DYNAMIC: u64 = 64 * 1024;
/// Length limit of a soname: `PATH_MAX`, because the loader makes a path of it.
const MAX_NAME: u64 = 4096;
/// Length limit of a list of directories. Some builds name one directory for each library.
const MAX_DIRECTORIES: u64 = 64 * 1024;

/// `DF_1_PIE` (elf.h).
const DF_1_PIE: u64 = 0x0800_0000;

/// The entries of the table that ctrace uses.
#[derive(Debug, Default)]
pub(in crate::elf) struct Dynamic {
    pub soname: Option<String>,
    pub needed: Vec<String>,
    /// `DT_RPATH`, as it is in the file.
    pub rpath: Option<String>,
    /// `DT_RUNPATH`, as it is in the file.
    pub runpath: Option<String>,
    /// Whether the file is an executable although it is linked like a library (`DF_1_PIE`).
    pub is_pie: bool,
    pub symbols: Option<SymbolTable>,
    /// The relocations of the PLT (`DT_JMPREL`).
    pub plt: Option<FileRange>,
    /// The other relocations (`DT_RELA`).
    pub relocations: Option<FileRange>,
}

#[derive(Default)]
struct Entries {
    strings: Option<u64>,
    strings_size: u64,
    symbols: Option<u64>,
    hash: Option<u64>,
    gnu_hash: Option<u64>,
    plt: Option<u64>,
    plt_size: u64,
    rela: Option<u64>,
    rela_size: u64,
    soname: Option<u64>,
    rpath: Option<u64>,
    runpath: Option<u64>,
    needed: Vec<u64>,
    flags: u64,
}

impl Dynamic {
    /// Reads the table. A static executable has none; the result is then empty.
    pub(in crate::elf) fn read(reader: &Reader, segments: &Segments) -> Result<Self, ObjectError> {
        let Some(extent) = segments.dynamic.filter(|extent| extent.length > 0) else {
            return Ok(Self::default());
        };
        let bytes = reader.bytes("the dynamic table", extent, MAX_DYNAMIC)?;
        let entries = Entries::new(&bytes);
        let strings = entries.strings.and_then(|address| segments.from(address));
        let Some(strings) = strings.map(|rest| rest.head(entries.strings_size)) else {
            return Ok(Self {
                is_pie: entries.is_pie(),
                relocations: entries.relocations(segments),
                ..Self::default()
            });
        };
        let name = |offset: &u64| string(reader, strings.tail(*offset).head(MAX_NAME));
        let directories = |offset: &u64| string(reader, strings.tail(*offset).head(MAX_DIRECTORIES));
        let symbols = match entries.symbols.and_then(|address| segments.from(address)) {
            Some(rest) => entries.count(reader, segments)?.map(|count| SymbolTable {
                symbols: rest.head(count.saturating_mul(size_of::<Sym64<LE>>() as u64)),
                strings,
                dynamic: true,
            }),
            None => None,
        };
        Ok(Self {
            is_pie: entries.is_pie(),
            relocations: entries.relocations(segments),
            soname: entries.soname.as_ref().map(name).transpose()?.flatten(),
            rpath: entries.rpath.as_ref().map(directories).transpose()?.flatten(),
            runpath: entries.runpath.as_ref().map(directories).transpose()?.flatten(),
            needed: entries
                .needed
                .iter()
                .filter_map(|offset| name(offset).transpose())
                .collect::<Result<_, _>>()?,
            symbols,
            plt: entries
                .plt
                .and_then(|address| segments.from(address))
                .map(|rest| rest.head(entries.plt_size)),
        })
    }
}

impl Entries {
    fn new(bytes: &[u8]) -> Self {
        let mut entries = Self::default();
        let mut plt_is_rela = false;
        let whole = bytes.len() / size_of::<Dyn64<LE>>();
        let (list, _) = pod::slice_from_bytes::<Dyn64<LE>>(bytes, whole).unwrap_or_default();
        for entry in list {
            let value = entry.d_val.get(LE);
            match entry.d_tag.get(LE) {
                elf::DT_NULL => break,
                elf::DT_STRTAB => entries.strings = Some(value),
                elf::DT_STRSZ => entries.strings_size = value,
                elf::DT_SYMTAB => entries.symbols = Some(value),
                elf::DT_HASH => entries.hash = Some(value),
                elf::DT_GNU_HASH => entries.gnu_hash = Some(value),
                elf::DT_JMPREL => entries.plt = Some(value),
                elf::DT_PLTRELSZ => entries.plt_size = value,
                elf::DT_PLTREL => plt_is_rela = i64::try_from(value) == Ok(elf::DT_RELA),
                elf::DT_RELA => entries.rela = Some(value),
                elf::DT_RELASZ => entries.rela_size = value,
                elf::DT_SONAME => entries.soname = Some(value),
                elf::DT_RPATH => entries.rpath = Some(value),
                elf::DT_RUNPATH => entries.runpath = Some(value),
                elf::DT_FLAGS_1 => entries.flags = value,
                elf::DT_NEEDED => entries.needed.push(value),
                _ => {}
            }
        }
        entries.plt = entries.plt.filter(|_| plt_is_rela);
        entries
    }

    fn is_pie(&self) -> bool {
        self.flags & DF_1_PIE != 0
    }

    fn relocations(&self, segments: &Segments) -> Option<FileRange> {
        self.rela.and_then(|address| segments.from(address)).map(|rest| rest.head(self.rela_size))
    }

    /// The number of dynamic symbols. No entry gives it directly; the hash tables imply it. Without a hash
    /// table there is no number, and the loader could not look anything up either.
    fn count(&self, reader: &Reader, segments: &Segments) -> Result<Option<u64>, ObjectError> {
        if let Some(rest) = self.gnu_hash.and_then(|address| segments.from(address)) {
            return gnu_count(reader, rest).map(Some);
        }
        // The table begins with nbucket and nchain; it has one chain entry per symbol.
        let Some(rest) = self.hash.and_then(|address| segments.from(address)) else {
            return Ok(None);
        };
        let words = reader.bytes("the hash table", rest.head(8), 8)?;
        limited(words.get(4..).map_or(0, word)).map(Some)
    }
}

/// Counts the symbols of a `DT_GNU_HASH` table: takes the highest bucket and follows its chain to the end.
fn gnu_count(reader: &Reader, table: FileRange) -> Result<u64, ObjectError> {
    const WHAT: &str = "the GNU hash table";
    let head = reader.bytes(WHAT, table.head(16), 16)?;
    let field = |n: usize| head.get(n * 4..).map_or(0, word);
    let (buckets, first, bloom) = (limited(field(0))?, limited(field(1))?, limited(field(2))?);
    let bucket_table = table.tail(16).tail(bloom * 8);
    let mut highest = 0;
    reader.chunks(WHAT, bucket_table.head(buckets * 4), (4, 0), |_, chunk| {
        highest = chunk.chunks_exact(4).map(word).fold(highest, u64::max);
        ControlFlow::<()>::Continue(())
    })?;
    let Some(index) = highest.checked_sub(first) else {
        return Ok(first);
    };
    limited(highest)?;
    let chain = bucket_table.tail(buckets * 4).tail(index * 4).head(MAX_SYMBOLS * 4);
    let end = reader.chunks(WHAT, chain, (4, 0), |at, chunk| {
        match chunk.chunks_exact(4).position(|entry| word(entry) & 1 != 0) {
            Some(n) => ControlFlow::Break(at / 4 + n as u64 + 1),
            None => ControlFlow::Continue(()),
        }
    })?;
    end.ok_or(ObjectError::Broken { what: "a chain of the GNU hash table has no end" })
        .and_then(|length| limited(highest + length))
}

fn limited(count: u64) -> Result<u64, ObjectError> {
    if count > MAX_SYMBOLS {
        return Err(ObjectError::TooLarge {
            what: "the dynamic symbol table",
            found: count,
            limit: MAX_SYMBOLS,
        });
    }
    Ok(count)
}

fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |word| u64::from(u32::from_le_bytes(*word)))
}

/// The text up to the first NUL; none if it has no NUL or is empty.
pub(in crate::elf) fn string(reader: &Reader, extent: FileRange) -> Result<Option<String>, ObjectError> {
    let bytes = reader.bytes("a name of the dynamic table", extent, MAX_DIRECTORIES)?;
    let end = memchr::memchr(0, &bytes).filter(|&end| end > 0);
    Ok(end.and_then(|end| bytes.get(..end)).map(|name| String::from_utf8_lossy(name).into_owned()))
}
