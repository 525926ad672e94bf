//! Containers: what the runtimes say of them, and which cgroup is whose.
//!
//! Never starts, stops or changes a container. Which of them are traced is decided in [`crate::scope`].
pub mod index;
pub mod runtime;
pub mod state;
pub mod unexplained;
