//! The trace has every byte of both directions exactly once, compared with what the programs report. Needs
//! root, BPF and Docker.

use std::collections::BTreeSet;
use std::env;

use anyhow::{Result, ensure};
use ctrace_tests::{
    Ctrace, RETURN_PROBE_VARIABLE, RunningTrace, Server, TestImage, TestRow, Transfer, images, library,
    program, require_live,
};
use serde_json::Value;

/// Sizes around the ends of buffers, TLS records and chunks.
const SIZES: &str = "0,1,8191,8192,8193,16384,100000,1000000";
const BOTH: &[&str] = &["--up", SIZES, "--down", SIZES];

/// A traced server in a container, and then a client.
struct Case {
    label: &'static str,
    image: fn() -> Result<TestImage>,
    /// Options of `docker run`.
    docker: &'static [&'static str],
    server: &'static [&'static str],
    /// The client's options, without `--port`.
    client: &'static [&'static str],
    place: Place,
    connections: usize,
    /// The functions that records must name; no others may occur.
    functions: &'static [&'static str],
    /// Test and program in the table of docs/tls.md, if the case has a row.
    row: Option<(&'static str, &'static str)>,
}

/// Where the client runs.
#[derive(Clone, Copy)]
enum Place {
    /// In the server's container: both sides are traced.
    Inside,
    /// In another container: the server alone is traced.
    Outside,
}

const PLAIN: &[&str] = &["SSL_read", "SSL_write"];
const EX: &[&str] = &["SSL_read_ex", "SSL_write_ex"];

const BASE: Case = Case {
    label: "",
    image: images::tls,
    docker: &[],
    server: &["/tls-server"],
    client: BOTH,
    place: Place::Inside,
    connections: 1,
    functions: PLAIN,
    row: None,
};

fn check(case: &Case) -> Result<()> {
    require_live()?;
    let server = Server::start_in(&(case.image)()?, case.label, case.docker, case.server)?;
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    let inside = match case.place {
        Place::Inside => server.client(case.client)?,
        Place::Outside => server.client_outside(case.client).map(|_| Vec::new())?,
    };
    let transfers = [server.transfers(case.connections)?, inside].concat();
    let trace = ctrace.finish()?;
    check_trace(&trace, &transfers, case.functions)?;
    case.row.map_or(Ok(()), |(test, program)| check_row(test, program, &trace, &server))
}

fn check_row(test: &str, program: &str, trace: &RunningTrace, server: &Server) -> Result<()> {
    let test = format!("live_payloads::{test}");
    TestRow { test: &test, program, trace, root: &server.container.path("/") }.check()
}

/// Checks that the trace has exactly these transfers, from the start of each connection.
fn check_trace(trace: &RunningTrace, transfers: &[Transfer], functions: &[&str]) -> Result<()> {
    trace.check_complete()?;
    let streams = trace.streams(|_| true)?;
    streams.check(transfers)?;
    ensure!(streams.iter().all(|(_, stream)| stream.from_start), "a connection was not seen from its start");
    let records = trace.records()?;
    let seen: BTreeSet<&str> = records.iter().map(|record| record.function.as_str()).collect();
    ensure!(seen == functions.iter().copied().collect(), "functions: {seen:?}");
    Ok(())
}

#[test]
fn plain_calls() -> Result<()> {
    check(&Case { label: "plain", row: Some(("plain_calls", "tls-server, tls-client")), ..BASE })
}

#[test]
fn ex_calls() -> Result<()> {
    let client = &["--api", "ex", "--up", SIZES, "--down", SIZES];
    check(&Case { label: "ex", server: &["/tls-server", "--api", "ex"], client, functions: EX, ..BASE })
}

#[test]
fn small_buffers_and_retries() -> Result<()> {
    check(&Case {
        label: "retries",
        server: &["/tls-server", "--nonblocking", "--buffer", "16384"],
        client: &["--nonblocking", "--buffer", "16384", "--up", SIZES, "--down", SIZES],
        ..BASE
    })
}

