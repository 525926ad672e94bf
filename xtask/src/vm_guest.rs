//! What runs inside a guest of `cargo xtask vm`: one OpenSSL session between two processes, and a few small programs,
//! without Docker.
//!
//! Owns the check of one kernel. Starts only what the host has built; needs no network but lo.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ctrace_tests::{Child, Ctrace, Lines, Transfer, program};
use serde_json::{Value, json};

/// The test programs that the host has to build before.
pub(crate) const PROGRAMS: [&str; 4] = ["tls-server", "tls-client", "functions", "exec-one"];

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
    let [server, client, ..] = PROGRAMS;
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
    empty_texts()?;
    println!("{}: empty texts, {:.1} s", release.trim(), begin.elapsed().as_secs_f64());
    Ok(())
}

/// Kernels differ in how they tell of a text without a byte: as an argument of a function, and of a failed execve(2).
fn empty_texts() -> Result<()> {
    let [.., functions, failing] = PROGRAMS;
    let told = |options: &[&str], name: &str, scenario: &[&str], pointer: &str| -> Result<Option<Value>> {
        let path = program(name)?;
        let command = [&["--", path.to_str().context("path of a program")?], scenario].concat();
        let trace = Ctrace::run_to_end(&[options, &["-o", "json"], &command].concat())?;
        ensure!(trace.counted("/lost/events")? == 0, "something was lost: {}", trace.stderr);
        Ok(trace.lines()?.iter().find_map(|record| record.pointer(pointer).cloned()))
    };
    let argument = told(&["uprobe", ":ignores(str)"], functions, &["nothing"], "/args/0/value")?;
    ensure!(argument == Some(json!("")), "the argument of a function: {argument:?}");
    let failed = told(&["exec", "--failed"], failing, &["fail", "/no such"], "/exec/command_args")?;
    ensure!(failed == Some(json!(["failing", "", "x y"])), "arguments of a failed execve: {failed:?}");
    Ok(())
}
