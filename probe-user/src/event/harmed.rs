//! What ctrace did to a process.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Library;

/// How a probe can end a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HarmCause {
    /// The process has copied its own code, with the breakpoint of a probe in it, and has executed the copy.
    CopiedCode,
    /// The process has switched stacks inside of a function whose return the kernel probes.
    ReturnProbe,
}

/// A process got a signal because of a probe, which usually ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Harmed {
    /// How.
    pub cause: HarmCause,
    /// The number of the signal.
    pub signal: u8,
    /// The function that has the probe. None if it is not known.
    pub function: Option<String>,
    /// The files that were detached from at once.
    pub detached: Vec<Arc<Library>>,
}
