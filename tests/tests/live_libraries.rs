//! Each TLS library of the table: every byte of both directions, on connections that reuse handles. Needs
//! root, BPF and Docker.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{
    Ctrace, OutputLines, RunningTrace, TestContainer, TestImage, TestRow, Transfer, images, require_live,
};

/// Sizes around the end of TLS records, and larger ones.
const UP: &str = "1,16383,16384,16385,70000,3,5";
const DOWN: &str = "100000,1,2,40000";
const CONNECTIONS: usize = 3;

/// A program of `tls-pair.c`, and what its records must say about the library.
struct Case {
    /// The name of its test function.
    test: &'static str,
    program: &'static str,
    /// Its name in the table of docs/tls.md.
    implementation: &'static str,
    /// The functions that records must name; no others may occur.
    functions: &'static [&'static str],
    /// Whether the library's version can be found.
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Found,
    /// The linker removed it, because nothing refers to it.
    LeftOut,
}

fn check(case: &Case) -> Result<()> {
    require_live()?;
    check_in(&images::libraries()?, case)
}

fn check_in(image: &TestImage, case: &Case) -> Result<()> {
    let connections = CONNECTIONS.to_string();
    let ran = run(image, case.program, &["--connections", &connections])?;
    check_trace(&ran, case)
}

/// What a program reported to have moved, and its trace.
struct Ran {
    trace: RunningTrace,
    transfers: Vec<Transfer>,
    container: TestContainer,
}

/// Traces a program of an image, once it is ready.
fn run(image: &TestImage, name: &str, options: &[&str]) -> Result<Ran> {
    let container = TestContainer::start(image, name, &[], &["/idle"])?;
    let program = format!("/{name}");
    let mut child = Command::new("docker")
        .args(["exec", "-i", container.id(), &program])
        .args(["--up", UP, "--down", DOWN])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = OutputLines::of(child.stdout.take().context("no standard output")?);
    lines.wait("line that it is ready", Duration::from_secs(20), |line| line == "ready")?;
    let ctrace = Ctrace::json(&["--container", container.name()])?;
    child.stdin.take().context("no standard input")?.write_all(b"\n")?;
    let connections = if options.contains(&"--connections") { CONNECTIONS } else { 1 };
    let mut transfers = Vec::new();
    while transfers.len() < 2 * connections {
        let line = lines.wait("report", Duration::from_secs(30), |line| line.starts_with('{'))?;
        transfers.extend(Transfer::all(&line)?);
    }
    ensure!(child.wait()?.success(), "{program} failed");
    Ok(Ran { trace: ctrace.finish()?, transfers, container })
}

fn check_trace(Ran { trace, transfers, container }: &Ran, case: &Case) -> Result<()> {
    trace.check_complete()?;
    let streams = trace.streams(|_| true)?;
    streams.check(transfers)?;
    ensure!(streams.iter().all(|(_, stream)| stream.from_start), "a connection was not seen from its start");
    let seen: BTreeSet<String> = trace.records()?.into_iter().map(|record| record.function).collect();
    ensure!(
        seen.iter().map(String::as_str).eq(case.functions.iter().copied()),
        "functions: {seen:?}, not {:?}",
        case.functions
    );
    for line in trace.lines()?.iter().filter(|line| line["type"] == "ssl") {
        let library = &line["library"];
        ensure!(library["implementation"] == case.implementation, "{library}");
        let version = library["version"].as_str();
        let is_right = match case.version {
            Version::Found => version.is_some_and(|version| version.split('.').count() == 3),
            Version::LeftOut => version.is_none(),
        };
        ensure!(is_right, "{library}");
    }
    let test = format!("live_libraries::{}", case.test);
    TestRow { test: &test, program: case.program, trace, root: &container.path("/") }.check()
}

#[test]
fn gnutls() -> Result<()> {
    // gnutls_record_send jumps to gnutls_record_send2. That is one call, and the outer name is recorded.
    let functions = &[
        "gnutls_packet_get",
        "gnutls_record_recv",
        "gnutls_record_recv_seq",
        "gnutls_record_send",
        "gnutls_record_send2",
    ];
    check(&Case {
        test: "gnutls",
        program: "tls-gnutls",
        implementation: "GnuTLS",
        functions,
        version: Version::Found,
    })
}

const MBEDTLS: &[&str] = &["mbedtls_ssl_read", "mbedtls_ssl_write"];

