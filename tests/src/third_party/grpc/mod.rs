//! Calls of gRPC: which ones a client makes, what both ends log, what `ctrace requests` reports, and how
//! these are compared.
//!
//! Each call has a number, in a header and in each of its messages, so that nothing can be taken for anything
//! else. Its path is one of a few, as in real programs.

mod compare;

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

pub use compare::{CapturedCall, JoinedCalls, LoggedCall, captured, check_equal, check_joined, logged};

/// The statuses of failures, in the order of their codes.
const FAILURES: [&str; 16] = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// The name of the status with this code.
pub fn status_name(code: usize) -> Option<String> {
    match code.checked_sub(1) {
        None => Some("OK".to_owned()),
        Some(index) => FAILURES.get(index).map(|name| (*name).to_owned()),
    }
}

/// The number of calls after which the kinds of calls repeat.
const CYCLE: usize = 20;
/// How many of these fail with a status.
const FAILURES_IN_CYCLE: usize = 3;

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlannedEnd {
    /// With a status of the server.
    Status(&'static str),
    /// The client breaks it off: its time is over, or it has changed its mind.
    BrokenOff(&'static str),
}

/// A call that a client makes.
#[derive(Clone, Debug)]
pub struct PlannedCall {
    /// Its number.
    pub number: usize,
    /// `unary`, `up`, `down` or `both`: which end sends a stream of messages.
    kind: &'static str,
    /// Its path.
    pub path: &'static str,
    /// The sizes of the client's messages.
    up: Vec<usize>,
    /// The sizes of the server's messages.
    down: Vec<usize>,
    /// How it ends.
    pub end: PlannedEnd,
    /// Whether messages are compressed.
    pub is_compressed: bool,
    /// Whether it begins in the first half, and ends in the second one.
    pub is_held: bool,
}

impl PlannedCall {
    /// A line of the file that clients read.
    fn line(&self) -> String {
        let sizes = |sizes: &[usize]| match sizes {
            [] => "-".to_owned(),
            sizes => sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(","),
        };
        let (status, what) = match self.end {
            _ if self.is_held => ("OK", "hold"),
            PlannedEnd::BrokenOff(how) => ("OK", how),
            PlannedEnd::Status(status) if self.is_compressed => (status, "gzip"),
            PlannedEnd::Status(status) => (status, "-"),
        };
        let Self { number, kind, path, up, down, .. } = self;
        format!("{number} {kind} {path} {} {} {status} {what}", sizes(up), sizes(down))
    }
}

/// Calls of all kinds.
pub fn plan(count: usize) -> Vec<PlannedCall> {
    (0..count).map(planned).collect()
}

fn planned(number: usize) -> PlannedCall {
    let base = |kind, path, up: &[usize], down: &[usize]| PlannedCall {
        number,
        kind,
        path,
        up: up.to_vec(),
        down: down.to_vec(),
        end: PlannedEnd::Status("OK"),
        is_compressed: false,
        is_held: false,
    };
    let failure = |at: usize| {
        let index = number / CYCLE * FAILURES_IN_CYCLE + at;
        PlannedEnd::Status(FAILURES.get(index % FAILURES.len()).copied().unwrap_or("OK"))
    };
    let (unary, both) = ("/ctrace.Test/Unary", "/ctrace.Test/Both");
    let (up, down) = ("/ctrace.Test/Up", "/ctrace.Test/Down");
    let compressed = |call| PlannedCall { is_compressed: true, ..call };
    match number % CYCLE {
        3 => base("unary", unary, &[0], &[0]),
        4 => base("up", up, &[1, 200, 16_384, 40_000, 0], &[7]),
        5 => base("down", down, &[10], &[10, 30_000, 0, 5]),
        6 => base("both", both, &[100; 4], &[50; 4]),
        7 => base("both", both, &[1000, 20_000, 3], &[1, 2, 17_000, 4, 5, 6]),
        8 => base("unary", unary, &[1_000_000], &[600_000]),
        9 => compressed(base("unary", unary, &[20_000], &[30_000])),
        10 => compressed(base("both", both, &[3000, 100_000], &[5000, 70_000])),
        11 => PlannedCall { end: failure(0), ..base("unary", unary, &[30], &[]) },
        12 => PlannedCall { end: failure(1), ..base("down", down, &[30], &[40, 50]) },
        13 => PlannedCall { end: failure(2), ..base("both", both, &[30, 31], &[40]) },
        14 => PlannedCall {
            end: PlannedEnd::Status("UNIMPLEMENTED"),
            ..base("unary", "/ctrace.Missing/Unary", &[8], &[])
        },
        15 => PlannedCall { end: PlannedEnd::BrokenOff("deadline"), ..base("unary", unary, &[60], &[]) },
        16 => PlannedCall { end: PlannedEnd::BrokenOff("cancel"), ..base("down", down, &[60], &[5, 6000]) },
        17 => base("up", up, &[], &[3]),
        CYCLE.. => unreachable!("a remainder"),
        19 if number < CYCLE => {
            PlannedCall { is_held: true, ..base("both", both, &[9, 10, 11], &[20, 21, 22]) }
        }
        _ => base("unary", unary, &[100 + number], &[10 + number]),
    }
}

/// The directory `/plan` of both ends.
#[derive(Debug)]
pub struct CallDirectory {
    directory: TempDir,
}

impl CallDirectory {
    /// Writes the calls to it.
    pub fn new(calls: &[PlannedCall]) -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a directory")?;
        let lines: Vec<String> = calls.iter().map(PlannedCall::line).collect();
        fs::write(directory.path().join("calls"), lines.join("\n"))?;
        Ok(Self { directory })
    }

    /// Where the host has it.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The option of `docker run` that mounts it.
    pub fn volume(&self) -> String {
        format!("--volume={}:/plan", self.path().display())
    }

    /// Clients do not wait between the two halves.
    pub fn go(&self) -> Result<()> {
        Ok(File::create(self.path().join("go")).map(drop)?)
    }

    /// Clients wait between the two halves.
    pub fn hold(&self) -> Result<()> {
        Ok(fs::remove_file(self.path().join("go"))?)
    }
}

#[cfg(test)]
mod tests {
    use super::{FAILURES, PlannedCall, PlannedEnd, plan};

    #[test]
    fn every_status_and_every_kind_of_call_is_planned() {
        let calls = plan(120);
        let has = |status: &'static str| calls.iter().any(|call| call.end == PlannedEnd::Status(status));
        assert!(FAILURES.iter().all(|status| has(status)) && has("OK"));
        for kind in ["unary", "up", "down", "both"] {
            assert!(calls.iter().any(|call| call.kind == kind), "{kind}");
        }
        assert_eq!(calls.iter().filter(|call| call.is_held).count(), 1);
        let line = |number: usize| calls.get(number).map(PlannedCall::line).unwrap_or_default();
        assert_eq!(line(4), "4 up /ctrace.Test/Up 1,200,16384,40000,0 7 OK -");
        assert_eq!(line(17), "17 up /ctrace.Test/Up - 3 OK -");
    }
}
