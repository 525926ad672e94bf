//! What runs inside a guest of `cargo xtask vm`: one session of each command that traces, and the loading of
//! every BPF program.
//!
//! Owns the check of one kernel. Starts only what the host has built; needs neither Docker nor a network
//! other than lo.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ctrace_tests::{Ctrace, LocalServer, TracedCommand, Transfer, program};
use serde_json::{Value, json};

use crate::workspace;

/// The test programs that the host must build first.
pub(super) const PROGRAMS: [&str; 4] = ["tls-server", "tls-client", "functions", "exec-one"];

/// Sizes of the calls, for both directions: less and more than a TLS record, and more than one chunk of the
/// ring.
const SIZES: [&str; 4] = ["--up", "1,8192,100000", "--down", "8191,16384,1000000"];

/// Commands that together need all BPF programs. -vv also loads those that are rarely needed, and logs each
/// one.
const LOADS: [&[&str]; 5] = [
    &["ssl", "-vv", "--connections", "--", "true"],
    &["requests", "-vv", "--", "true"],
    // Waits for containers, and therefore needs the records of all cgroups.
    &["exec", "-vv", "--image", "none", "--duration", "1s"],
    &["exec", "-vv", "--failed", "--exits", "--forks", "--", "true"],
    &["uprobe", "-vv", "libc.so.6:getpid", "--", "true"],
];

/// Programs that replace each other: those on kernel functions are for kernels without these tracepoints
/// (before Linux 6.3).
const ON_TRACEPOINTS: [&str; 4] =
    ["socket_sent", "socket_sent_in_clear", "socket_received", "socket_received_in_clear"];
const ON_FUNCTIONS: [&str; 14] = [
    "inet_sent",
    "inet_sent_in_clear",
    "inet6_sent",
    "inet6_sent_in_clear",
    "unix_sent",
    "unix_sent_in_clear",
    "inet_received",
    "inet_received_in_clear",
    "inet6_received",
    "inet6_received_in_clear",
    "unix_received",
    "unix_received_in_clear",
    "inet_sent_page",
    "inet_sent_page_in_clear",
];

/// The end of the names of programs that run at the entry and the return of a function, which are for kernels
/// since Linux 6.13.
const SESSION: &str = "_session";
const SESSIONS_SINCE: (u32, u32) = (6, 13);

/// A check, with its name.
type Check = (&'static str, fn() -> Result<()>);

const CHECKS: [Check; 7] = [
    ("every BPF program loads", every_program),
    ("ssl: every byte of both directions of a process", process),
    ("ssl: every byte with both kinds of links, or the reason", links),
    ("ssl: every byte with the kernel's return probes, and with both kinds of links", kernel_returns),
    ("ssl: every byte of a command, from its first call on", command),
    ("exec: a command's program, and what could not be executed", executions),
    ("uprobe: a call's argument and result", calls),
];

/// Runs the command.
pub(crate) fn run() -> Result<()> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
    for (what, check) in CHECKS {
        let begin = Instant::now();
        check().with_context(|| format!("{}: {what}", release.trim()))?;
        println!("{}: {what}: {:.1} s", release.trim(), begin.elapsed().as_secs_f64());
    }
    Ok(())
}

fn every_program() -> Result<()> {
    let source = workspace::root().join("probe-ebpf/src/main.rs");
    let source = fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let all: BTreeSet<&str> = source.lines().filter_map(bpf_program).collect();
    let mut loaded = BTreeSet::new();
    for arguments in LOADS {
        let trace = Ctrace::run_to_end(arguments)?;
        ensure!(trace.status.success(), "{arguments:?} ended with {}: {}", trace.status, trace.stderr);
        let verified = trace.stderr.lines().filter_map(|line| line.split_once("verified the BPF program "));
        loaded.extend(verified.filter_map(|(_, rest)| Some(rest.split_once(' ')?.0.to_owned())));
    }
    let has_sessions = version()? >= SESSIONS_SINCE;
    let is_missing = |name: &str| !loaded.contains(name) && (has_sessions || !name.ends_with(SESSION));
    let missing: Vec<&str> = all.into_iter().filter(|name| is_missing(name)).collect();
    let are_of = |names: &[&str]| missing.iter().all(|name| names.contains(name));
    ensure!(are_of(&ON_FUNCTIONS) || are_of(&ON_TRACEPOINTS), "not loaded: {missing:?}");
    Ok(())
}

/// The BPF program that a line of ctrace's log names.
fn bpf_program(line: &str) -> Option<&str> {
    let (name, handler) = line.strip_prefix("        ")?.split_once(" => ")?;
    (handler.ends_with(';') && handler.contains("::")).then_some(name)
}

/// A server that runs before the trace begins.
fn process() -> Result<()> {
    process_with(&[])
}

