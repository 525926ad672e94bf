//! Calls of functions: entries and returns joined, and what was counted in the kernel.

pub(super) mod calls;
pub(super) mod counters;
