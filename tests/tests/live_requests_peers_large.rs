//! `ctrace requests` with large runtimes that are stripped and have TLS inside of them, as servers and
//! clients of Go's: what is reported is what each end has logged. Needs root, BPF, Docker, pip, npm, and once
//! 180 MB from the machine's package sources.

use anyhow::Result;
use ctrace_tests::third_party::LARGE;
use ctrace_tests::third_party::client::Start;
use ctrace_tests::third_party::http::{PeerCase, PeerTransport, check_peers};

const GO_SERVER: &[&str] = &["/http-pair", "server"];
const GO: &[&str] = &["/http-pair", "client"];
const BUN: PeerCase = PeerCase {
    release: &LARGE,
    label: "bun-client",
    environment: &["--env=NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt", "--env=HOME=/tmp"],
    server: GO_SERVER,
    client: &["/usr/bin/bun", "/programs/http-peers.mjs", "fetch"],
    mapped: &["/usr/bin/bun", "/http-pair"],
    protocol: "h1",
    client_start: Start::Seen,
    transport: PeerTransport::Tls,
    least_complete: 0,
};

/// BoringSSL.
#[test]
fn bun_as_client() -> Result<()> {
    check_peers(&BUN)
}

#[test]
fn bun_as_server() -> Result<()> {
    let server = &["/usr/bin/bun", "/programs/http-peers.mjs", "server"];
    check_peers(&PeerCase { label: "bun-server", server, client: GO, ..BUN })
}

/// rustls, by HTTP/2: which connection it is, is known only after the handshake.
#[test]
fn deno_as_client() -> Result<()> {
    check_peers(&PeerCase {
        label: "deno-client",
        environment: &[
            "--env=DENO_CERT=/etc/ssl/certs/ca-certificates.crt",
            "--env=DENO_DIR=/tmp/deno",
            "--env=HOME=/tmp",
        ],
        client: &["/usr/bin/deno", "run", "--allow-net", "--allow-read", "/programs/http-peers.mjs", "fetch"],
        mapped: &["/usr/bin/deno", "/http-pair"],
        protocol: "h2",
        client_start: Start::Moved,
        least_complete: 50,
        ..BUN
    })
}
