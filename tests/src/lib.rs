//! The harness of the end-to-end tests: target programs, images, containers and a running `ctrace`.
//!
//! A live test builds an [`TestImage`], starts a [`Server`] in a [`TestContainer`] of it, starts [`Ctrace`]
//! on that, lets a client move bytes, ends the trace, and compares what the programs report to have moved
//! ([`Transfer`]) with what the [`RunningTrace`] has. The demonstration and the measurements of `cargo xtask`
//! use the same parts.
//!
//! The harness owns what it starts: containers and processes end when their value is dropped. It never
//! weakens a comparison, never skips, and never touches a container that it did not start.

mod answer;
mod child;
mod command;
mod container;
mod ctrace;
pub mod debian;
mod demo;
pub mod docs;
mod engine;
mod image;
mod namespaces;
mod nobody;
mod paths;
mod program;
mod requirements;
mod rows;
mod server;
mod shell;
mod signals;
mod streams;
pub mod third_party;
mod trace;
mod transfer;
mod tree;

pub use answer::{answer, check_harmless, json, list, run_as_nobody, text};
pub use child::{Child, OutputLines};
pub use command::{LocalServer, TracedCommand, Tracing};
pub use container::{TestContainer, docker};
pub use ctrace::{Ctrace, RETURN_PROBE_VARIABLE};
pub use demo::{Demo, DemoProtocol};
pub use engine::{Archive, Engine, EngineContainer, EngineKind, EngineServer, TestPod, wait_until};
pub use image::{TestImage, images};
pub use namespaces::Namespaced;
pub use nobody::Nobody;
pub use paths::{ctrace_binary, target_directory};
pub use program::{library, program, script};
pub use requirements::{require_bpf, require_docker, require_live};
pub use rows::{ROWS_VARIABLE, TestRow, rows_directory};
pub use server::{Server, ServerProcess};
pub use shell::{count_lines, trace_shell};
pub use streams::{Direction, Stream, Streams};
pub use trace::{JsonRecord, RunningTrace};
pub use transfer::{Tally, Transfer};
pub use tree::ImageTree;
