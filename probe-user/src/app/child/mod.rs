//! The command of `ctrace … -- COMMAND`: its process, the code that runs in it before the command, and how
//! its programs are held at their start.

pub(super) mod exec_hold;
pub(super) mod launcher;
pub(super) mod spawn;
