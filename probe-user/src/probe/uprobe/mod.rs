//! `ctrace uprobe`: calls of any function in any object, by name or address.
//!
//! Holds the patterns and the calling conventions. It reads files only through their [`crate::elf::Object`].

mod matching;
mod missing;
mod pattern;
mod reading;
mod usdt;

use std::collections::BTreeSet;

pub use crate::glob::Glob;
use std::path::Path;

use crate::elf::Object;
use crate::plan::return_probe::ReturnPolicy;
use crate::plan::value_type::Type;
pub use matching::hooks;
pub use missing::MissingFunction;
pub use pattern::{ObjectName, Pattern, PatternError, PatternPlace, UsdtPattern};
pub use reading::{Convention, Given};

/// What `ctrace uprobe` traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uprobe {
    /// The functions to trace.
    pub patterns: Vec<Pattern>,
    /// The USDT probes to trace.
    pub usdt: Vec<UsdtPattern>,
    /// What to report about calls.
    pub mode: Mode,
    /// How returns may be probed.
    pub returns: ReturnPolicy,
    /// Whether to report the call stack.
    pub stacks: Stacks,
    /// Limit of the bytes that are captured of a string, or of a buffer whose length is in an argument.
    pub max_bytes: u32,
    /// Limit of the functions that are probed.
    pub max_probes: usize,
}

/// What to report about calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every call, with its arguments.
    Calls,
    /// Every call when it returns, without its arguments.
    ReturnsOnly,
    /// The number of calls.
    Count,
    /// The duration of calls.
    Latency,
}

/// Whether to report the call stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stacks {
    /// No stack.
    Left,
    /// The call stack of every call.
    Captured,
}

/// The next step for the user when there is nothing to attach to.
pub const NEXT_STEP: &str = "A pattern is OBJECT:FUNCTION, such as 'libc.so.6:getaddrinfo'; OBJECT is a \
                             soname, a file name, or a path in the container, and is left out for the \
                             executable (':main'). `ctrace uprobe --list … 'OBJECT:*'` lists the functions; \
                             -v names each file that was inspected. Use --wait to wait for a program or \
                             library that is loaded later.";

impl Uprobe {
    /// Whether a pattern names this library, and not only matches it: `*` would mean every library there is.
    pub(super) fn names_library(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| match &pattern.object {
            ObjectName::Named(object) => !object.is_pattern() && object.text() == name,
            ObjectName::Executable => false,
        })
    }

    /// The patterns that are not among these, by their indices: those of functions, then those of USDT
    /// probes.
    pub fn others(&self, matched: &BTreeSet<usize>) -> Vec<String> {
        let texts = self.patterns.iter().map(|pattern| &pattern.text);
        let texts = texts.chain(self.usdt.iter().map(|pattern| &pattern.text)).enumerate();
        texts.filter(|(index, _)| !matched.contains(index)).map(|(_, text)| text.clone()).collect()
    }

    /// Whether a pattern names functions of an object at this path, for which its separate debug file is
    /// read.
    pub(super) fn needs_symbols(&self, object: &Object, path: &Path) -> bool {
        matching::needs_symbols(self, object, path)
    }

    /// Whether a pattern needs the return of calls, and the type of the returned value.
    fn returned(&self, pattern: &Pattern) -> Option<Type> {
        match self.mode {
            Mode::Count => None,
            Mode::Calls => pattern.returned,
            Mode::ReturnsOnly | Mode::Latency => Some(pattern.returned.unwrap_or(Type::Skip)),
        }
    }
}
