//! TLS itself, as far as it is in the clear: ClientHello and ServerHello.

pub mod cursor;
pub mod hello;
