//! Probe kinds: which functions of an object are watched, as hooks.
//!
//! Owns what is known of libraries. Pure: objects in, [`crate::plan::Hook`]s out; it never opens a
//! file, and never talks to the kernel.

pub mod ssl;
