//! ctrace shows what happens inside containers, from the host. This library is everything except `main`.
//!
//! The nouns, in the order in which they are used (see ARCHITECTURE.md):
//!
//! [`scope::Selector`] → [`scope::Process`] → [`elf::Object`] → [`plan::Hook`] → [`plan::Plan`] →
//! [`bpf::Session`], then bytes → [`decode`] → [`pipeline`] (with the details from [`enrich`]) → [`output`].
//!
//! Everything before `Session` is pure or only reads. Everything after the bytes is pure, too.

pub mod app;
pub mod bpf;
pub mod cli;
pub mod clock;
pub mod container;
pub mod decode;
pub mod diagnose;
pub mod discovery;
pub mod elf;
pub mod enrich;
mod error_chain;
pub mod event;
pub mod glob;
pub mod output;
pub mod pipeline;
pub mod plan;
pub mod probe;
pub mod proc;
pub mod protocol;
pub mod recording;
pub mod rootfs;
pub mod scope;
pub mod stderr;
pub mod terminal;
#[cfg(test)]
mod test_rng;
mod timeout;
