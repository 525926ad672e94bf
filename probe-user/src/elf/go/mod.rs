//! Go: the tables of its runtime, which every Go binary contains, stripped or not.
//!
//! Finds the tables by their contents, without section names, and determines the Go version and the calling
//! convention. It never runs Go's own tools.

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

/// Limit of the bytes that are searched for the tables: the largest Go programs have about 200 MB of data.
const MAX_SEARCHED: u64 = 512 << 20;
/// Limit of the places that look like a table and are tried.
const MAX_CANDIDATES: usize = 64;
/// Limit of the tables with a valid header that are read: a program has one.
const MAX_TABLES: usize = 4;
/// Limit of the segments that are searched.
const MAX_SEGMENTS: usize = 64;

/// The calling convention of a Go function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GoAbi {
    /// Arguments in registers, from Go 1.17 on: RAX, RBX, RCX, RDI, RSI, R8, R9, R10, R11 for integers and
    /// pointers, X0 to X14 for floats; results use the same registers. A string takes two, a slice three, an
    /// interface two.
    Registers,
    /// Arguments on the stack: before Go 1.17, and for assembler functions that are marked so.
    Stack,
    /// Either of the two: an assembler function, or Go 1.16 or 1.17 without a version string.
    Unknown,
}

/// Go's tables in an object.
#[derive(Clone, Debug)]
pub struct Go {
    version: Option<GoVersion>,
    /// The oldest Go version that writes tables in this layout.
    layout: pclntab::Layout,
    pub(super) table: pclntab::PclnTable,
}

impl Go {
    /// The version, as the linker wrote it into the object.
    pub fn version(&self) -> Option<&GoVersion> {
        self.version.as_ref()
    }

    /// The calling convention of its functions, except for those written in assembler.
    pub fn abi(&self) -> GoAbi {
        match self.layout {
            pclntab::Layout::V12 => GoAbi::Stack,
            // The tables of Go 1.16 and 1.17 are the same, so the version decides.
            pclntab::Layout::V116 => match self.version.as_ref().and_then(|version| version.minor) {
                None => GoAbi::Unknown,
                Some(..17) => GoAbi::Stack,
                Some(17..) => GoAbi::Registers,
            },
            pclntab::Layout::V118 | pclntab::Layout::V120 => GoAbi::Registers,
        }
    }
}

/// Why the functions of a Go program could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum GoError {
    /// The file could not be read, or a part of it is larger than ctrace reads.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The object has Go's build information, but no valid table.
    #[error("it looks like a Go program{of}, but its table of functions (pclntab) is missing or damaged")]
    Damaged {
        /// The text ` of go1.24`, or empty if the version is unknown.
        of: String,
    },
    /// The table holds addresses that are valid only after relocation.
    #[error(
        "a position-independent Go program built before Go 1.18: its table of functions holds addresses that \
         only the loader fills in"
    )]
    Relocated,
    /// The address of the code could not be found.
    #[error("the start of the code of this Go program is unknown: no moduledata found")]
    NoText,
}

/// What the search of the file found.
#[derive(Debug, Default)]
struct Candidates {
    tables: Vec<pclntab::Head>,
    version: Option<GoVersion>,
}

impl Object {
    /// Finds Go's tables in this object. None if it contains no Go.
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

    /// Searches the loaded segments once, data first, because code rarely contains tables.
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
            // The linker places its own tables before anything that a program may embed.
            if !found.tables.is_empty() && found.version.is_some() {
                break;
            }
        }
        found.tables.truncate(MAX_CANDIDATES);
        Ok(found)
    }

    /// The eight bytes at this place as a number. None outside of the range.
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