#[test]
fn small_buffers_and_partial_writes() -> Result<()> {
    check(&Case {
        label: "partial",
        server: &["/tls-server", "--api", "ex", "--nonblocking", "--partial", "--buffer", "16384"],
        client: &["--api", "ex", "--nonblocking", "--up", SIZES, "--down", SIZES],
        functions: EX,
        ..BASE
    })
}

#[test]
fn blocking_with_small_buffers() -> Result<()> {
    let server = &["/tls-server", "--buffer", "16384"];
    check(&Case { label: "blocking", server, ..BASE })
}

#[test]
fn peeked_bytes_are_reported_once() -> Result<()> {
    let client = &["--peek", "--up", SIZES, "--down", SIZES];
    check(&Case { label: "peek", server: &["/tls-server", "--peek"], client, ..BASE })
}

#[test]
fn ex_peeked_bytes_are_reported_once() -> Result<()> {
    let client = &["--api", "ex", "--peek", "--up", SIZES, "--down", SIZES];
    let server = &["/tls-server", "--api", "ex", "--peek"];
    check(&Case { label: "peek-ex", server, client, functions: EX, ..BASE })
}

#[test]
fn connections_one_after_the_other() -> Result<()> {
    // OpenSSL gives a handle the address of the one freed before. These are still five connections.
    let client = &["--connections", "5", "--up", "10,20000", "--down", "30,0"];
    check(&Case { label: "serial", client, connections: 5, ..BASE })
}

#[test]
fn connections_of_threads() -> Result<()> {
    let client = &["--connections", "3", "--up", SIZES, "--down", SIZES];
    check(&Case { label: "threads", server: &["/tls-server", "--threads"], client, connections: 3, ..BASE })
}

#[test]
fn children_that_never_execute_anything() -> Result<()> {
    let client = &["--connections", "3", "--up", SIZES, "--down", SIZES];
    check(&Case { label: "fork", server: &["/tls-server", "--fork"], client, connections: 3, ..BASE })
}

#[test]
fn early_data() -> Result<()> {
    // With return probes of the kernel, an internal function is hooked instead of the public ones. OpenSSL's
    // early data calls use its _ex calls, which call that.
    let functions: &[&str] = match env::var(RETURN_PROBE_VARIABLE).as_deref() {
        Ok("kernel") => &["SSL_read", "SSL_read_ex", "SSL_write", "SSL_write_ex"],
        _ => &["SSL_read", "SSL_read_early_data", "SSL_write", "SSL_write_early_data"],
    };
    check(&Case {
        label: "early",
        server: &["/tls-server", "--early"],
        client: &["--early", "sent before the handshake", "--up", "5", "--down", "7"],
        connections: 2,
        functions,
        ..BASE
    })
}

#[test]
fn openssl_in_the_executable() -> Result<()> {
    check(&Case {
        label: "static",
        image: images::vendored,
        server: &["/tls-server-static"],
        row: Some(("openssl_in_the_executable", "tls-server-static")),
        place: Place::Outside,
        ..BASE
    })
}

#[test]
fn openssl_in_another_library() -> Result<()> {
    check(&Case {
        label: "bundled",
        image: images::vendored,
        server: &["/app/tls-server-bundled"],
        row: Some(("openssl_in_another_library", "tls-server-bundled")),
        place: Place::Outside,
        ..BASE
    })
}

#[test]
fn a_library_that_a_wheel_renamed() -> Result<()> {
    fn image() -> Result<TestImage> {
        let file = library(&program("tls-server")?, "libssl.so.3")?;
        let tree = images::tls_tree()?.without(&file).file(&file, "/wheel.libs/libssl-3a1b2c.so.3");
        TestImage::build("renamed", &tree)
    }
    // The loader takes it for libssl.so.3 because of its soname.
    let docker = &["--env", "LD_PRELOAD=/wheel.libs/libssl-3a1b2c.so.3"];
    let row = Some(("a_library_that_a_wheel_renamed", "tls-server, tls-client"));
    check(&Case { label: "renamed", image, docker, row, ..BASE })
}

