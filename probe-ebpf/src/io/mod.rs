//! Calls that move bytes, one file for each way in which libraries take them.

pub mod borrowed;
pub mod call;
pub mod callback;
pub mod entry_only;
pub mod frame;
pub mod go;
pub mod iovec;
