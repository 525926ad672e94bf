//! Servers that others have built, as their users get them. Both ends of each connection are traced at the
//! same time: each end receives what the other sent, every byte once, and each names the other's address.
//! Needs root, BPF, Docker, and once the machine's package sources.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::third_party::client::AUTHORITY;
use ctrace_tests::third_party::{Pair, PairSetup, TRIXIE};
use ctrace_tests::{Direction, RunningTrace, TestRow, docker};
use serde_json::Value;

const REQUEST: &[u8] = b"ctrace-request-a7c31e";
const RESPONSE: &[u8] = b"ctrace-response-5d1f0c";
const LIBSSL: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/libssl.so.3", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3"];
/// The address in third-party-caddy.conf.
const SERVER: &str = "https://localhost:8443/";
const CURL: [&str; 3] = ["/usr/bin/curl", "-sS", "--fail"];
/// curl's options for waiting until the server listens.
const LISTENING: [&str; 5] = ["--retry", "20", "--retry-connrefused", "--retry-delay", "1"];
/// The number of parallel requests.
const REQUESTS: usize = 6;

const OPENSSL: &str = "OpenSSL";

/// What the server's records must say.
struct Expected {
    implementation: &'static str,
    /// How ctrace knows its sockets.
    socket: &'static str,
    connections: usize,
    /// The number of streams that both ends complete.
    whole: usize,
}

/// A pair of the same release; the client's OpenSSL is mapped.
fn start(label: &str, server: &[&str]) -> Result<Pair> {
    Pair::start(&PairSetup { release: &TRIXIE, label, options: &[], server, mapped: &LIBSSL })
}

/// Goroutines that wait for many connections, and move between threads: first HTTP/1.1 with a connection
/// each, then HTTP/2 on one.
#[test]
fn caddy() -> Result<()> {
    let command =
        ["/usr/bin/caddy", "run", "--config", "/programs/third-party-caddy.conf", "--adapter", "caddyfile"];
    let pair = start("caddy", &command)?;
    pair.client.exec(&[&CURL, LISTENING.as_slice(), &[SERVER]].concat())?;
    let ctrace = pair.trace(&["ssl", "-v", "-o", "json"])?;
    for version in ["--http1.1", "--http2"] {
        let body = ["--data-binary", "@/programs/third-party-client.py"];
        let together = ["--parallel", version];
        let urls = [SERVER, "--output", "/dev/null"].repeat(REQUESTS);
        pair.client.exec(&[&CURL, together.as_slice(), &body, &urls].concat())?;
    }
    // The server ends when it has read everything.
    docker(&["stop", pair.server.id()])?;
    let trace = ctrace.finish()?;
    let (connections, whole) = (REQUESTS + 1, 2 * REQUESTS);
    let expected = Expected { implementation: "Go crypto/tls", socket: "seen", connections, whole };
    let of_server = check(&trace, &expected)?;
    let markers = [(Direction::Receive, REQUEST), (Direction::Transmit, RESPONSE)];
    check_markers(&of_server, markers, 2 * REQUESTS)?;
    // The container of the server has ended; the client's has the same image.
    let (test, root) = ("live_third_party_servers::caddy", pair.client.path("/"));
    TestRow { test, program: "caddy of Debian 13", trace: &of_server, root: &root }.check()
}

/// Connections of TLS 1.2 and of 1.3, one after the other.
#[test]
fn botan_3() -> Result<()> {
    let pair =
        start("botan", &["/usr/bin/botan", "tls_server", "/server.pem", "/server.pem", "--port=8443"])?;
    let client = ["/usr/bin/python3", "/programs/third-party-client.py", "echo", "8443", AUTHORITY];
    pair.client.exec(&client)?;
    let ctrace = pair.trace(&["ssl", "-v", "-o", "json"])?;
    pair.client.exec(&client)?;
    pair.client.exec(&client)?;
    let trace = ctrace.finish()?;
    let expected = Expected { implementation: "Botan", socket: "guessed", connections: 4, whole: 8 };
    let of_server = check(&trace, &expected)?;
    check_markers(&of_server, [(Direction::Receive, REQUEST), (Direction::Transmit, RESPONSE)], 4)?;
    let (test, root) = ("live_third_party_servers::botan_3", pair.server.path("/"));
    TestRow { test, program: "botan of Debian 13, as a server", trace: &of_server, root: &root }.check()
}

