//! Where functions begin and end, from tables for unwinding and from the code itself.

pub(super) mod call_targets;
pub(super) mod eh_frame;
pub(super) mod noreturn;
