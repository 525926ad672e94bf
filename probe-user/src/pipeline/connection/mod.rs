//! Connections: what is known of each, its handshake, its beginning and end.

pub(super) mod handshake;
pub(super) mod lifecycle;
pub(super) mod table;