/// Checks the whole trace, and returns the server's part of it.
fn check(trace: &RunningTrace, expected: &Expected) -> Result<RunningTrace> {
    trace.check_complete()?;
    let (ours, mut theirs) = (streams(trace, expected.implementation)?, streams(trace, OPENSSL)?);
    ensure!(ours.len() == 2 * expected.connections, "{} streams of the server", ours.len());
    let mut whole = 0;
    for (direction, bytes) in &ours {
        // An end that closes a connection does not read what the other end is still sending.
        let is_other_end = |(other, theirs): &(Direction, Vec<u8>)| match direction {
            Direction::Transmit => *other == Direction::Receive && bytes.starts_with(theirs),
            Direction::Receive => *other == Direction::Transmit && theirs.starts_with(bytes),
        };
        let at = theirs.iter().position(is_other_end);
        let at = at.with_context(|| format!("{direction:?}, {} bytes: no other end", bytes.len()))?;
        whole += usize::from(theirs.swap_remove(at).1.len() == bytes.len());
    }
    ensure!(theirs.is_empty(), "{} streams of clients without another end", theirs.len());
    ensure!(whole >= expected.whole, "{whole} streams are the same at both ends");
    check_ends(trace, expected)?;
    only(trace, expected.implementation)
}

fn check_markers(trace: &RunningTrace, markers: [(Direction, &[u8]); 2], least: usize) -> Result<()> {
    for (direction, marker) in markers {
        let bytes = trace.streams(|_| true)?.bytes(direction);
        let found = bytes.windows(marker.len()).filter(|window| *window == marker).count();
        ensure!(found >= least, "{found} markers: {direction:?}");
    }
    Ok(())
}

/// Each stream of an implementation; a gap is an error.
fn streams(trace: &RunningTrace, implementation: &str) -> Result<Vec<(Direction, Vec<u8>)>> {
    let streams = only(trace, implementation)?.streams(|_| true)?;
    for (direction, stream) in streams.iter() {
        ensure!(stream.gaps().is_empty() && stream.from_start, "{implementation}, {direction:?}: incomplete");
    }
    Ok(streams.iter().map(|(direction, stream)| (direction, stream.bytes())).collect())
}

/// Checks that both ends name the same pairs of addresses, and each its own role.
fn check_ends(trace: &RunningTrace, expected: &Expected) -> Result<()> {
    let lines = trace.lines()?;
    let ends = |implementation: &str, socket: &str, [role, first, second]: [&str; 3]| {
        let mut ends = BTreeSet::new();
        for line in lines.iter().filter(|line| is_of(line, implementation)) {
            let (network, connection) = (&line["network"], &line["connection"]);
            // A guess needs a call that sends.
            if connection["socket"].is_null() && socket == "guessed" {
                continue;
            }
            ensure!(connection["role"] == role && connection["socket"] == socket, "{connection}");
            ends.insert(format!("{} {}", network[first], network[second]));
        }
        Ok(ends)
    };
    let server = ends(expected.implementation, expected.socket, ["server", "local", "peer"])?;
    let client = ends(OPENSSL, "seen", ["client", "peer", "local"])?;
    ensure!(server == client && server.len() == expected.connections, "{server:?}\n{client:?}");
    Ok(())
}

/// Only the records of an implementation.
fn only(trace: &RunningTrace, implementation: &str) -> Result<RunningTrace> {
    let is_its = |line: &&[u8]| serde_json::from_slice(line).is_ok_and(|line| is_of(&line, implementation));
    let lines: Vec<&[u8]> = trace.stdout.split(|byte| *byte == b'\n').filter(is_its).collect();
    ensure!(!lines.is_empty(), "no records of {implementation}; standard error:\n{}", trace.stderr);
    Ok(RunningTrace { stdout: lines.join(&b'\n'), stderr: trace.stderr.clone(), status: trace.status })
}

fn is_of(line: &Value, implementation: &str) -> bool {
    line.pointer("/library/implementation").and_then(Value::as_str) == Some(implementation)
}
