//! `ctrace requests` on connections without TLS: by whatever system call their bytes pass, in both
//! directions, and what nobody can decode is not copied. Needs root, BPF and Docker.
//!
//! Servers and clients that others have written are in `live_requests_peers` and `live_requests_messages`.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use ctrace_tests::{Ctrace, RunningTrace, TestContainer, images, require_live, script};
use serde::Deserialize;
use serde_json::{Value, json};

/// A request, as the program logs it.
#[derive(Debug, Deserialize)]
struct Logged {
    target: String,
    status: u64,
    length: u64,
    /// The bytes that pass no buffer of the server.
    missing: u64,
}

fn container(label: &str) -> Result<TestContainer> {
    let programs = format!("--volume={}:/programs:ro", script("").display());
    TestContainer::start(&images::python()?, label, &[&programs], &["/idle"])
}

fn requests(trace: &RunningTrace) -> Result<Vec<Value>> {
    let mut lines = trace.lines()?;
    lines.retain(|line| line.get("type").is_some_and(|kind| kind == "request"));
    Ok(lines)
}

#[test]
fn every_way_in_which_bytes_pass_sockets() -> Result<()> {
    require_live()?;
    let container = container("sockets")?;
    let ctrace = Ctrace::start(&["requests", "-o", "json", "--container", container.name()])?;
    let said = container.exec(&["/usr/bin/python3", "-I", "/programs/http-sockets.py", "0"])?;
    let trace = ctrace.finish()?;

    let mut captured: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in requests(&trace)? {
        let path = line.pointer("/url/path").and_then(Value::as_str).unwrap_or_default().to_owned();
        captured.entry(path).or_default().push(line);
    }
    for line in said.lines() {
        let logged: Logged = serde_json::from_str(line)?;
        let mut records = captured.remove(&logged.target).unwrap_or_default();
        let role_of = |record: &Value| record.pointer("/connection/role").map(Value::to_string);
        records.sort_by_key(role_of);
        ensure!(records.len() == 2, "{logged:?}: {records:?}");
        for (record, role) in records.iter().zip(["client", "server"]) {
            let missing = if role == "server" { logged.missing } else { 0 };
            let expected = [
                ("/connection/role", json!(role)),
                ("/connection/from_start", json!(true)),
                ("/tls", Value::Null),
                ("/http/response/status_code", json!(logged.status)),
                ("/request/length", json!(logged.length)),
                ("/gaps", json!(missing)),
                ("/complete", json!(missing == 0)),
            ];
            let differs = expected.iter().find(|(path, value)| record.pointer(path) != Some(value));
            ensure!(differs.is_none(), "{logged:?}, not {differs:?}: {record}");
        }
    }
    ensure!(captured.is_empty(), "not sent: {captured:?}");
    ensure!(trace.counted("/lost/events")? == 0, "{}", trace.summary()?);
    ensure!(trace.counted("/requests/unknown_connections")? == 0, "{}", trace.summary()?);
    Ok(())
}

/// Sends 200 MB without any structure.
const FLOOD: &str = r"
import socket, threading
listener = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(listener.getsockname())
server = listener.accept()[0]
block = bytes(range(128, 256)) * 8192
thread = threading.Thread(target=lambda: [client.sendall(block) for _ in range(200)])
thread.start()
left = 200 * len(block)
while left > 0:
    left -= len(server.recv(1 << 20))
thread.join()
";

#[test]
fn what_nobody_can_decode_is_not_copied() -> Result<()> {
    require_live()?;
    let container = container("flood")?;
    let ctrace = Ctrace::start(&["requests", "-o", "json", "--container", container.name()])?;
    container.exec(&["/usr/bin/python3", "-I", "-c", FLOOD])?;
    let trace = ctrace.finish()?;
    // At most 8 MiB in each direction at each end, and the transfer that exceeds this.
    let captured = trace.counted("/bytes")? + trace.counted("/lost/bytes")?;
    ensure!(captured < 40 << 20, "{}", trace.summary()?);
    ensure!(trace.counted("/requests/unknown_connections")? == 2, "{}", trace.summary()?);
    Ok(())
}

#[test]
fn only_one_kind_of_connection_is_shown_on_request() -> Result<()> {
    require_live()?;
    let container = container("kinds")?;
    let select = ["-o", "json", "--container", container.name()];
    for (options, is_shown) in
        [(&["requests", "--no-cleartext"][..], false), (&["requests", "--cleartext-only"], true)]
    {
        let ctrace = Ctrace::start(&[options, &["--wait"], &select].concat())?;
        container.exec(&["/usr/bin/python3", "-I", "/programs/http-sockets.py", "0"])?;
        let trace = ctrace.finish()?;
        ensure!(requests(&trace)?.is_empty() != is_shown, "{options:?}: {}", trace.summary()?);
        ensure!(!is_shown || !trace.stderr.contains("attached to"), "{}", trace.stderr);
    }
    Ok(())
}
