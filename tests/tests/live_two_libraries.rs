//! A file with two implementations of one API: each record names the one whose function was called. Needs
//! root and BPF.

#![expect(clippy::indexing_slicing, reason = "what is not there is null")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{Ctrace, OutputLines, Transfer, program, require_bpf};

const PATIENCE: Duration = Duration::from_secs(30);

/// The program uses OpenSSL first, then AWS-LC.
fn check(name: &str) -> Result<()> {
    require_bpf()?;
    let mut child = Command::new(program(name)?)
        .args(["--up", "5,700", "--down", "9,3000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = OutputLines::of(child.stdout.take().context("no standard output")?);
    let mut stdin = child.stdin.take().context("no standard input")?;
    lines.wait("line that it is ready", PATIENCE, |line| line == "ready")?;
    let ctrace = Ctrace::json(&["--pid", &child.id().to_string()])?;
    stdin.write_all(b"\n")?;
    lines.wait("second line that it is ready", PATIENCE, |line| line == "ready")?;
    stdin.write_all(b"\n")?;
    ensure!(child.wait()?.success(), "{name} failed");
    let trace = ctrace.wait(PATIENCE)?;
    let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
    let mut order = Vec::new();
    for record in trace.lines()?.iter().filter(|line| line["type"] == "ssl") {
        let library = &record["library"];
        let implementation = library["implementation"].as_str().unwrap_or("unknown").to_owned();
        ensure!(library["version"].as_str().is_some_and(|version| version.contains('.')), "{record}");
        if order.last() != Some(&implementation) {
            order.push(implementation.clone());
        }
        *bytes.entry(implementation).or_default() += record["call"]["length"].as_u64().unwrap_or(0);
    }
    ensure!(order == ["OpenSSL", "AWS-LC"], "{order:?}\n{}", trace.stderr);
    // What both ends have sent and received.
    let moved = 2 * (5 + 700 + 9 + 3000);
    ensure!(
        bytes.values().all(|bytes| *bytes == moved),
        "{bytes:?} instead of {moved} each\n{}",
        trace.stderr
    );
    ensure!(Transfer::all(&lines.rest().join("\n"))?.len() >= 2);
    Ok(())
}

#[test]
fn openssl_and_aws_lc_with_symbols() -> Result<()> {
    check("tls-two")
}

#[test]
fn openssl_and_aws_lc_without_symbols() -> Result<()> {
    check("tls-two-stripped")
}
