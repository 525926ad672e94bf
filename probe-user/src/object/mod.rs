//! Object: one real ELF file, parsed once.
//!
//! Owns reading ELF with limits, symbols, virtual address → file offset, and decoding instructions
//! where a probe goes. It never trusts a byte of the file: every read is bounded, nothing panics.

use serde::Serialize;

/// An offset in a file, where the kernel puts a uprobe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct FileOffset(pub u64);

/// A virtual address as in the file's symbols and program headers (before relocation).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct VirtAddr(pub u64);
