//! ctrace shows what happens inside containers from the host: this library is everything but `main`.
//!
//! The nouns, in the order in which they are used (see ARCHITECTURE.md):
//!
//! [`target::Selector`] → [`target::Process`] → [`object::RefCounted`] → [`plan::Hook`] → [`plan::Plan`] →
//! [`session::Session`], then bytes → [`decode`] → [`enrich`] → [`pipeline`] → [`sink`].
//!
//! Everything before `Session` is pure or only reads; everything after the bytes is pure too.

pub mod app;
pub mod bpf;
pub mod cli;
pub mod decode;
pub mod diagnose;
pub mod discovery;
pub mod elf;
pub mod enrich;
pub mod event;
pub mod hello;
pub mod output;
pub mod pipeline;
pub mod plan;
pub mod probe;
pub mod rootfs;
pub mod scope;
pub mod stderr;
#[cfg(test)]
mod test_rng;
mod timeout;
