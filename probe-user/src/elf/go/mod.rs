//! Go: what its runtime knows of itself, which is in every binary, stripped or not.
//!
//! Owns finding the tables by their contents (no section name is needed), the version, and by which rules
//! functions get their arguments. It never runs Go's tools.

mod entry;
mod moduledata;
mod pclntab;
#[cfg(test)]
mod tests;
mod version;

use std::ops::ControlFlow;

use memchr::memmem::Finder;
use serde::Serialize;

use super::file::reader::FileRange;
use super::{Object, ObjectError};

pub(super) use entry::after_stack_check;
pub use version::GoVersion;

/// Bytes that are searched for the tables: the data of the largest Go programs have about 200 MB.
const MAX_SEARCHED: u64 = 512 << 20;
/// Places that look like a table and are tried.
const MAX_CANDIDATES: usize = 64;
/// Tables that begin well and are looked into: a program has one.
const MAX_TABLES: usize = 4;
/// Segments that are searched.
const MAX_SEGMENTS: usize = 64;

/// How functions of Go get their arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GoAbi {
    /// In registers, from Go 1.17 on: RAX, RBX, RCX, RDI, RSI, R8, R9, R10, R11 for integers and pointers, X0
    /// to X14 for floats; results in the same. A string is two of them, a slice three, an interface two.
    Registers,
    /// On the stack: before Go 1.17, and assembler functions that are marked so.
    Stack,
    /// One of the two: an assembler function, or a version between 1.16 and 1.17 that does not say its name.
    Unknown,
}

/// What is known of an object with Go in it.
#[derive(Clone, Debug)]
pub struct Go {
    version: Option<GoVersion>,
    /// The oldest version that writes such tables.
    layout: pclntab::Layout,
    pub(super) table: pclntab::Table,
}

impl Go {
    /// As the linker wrote it into the object.
    pub fn version(&self) -> Option<&GoVersion> {
        self.version.as_ref()
    }

    /// How its functions get their arguments, unless they are written in assembler.
    pub fn abi(&self) -> GoAbi {
        match self.layout {
            pclntab::Layout::V12 => GoAbi::Stack,
            // Go 1.16 and 1.17 write the same table.
            pclntab::Layout::V116 => match self.version.as_ref().and_then(|version| version.minor) {
                None => GoAbi::Unknown,
                Some(..17) => GoAbi::Stack,
                Some(17..) => GoAbi::Registers,
            },
            pclntab::Layout::V118 | pclntab::Layout::V120 => GoAbi::Registers,
        }
    }
}

/// Why the functions of an object with Go in it are not known.
#[derive(Debug, thiserror::Error)]
pub enum GoError {
    /// The file could not be read, or has more than ctrace reads.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// There is something like it only.
    #[error("it looks like a Go program{of}, but its table of functions (pclntab) is missing or damaged")]
    Damaged {
        /// ` of go1.24`, when that is known.
        of: String,
    },
    /// Addresses are not in the file.
    #[error(
        "a Go program of a version before 1.18 at no fixed address: its table of functions has addresses \
         that \
         only the loader knows"
    )]
    Relocated,
    /// The address of the code is not known.
    #[error("where the code of this Go program begins could not be told (no moduledata found)")]
    NoText,
}

/// Places in the file that may be what is looked for.
#[derive(Debug, Default)]
struct Candidates {
    tables: Vec<pclntab::Head>,
    version: Option<GoVersion>,
}

impl Object {
    /// The Go in this object; none if there is none.
    pub fn go(&self) -> Result<Option<Go>, GoError> {
        let found = self.go_candidates()?;
        let of =
            || found.version.as_ref().map_or_else(String::new, |version| format!(" of {}", version.text));
        let mut reason = None;
        for head in found.tables.iter().take(MAX_TABLES) {
            match self.go_table(head) {
                Ok(Some(table)) => {
                    return Ok(Some(Go { version: found.version, layout: head.layout, table }));
                }
                Ok(None) => {}
                Err(error) => reason = reason.or(Some(error)),
            }
        }
        match reason {
            Some(error) => Err(error),
            None if found.version.is_some() => Err(GoError::Damaged { of: of() }),
            None => Ok(None),
        }
    }

    /// One pass over what is loaded: data first, because code seldom has tables in it.
    fn go_candidates(&self) -> Result<Candidates, ObjectError> {
        let table = Finder::new(pclntab::MAGIC_END);
        let build_info = Finder::new(version::MAGIC);
        let overlap = version::MAGIC.len().max(pclntab::MAGIC_END.len()) as u64;
        let mut found = Candidates::default();
        let mut left = MAX_SEARCHED;
        for load in self.segments.data_first().into_iter().take(MAX_SEGMENTS) {
            let extent = load.extent.head(left);
            left -= extent.length;
            let mut places: Vec<(u64, What)> = Vec::new();
            self.reader.chunks("data of the program", extent, (1, overlap), |at, chunk| {
                let tables = table.find_iter(chunk).filter_map(|place| place.checked_sub(1));
                places.extend(tables.map(|place| (at + place as u64, What::Table)));
                places.extend(build_info.find_iter(chunk).map(|place| (at + place as u64, What::BuildInfo)));
                if places.len() < MAX_CANDIDATES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            places.sort_unstable();
            places.dedup();
            places.truncate(MAX_CANDIDATES);
            for (place, what) in places {
                let rest = load.extent.tail(place);
                match what {
                    What::Table => found.tables.extend(self.go_head(rest, load.address + place)),
                    What::BuildInfo => found.version = found.version.or_else(|| self.go_version(rest)),
                }
            }
            // The tables that the linker writes come before anything that a program may embed.
            if !found.tables.is_empty() && found.version.is_some() {
                break;
            }
        }
        found.tables.truncate(MAX_CANDIDATES);
        Ok(found)
    }

    /// Eight bytes of the file as a number; none outside of the extent.
    fn word(&self, extent: FileRange, at: u64) -> Option<u64> {
        let bytes = self.reader.bytes("a word", extent.tail(at).head(8), 8).ok()?;
        bytes.first_chunk().map(|word| u64::from_le_bytes(*word))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Table,
    BuildInfo,
}
