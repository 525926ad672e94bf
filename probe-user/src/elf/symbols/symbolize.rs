//! Names for addresses of a user's stack.
//!
//! Owns one object's functions and the names that were asked for. It never maps a file into memory, because a
//! file of a container that shrinks would then end ctrace; well-kept symbolizer crates do, so it is its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::index::Index;
use crate::elf::{FileOffset, Object, ObjectError, VirtAddr};

/// Names that are remembered.
const MAX_NAMES: usize = 16 * 1024;
/// Bytes of a name that is shown: of longer ones, which templates make, the beginning.
const MAX_SHOWN: usize = 1024;

/// An address by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SymbolizedFrame {
    /// The function, demangled.
    pub function: Arc<str>,
    /// Bytes after its entry.
    pub offset: u64,
}

/// The functions of one file.
#[derive(Debug)]
pub struct ObjectSymbolizer {
    object: Object,
    index: Index,
    names: RefCell<HashMap<VirtAddr, Option<Arc<str>>>>,
}

impl ObjectSymbolizer {
    /// Reads the tables of a file. Names are read when they are asked for: the file stays open.
    pub fn new(object: Object) -> Result<Self, ObjectError> {
        let index = object.index()?;
        Ok(Self { object, index, names: RefCell::default() })
    }

    /// The function that has a byte of the file inside; none if no table names one.
    ///
    /// The return address of a call is what follows it, which can be another function: ask for the byte
    /// before.
    pub fn at_offset(&self, offset: FileOffset) -> Option<SymbolizedFrame> {
        self.at(self.object.address(offset)?)
    }

    /// The function that has an address of the file (before relocation) inside.
    pub fn at(&self, address: VirtAddr) -> Option<SymbolizedFrame> {
        let found = self.index.at(address)?;
        let known = self.names.borrow().get(&found.address).cloned();
        let function = match known {
            Some(known) => known,
            None => self.read(found.address),
        };
        Some(SymbolizedFrame { function: function?, offset: found.offset })
    }

    /// The functions.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The file.
    pub fn object(&self) -> &Object {
        &self.object
    }

    fn read(&self, entry: VirtAddr) -> Option<Arc<str>> {
        let function = self.index.function_at(&self.object, entry);
        let name = function.as_ref().map(|function| cut(function.shown())).filter(|name| !name.is_empty());
        let name: Option<Arc<str>> = name.map(Arc::from);
        let mut names = self.names.borrow_mut();
        if names.len() >= MAX_NAMES {
            names.clear();
        }
        names.insert(entry, name.clone());
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
        let outer =
            symbolizer.index().select(symbolizer.object(), 1, |name| name.is("outer")).unwrap().remove(0);
        for _ in 0..2 {
            let found = symbolizer.at(VirtAddr(outer.address.0 + 3)).unwrap();
            assert_eq!((&*found.function, found.offset), ("outer", 3));
        }
        let offset = symbolizer.object().file_offset(outer.address).unwrap();
        assert_eq!(symbolizer.at_offset(offset).unwrap().offset, 0);
        assert_eq!(symbolizer.at_offset(FileOffset(u64::MAX)), None);
        assert_eq!(symbolizer.at(VirtAddr(0)), None);
        // The file shrinks: what was read stays, what was not is unknown.
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
            .select(symbolizer.object(), 1, |found| found.raw().contains("own_functions") && found.is(name))
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
