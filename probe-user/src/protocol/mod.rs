//! Protocols: what the bytes of a connection mean. Pure; every parser has limits.

mod input;
pub mod tls;

pub use input::{CallMark, Chunk, Gap, GapCause, Input};
