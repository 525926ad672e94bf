//! `ctrace requests --interval` with exchanges that go on, of servers and clients that others have written:
//! each is reported at each interval, and once when it has ended. Needs root, BPF, Docker, and once the
//! machine's package sources.

#![expect(clippy::indexing_slicing, reason = "what a JSON value does not have is null")]

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::third_party::grpc::{CallDirectory, plan};
use ctrace_tests::third_party::http::PlanDirectory;
use ctrace_tests::third_party::{HTTP, Pair, PairSetup};
use ctrace_tests::{RunningTrace, TestContainer};
use serde_json::Value;

const PORT: u16 = 8443;
const MAPPED: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/libssl.so.3",
    "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "/app/grpc/_cython/cygrpc.cpython-311-x86_64-linux-gnu.so",
];
const INTERVAL: &str = "500ms";
const HELD: Duration = Duration::from_millis(2200);
/// How many reports of an exchange come in this time: the first one when it is one or two intervals old.
const REPORTS: std::ops::RangeInclusive<usize> = 3..=6;
/// The connections of the client of events.
const EVENT_STREAMS: usize = 3;

fn start(label: &str, server: &[&str], volume: &str) -> Result<Pair> {
    let pair =
        Pair::start(&PairSetup { release: &HTTP, label, options: &[volume], server, mapped: &MAPPED })?;
    pair.wait_for_port(PORT)?;
    Ok(pair)
}

/// A trace of both ends, and its text.
fn trace(pair: &Pair, traffic: impl FnOnce() -> Result<()>) -> Result<(RunningTrace, String)> {
    let directory = tempfile::tempdir()?;
    let json = directory.path().join("json");
    let output = format!("json={}", json.display());
    let ctrace = pair.trace(&["requests", "--interval", INTERVAL, "-o", &output, "-o", "text"])?;
    traffic()?;
    let run = ctrace.finish()?;
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    Ok((RunningTrace { stdout: std::fs::read(json)?, ..run }, text))
}

/// Checks the records of the exchanges of a container with a path, and returns how many exchanges that are.
fn check(trace: &RunningTrace, container: &TestContainer, path: &str) -> Result<usize> {
    let is_wanted = |line: &Value| {
        let is_of = |pointer: &str, start: &str| {
            line.pointer(pointer).and_then(Value::as_str).is_some_and(|value| value.starts_with(start))
        };
        line["container"]["name"] == container.name() && is_of("/type", "request") && is_of("/url/path", path)
    };
    let mut exchanges: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in trace.lines()?.into_iter().filter(is_wanted) {
        exchanges.entry(line["exchange"].to_string()).or_default().push(line);
    }
    for reports in exchanges.values() {
        let (last, open) = reports.split_last().context("no reports")?;
        ensure!(last["open_for"].is_null() && last["complete"] == true, "not the last: {last}");
        ensure!(REPORTS.contains(&open.len()), "{} reports: {open:?}", open.len());
        let mut before = 0;
        for report in open {
            let age = report["open_for"].as_u64().with_context(|| format!("twice at its end: {report}"))?;
            // The timer may be late, but not early.
            ensure!(age >= before + 400_000_000, "{age} after {before}: {report}");
            before = age;
            let same = ["/time", "/http/request/method", "/url/path", "/http/response/status_code"];
            let differs = same.into_iter().find(|pointer| report.pointer(pointer) != last.pointer(pointer));
            ensure!(differs.is_none(), "{differs:?} changes from {report} to {last}");
            let is_open = report["cut_off"] == "open" && report["complete"] == false;
            ensure!(is_open && report["duration"].is_null(), "not open: {report}");
            let length = |record: &Value| record["response"]["length"].as_u64();
            ensure!(length(report) < length(last) && length(report) > Some(0), "{report}, then {last}");
        }
        ensure!(last["duration"].as_u64() > Some(before), "{last}");
    }
    Ok(exchanges.len())
}

/// Checks what both ends have of the exchanges that were held, beside `others` that were not.
fn check_both(
    pair: &Pair,
    run: &(RunningTrace, String),
    path: &str,
    held: usize,
    others: usize,
) -> Result<()> {
    let (trace, text) = run;
    for container in [&pair.client, &pair.server] {
        let found = check(trace, container, path).with_context(|| trace.stderr.clone())?;
        ensure!(found == held, "{}: {found} exchanges, not {held}", container.name());
    }
    let counted = trace.counted("/requests/exchanges")?;
    ensure!(counted == 2 * (held + others) as u64, "{}", trace.summary()?);
    let reports = text.matches("[open for ").count();
    ensure!(REPORTS.contains(&(reports / 2 / held)), "{reports} reports: {text}");
    Ok(())
}

#[test]
fn streams_of_events() -> Result<()> {
    let directory = PlanDirectory::new(&[])?;
    let server = ["/usr/bin/node", "/programs/http-peers.mjs", "events-server", "h1"];
    let pair = start("open-events", &server, &directory.volume())?;
    let run = trace(&pair, || {
        let client = ["/usr/bin/python3", "/programs/http-peers.py", "events", "h1"];
        let client = pair.start_client(&client)?;
        pair.server_lines("held", EVENT_STREAMS)?;
        sleep(HELD);
        directory.go()?;
        client.finish().map(drop)
    })?;
    check_both(&pair, &run, "/events/", EVENT_STREAMS, 0)
}

/// A call with streams in both directions, and a short one after it.
#[test]
fn streams_of_grpc() -> Result<()> {
    let mut calls = plan(20);
    let is_short = |number: usize| number == 0;
    calls.retain(|call| call.is_held || is_short(call.number));
    calls.sort_by_key(|call| !call.is_held);
    let directory = CallDirectory::new(&calls)?;
    let peer = ["/usr/bin/python3", "/programs/grpc-peers.py"];
    let pair = start("open-grpc", &[&peer[..], &["server"]].concat(), &directory.volume())?;
    let run = trace(&pair, || {
        let mut client = pair.start_client(&[&peer[..], &["client"]].concat())?;
        // One says that the call is held, and the other that the client waits.
        client.wait_for_lines(2)?;
        sleep(HELD);
        directory.go()?;
        client.finish().map(drop)
    })?;
    check_both(&pair, &run, "/ctrace.Test/Both", 1, 1)
}