#[test]
fn mbed_tls() -> Result<()> {
    let version = Version::Found;
    check(&Case {
        test: "mbed_tls",
        program: "tls-mbedtls",
        implementation: "Mbed TLS",
        functions: MBEDTLS,
        version,
    })
}

#[test]
fn mbed_tls_in_a_static_executable() -> Result<()> {
    let version = Version::LeftOut;
    check(&Case {
        test: "mbed_tls_in_a_static_executable",
        program: "tls-mbedtls-static",
        implementation: "Mbed TLS",
        functions: MBEDTLS,
        version,
    })
}

#[test]
fn wolfssl() -> Result<()> {
    let functions = &["wolfSSL_read", "wolfSSL_recv", "wolfSSL_send", "wolfSSL_write"];
    check(&Case {
        test: "wolfssl",
        program: "tls-wolfssl",
        implementation: "wolfSSL",
        functions,
        version: Version::Found,
    })
}

const OPENSSL: &[&str] = &["SSL_read", "SSL_read_ex", "SSL_write", "SSL_write_ex"];

#[test]
fn openssl_static_and_stripped() -> Result<()> {
    let version = Version::LeftOut;
    check(&Case {
        test: "openssl_static_and_stripped",
        program: "tls-openssl-stripped",
        implementation: "OpenSSL",
        functions: OPENSSL,
        version,
    })
}

#[test]
fn openssl_static_stripped_and_position_independent() -> Result<()> {
    let version = Version::LeftOut;
    check(&Case {
        test: "openssl_static_stripped_and_position_independent",
        program: "tls-openssl-stripped-pie",
        implementation: "OpenSSL",
        functions: OPENSSL,
        version,
    })
}

#[test]
fn openssl_static_and_stripped_of_its_frames_too() -> Result<()> {
    let version = Version::LeftOut;
    check(&Case {
        test: "openssl_static_and_stripped_of_its_frames_too",
        program: "tls-openssl-unframed",
        implementation: "OpenSSL",
        functions: OPENSSL,
        version,
    })
}

#[test]
fn aws_lc_static() -> Result<()> {
    require_live()?;
    let version = Version::Found;
    let case = Case {
        test: "aws_lc_static",
        program: "tls-aws-lc",
        implementation: "AWS-LC",
        functions: OPENSSL,
        version,
    };
    check_in(&images::aws_lc()?, &case)
}

/// The functions with the other names call the two that are found.
#[test]
fn aws_lc_static_and_stripped() -> Result<()> {
    require_live()?;
    let (version, functions) = (Version::Found, &["SSL_read", "SSL_write"]);
    let case = Case {
        test: "aws_lc_static_and_stripped",
        program: "tls-aws-lc-stripped",
        implementation: "AWS-LC",
        functions,
        version,
    };
    check_in(&images::aws_lc()?, &case)
}

#[test]
fn mbed_tls_static_and_stripped() -> Result<()> {
    let version = Version::LeftOut;
    check(&Case {
        test: "mbed_tls_static_and_stripped",
        program: "tls-mbedtls-stripped",
        implementation: "Mbed TLS",
        functions: MBEDTLS,
        version,
    })
}

#[test]
fn gnutls_static_and_stripped() -> Result<()> {
    let functions =
        &["gnutls_packet_get", "gnutls_record_recv", "gnutls_record_recv_seq", "gnutls_record_send2"];
    let (test, program) = ("gnutls_static_and_stripped", "tls-gnutls-stripped");
    check(&Case { test, program, implementation: "GnuTLS", functions, version: Version::Found })
}

#[test]
fn wolfssl_static_and_stripped() -> Result<()> {
    let (functions, version) = (&["ReceiveData of wolfSSL", "SendData of wolfSSL"], Version::Found);
    let (test, program) = ("wolfssl_static_and_stripped", "tls-wolfssl-stripped");
    check(&Case { test, program, implementation: "wolfSSL", functions, version })
}

/// The library that has the functions does not contain the version.
const NSS: Case = Case {
    test: "nss",
    program: "tls-nss",
    implementation: "NSS",
    functions: &["PR_Read", "PR_Recv", "PR_Send", "PR_Write", "PR_Writev"],
    version: Version::LeftOut,
};

#[test]
fn nss() -> Result<()> {
    check(&NSS)
}

