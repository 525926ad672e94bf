//! Records of connections that open and close, compared with what the programs themselves report. Needs root,
//! BPF and Docker.

#![expect(clippy::indexing_slicing, reason = "what is not there is null")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{
    Ctrace, LocalServer, OutputLines, RunningTrace, Server, Transfer, program, require_bpf, require_live,
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 3;
/// Only a log of connections.
const LOG: &[&str] = &["--connections", "--max-bytes", "0"];

/// The records of one connection, in the order of the lines.
#[derive(Default)]
struct ConnectionLog {
    opens: Vec<Value>,
    calls: Vec<Value>,
    closes: Vec<Value>,
}

impl ConnectionLog {
    fn number(&self, pointer: &str) -> u64 {
        self.closes
            .first()
            .and_then(|close| close.pointer(pointer))
            .and_then(Value::as_u64)
            .unwrap_or(u64::MAX)
    }

    fn end(&self) -> &str {
        self.closes.first().and_then(|close| close["end"].as_str()).unwrap_or("none")
    }

    fn open(&self) -> &Value {
        self.opens.first().unwrap_or(&Value::Null)
    }
}

fn logs(trace: &RunningTrace) -> Result<BTreeMap<u64, ConnectionLog>> {
    let mut all: BTreeMap<u64, ConnectionLog> = BTreeMap::new();
    for line in trace.lines()? {
        let Some(id) = line.pointer("/connection/id").and_then(Value::as_u64) else { continue };
        let log = all.entry(id).or_default();
        let list = match line["type"].as_str() {
            Some("ssl_open") => {
                ensure!(log.calls.is_empty() && log.closes.is_empty(), "its open record comes late: {line}");
                &mut log.opens
            }
            Some("ssl") => &mut log.calls,
            Some("ssl_close") => &mut log.closes,
            other => anyhow::bail!("{other:?} has a connection: {line}"),
        };
        ensure!(list.is_empty() || line["type"] == "ssl", "{line}: recorded twice");
        list.push(line);
    }
    Ok(all)
}

/// The nanoseconds of a time since midnight.
fn nanoseconds(time: &Value) -> Result<u64> {
    let time = time.as_str().and_then(|time| time.get(11..29)).context("no time")?;
    let (clock, fraction) = time.split_once('.').context("no fraction")?;
    let seconds =
        clock.split(':').try_fold(0, |sum, part| part.parse::<u64>().map(|part| sum * 60 + part))?;
    Ok(seconds * 1_000_000_000 + fraction.parse::<u64>()?)
}

/// Checks that each connection opens and closes once, with all of its calls in between, and that its close
/// record counts what its calls moved.
fn check_each(all: &BTreeMap<u64, ConnectionLog>) -> Result<()> {
    for (id, log) in all {
        let (Some(open), Some(close)) = (log.opens.first(), log.closes.first()) else {
            anyhow::bail!(
                "connection {id} has {} open and {} close records",
                log.opens.len(),
                log.closes.len()
            );
        };
        let sum = |way: &str| -> u64 {
            let calls = log.calls.iter().filter(|call| call["network"]["io"]["direction"] == way);
            calls.filter_map(|call| call["call"]["length"].as_u64()).sum()
        };
        ensure!(log.number("/connection/calls") == log.calls.len() as u64, "{close}");
        ensure!(log.number("/connection/received") == sum("receive"), "{close}");
        ensure!(log.number("/connection/transmitted") == sum("transmit"), "{close}");
        for field in ["container", "process", "thread", "library"] {
            ensure!(open[field] == close[field], "{field}: {open} {close}");
        }
        ensure!(open["connection"]["from_start"] == close["connection"]["from_start"], "{open} {close}");
        let (begin, end) = (nanoseconds(&open["time"])?, nanoseconds(&close["time"])?);
        for call in &log.calls {
            ensure!((begin..=end).contains(&nanoseconds(&call["time"])?), "{open} {call} {close}");
            ensure!(call["library"] == close["library"], "{call} {close}");
        }
        let duration = (close["connection"]["from_start"] == true).then(|| end - begin);
        ensure!(close["duration"].as_u64() == duration, "{open} {close}");
    }
    Ok(())
}

/// Checks that the connections are those that the programs report.
fn check_transfers(all: &BTreeMap<u64, ConnectionLog>, transfers: &[Transfer]) -> Result<()> {
    let role = |log: &ConnectionLog| {
        log.closes.first().and_then(|close| close["connection"]["role"].as_str().map(str::to_owned))
    };
    let mut left: Vec<(Option<String>, u64, u64)> = all
        .values()
        .map(|log| (role(log), log.number("/connection/received"), log.number("/connection/transmitted")))
        .collect();
    for Transfer { side, received, sent, .. } in transfers {
        let is_it = |(role, bytes_in, bytes_out): &(Option<String>, u64, u64)| {
            role.as_ref().is_none_or(|role| role == side)
                && (*bytes_in, *bytes_out) == (received.bytes, sent.bytes)
        };
        let at =
            left.iter().position(is_it).with_context(|| format!("no connection is {side}'s: {left:?}"))?;
        left.swap_remove(at);
    }
    ensure!(left.is_empty(), "connections that no program reports: {left:?}");
    Ok(())
}

