//! `ctrace requests` with servers and clients of gRPC that others have written: both ends of each connection
//! are traced, from its first byte and joined in the middle, and what is reported is what each end has
//! logged. Needs root, BPF, Docker, and once the machine's package sources.

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::program;
use ctrace_tests::third_party::grpc::{
    CallDirectory, PlannedCall, captured, check_equal, check_joined, logged, plan,
};
use ctrace_tests::third_party::{HTTP, Pair, PairSetup};

/// The calls of a client.
const CALLS: usize = 120;
/// Those before the attach, of which one is held until it.
const HALF: usize = CALLS / 2;
const PORT: u16 = 8443;
/// A value whose field has an unknown name may be a secret, and would be hidden.
const TRACE: [&str; 9] =
    ["requests", "-v", "--messages", "--headers", "--show-secrets", "--body", "1m", "-o", "json"];
/// What peers use, so that ctrace has attached to it before.
const MAPPED: [&str; 2] = ["/app/grpc/_cython/cygrpc.cpython-311-x86_64-linux-gnu.so", "/tls-tonic"];

const GRPCIO: &[&str] = &["/usr/bin/python3", "/programs/grpc-peers.py"];
const TONIC: &[&str] = &["/tls-tonic"];

/// A server and a client.
struct Case {
    label: &'static str,
    server: &'static [&'static str],
    client: &'static [&'static str],
    /// How many of the calls since the attach must be recognised as such at each end after joining.
    recognised: usize,
    /// Of how many of them everything must be known.
    complete: usize,
}

fn check(case: &Case) -> Result<()> {
    let planned = plan(CALLS);
    let directory = CallDirectory::new(&planned)?;
    directory.go()?;
    let tonic = format!("--volume={}:/tls-tonic:ro", program("tls-tonic")?.display());
    let volume = directory.volume();
    let pair = Pair::start(&PairSetup {
        release: &HTTP,
        label: case.label,
        options: &[&volume, &tonic],
        server: &[case.server, &["server"]].concat(),
        mapped: &MAPPED,
    })?;
    pair.wait_for_port(PORT)?;
    from_the_first_byte(case, &pair, &planned).context("from the first byte")?;
    joined(case, &pair, &planned, &directory).context("joined in the middle")
}

fn from_the_first_byte(case: &Case, pair: &Pair, planned: &[PlannedCall]) -> Result<()> {
    let ctrace = pair.trace(&TRACE)?;
    let client = logged(&pair.client.exec(&[case.client, &["client"]].concat())?)?;
    let server = logged(&pair.server_lines("{\"call\"", CALLS)?)?;
    let trace = ctrace.finish()?;
    for (container, logged) in [(&pair.client, &client), (&pair.server, &server)] {
        ensure!(logged.len() == CALLS, "{} has logged {} calls", container.name(), logged.len());
        check_equal(&captured(&trace, container.name())?, planned, logged)
            .with_context(|| format!("{}; standard error of ctrace:\n{}", container.name(), trace.stderr))?;
    }
    let lost = trace.counted("/lost/events")?;
    ensure!(lost == 0, "{lost} lost");
    Ok(())
}

fn joined(case: &Case, pair: &Pair, planned: &[PlannedCall], directory: &CallDirectory) -> Result<()> {
    directory.hold()?;
    let mut running = pair.start_client(&[case.client, &["client"]].concat())?;
    // All calls of the first half but the one that is held, and two lines that say that the client waits.
    running.wait_for_lines(HALF + 1)?;
    let ctrace = pair.trace(&TRACE)?;
    directory.go()?;
    let client = logged(&running.finish()?)?;
    let server = logged(&pair.server_lines("{\"call\"", 2 * CALLS)?)?;
    let server = server.get(CALLS..).unwrap_or_default();
    let trace = ctrace.finish()?;
    for (container, logged) in [(&pair.client, client.as_slice()), (&pair.server, server)] {
        ensure!(logged.len() == CALLS, "{} has logged {} calls", container.name(), logged.len());
        let captured = captured(&trace, container.name())?;
        let counts =
            check_joined(&captured, planned, logged, HALF).with_context(|| container.name().to_owned())?;
        println!("{}: {counts:?}", container.name());
        let unknown = counts.unknown.get("rpc.system.name").copied().unwrap_or_default();
        let recognised = (counts.complete + counts.partial).saturating_sub(unknown);
        ensure!(
            recognised >= case.recognised
                && counts.complete >= case.complete
                && counts.missing <= counts.unidentified,
            "{}: {recognised} recognised, {counts:?}",
            container.name()
        );
    }
    Ok(())
}

#[test]
fn grpcio() -> Result<()> {
    check(&Case { label: "grpcio", server: GRPCIO, client: GRPCIO, recognised: 54, complete: 0 })
}

#[test]
fn tonic() -> Result<()> {
    check(&Case { label: "tonic", server: TONIC, client: TONIC, recognised: 55, complete: 2 })
}

#[test]
fn grpcio_client_of_tonic() -> Result<()> {
    check(&Case { label: "grpcio-tonic", server: TONIC, client: GRPCIO, recognised: 44, complete: 0 })
}

#[test]
fn tonic_client_of_grpcio() -> Result<()> {
    check(&Case { label: "tonic-grpcio", server: GRPCIO, client: TONIC, recognised: 55, complete: 2 })
}
