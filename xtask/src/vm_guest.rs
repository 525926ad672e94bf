//! What runs inside a guest of `cargo xtask vm`: one OpenSSL session between two processes, without Docker.
//!
//! Owns the check of one kernel. Starts only what the host has built; needs no network but lo.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ctrace_tests::{Child, Ctrace, Lines, Transfer, program};

/// The test programs that the host has to build before.
pub(crate) const PROGRAMS: [&str; 2] = ["tls-server", "tls-client"];

/// Sizes of the calls: both directions, less and more than a TLS record, and more than one chunk of the ring.
const UP: &str = "1,8192,100000";
const DOWN: &str = "8191,16384,1000000";

/// A process start takes a tenth of a second in an emulated guest, a handshake more.
const PATIENCE: Duration = Duration::from_mins(1);

/// The command itself.
pub(crate) fn run() -> Result<()> {
    let release =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
    let begin = Instant::now();
    let [server, client] = PROGRAMS;
    let mut server = Child::start_with_stdout(&mut Command::new(program(server)?), Stdio::piped())?;
    let pipe = server.take_stdout().context("the server has no output")?;
    let mut lines = Lines::of(pipe);
    let line = lines.wait("line \"listening PORT\"", PATIENCE, |line| line.starts_with("listening "))?;
    let port = line.strip_prefix("listening ").context("no port")?;

    let pid = server.id();
    let trace = Ctrace::start(&["ssl", "--pid", &pid.to_string(), "-o", "json"])?;
    println!("{}: attached after {:.1} s", release.trim(), begin.elapsed().as_secs_f64());
    let output = Command::new(program(client)?)
        .args(["--port", port, "--up", UP, "--down", DOWN])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run the client")?;
    ensure!(output.status.success(), "the client ended with {}", output.status);
    let report = lines.wait("report of the server", PATIENCE, |line| line.starts_with('{'))?;
    let trace = trace.finish()?;

    let transfers = Transfer::all(&report)?;
    ensure!(
        transfers.iter().map(Transfer::bytes).sum::<u64>() > 1_000_000,
        "the server moved too little: {report}"
    );
    trace.check_complete()?;
    trace.streams(|record| record.process.pid == pid)?.check(&transfers)?;
    println!("{}: every byte of both directions, {:.1} s", release.trim(), begin.elapsed().as_secs_f64());
    Ok(())
}
