//! The command of `ctrace … -- COMMAND`: its process, and the code that runs in it before the command.

pub(super) mod launcher;
pub(super) mod spawn;