/// Checks that both ends of each connection are recorded, and that each names the other.
fn check_peers(all: &BTreeMap<u64, ConnectionLog>) -> Result<()> {
    let network =
        |log: &ConnectionLog, end: &str| log.closes.first().map(|close| close["network"][end].clone());
    for log in all.values() {
        let (local, peer) = (network(log, "local"), network(log, "peer"));
        ensure!(local.as_ref().is_some_and(|local| local["port"].is_u64()), "{}", log.open());
        let others = all.values().filter(|other| {
            (network(other, "peer"), network(other, "local")) == (local.clone(), peer.clone())
        });
        ensure!(others.count() == 1, "{local:?} {peer:?}");
    }
    Ok(())
}

#[test]
fn openssl() -> Result<()> {
    require_live()?;
    let connections = CONNECTIONS.to_string();
    let server = Server::start("connection-records", &["--threads"])?;
    let ctrace = Ctrace::json(&[LOG, &["--container", server.container.name()]].concat())?;
    let plan = ["--up", "5,700", "--down", "9,3000", "--connections", &connections];
    let mut transfers = server.client(&plan)?;
    transfers.extend(server.transfers(CONNECTIONS)?);
    let trace = ctrace.finish()?;
    let all = logs(&trace)?;
    ensure!(all.len() == 2 * CONNECTIONS, "{} connections: {}", all.len(), trace.stderr);
    check_each(&all)?;
    check_transfers(&all, &transfers)?;
    check_peers(&all)?;
    for log in all.values() {
        let close = log.closes.first().context("no end")?;
        ensure!(log.end() == "closed" && close["connection"]["from_start"] == true, "{close}");
        for line in [log.open(), close] {
            ensure!(line["tls"]["protocol"]["version"] == "1.3", "{line}");
            ensure!(
                line["connection"]["socket"] == "seen" && line["network"]["transport"] == "tcp",
                "{line}"
            );
            ensure!(line["library"]["implementation"] == "OpenSSL", "{line}");
            ensure!(line["container"]["name"] == server.container.name(), "{line}");
        }
    }
    ensure!(trace.counted("/lost/events")? == 0, "{}", trace.stderr);
    Ok(())
}