/// The first kernel with links to many places.
const MULTI_SINCE: (u32, u32) = (6, 6);

/// The kernel's version.
fn version() -> Result<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        anyhow::bail!("{release:?} is no version");
    };
    Ok((major, minor))
}

fn links() -> Result<()> {
    process_with(&["--probe-link", "perf"])?;
    if version()? >= MULTI_SINCE {
        return process_with(&["--probe-link", "multi"]);
    }
    let trace = Ctrace::run_to_end(&["ssl", "--probe-link", "multi", "--", "true"])?;
    let is_told = trace.code() == Some(4) && trace.stderr.contains("--probe-link perf");
    ensure!(is_told, "{:?}: {}", trace.status, trace.stderr);
    Ok(())
}

fn kernel_returns() -> Result<()> {
    process_with(&["--return-probe=kernel"])?;
    process_with(&["--return-probe=kernel", "--probe-link=perf"])
}

fn process_with(options: &[&str]) -> Result<()> {
    let server = LocalServer::start(1)?;
    let pid = server.id();
    let trace = Ctrace::json(&[&["--pid", &pid.to_string()], options].concat())?;
    let client = Command::new(program("tls-client")?)
        .args(["--port", server.port()])
        .args(SIZES)
        .stdout(Stdio::null())
        .status();
    let status = client.context("cannot run the client")?;
    ensure!(status.success(), "the client ended with {status}");
    let transfers = server.transfers()?;
    let trace = trace.finish()?;
    let bytes: u64 = transfers.iter().map(Transfer::bytes).sum();
    ensure!(bytes > 1_000_000, "the server moved {bytes} bytes");
    trace.check_complete()?;
    trace.streams(|record| record.process.pid == pid)?.check(&transfers)
}

fn command() -> Result<()> {
    let server = LocalServer::start(1)?;
    let client = program("tls-client")?;
    let client = client.to_str().context("the path of a program is no text")?;
    let command = [&[client, "--port", server.port()], SIZES.as_slice()].concat();
    TracedCommand::run(&[], &command)?.check()
}

/// Kernels differ in how they record a text without a byte, here as an argument of a failed execve(2).
fn executions() -> Result<()> {
    let records = recorded(&["exec", "--failed", "--exits"], "exec-one", &["fail", "/no such"])?;
    let arguments: Vec<&Value> =
        records.iter().filter_map(|record| record.pointer("/exec/command_args")).collect();
    ensure!(
        arguments.contains(&&json!(["failing", "", "x y"])),
        "arguments of a failed execve: {records:#?}"
    );
    let began = records.iter().filter_map(|record| record.pointer("/process/command_args/1"));
    ensure!(began.into_iter().any(|argument| *argument == json!("fail")), "no program: {records:#?}");
    Ok(())
}

/// A text without a byte again, here as an argument of a function.
fn calls() -> Result<()> {
    let records = recorded(&["uprobe", ":ignores(str) -> int"], "functions", &["nothing"])?;
    let call = |pointer: &str| records.iter().find_map(|record| record.pointer(pointer));
    ensure!(call("/args/0/value") == Some(&json!("")), "no argument: {records:#?}");
    ensure!(call("/return/value") == Some(&json!(1)), "no result: {records:#?}");
    Ok(())
}

/// The output of a trace of a command.
fn recorded(options: &[&str], name: &str, scenario: &[&str]) -> Result<Vec<Value>> {
    let directory = tempfile::tempdir()?;
    let output = directory.path().join("records");
    let path = program(name)?;
    let [output_text, path] = [&output, &path].map(|path| path.to_string_lossy());
    let command = [&["-o", "json", "--output", &output_text, "--", &path], scenario].concat();
    let mut trace = Ctrace::run_to_end(&[options, &command].concat())?;
    ensure!(trace.status.success(), "ctrace ended with {}: {}", trace.status, trace.stderr);
    trace.stdout = fs::read(&output).context("no records")?;
    ensure!(trace.counted("/lost/events")? == 0, "something was lost: {}", trace.stderr);
    trace.lines()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpf_programs_are_found_in_their_source() {
        assert_eq!(bpf_program("        call_enter => call::enter;"), Some("call_enter"));
        assert_eq!(bpf_program("fn panic(_info: &core::panic::PanicInfo) -> ! {"), None);
        assert_eq!(bpf_program("                $handler(&ctx);"), None);
    }

    #[test]
    fn programs_that_stand_for_each_other_are_there() -> Result<()> {
        let source = fs::read_to_string(workspace::root().join("probe-ebpf/src/main.rs"))?;
        let all: Vec<&str> = source.lines().filter_map(bpf_program).collect();
        for name in ON_TRACEPOINTS.iter().chain(&ON_FUNCTIONS) {
            ensure!(all.contains(name), "there is no {name}");
        }
        Ok(())
    }
}