#[test]
fn a_python_client() -> Result<()> {
    require_live()?;
    let server = Server::start_in(&images::python()?, "python", &[], &["/tls-server"])?;
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    let command = ["/usr/bin/python3", "-I", "/tls-client.py", server.port(), SIZES, SIZES];
    let client = Transfer::all(&server.container.exec(&command)?)?;
    let transfers = [server.transfers(1)?, client].concat();
    let trace = ctrace.finish()?;
    check_trace(&trace, &transfers, &[PLAIN, EX].concat())?;
    check_row("a_python_client", "tls-server, the machine's Python", &trace, &server)
}

#[test]
fn a_call_is_one_record() -> Result<()> {
    require_live()?;
    let server = Server::start("whole", &[])?;
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    server.client(&["--up", "1000000,1048576", "--down", "-"])?;
    let trace = ctrace.finish()?;
    let records = trace.records()?;
    for length in [1_000_000, 1_048_576] {
        let found: Vec<_> = records.iter().filter(|record| record.call.length == length).collect();
        ensure!(found.len() == 1, "{} records of {length} bytes", found.len());
        ensure!(found.iter().all(|record| record.function == "SSL_write" && !record.call.truncated));
    }
    Ok(())
}

#[test]
fn beyond_a_mebibyte_a_call_is_cut() -> Result<()> {
    require_live()?;
    let server = Server::start("cut", &[])?;
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    server.client(&["--up", "1048577,10", "--down", "-"])?;
    let trace = ctrace.finish()?;
    let records = trace.records()?;
    let cut: Vec<_> = records.iter().filter(|record| record.call.truncated).collect();
    ensure!(cut.len() == 1 && trace.counted("/truncated")? == 1, "{} records are truncated", cut.len());
    ensure!(cut.iter().all(|record| record.call.length == 1_048_577 && record.call.captured == 1_048_576));
    // The bytes after the loss are still at the right offsets of the stream.
    let streams = trace.streams(|record| record.function == "SSL_write")?;
    let gaps: Vec<_> = streams.iter().flat_map(|(_, stream)| stream.gaps()).collect();
    ensure!(gaps.len() == 1 && gaps.iter().all(|(from, to)| to - from == 1), "gaps: {gaps:?}");
    Ok(())
}

#[test]
fn what_a_tiny_ring_loses_is_counted() -> Result<()> {
    require_live()?;
    let server = Server::start("loss", &[])?;
    let ctrace = Ctrace::json(&["--ring-size", "64K", "--container", server.container.name()])?;
    server.client_outside(&["--up", "65536*400", "--down", "65536*400"])?;
    let transfers = server.transfers(1)?;
    let trace = ctrace.finish()?;
    ensure!(trace.status.success(), "{}", trace.stderr);
    let moved: u64 = transfers.iter().map(Transfer::bytes).sum();
    let lost = trace.counted("/lost/bytes")?;
    let received: u64 = trace.streams(|_| true)?.iter().map(|(_, stream)| stream.tally().bytes).sum();
    ensure!(lost > 0, "a ring of 64 KiB lost nothing of {moved} bytes: this test shows nothing");
    ensure!(
        received + lost == moved,
        "{received} bytes and {lost} lost are not {moved}: {}",
        trace.summary()?
    );
    ensure!(trace.counted("/lost/reasons/ring_full/bytes")? == lost, "{}", trace.summary()?);
    // The sum of all `lost` records is the loss in the summary.
    let lines = trace.lines()?;
    let of_records = lines.iter().filter(|line| line.get("type") == Some(&Value::from("lost")));
    let sum: u64 = of_records.filter_map(|line| line.get("bytes")?.as_u64()).sum();
    ensure!(sum == lost, "lost records have {sum} bytes, the summary {lost}");
    Ok(())
}