/// Traces connections of a client and a server of a library, and returns their own reports with the trace.
fn run_library(name: &str, options: &[&str]) -> Result<(RunningTrace, Vec<Transfer>)> {
    let mut child = Command::new(program(name)?)
        .args(["--up", "5,700", "--down", "9,3000", "--connections", &CONNECTIONS.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = OutputLines::of(child.stdout.take().context("no standard output")?);
    lines.wait("line that it is ready", PATIENCE, |line| line == "ready")?;
    let ctrace = Ctrace::json(&[options, &["--pid", &child.id().to_string()]].concat())?;
    child.stdin.take().context("no standard input")?.write_all(b"\n")?;
    ensure!(child.wait()?.success(), "{name} failed");
    let trace = ctrace.wait(PATIENCE)?;
    let transfers = Transfer::all(&lines.rest().join("\n"))?;
    ensure!(transfers.len() == 2 * CONNECTIONS, "{transfers:?}");
    Ok((trace, transfers))
}

/// Checks that each connection is recorded once and closes in one of these ways. If a version is given, the
/// connections use TCP sockets.
fn check_library(name: &str, version: Option<&str>, ends: &[&str]) -> Result<()> {
    let (trace, transfers) = run_library(name, LOG)?;
    let all = logs(&trace)?;
    ensure!(all.len() == transfers.len(), "{} connections: {}", all.len(), trace.stderr);
    check_each(&all)?;
    check_transfers(&all, &transfers)?;
    for log in all.values() {
        let close = log.closes.first().context("no end")?;
        ensure!(ends.contains(&log.end()) && close["connection"]["from_start"] == true, "{close}");
        if let Some(version) = version {
            ensure!(close["tls"]["protocol"]["version"] == version, "{close}");
        }
    }
    if version.is_some() { check_peers(&all) } else { Ok(()) }
}

/// With `--connections=only` the counts come from the kernel, also when a process ends.
#[test]
fn connections_alone() -> Result<()> {
    require_bpf()?;
    for (name, ends) in [("tls-gnutls", &["closed"][..]), ("tls-rustls", &["handle_reused", "exit"])] {
        let (trace, transfers) = run_library(name, &["--connections=only"])?;
        let all = logs(&trace)?;
        for log in all.values() {
            let counts = (log.opens.len(), log.calls.len(), log.closes.len());
            ensure!(counts == (1, 0, 1) && ends.contains(&log.end()), "{name}: {counts:?} {}", log.end());
            ensure!(log.number("/connection/calls") >= 4, "{name}: {:?}", log.closes);
        }
        ensure!(all.values().any(|log| ends.last() == Some(&log.end())), "{name}");
        check_transfers(&all, &transfers).with_context(|| name.to_owned())?;
        ensure!(trace.counted("/calls")? == 0 && trace.counted("/lost/events")? == 0, "{}", trace.stderr);
    }
    Ok(())
}

#[test]
fn functions_that_end_connections() -> Result<()> {
    require_bpf()?;
    for (name, version) in
        [("tls-gnutls", "1.2"), ("tls-mbedtls", "1.2"), ("tls-wolfssl", "1.2"), ("tls-nss", "1.3")]
    {
        check_library(name, Some(version), &["closed"]).with_context(|| name.to_owned())?;
    }
    Ok(())
}

#[test]
fn go() -> Result<()> {
    require_bpf()?;
    for name in ["tls-go", "tls-go-stripped"] {
        check_library(name, Some("1.3"), &["closed"]).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// No function of these libraries is seen to close a connection, or only after its socket was closed.
#[test]
fn sockets_that_end_connections() -> Result<()> {
    require_bpf()?;
    for name in ["tls-bearssl", "tls-botan", "tls-openssl-stripped"] {
        let ends = &["socket_closed", "handle_reused", "closed", "exit"];
        check_library(name, Some("1.2"), ends).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// rustls has no such function, and its sockets here are not TCP sockets.
#[test]
fn handles_that_are_used_again() -> Result<()> {
    require_bpf()?;
    check_library("tls-rustls", None, &["handle_reused", "exit"])
}

#[test]
fn a_handshake_that_fails() -> Result<()> {
    require_bpf()?;
    let server = LocalServer::start(1)?;
    let ctrace = Ctrace::json(&[LOG, &["--pid", &server.id().to_string()]].concat())?;
    let client = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &format!("127.0.0.1:{}", server.port()),
            "-servername",
            "failing.test",
        ])
        .args(["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"])
        .stdin(Stdio::null())
        .output()?;
    ensure!(!client.status.success(), "{}", String::from_utf8_lossy(&client.stdout));
    let port = server.port().parse::<u64>()?;
    server.transfers()?;
    let trace = ctrace.wait(PATIENCE)?;
    let all = logs(&trace)?;
    ensure!(all.len() == 1, "{} connections: {}", all.len(), trace.stderr);
    check_each(&all)?;
    for log in all.values() {
        let close = log.closes.first().context("no end")?;
        ensure!(log.end() == "closed" && log.calls.is_empty(), "{close}");
        for line in [log.open(), close] {
            ensure!(
                line["network"]["local"]["port"] == port && line["network"]["peer"]["port"].is_u64(),
                "{line}"
            );
            ensure!(line["connection"]["role"] == "server", "{line}");
            ensure!(line["tls"]["client"]["server_name"] == "failing.test", "{line}");
            ensure!(line["tls"]["protocol"].is_null(), "the server has not answered: {line}");
        }
    }
    Ok(())
}

/// Both processes were connected before the trace. One is killed, and the other notices.
#[test]
fn a_process_that_is_killed_with_an_open_connection() -> Result<()> {
    require_bpf()?;
    let server = LocalServer::start(1)?;
    let mut client = Command::new(program("tls-client")?)
        .args(["--port", server.port(), "--http", "20"])
        .stdout(Stdio::null())
        .spawn()?;
    // Waits until it talks.
    thread::sleep(Duration::from_millis(500));
    let (server_id, client_id) = (server.id().to_string(), client.id().to_string());
    let ctrace = Ctrace::json(&[LOG, &["--pid", &server_id, "--pid", &client_id]].concat())?;
    thread::sleep(Duration::from_millis(500));
    client.kill()?;
    client.wait()?;
    server.transfers()?;
    let trace = ctrace.wait(PATIENCE)?;
    let all = logs(&trace)?;
    ensure!(all.len() == 2, "{} connections: {}", all.len(), trace.stderr);
    check_each(&all)?;
    check_peers(&all)?;
    for log in all.values() {
        let close = log.closes.first().context("no end")?;
        ensure!(close["connection"]["from_start"] == false && close["duration"].is_null(), "{close}");
        let is_client = close["process"]["pid"].as_u64() == Some(client.id().into());
        ensure!(log.end() == if is_client { "exit" } else { "closed" }, "{close}");
        ensure!(!log.calls.is_empty(), "{close}");
    }
    Ok(())
}
