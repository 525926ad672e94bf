//! The file's own structures: headers, sections, segments, relocations, notes. Every size has a limit.

pub(super) mod dynamic;
pub(super) mod header;
pub(super) mod note;
pub(super) mod parts;
pub(super) mod reader;
pub(super) mod relocation;
pub(super) mod rodata;
pub(super) mod section;
