//! Containers: what the runtimes report about them, and which cgroup belongs to which.
//!
//! Never starts, stops or changes a container. Which of them are traced is decided in [`crate::scope`].
mod entered;
pub mod index;
pub mod runtime;
pub mod state;
pub mod unclaimed;
