//! Names of functions: tables of symbols, versions, demangling, and addresses back to names.

pub mod demangle;
pub(super) mod index;
pub(super) mod names;
pub(super) mod select;
pub(super) mod symbolize;
pub(super) mod table;
