//! Connections: which one a call is of, when it opens and closes, and the socket that it is on.

pub mod hello;
pub mod identity;
pub mod lifecycle;
pub mod socket;
pub mod socket_address;
