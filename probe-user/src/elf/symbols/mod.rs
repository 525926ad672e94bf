//! Function names: symbol tables, versions, demangling, and symbolization of addresses.

pub mod debug_file;
pub mod demangle;
pub(super) mod index;
pub(super) mod names;
pub(super) mod select;
pub(super) mod symbolize;
pub(super) mod table;
