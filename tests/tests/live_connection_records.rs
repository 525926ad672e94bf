//! Records of connections that begin and end, compared with what the programs themselves say. Needs root, BPF
//! and Docker.

#![expect(clippy::indexing_slicing, reason = "what is not there is null")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{Ctrace, Lines, LocalServer, Server, Trace, Transfer, program, require_bpf, require_live};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 3;
/// A log of connections.
const LOG: &[&str] = &["--connections", "--max-bytes", "0"];

/// What was told of one connection, in the order of the lines.
#[derive(Default)]
struct Told {
    opens: Vec<Value>,
    calls: Vec<Value>,
    closes: Vec<Value>,
}

impl Told {
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

fn told(trace: &Trace) -> Result<BTreeMap<u64, Told>> {
    let mut all: BTreeMap<u64, Told> = BTreeMap::new();
    for line in trace.lines()? {
        let Some(id) = line.pointer("/connection/id").and_then(Value::as_u64) else { continue };
        let told = all.entry(id).or_default();
        let list = match line["type"].as_str() {
            Some("ssl_open") => {
                ensure!(told.calls.is_empty() && told.closes.is_empty(), "its beginning comes late: {line}");
                &mut told.opens
            }
            Some("ssl") => &mut told.calls,
            Some("ssl_close") => &mut told.closes,
            other => anyhow::bail!("{other:?} has a connection: {line}"),
        };
        ensure!(list.is_empty() || line["type"] == "ssl", "{line}: told twice");
        list.push(line);
    }
    Ok(all)
}

/// Nanoseconds of a time on the same day.
fn nanoseconds(time: &Value) -> Result<u64> {
    let time = time.as_str().and_then(|time| time.get(11..29)).context("no time")?;
    let (clock, fraction) = time.split_once('.').context("no fraction")?;
    let seconds =
        clock.split(':').try_fold(0, |sum, part| part.parse::<u64>().map(|part| sum * 60 + part))?;
    Ok(seconds * 1_000_000_000 + fraction.parse::<u64>()?)
}

/// Each connection has begun and ended once, with all of its calls in between, and moved what its calls
/// moved.
fn check_each(all: &BTreeMap<u64, Told>) -> Result<()> {
    for (id, told) in all {
        let (Some(open), Some(close)) = (told.opens.first(), told.closes.first()) else {
            anyhow::bail!("connection {id} has {} beginnings, {} ends", told.opens.len(), told.closes.len());
        };
        let sum = |way: &str| -> u64 {
            let calls = told.calls.iter().filter(|call| call["network"]["io"]["direction"] == way);
            calls.filter_map(|call| call["call"]["length"].as_u64()).sum()
        };
        ensure!(told.number("/connection/calls") == told.calls.len() as u64, "{close}");
        ensure!(told.number("/connection/received") == sum("receive"), "{close}");
        ensure!(told.number("/connection/transmitted") == sum("transmit"), "{close}");
        for field in ["container", "process", "thread", "library"] {
            ensure!(open[field] == close[field], "{field}: {open} {close}");
        }
        ensure!(open["connection"]["from_start"] == close["connection"]["from_start"], "{open} {close}");
        let (begin, end) = (nanoseconds(&open["time"])?, nanoseconds(&close["time"])?);
        for call in &told.calls {
            ensure!((begin..=end).contains(&nanoseconds(&call["time"])?), "{open} {call} {close}");
            ensure!(call["library"] == close["library"], "{call} {close}");
        }
        let duration = (close["connection"]["from_start"] == true).then(|| end - begin);
        ensure!(close["duration"].as_u64() == duration, "{open} {close}");
    }
    Ok(())
}

/// They are those that the programs tell of.
fn check_transfers(all: &BTreeMap<u64, Told>, transfers: &[Transfer]) -> Result<()> {
    let role = |told: &Told| {
        told.closes.first().and_then(|close| close["connection"]["role"].as_str().map(str::to_owned))
    };
    let mut left: Vec<(Option<String>, u64, u64)> = all
        .values()
        .map(|told| (role(told), told.number("/connection/received"), told.number("/connection/transmitted")))
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

/// Both ends are told, and each names the other one.
fn check_peers(all: &BTreeMap<u64, Told>) -> Result<()> {
    let network = |told: &Told, end: &str| told.closes.first().map(|close| close["network"][end].clone());
    for told in all.values() {
        let (local, peer) = (network(told, "local"), network(told, "peer"));
        ensure!(local.as_ref().is_some_and(|local| local["port"].is_u64()), "{}", told.open());
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
    let all = told(&trace)?;
    ensure!(all.len() == 2 * CONNECTIONS, "{} connections: {}", all.len(), trace.stderr);
    check_each(&all)?;
    check_transfers(&all, &transfers)?;
    check_peers(&all)?;
    for told in all.values() {
        let close = told.closes.first().context("no end")?;
        ensure!(told.end() == "closed" && close["connection"]["from_start"] == true, "{close}");
        for line in [told.open(), close] {
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

/// Connections of a client and a server of a library, and what they say of them.
fn run_library(name: &str, options: &[&str]) -> Result<(Trace, Vec<Transfer>)> {
    let mut child = Command::new(program(name)?)
        .args(["--up", "5,700", "--down", "9,3000", "--connections", &CONNECTIONS.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = Lines::of(child.stdout.take().context("no standard output")?);
    lines.wait("line that it is ready", PATIENCE, |line| line == "ready")?;
    let ctrace = Ctrace::json(&[options, &["--pid", &child.id().to_string()]].concat())?;
    child.stdin.take().context("no standard input")?.write_all(b"\n")?;
    ensure!(child.wait()?.success(), "{name} failed");
    let trace = ctrace.wait(PATIENCE)?;
    let transfers = Transfer::all(&lines.rest().join("\n"))?;
    ensure!(transfers.len() == 2 * CONNECTIONS, "{transfers:?}");
    Ok((trace, transfers))
}

/// Each is told once, and ends in one of these ways; with a version, they are on sockets of TCP.
fn check_library(name: &str, version: Option<&str>, ends: &[&str]) -> Result<()> {
    let (trace, transfers) = run_library(name, LOG)?;
    let all = told(&trace)?;
    ensure!(all.len() == transfers.len(), "{} connections: {}", all.len(), trace.stderr);
    check_each(&all)?;
    check_transfers(&all, &transfers)?;
    for told in all.values() {
        let close = told.closes.first().context("no end")?;
        ensure!(ends.contains(&told.end()) && close["connection"]["from_start"] == true, "{close}");
        if let Some(version) = version {
            ensure!(close["tls"]["protocol"]["version"] == version, "{close}");
        }
    }
    if version.is_some() { check_peers(&all) } else { Ok(()) }
}

/// The counts are the kernel's then, at the end of a process too.
#[test]
fn connections_alone() -> Result<()> {
    require_bpf()?;
    for (name, ends) in [("tls-gnutls", &["closed"][..]), ("tls-rustls", &["handle_reused", "exit"])] {
        let (trace, transfers) = run_library(name, &["--connections=only"])?;
        let all = told(&trace)?;
        for told in all.values() {
            let counts = (told.opens.len(), told.calls.len(), told.closes.len());
            ensure!(counts == (1, 0, 1) && ends.contains(&told.end()), "{name}: {counts:?} {}", told.end());
            ensure!(told.number("/connection/calls") >= 4, "{name}: {:?}", told.closes);
        }
        ensure!(all.values().any(|told| ends.last() == Some(&told.end())), "{name}");
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

/// No function of theirs is seen to end a connection, or after its socket has gone.
#[test]
fn sockets_that_end_connections() -> Result<()> {
    require_bpf()?;
    for name in ["tls-bearssl", "tls-botan", "tls-openssl-stripped"] {
        let ends = &["socket_closed", "handle_reused", "closed", "exit"];
        check_library(name, Some("1.2"), ends).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// rustls has no function for it, and its sockets are not TCP's here.
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
    let all = told(&trace)?;
    ensure!(all.len() == 1, "{} connections: {}", all.len(), trace.stderr);
    check_each(&all)?;
    for told in all.values() {
        let close = told.closes.first().context("no end")?;
        ensure!(told.end() == "closed" && told.calls.is_empty(), "{close}");
        for line in [told.open(), close] {
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

/// Both were connected before the trace; one is killed, and the other one notices.
#[test]
fn a_process_that_is_killed_with_an_open_connection() -> Result<()> {
    require_bpf()?;
    let server = LocalServer::start(1)?;
    let mut client = Command::new(program("tls-client")?)
        .args(["--port", server.port(), "--http", "20"])
        .stdout(Stdio::null())
        .spawn()?;
    // Until it talks.
    thread::sleep(Duration::from_millis(500));
    let (server_id, client_id) = (server.id().to_string(), client.id().to_string());
    let ctrace = Ctrace::json(&[LOG, &["--pid", &server_id, "--pid", &client_id]].concat())?;
    thread::sleep(Duration::from_millis(500));
    client.kill()?;
    client.wait()?;
    server.transfers()?;
    let trace = ctrace.wait(PATIENCE)?;
    let all = told(&trace)?;
    ensure!(all.len() == 2, "{} connections: {}", all.len(), trace.stderr);
    check_each(&all)?;
    check_peers(&all)?;
    for told in all.values() {
        let close = told.closes.first().context("no end")?;
        ensure!(close["connection"]["from_start"] == false && close["duration"].is_null(), "{close}");
        let is_client = close["process"]["pid"].as_u64() == Some(client.id().into());
        ensure!(told.end() == if is_client { "exit" } else { "closed" }, "{close}");
        ensure!(!told.calls.is_empty(), "{close}");
    }
    Ok(())
}
