//! Connections: which one a call belongs to, when it is opened and closed, and which socket it uses.

pub mod hello;
pub mod identity;
pub mod lifecycle;
pub mod socket;
pub mod socket_address;
mod unattributed;
