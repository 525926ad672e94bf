//! Function names for addresses of a user-space stack.
//!
//! Holds the functions of one object and the names that were resolved so far. Unlike the usual symbolizer
//! crates, it never maps a file into memory: a container's file that shrinks would then kill ctrace.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::index::Index;
use crate::elf::{FileOffset, Object, ObjectError, VirtAddr};

/// How many names are cached.
const MAX_NAMES: NonZeroUsize = NonZeroUsize::new(16 * 1024).unwrap();
/// Longest name that is shown, in bytes. Longer ones, which templates produce, are cut.
const MAX_SHOWN: usize = 1024;

/// An address as a function name and an offset.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SymbolizedFrame {
    /// The demangled name of the function.
    pub function: Arc<str>,
    /// The distance from its entry in bytes.
    pub offset: u64,
}

/// Symbolizes the addresses of one file.
#[derive(Debug)]
pub struct ObjectSymbolizer {
    object: Object,
    index: Index,
    names: RefCell<LruCache<VirtAddr, Option<Arc<str>>>>,
}

impl ObjectSymbolizer {
    /// Reads the tables of a file. It stays open, because names are read on demand.
    pub fn new(object: Object) -> Result<Self, ObjectError> {
        let index = object.index()?;
        Ok(Self { object, index, names: RefCell::new(LruCache::sparse(MAX_NAMES)) })
    }

    /// The function that contains a byte of the file. None if no table names one.
    ///
    /// For a return address, pass the byte before it: the return address follows the call, and may already
    /// belong to another function.
    pub fn at_offset(&self, offset: FileOffset) -> Option<SymbolizedFrame> {
        self.at(self.object.address(offset)?)
    }

    /// The function that contains an address of the file (before relocation).
    pub fn at(&self, address: VirtAddr) -> Option<SymbolizedFrame> {
        let found = self.index.at(address)?;
        let cached = self.names.borrow_mut().get(&found.address).cloned();
        let function = match cached {
            Some(name) => name,
            None => self.read(found.address),
        };
        Some(SymbolizedFrame { function: function?, offset: found.offset })
    }

    /// All functions of the file.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The file itself.
    pub fn object(&self) -> &Object {
        &self.object
    }

    fn read(&self, entry: VirtAddr) -> Option<Arc<str>> {
        let function = self.index.function_at(entry);
        let name = function.as_ref().map(|function| cut(function.shown())).filter(|name| !name.is_empty());
        let name: Option<Arc<str>> = name.map(Arc::from);
        self.names.borrow_mut().put(entry, name.clone());
        name
    }
}

fn cut(name: &str) -> &str {
    let end = (0..=MAX_SHOWN.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    name.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a panic fails the test")]

    use std::fs::OpenOptions;

    use super::{ObjectSymbolizer, cut};
    use crate::elf::fixture::{compile, parse};
    use crate::elf::{FileOffset, SymbolFilter, VirtAddr};

    #[test]
    fn addresses_have_names() {
        let directory = compile(
            "int inner(int n) { return n * 3; } int outer(int n) { return inner(n) + 1; }",
            &["-shared"],
        );
        let path = directory.path().join("fixture");
        let symbolizer = ObjectSymbolizer::new(parse(&path, &SymbolFilter::default()).unwrap()).unwrap();
        let outer = symbolizer.index().select(1, |name| name.is("outer")).unwrap().remove(0);
        for _ in 0..2 {
            let found = symbolizer.at(VirtAddr(outer.address.0 + 3)).unwrap();
            assert_eq!((&*found.function, found.offset), ("outer", 3));
        }
        let offset = symbolizer.object().file_offset(outer.address).unwrap();
        assert_eq!(symbolizer.at_offset(offset).unwrap().offset, 0);
        assert_eq!(symbolizer.at_offset(FileOffset(u64::MAX)), None);
        assert_eq!(symbolizer.at(VirtAddr(0)), None);
        // The file shrinks: cached names stay, others are unknown.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(64).unwrap();
        assert!(symbolizer.at(outer.address).is_some());
        let inner = symbolizer.index().at(VirtAddr(outer.address.0 - 16)).unwrap().address;
        assert_eq!(symbolizer.at(inner), None);
    }

    #[test]
    fn own_functions_have_names() {
        let object = parse("/proc/self/exe".as_ref(), &SymbolFilter::default()).unwrap();
        let symbolizer = ObjectSymbolizer::new(object).unwrap();
        let name = "ctrace::elf::symbols::symbolize::tests::own_functions_have_names";
        let mine = symbolizer
            .index()
            .select(1, |found| found.raw().contains("own_functions") && found.is(name))
            .unwrap()
            .remove(0);
        assert_eq!(&*symbolizer.at(VirtAddr(mine.address.0 + 5)).unwrap().function, name);
    }

    #[test]
    fn long_names_are_cut_between_letters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"ä".repeat(1000)).len(), 1024);
        assert_eq!(cut(&format!("a{}", "ä".repeat(1000))).len(), 1023);
    }
}
