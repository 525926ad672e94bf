//! Separate debug files: a file's symbols, which were stripped from it, in another file.
//!
//! Owns the proof that such a file belongs to an object. It may be as hostile as any other, and it names
//! places in an object that other containers use, too: so a symbol of it counts only where the object's own
//! unwind table says that a function begins.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::table::SymbolTable;
use crate::elf::file::header::ElfHeader;
use crate::elf::file::note;
use crate::elf::file::reader::{FileRange, Reader};
use crate::elf::file::section::Sections;
use crate::elf::{Object, ObjectError};

/// Size limit of a debug file whose checksum has to be computed, because the object has no build id.
const MAX_CHECKED: u64 = 1 << 30;
/// Where debug files of the whole system are, on all distributions.
const SYSTEM: &str = "/usr/lib/debug";

/// What an object says about its debug file (`.gnu_debuglink`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::elf) struct DebugLink {
    name: String,
    checksum: u32,
}

impl DebugLink {
    /// Parses the section: a file name that ends with a NUL, padding, and a checksum. A name with a directory
    /// in it is refused, because it is to be searched in certain directories only.
    pub(in crate::elf) fn parse(section: &[u8]) -> Option<Self> {
        let name = section.get(..memchr::memchr(0, section)?)?;
        let at = (name.len() + 1).checked_next_multiple_of(4)?;
        let checksum = u32::from_le_bytes(*section.get(at..)?.first_chunk()?);
        let name = std::str::from_utf8(name).ok()?;
        let mut parts = Path::new(name).components();
        let is_file = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        (is_file && !name.contains('/')).then(|| Self { name: name.to_owned(), checksum })
    }
}

/// Why a file is not the debug file of an object.
#[derive(Debug, thiserror::Error)]
pub enum DebugFileError {
    /// It cannot be read.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// It has no symbol table.
    #[error("it has no symbols")]
    NoSymbols,
    /// Its build id is another one.
    #[error("it belongs to another build of the file (its build id is {found})")]
    BuildId {
        /// Its build id.
        found: String,
    },
    /// It has not the checksum that the object names.
    #[error("it belongs to another build of the file (its checksum is {found:#010x})")]
    Checksum {
        /// Its checksum.
        found: u32,
    },
    /// Nothing proves that it belongs to the object.
    #[error("nothing shows that it belongs to the file: it has no build id")]
    Unproven,
}

/// A debug file that belongs to an object.
#[derive(Clone, Debug)]
pub struct DebugFile {
    pub(in crate::elf) reader: Arc<Reader>,
    pub(in crate::elf) symbols: SymbolTable,
}

/// The separate debug file of an object.
#[derive(Clone, Debug, Default)]
pub enum DebugSearch {
    /// It was not searched for.
    #[default]
    NotSearched,
    /// It was found in this file.
    Found(String, DebugFile),
    /// It was not found in these places, some with the reason.
    Missing(Vec<String>),
}

impl Object {
    /// Whether symbols may be in a separate file: the object itself has only those of the loader.
    pub fn is_stripped(&self) -> bool {
        self.tables.iter().all(|table| table.dynamic)
    }

    /// Where the debug file of this object may be, if the object is at `path`: by its build id, and by the
    /// name that it gives. The first does not depend on `path`.
    pub fn debug_file_paths(&self, path: &Path) -> (Option<PathBuf>, Vec<PathBuf>) {
        let by_build_id = self.build_id.as_deref().and_then(|id| {
            let (directory, file) = id.split_at_checked(2).filter(|(_, file)| !file.is_empty())?;
            Some(Path::new(SYSTEM).join(format!(".build-id/{directory}/{file}.debug")))
        });
        let by_name = self.debug_link.iter().filter_map(|link| {
            let directory = path.parent()?;
            let below = directory.strip_prefix("/").ok()?;
            let system = Path::new(SYSTEM).join(below).join(&link.name);
            Some([directory.join(&link.name), directory.join(".debug").join(&link.name), system])
        });
        (by_build_id, by_name.flatten().filter(|found| found != path).collect())
    }

    /// Checks that a file of `size` bytes is the debug file of this object.
    pub fn debug_file(&self, file: File, size: u64) -> Result<DebugFile, DebugFileError> {
        let reader = Reader::new(file, size);
        let sections = Sections::read(&reader, &ElfHeader::read(&reader)?)?;
        match (&self.build_id, &self.debug_link) {
            (Some(own), _) => match sections.build_id.and_then(|range| note::in_range(&reader, range)) {
                Some(found) if found == *own => {}
                Some(found) => return Err(DebugFileError::BuildId { found }),
                None => return Err(DebugFileError::Unproven),
            },
            (None, Some(link)) => {
                let found = checksum(&reader)?;
                if found != link.checksum {
                    return Err(DebugFileError::Checksum { found });
                }
            }
            (None, None) => return Err(DebugFileError::Unproven),
        }
        let symbols = sections.symbols.ok_or(DebugFileError::NoSymbols)?;
        Ok(DebugFile { reader: Arc::new(reader), symbols })
    }

    /// The same object with the outcome of the search for its debug file.
    #[must_use]
    pub fn with_debug_search(self, debug: DebugSearch) -> Self {
        Self { debug, ..self }
    }

    /// The outcome of the search for its debug file.
    pub fn debug_search(&self) -> &DebugSearch {
        &self.debug
    }

    /// The addresses at which functions begin, according to the unwind table of the object itself.
    pub(in crate::elf) fn framed_starts(&self) -> Result<BTreeSet<u64>, ObjectError> {
        self.frames()?.frame_starts()
    }
}

