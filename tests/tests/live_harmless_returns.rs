//! Programs that switch stacks inside of traced functions live, and are traced whole. Needs root and BPF.
//!
//! The kernel's return probe would end them by SIGILL, whether they are in scope or not.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{Ctrace, Direction, RunningTrace, program, require_bpf};
use serde_json::Value;

/// How often each case is repeated.
const TIMES: usize = 20;
/// The connections of one server, and the questions on each.
const CONNECTIONS: usize = 9;
const ROUNDS: usize = 5;

/// A server that switches stacks. It is killed if the test fails.
struct FiberServer(Child);

impl FiberServer {
    /// Starts a server that waits, with its libraries loaded.
    fn start() -> Result<Self> {
        let mut command = Command::new(program("fibers")?);
        command.args([CONNECTIONS.to_string(), ROUNDS.to_string()]);
        let mut server = Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        let mut line = String::new();
        BufReader::new(server.0.stdout.as_mut().context("no pipe")?).read_line(&mut line)?;
        ensure!(line == "ready\n", "{line:?}");
        Ok(server)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Lets it serve until it ends, and checks that it ends well.
    fn serve(&mut self) -> Result<()> {
        self.0.stdin.take().context("no pipe")?.write_all(b"go\n")?;
        let status = self.0.wait()?;
        ensure!(status.code() == Some(0), "the server ended with {status}");
        Ok(())
    }
}

impl Drop for FiberServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn servers() -> Result<Vec<FiberServer>> {
    (0..TIMES).map(|_| FiberServer::start()).collect()
}

/// What a server receives and sends on each of its connections, in order.
fn expected(direction: Direction) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![Vec::new(); CONNECTIONS];
    for round in 0..ROUNDS {
        for (number, stream) in all.iter_mut().enumerate() {
            let question = format!("question {round} of connection {number}\n");
            match direction {
                Direction::Receive => stream.extend(question.bytes()),
                Direction::Transmit => stream.extend(format!("answer to {question}").bytes()),
            }
        }
    }
    all
}

fn check_streams(trace: &RunningTrace, server: u32) -> Result<()> {
    let streams = trace.streams(|record| record.process.pid == server)?;
    for direction in [Direction::Receive, Direction::Transmit] {
        let own = streams.iter().filter(|(found, _)| *found == direction);
        let mut found: Vec<Vec<u8>> = own.map(|(_, stream)| stream.bytes()).collect();
        found.sort();
        let mut wanted = expected(direction);
        wanted.sort();
        let lengths = |all: &[Vec<u8>]| all.iter().map(Vec::len).collect::<Vec<_>>();
        ensure!(found == wanted, "{direction:?}: {:?}, not {:?}", lengths(&found), lengths(&wanted));
    }
    Ok(())
}

