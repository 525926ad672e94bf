//! What code does, for files without symbols: a small abstract interpreter and what is found with it.
//!
//! Never guesses: what is not proven by the instructions is unknown.

pub(super) mod abstract_state;
pub(super) mod arithmetic;
pub(super) mod data_flow;
pub(super) mod guarded_call;
pub(super) mod panic_locations;
pub(super) mod references;
pub(super) mod string_refs;