/// The checksum of a whole file, as `.gnu_debuglink` has it: the CRC-32 of zlib.
fn checksum(reader: &Reader) -> Result<u32, ObjectError> {
    let whole = FileRange { offset: 0, length: reader.size() };
    if whole.length > MAX_CHECKED {
        return Err(ObjectError::TooLarge {
            what: "the debug file",
            found: whole.length,
            limit: MAX_CHECKED,
        });
    }
    let mut hasher = crc32fast::Hasher::new();
    reader.chunks("the debug file", whole, (1, 0), |_, chunk| {
        hasher.update(chunk);
        ControlFlow::<()>::Continue(())
    })?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::process::Command;

    use super::*;
    use crate::elf::SymbolFilter;

    const SOURCE: &str = "__attribute__((noinline)) int inner_sum(int a, int b) { __asm__ volatile(\"\"); \
                          return a + b; }\nint main(int c, char **v) { return inner_sum(c, 1); }\n";

    /// A stripped program, and its debug file beside it.
    fn stripped(directory: &Path, flags: &[&str]) -> (PathBuf, PathBuf) {
        let at = |name: &str| directory.join(name);
        std::fs::write(at("p.c"), SOURCE).unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let status = Command::new(program).current_dir(directory).args(arguments).status().unwrap();
            assert!(status.success(), "{program} {arguments:?}");
        };
        run("cc", &[&["-O1", "p.c", "-o", "p"], flags].concat());
        run("objcopy", &["--only-keep-debug", "p", "p.debug"]);
        run("strip", &["p"]);
        run("objcopy", &["--add-gnu-debuglink=p.debug", "p"]);
        (at("p"), at("p.debug"))
    }

    fn parse(path: &Path) -> Object {
        let file = File::open(path).unwrap();
        let size = file.metadata().unwrap().len();
        Object::parse(file, size, &SymbolFilter::default()).unwrap()
    }

    fn debug_file(object: &Object, path: &Path) -> Result<DebugFile, DebugFileError> {
        let file = File::open(path).unwrap();
        let size = file.metadata().unwrap().len();
        object.debug_file(file, size)
    }

    fn has_inner_sum(object: &Object) -> bool {
        let index = object.index().unwrap();
        let found = index.select(10, |name| name.is("inner_sum")).unwrap();
        found.iter().any(|function| function.address.0 != 0)
    }

    #[test]
    fn a_debug_file_gives_a_stripped_object_its_functions() {
        for flags in [&["-Wl,--build-id=sha1"][..], &["-Wl,--build-id=none"], &["-Wl,--build-id=0x1234"]] {
            let directory = tempfile::tempdir().unwrap();
            let (program, debug) = stripped(directory.path(), flags);
            let object = parse(&program);
            assert!(object.is_stripped() && !has_inner_sum(&object), "{flags:?}");
            let (by_build_id, by_name) = object.debug_file_paths(&program);
            assert!(by_name.contains(&debug), "{flags:?}: {by_name:?}");
            assert_eq!(by_build_id.is_some(), !flags.concat().contains("none"), "{by_build_id:?}");
            let found = debug_file(&object, &debug).unwrap();
            let object = object.with_debug_search(DebugSearch::Found(String::new(), found));
            assert!(has_inner_sum(&object), "{flags:?}");
        }
    }

    #[test]
    fn a_file_of_another_build_is_refused() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (program, own) = stripped(first.path(), &["-Wl,--build-id=sha1"]);
        let (other, foreign) = stripped(second.path(), &["-Wl,--build-id=none", "-O0"]);
        let (with_id, with_sum) = (parse(&program), parse(&other));
        let error = |object: &Object, path: &Path| debug_file(object, path).unwrap_err().to_string();
        assert!(error(&with_id, &foreign).contains("no build id"));
        assert!(error(&with_sum, &own).contains("checksum"), "{}", error(&with_sum, &own));
        assert!(error(&with_id, &program).contains("no symbols"));
        let mut bytes = std::fs::read(&own).unwrap();
        bytes.truncate(100);
        std::fs::write(&own, bytes).unwrap();
        assert!(debug_file(&with_id, &own).is_err());
    }

    /// The debug file may come from a container, and its object may be used by others.
    #[test]
    fn a_symbol_inside_of_a_function_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let (program, debug) = stripped(directory.path(), &["-Wl,--build-id=0x1234"]);
        let object = parse(&program);
        let moved = directory.path().join("moved.debug");
        let status = Command::new("objcopy")
            .args(["--add-symbol", "planted=.text:0x1,function,global"])
            .args([&debug, &moved])
            .status()
            .unwrap();
        assert!(status.success());
        let found = debug_file(&object, &moved).unwrap();
        let object = object.with_debug_search(DebugSearch::Found(String::new(), found));
        let index = object.index().unwrap();
        let planted = index.select(10, |name| name.is("planted")).unwrap();
        assert!(planted.is_empty() && has_inner_sum(&object), "{planted:?}");
    }

    #[test]
    fn links_with_directories_are_refused() {
        let link = |name: &[u8]| {
            let mut section = [name, b"\0"].concat();
            section.resize(section.len().next_multiple_of(4), 0);
            section.extend(7_u32.to_le_bytes());
            DebugLink::parse(&section)
        };
        assert_eq!(link(b"p.debug"), Some(DebugLink { name: "p.debug".to_owned(), checksum: 7 }));
        for wrong in [&b""[..], b"..", b".", b"/etc/passwd", b"../x", b"a/b", b"a/", b"\xff"] {
            assert_eq!(link(wrong), None, "{wrong:?}");
        }
        for junk in [&b"abc"[..], b"abc\0", b"abc\0\x01\x02", b""] {
            assert_eq!(DebugLink::parse(junk), None, "{junk:?}");
        }
    }
}
