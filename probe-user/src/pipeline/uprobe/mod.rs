//! Calls of functions: joins entries and returns, and reports the kernel's counters.

pub(super) mod calls;
pub(super) mod counters;
pub(super) mod unread;
