//! ctrace shows what happens inside containers from the host: this library is everything but `main`.
//!
//! The nouns, in the order in which they are used (see ARCHITECTURE.md):
//!
//! [`target::Selector`] → [`target::Process`] → [`object::Object`] → [`plan::Hook`] → [`plan::Plan`] →
//! [`session::Session`], then bytes → [`decode`] → [`enrich`] → [`pipeline`] → [`sink`].
//!
//! Everything before `Session` is pure or only reads; everything after the bytes is pure too.

pub mod app;
pub mod cli;
pub mod decode;
pub mod discover;
pub mod enrich;
pub mod event;
pub mod explain;
pub mod hello;
#[cfg(test)]
mod noise;
pub mod object;
mod patience;
pub mod pipeline;
pub mod plan;
pub mod probe;
pub mod rootfs;
pub mod session;
pub mod sink;
pub mod stderr;
pub mod target;
