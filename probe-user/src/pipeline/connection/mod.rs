//! Connections: the details of each, its handshake, its open and its close.

pub(super) mod cleartext;
pub(super) mod handshake;
pub(super) mod lifecycle;
mod shared;
pub(super) mod table;
pub(super) mod unattributed;
