//! Calls that transfer bytes, with one file for each kind of interface that libraries have.

pub mod borrowed;
pub mod call;
pub mod callback;
pub mod cleartext;
pub mod entry_only;
pub mod frame;
pub mod go;
pub mod iovec;
