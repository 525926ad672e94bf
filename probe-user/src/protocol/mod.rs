//! Protocols: what the bytes of a connection mean. Pure; every parser has limits.

pub mod tls;
