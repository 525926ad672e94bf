//! Function bounds, from the unwind tables and from the code itself.

pub(super) mod call_targets;
pub(super) mod callers;
pub(super) mod eh_frame;
pub(super) mod noreturn;