#[test]
fn descriptors_of_nss_that_were_there_before() -> Result<()> {
    require_live()?;
    let Ran { trace, mut transfers, container: _ } =
        run(&images::libraries()?, NSS.program, &["--late", "1"])?;
    trace.check_complete()?;
    // The server was already inside a read, which cannot be seen.
    transfers.retain(|transfer| transfer.side == "client");
    let vpid = transfers.first().context("no client")?.vpid;
    let streams = trace.streams(|record| record.process.vpid == Some(vpid))?;
    streams.check(&transfers)?;
    ensure!(!streams.iter().any(|(_, stream)| stream.from_start), "a connection was seen from its start");
    Ok(())
}

#[test]
fn bearssl() -> Result<()> {
    let functions = &["br_ssl_engine_recvapp_ack", "br_ssl_engine_sendapp_ack"];
    check(&Case {
        test: "bearssl",
        program: "tls-bearssl",
        implementation: "BearSSL",
        functions,
        version: Version::LeftOut,
    })
}

#[test]
fn botan() -> Result<()> {
    let functions = &["Botan::TLS::Channel::process_application_data", "Botan::TLS::Channel::send"];
    check(&Case {
        test: "botan",
        program: "tls-botan",
        implementation: "Botan",
        functions,
        version: Version::Found,
    })
}

const RUSTLS: &[&str] = &[
    "rustls::common_state::CommonState::send_appdata_encrypt",
    "rustls::common_state::CommonState::take_received_plaintext",
];

fn check_rustls(test: &'static str, program: &'static str) -> Result<()> {
    require_live()?;
    let case = Case { test, program, implementation: "rustls", functions: RUSTLS, version: Version::Found };
    let connections = CONNECTIONS.to_string();
    let ran = run(&images::rustls()?, case.program, &["--connections", &connections])?;
    check_trace(&ran, &case)?;
    // 16383 bytes were written from three buffers, which make one record.
    let joined = ran.trace.records()?.iter().filter(|record| record.call.length == 16383).count();
    ensure!(joined >= CONNECTIONS, "{joined} records of pieces that were written together");
    Ok(())
}

/// Link-time optimisation of everything leaves the fewest functions.
#[test]
fn rustls() -> Result<()> {
    check_rustls("rustls", "tls-rustls")
}

#[test]
fn rustls_with_the_usual_optimisation() -> Result<()> {
    check_rustls("rustls_with_the_usual_optimisation", "tls-rustls-release")
}

#[test]
fn rustls_on_aws_lc() -> Result<()> {
    check_rustls("rustls_on_aws_lc", "tls-rustls-aws-lc")
}

#[test]
fn rustls_on_aws_lc_with_the_usual_optimisation() -> Result<()> {
    check_rustls("rustls_on_aws_lc_with_the_usual_optimisation", "tls-rustls-aws-lc-release")
}

#[test]
fn rustls_stripped() -> Result<()> {
    check_rustls("rustls_stripped", "tls-rustls-stripped")
}

#[test]
fn rustls_stripped_with_the_usual_optimisation() -> Result<()> {
    check_rustls("rustls_stripped_with_the_usual_optimisation", "tls-rustls-release-stripped")
}

#[test]
fn rustls_on_aws_lc_stripped() -> Result<()> {
    check_rustls("rustls_on_aws_lc_stripped", "tls-rustls-aws-lc-stripped")
}

#[test]
fn rustls_on_aws_lc_stripped_with_the_usual_optimisation() -> Result<()> {
    check_rustls(
        "rustls_on_aws_lc_stripped_with_the_usual_optimisation",
        "tls-rustls-aws-lc-release-stripped",
    )
}

const GO: &[&str] = &["crypto/tls.(*Conn).Read", "crypto/tls.(*Conn).Write"];

fn check_go(test: &'static str, program: &'static str) -> Result<()> {
    check(&Case { test, program, implementation: "Go crypto/tls", functions: GO, version: Version::Found })
}

#[test]
fn go() -> Result<()> {
    check_go("go", "tls-go")
}

#[test]
fn go_stripped() -> Result<()> {
    check_go("go_stripped", "tls-go-stripped")
}

#[test]
fn go_stripped_and_position_independent() -> Result<()> {
    check_go("go_stripped_and_position_independent", "tls-go-pie")
}

#[test]
fn go_with_c_in_it() -> Result<()> {
    check_go("go_with_c_in_it", "tls-go-cgo")
}

/// A Go library in a C program.
#[test]
fn go_in_a_shared_library() -> Result<()> {
    check_go("go_in_a_shared_library", "tls-go-shared")
}