#[test]
fn a_server_that_switches_stacks_is_traced_whole() -> Result<()> {
    require_bpf()?;
    let mut servers = servers()?;
    let mut arguments = Vec::new();
    for server in &servers {
        arguments.extend(["--pid".to_owned(), server.pid().to_string()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ctrace = Ctrace::json(&arguments)?;
    for server in &mut servers {
        server.serve()?;
    }
    let trace = ctrace.finish()?;
    trace.check_complete()?;
    servers.iter().try_for_each(|server| check_streams(&trace, server.pid()))
}

#[test]
fn a_server_out_of_scope_that_switches_stacks_lives() -> Result<()> {
    require_bpf()?;
    let other = FiberServer::start()?;
    let mut servers = servers()?;
    let ctrace = Ctrace::json(&["--pid", &other.pid().to_string()])?;
    for server in &mut servers {
        server.serve()?;
    }
    let trace = ctrace.finish()?;
    trace.check_complete()?;
    ensure!(trace.records()?.is_empty(), "records of a process that is not in scope");
    Ok(())
}

#[test]
fn a_server_out_of_scope_lives_with_return_probes_that_are_chosen_for_each_call() -> Result<()> {
    require_bpf()?;
    let other = FiberServer::start()?;
    let mut servers = servers()?;
    let options = ["--return-probe=kernel", "--probe-link=auto", "--pid", &other.pid().to_string()];
    let ctrace = Ctrace::json(&options)?;
    let lived = servers.iter_mut().map(|server| server.serve().is_ok()).filter(|lived| *lived).count();
    let trace = ctrace.finish()?;
    trace.check_complete()?;
    // Older kernels probe the returns of all processes.
    let expected = if kernel()? >= (6, 13) { TIMES } else { 0 };
    ensure!(lived == expected, "{lived} of {TIMES} lived: {}", trace.stderr);
    Ok(())
}

/// The kernel's version.
fn kernel() -> Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => anyhow::bail!("{release:?} is no version"),
    }
}

#[test]
fn any_function_that_switches_stacks_may_be_traced() -> Result<()> {
    require_bpf()?;
    let mut servers = servers()?;
    let mut arguments = vec!["uprobe".to_owned(), "-o".to_owned(), "json".to_owned()];
    for server in &servers {
        arguments.extend(["--pid".to_owned(), server.pid().to_string()]);
    }
    arguments.push(":answer(ptr) -> int".to_owned());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ctrace = Ctrace::start(&arguments)?;
    for server in &mut servers {
        server.serve()?;
    }
    let trace = ctrace.finish()?;
    ensure!(trace.status.success(), "{}", trace.stderr);
    let mut lengths: BTreeMap<i64, usize> = BTreeMap::new();
    for line in trace.lines()?.iter().filter(|line| line["type"] == "uprobe") {
        let returned = line.pointer("/return/value").and_then(Value::as_i64);
        *lengths.entry(returned.with_context(|| format!("no return: {line}"))?).or_default() += 1;
    }
    // All questions have the same length, and each connection ends with a call that returns 0.
    let question = i64::try_from("question 0 of connection 0\n".len())?;
    let expected = BTreeMap::from([(question, TIMES * CONNECTIONS * ROUNDS), (0, TIMES * CONNECTIONS)]);
    ensure!(lengths == expected, "{lengths:?}, not {expected:?}");
    Ok(())
}

#[test]
fn what_cannot_be_probed_at_exits_is_left_out_on_request() -> Result<()> {
    require_bpf()?;
    let server = FiberServer::start()?;
    let pid = server.pid().to_string();
    let plan = |options: &[&str]| -> Result<Value> {
        let trace = Ctrace::run_to_end(&[&["ssl", "--dry-run", "--pid", &pid], options].concat())?;
        ensure!(trace.status.success(), "{}", trace.stderr);
        Ok(serde_json::from_slice(&trace.stdout)?)
    };
    let ways = |plan: &Value| -> Vec<(String, String)> {
        let hooks = plan.pointer("/objects/0/hooks").and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |hook: &Value, field: &str| hook[field].as_str().unwrap_or_default().to_owned();
        hooks.iter().map(|hook| (text(hook, "function"), text(hook, "return_probe"))).collect()
    };
    let has = |ways: &[(String, String)], function: &str, way: &str| {
        ways.iter().any(|(name, found)| name == function && found == way)
    };
    let auto = ways(&plan(&["--connections"])?);
    ensure!(has(&auto, "SSL_read_ex", "rets") && has(&auto, "SSL_do_handshake", "kernel"), "{auto:?}");
    let exit = ways(&plan(&["--connections", "--return-probe=exit"])?);
    ensure!(exit.iter().all(|(name, way)| way != "kernel" && name != "SSL_do_handshake"), "{exit:?}");
    let kernel = ways(&plan(&["--return-probe=kernel"])?);
    ensure!(kernel.iter().all(|(_, way)| way == "kernel"), "{kernel:?}");
    ensure!(!kernel.is_empty(), "no hooks");
    Ok(())
}
