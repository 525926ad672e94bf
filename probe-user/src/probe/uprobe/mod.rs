//! Any function of any object, by name or address: which functions are meant, and what is read of their
//! calls.
//!
//! Owns the patterns and the calling conventions. It never reads a file except through its
//! [`crate::elf::Object`].

mod glob;
mod matching;
mod pattern;
mod reading;
mod usdt;

use crate::plan::value_type::Type;
pub use glob::Glob;
pub use matching::hooks;
pub use pattern::{ObjectName, Pattern, PatternError, Place, UsdtPattern};
pub use reading::{Convention, Given};

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uprobe {
    /// Functions.
    pub patterns: Vec<Pattern>,
    /// USDT probes.
    pub usdt: Vec<UsdtPattern>,
    /// What is told of calls.
    pub mode: Mode,
    /// Whether it is told where calls come from.
    pub stacks: Stacks,
    /// Bytes that are captured of a text, or of bytes whose number an argument says.
    pub max_bytes: u32,
    /// Functions that are probed at the most.
    pub max_probes: usize,
}

/// What is told of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each, with its arguments.
    Calls,
    /// Each, when it has returned, without its arguments.
    ReturnsOnly,
    /// How many there are.
    Count,
    /// How long they take.
    Latency,
}

/// Whether it is told where calls come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stacks {
    /// It is not.
    Left,
    /// It is.
    Captured,
}

/// What to do when there is nothing to attach to.
pub const NEXT_STEP: &str = "A pattern is OBJECT:FUNCTION, such as 'libc.so.6:getaddrinfo'; OBJECT is a \
 soname, a file name, or a path \
     in the container, and is left out for the executable (':main'). `ctrace uprobe --list … 'OBJECT:*'` \
     tells what is there; \
     -v names each file that was looked into. If the program is started, or the library loaded, later, run with --wait.";

impl Uprobe {
    /// Whether returns are joined to entries for a pattern, and with what type.
    fn returned(&self, pattern: &Pattern) -> Option<Type> {
        match self.mode {
            Mode::Count => None,
            Mode::Calls => pattern.returned,
            Mode::ReturnsOnly | Mode::Latency => Some(pattern.returned.unwrap_or(Type::Skip)),
        }
    }
}
