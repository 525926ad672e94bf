//! Servers that others have built, as their users get them. Both ends of each connection are traced at the same time: what one has
//! sent the other has received, every byte once, and each names the other's address. Needs root, BPF, Docker, and once the
//! machine's package sources.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::third_party::{Certificate, TRIXIE};
use ctrace_tests::{Container, Ctrace, Direction, Row, Tally, Trace, docker, require_live, script};
use serde_json::Value;

const REQUEST: &[u8] = b"ctrace-request-a7c31e";
const RESPONSE: &[u8] = b"ctrace-response-5d1f0c";
const AUTHORITY: &str = "/etc/ssl/certs/ca-certificates.crt";
const LIBSSL: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/libssl.so.3", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3"];
/// As third-party-caddy.conf has it.
const SERVER: &str = "https://localhost:8443/";
const CURL: [&str; 3] = ["/usr/bin/curl", "-sS", "--fail"];
/// Until it does.
const LISTENING: [&str; 5] = ["--retry", "20", "--retry-connrefused", "--retry-delay", "1"];
/// Requests at the same time.
const REQUESTS: usize = 6;

const GO: &str = "Go crypto/tls";
const OPENSSL: &str = "OpenSSL";

/// Goroutines that wait for many connections, and move between threads: HTTP/1.1 on a connection each, then HTTP/2 on one.
#[test]
fn caddy() -> Result<()> {
    require_live()?;
    let certificate = Certificate::get()?;
    let image = TRIXIE.image()?;
    let programs = format!("--volume={}:/programs:ro", script("").display());
    let pem = format!("--volume={}:/server.pem:ro", certificate.server().display());
    let command =
        ["/usr/bin/caddy", "run", "--config", "/programs/third-party-caddy.conf", "--adapter", "caddyfile"];
    let server = Container::start(&image, "caddy", &[&programs, &pem, "--env=HOME=/root"], &command)?;
    let authority = format!("--volume={}:{AUTHORITY}:ro", certificate.authority().display());
    let network = format!("--network=container:{}", server.id());
    let command = [&["/mapper"], LIBSSL.as_slice()].concat();
    let client = Container::start(&image, "caddy-client", &[&programs, &authority, &network], &command)?;
    client.exec(&[&CURL, LISTENING.as_slice(), &[SERVER]].concat())?;

    let ctrace = Ctrace::json(&["--container", server.name(), "--container", client.name()])?;
    for version in ["--http1.1", "--http2"] {
        let body = ["--data-binary", "@/programs/third-party-client.py"];
        let together = ["--parallel", version];
        let urls = [SERVER, "--output", "/dev/null"].repeat(REQUESTS);
        client.exec(&[&CURL, together.as_slice(), &body, &urls].concat())?;
    }
    // It ends when it has read all that there is.
    docker(&["stop", server.id()])?;
    let trace = ctrace.finish()?;

    trace.check_complete()?;
    let connections = REQUESTS + 1;
    let (ours, theirs) = (tallies(&trace, GO)?, tallies(&trace, OPENSSL)?);
    ensure!(ours.len() == 2 * connections, "{} streams of {connections} connections", ours.len());
    let turned = theirs.into_iter().map(|(direction, tally)| (turn(direction), tally));
    let mut turned: Vec<_> = turned.collect();
    for stream in &ours {
        let at = turned.iter().position(|other| other == stream);
        let at = at.with_context(|| format!("{stream:?} has no other end: {turned:?}"))?;
        turned.swap_remove(at);
    }
    ensure!(turned.is_empty(), "streams without another end: {turned:?}");
    check_ends(&trace, connections)?;

    let of_caddy = only(&trace, GO)?;
    for (direction, marker) in [(Direction::Receive, REQUEST), (Direction::Transmit, RESPONSE)] {
        let bytes = of_caddy.streams(|_| true)?.bytes(direction);
        let found = bytes.windows(marker.len()).filter(|window| *window == marker).count();
        ensure!(found >= 2 * REQUESTS, "{found} markers: {direction:?}");
    }
    // The same image: the server's own container has ended.
    Row {
        test: "live_third_party_servers::caddy",
        program: "caddy of Debian 13",
        trace: &of_caddy,
        root: &client.path("/"),
    }
    .check()
}

fn turn(direction: Direction) -> Direction {
    match direction {
        Direction::Receive => Direction::Transmit,
        Direction::Transmit => Direction::Receive,
    }
}

/// Each stream of an implementation, which has no gap.
fn tallies(trace: &Trace, implementation: &str) -> Result<Vec<(Direction, Tally)>> {
    let streams = only(trace, implementation)?.streams(|_| true)?;
    for (direction, stream) in streams.iter() {
        ensure!(stream.gaps().is_empty() && stream.from_start, "{implementation}, {direction:?}: incomplete");
    }
    Ok(streams.iter().map(|(direction, stream)| (direction, stream.tally())).collect())
}

/// Both ends name the same pairs of addresses, and each its own role.
fn check_ends(trace: &Trace, connections: usize) -> Result<()> {
    let lines = trace.lines()?;
    let ends = |implementation: &str, role: &str, [first, second]: [&str; 2]| -> Result<BTreeSet<String>> {
        let mut ends = BTreeSet::new();
        for line in lines.iter().filter(|line| is_of(line, implementation)) {
            let (network, connection) = (&line["network"], &line["connection"]);
            ensure!(connection["role"] == role && connection["socket"] == "seen", "{connection}");
            ends.insert(format!("{} {}", network[first], network[second]));
        }
        Ok(ends)
    };
    let (server, client) =
        (ends(GO, "server", ["local", "peer"])?, ends(OPENSSL, "client", ["peer", "local"])?);
    ensure!(server == client && server.len() == connections, "{server:?}\n{client:?}");
    Ok(())
}

/// The records of an implementation alone.
fn only(trace: &Trace, implementation: &str) -> Result<Trace> {
    let is_its = |line: &&[u8]| serde_json::from_slice(line).is_ok_and(|line| is_of(&line, implementation));
    let lines: Vec<&[u8]> = trace.stdout.split(|byte| *byte == b'\n').filter(is_its).collect();
    ensure!(!lines.is_empty(), "no records of {implementation}; standard error:\n{}", trace.stderr);
    Ok(Trace { stdout: lines.join(&b'\n'), stderr: trace.stderr.clone(), status: trace.status })
}

fn is_of(line: &Value, implementation: &str) -> bool {
    line.pointer("/library/implementation").and_then(Value::as_str) == Some(implementation)
}
