//! Analyses code of files without symbols: a small abstract interpreter, and the searches that use it.
//!
//! It never guesses: what the instructions do not prove is unknown.

pub(super) mod abstract_state;
pub(super) mod arithmetic;
pub(super) mod data_flow;
pub(super) mod guarded_call;
pub(super) mod panic_locations;
pub(super) mod references;
pub(super) mod string_refs;
