//! The command of `ctrace … -- COMMAND`: its process, and what runs in that before the command does.

pub(super) mod launcher;
pub(super) mod spawn;
