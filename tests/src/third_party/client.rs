//! A program of others as a client of our server, each in a container: what the trace must have.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::{BOOKWORM, Certificate, Release};
use crate::{
    Ctrace, Direction, RunningTrace, Server, TestContainer, TestRow, Transfer, require_live, script,
};

const REQUEST: &[u8] = b"ctrace-request-a7c31e";
const RESPONSE: &[u8] = b"ctrace-response-5d1f0c";
/// Debian's file of trusted certificates.
pub const AUTHORITY: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A program that sends requests to our server.
#[derive(Debug)]
pub struct Case {
    /// The name of the test's suite.
    pub suite: &'static str,
    /// The name of the test function.
    pub test: &'static str,
    /// The program, as docs/tls.md describes it.
    pub program: &'static str,
    /// What its container has.
    pub release: Release,
    /// The protocol of the server: see `third-party-server.py`.
    pub protocol: &'static str,
    /// Files that are mapped before the program runs, so that ctrace attaches to them: the one with the
    /// functions, and the one with the version.
    pub files: &'static [&'static str],
    /// Environment variables. `PORT` in these and in the command stands for the server's port.
    pub environment: &'static [&'static str],
    /// The program with its arguments.
    pub command: &'static [&'static str],
    /// The TLS implementation that each record must name.
    pub implementation: &'static str,
    /// How ctrace knows its sockets.
    pub socket: SocketSource,
    /// Whether its connections are seen from their start.
    pub start: Start,
}

/// How ctrace knows the addresses of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketSource {
    /// By the calls of the library's own.
    Seen,
    /// Guessed, from some call on.
    Guessed,
}

/// Whether the first byte of a connection is recognised as the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It is.
    Seen,
    /// The program moves its connections after the handshake, and rustls connections are identified by their
    /// address.
    Moved,
}

/// What the server reports about a connection.
#[derive(Debug, Deserialize)]
struct Served {
    #[serde(flatten)]
    transfer: Transfer,
    server: Value,
    client: Value,
}

/// A server, and a container next to it in which nothing runs yet.
struct Scene {
    server: Server,
    container: TestContainer,
}

impl Scene {
    fn start(case: &Case) -> Result<Self> {
        require_live()?;
        let certificate = Certificate::get()?;
        let programs = format!("--volume={}:/programs:ro", script("").display());
        let pem = format!("--volume={}:/server.pem:ro", certificate.server().display());
        let options = [programs.as_str(), &pem, "--env=PYTHONPATH=/app"];
        let command = ["/usr/bin/python3", "/programs/third-party-server.py", case.protocol, "/server.pem"];
        let label = format!("{}-server", case.test);
        let server = Server::start_in(&BOOKWORM.image()?, &label, &options, &command)?;

        let authority = format!("--volume={}:{AUTHORITY}:ro", certificate.authority().display());
        let network = format!("--network=container:{}", server.container.id());
        let mut options = vec![programs, authority, network, "--env=PYTHONPATH=/app".to_owned()];
        let variables = with_port(case.environment, &server);
        options.extend(variables.iter().map(|variable| format!("--env={variable}")));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let command = [&["/mapper"], case.files].concat();
        let container = TestContainer::start(&case.release.image()?, case.test, &options, &command)?;
        Ok(Self { server, container })
    }
}

fn with_port(words: &[&str], server: &Server) -> Vec<String> {
    words.iter().map(|word| word.replace("PORT", server.port())).collect()
}

/// Traces the program, and compares with what the server reports: each byte of both directions, the
/// implementation, and the addresses of each connection.
pub fn check(case: &Case) -> Result<()> {
    let Scene { server, container } = Scene::start(case)?;
    let ctrace = Ctrace::json(&["--container", container.name()])?;
    let command = with_port(case.command, &server);
    container.exec(&command.iter().map(String::as_str).collect::<Vec<_>>())?;
    let reports = server.reports(1)?;
    let trace = ctrace.finish()?;
    let served: Result<Vec<Served>> =
        reports.iter().map(|line| serde_json::from_str(line).context("a report")).collect();
    let served = served?;
    check_payload(&trace, &served, case)?;
    check_records(&trace, &served, case)?;
    let test = format!("{}::{}", case.suite, case.test);
    TestRow { test: &test, program: case.program, trace: &trace, root: &container.path("/") }.check()
}

/// Checks that the trace has each byte that the server reports, once, with the markers in the right places.
fn check_payload(trace: &RunningTrace, served: &[Served], case: &Case) -> Result<()> {
    trace.check_complete()?;
    let streams = trace.streams(|_| true)?;
    let of_client = |served: &Served| Transfer {
        side: "client".to_owned(),
        received: served.transfer.sent.clone(),
        sent: served.transfer.received.clone(),
        ..served.transfer
    };
    streams.check(&served.iter().map(of_client).collect::<Vec<_>>())?;
    let is_seen = case.start == Start::Seen;
    ensure!(
        streams.iter().all(|(_, stream)| stream.from_start == is_seen),
        "seen from the start: not {is_seen}"
    );
    for (direction, marker) in [(Direction::Transmit, REQUEST), (Direction::Receive, RESPONSE)] {
        let bytes = streams.bytes(direction);
        ensure!(bytes.windows(marker.len()).any(|window| window == marker), "no marker: {direction:?}");
    }
    Ok(())
}

/// Checks that each record names the implementation and the addresses that the server reports.
fn check_records(trace: &RunningTrace, served: &[Served], case: &Case) -> Result<()> {
    let mut with_address: BTreeMap<u64, usize> = BTreeMap::new();
    for line in trace.lines()?.iter().filter(|line| line["type"] == "ssl") {
        let (library, connection) = (&line["library"], &line["connection"]);
        ensure!(library["implementation"] == case.implementation, "{library}");
        let count = with_address.entry(connection["id"].as_u64().context("no connection")?).or_default();
        let (network, certainty) = (&line["network"], connection["socket"].as_str());
        if certainty.is_none() {
            ensure!(
                case.socket == SocketSource::Guessed && network["peer"].is_null(),
                "no socket: {network}"
            );
            continue;
        }
        *count += 1;
        let expected = if case.socket == SocketSource::Seen { "seen" } else { "guessed" };
        ensure!(certainty == Some(expected), "{connection}");
        let is_reported =
            |served: &Served| network["local"] == served.client && network["peer"] == served.server;
        ensure!(served.iter().any(is_reported), "{network} is none of {served:?}");
        ensure!(network["transport"] == "tcp" && connection["role"] == "client", "{network} {connection}");
    }
    ensure!(with_address.len() == served.len(), "connections {with_address:?}, not {served:?}");
    ensure!(with_address.values().all(|count| *count > 0), "a connection's addresses were never recorded");
    Ok(())
}
