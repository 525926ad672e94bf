//! What a target program reports to have moved.

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// The bytes of one direction.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Tally {
    /// How many.
    pub bytes: u64,
    /// Their hash, in hexadecimal.
    pub sha256: String,
}

/// One connection, as one of its ends reports it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Transfer {
    /// `server` or `client`.
    pub side: String,
    /// The process id that the program itself sees.
    pub vpid: u32,
    /// Counted by the program, from 1; 0 is the first of a pair that resumes a session.
    pub connection: u32,
    /// The bytes received.
    pub received: Tally,
    /// The bytes sent.
    pub sent: Tally,
}

impl Transfer {
    /// The reports among the lines of a program's output.
    pub fn all(output: &str) -> Result<Vec<Self>> {
        output.lines().filter(|line| line.starts_with('{')).map(Self::parse).collect()
    }

    fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line).with_context(|| format!("not a report of a test program: {line}"))
    }

    /// The number of bytes in both directions.
    pub fn bytes(&self) -> u64 {
        self.received.bytes + self.sent.bytes
    }
}
