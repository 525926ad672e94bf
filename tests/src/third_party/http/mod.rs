//! Exchanges of HTTP: which ones a client is asked for, what both ends log, what `ctrace requests` reports,
//! and how these are compared.
//!
//! Each target is requested once, and each body begins with its target, so that nothing can be taken for
//! anything else.

mod case;
mod compare;
mod curl;

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use tempfile::TempDir;

pub use case::{LOG, PORT, PeerCase, PeerTransport, REQUESTS, TRACE, check_peers};
pub use compare::{
    CapturedExchange, JoinedExchanges, LoggedExchange, captured, check_equal, check_joined, check_same,
    logged,
};
pub use curl::{CurlRun, Gate, files_plan};

/// A request that a client is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedRequest {
    /// Its method.
    pub method: &'static str,
    /// `/STATUS/SIZE/KIND/NUMBER?page=NUMBER`: what the server shall do.
    pub target: String,
    /// The size of its body.
    pub body: Option<usize>,
    /// Whether the client does not say how long the body is.
    pub chunked: bool,
}

/// What a client is asked for: bodies of both sides, responses without a body, failures, and bodies of
/// unknown length. The two before the middle are responses that wait in their middle.
pub fn plan(count: usize) -> Vec<PlannedRequest> {
    (0..count).map(|number| planned(number, count)).collect()
}

fn planned(number: usize, count: usize) -> PlannedRequest {
    let (small, large, sent) =
        (100 + number % 50, 100 + number * 7919 % 40_000, 100 + number * 10_007 % 30_000);
    let is_held = number + 2 == count / 2 || number + 1 == count / 2;
    let (method, status, size, kind, body) = match number % 10 {
        _ if is_held => ("GET", 200, 9000, "held", None),
        0 => ("GET", 200, large, "length", None),
        1 => ("POST", 200, large, "length", Some(sent)),
        2 => ("HEAD", 200, large, "length", None),
        3 => ("GET", 204, 0, "length", None),
        4 => ("GET", 404, small, "length", None),
        5 => ("POST", 500, small, "length", Some(sent)),
        6 => ("GET", 200, large, "pieces", None),
        7 => ("GET", 304, 0, "length", None),
        8 => ("PUT", 200, small, "pieces", Some(sent)),
        _ => ("DELETE", 200, 0, "length", None),
    };
    let target = format!("/{status}/{size}/{kind}/{number}?page={number}");
    PlannedRequest { method, target, body, chunked: kind == "pieces" && body.is_some() }
}

/// The directory `/plan` of a client and its server.
#[derive(Debug)]
pub struct PlanDirectory {
    directory: TempDir,
}

impl PlanDirectory {
    /// A directory with a plan.
    pub fn new(plan: &[PlannedRequest]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut file = fs::File::create(directory.path().join("requests.jsonl"))?;
        for request in plan {
            serde_json::to_writer(&mut file, request)?;
            file.write_all(b"\n")?;
        }
        Ok(Self { directory })
    }

    /// Where it is on the host.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The option of `docker run` with which a container has it.
    pub fn volume(&self) -> String {
        format!("--volume={}:/plan", self.directory.path().display())
    }

    /// Lets both ends go on with the second half.
    pub fn go(&self) -> Result<()> {
        Ok(fs::write(self.directory.path().join("go"), "")?)
    }

    /// Makes both ends wait for [`Self::go`] again.
    pub fn hold(&self) -> Result<()> {
        let file = self.directory.path().join("go");
        if file.exists() { Ok(fs::remove_file(file)?) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{files_plan, plan};

    #[test]
    fn targets_are_unique() {
        for plan in [plan(160), files_plan(160)] {
            let mut targets: Vec<String> = plan.into_iter().map(|request| request.target).collect();
            targets.sort();
            targets.dedup();
            assert_eq!(targets.len(), 160);
        }
    }
}
