//! `ctrace requests` with Redis' own server and clients: both ends of each connection are traced, with TLS
//! and without, from the first byte and joined in the middle. The commands say what their replies are, so
//! that a wrong pair shows, and the server counts them. Needs root, BPF, Docker, and once the machine's
//! package sources.

#![expect(clippy::indexing_slicing, reason = "a field of JSON that is not there is null")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::third_party::client::AUTHORITY;
use ctrace_tests::third_party::{Pair, PairSetup, REDIS};
use ctrace_tests::{RunningTrace, TestContainer};
use serde_json::Value;

const TLS_PORT: u16 = 6380;
const PORT: u16 = 6379;
const MAPPED: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/libssl.so.3", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3"];
const SERVER: [&str; 17] = [
    "/usr/bin/redis-server",
    "--port",
    "6379",
    "--tls-port",
    "6380",
    "--tls-cert-file",
    "/server.pem",
    "--tls-key-file",
    "/server.pem",
    "--tls-auth-clients",
    "no",
    "--save",
    "",
    "--dir",
    "/tmp",
    "--protected-mode",
    "no",
];

/// How the clients connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tls,
    Cleartext,
}

impl Transport {
    fn port(self) -> &'static str {
        if self == Self::Tls { "6380" } else { "6379" }
    }

    fn trace(self) -> Vec<&'static str> {
        let all = ["requests", "-v", "--show-secrets", "--messages", "-o", "json"];
        all.into_iter().chain((self == Self::Tls).then_some("--no-cleartext")).collect()
    }

    /// The client of redis-py with its arguments.
    fn client(self, seconds: &'static str) -> Vec<&'static str> {
        let client = ["/usr/bin/python3", "/programs/redis-peers.py", self.port(), seconds];
        client.into_iter().chain((self == Self::Tls).then_some(AUTHORITY)).collect()
    }

    /// A program of Redis with the arguments by which it connects.
    fn program(self, name: &'static str, arguments: &[&'static str]) -> Vec<&'static str> {
        let tls: &[&str] = if self == Self::Tls { &["--tls", "--cacert", AUTHORITY] } else { &[] };
        [&[name, "-h", "localhost", "-p", self.port()], tls, arguments].concat()
    }
}

fn start(label: &str) -> Result<Pair> {
    let setup = PairSetup { release: &REDIS, label, options: &[], server: &SERVER, mapped: &MAPPED };
    let pair = Pair::start(&setup)?;
    pair.wait_for_port(PORT)?;
    pair.wait_for_port(TLS_PORT)?;
    Ok(pair)
}

/// What was captured of the commands at one end.
#[derive(Debug, Default)]
struct Captured {
    /// How many commands there are of each name, and how many of them have their reply.
    commands: BTreeMap<String, (usize, usize)>,
    /// Pairs of which the command says what the reply is.
    proven: usize,
    wrong: Vec<String>,
    messages: usize,
}

impl Captured {
    fn of(trace: &RunningTrace, container: &TestContainer) -> Result<Self> {
        let mut captured = Self::default();
        for line in trace.lines()?.iter().filter(|line| line["container"]["name"] == container.name()) {
            match line["type"].as_str() {
                Some("request") if line["protocol"] == "redis" => captured.add(line)?,
                Some("message") if line["protocol"] == "redis" => captured.messages += 1,
                _ => {}
            }
        }
        Ok(captured)
    }

    fn add(&mut self, line: &Value) -> Result<()> {
        let Some(name) = line["db"]["operation"]["name"].as_str() else { return Ok(()) };
        let command = line["db"]["query"]["text"].as_str().context("no command")?;
        let (count, paired) = self.commands.entry(name.to_owned()).or_default();
        *count += 1;
        let response = &line["db"]["response"];
        if line["response"].is_null() {
            return Ok(());
        }
        *paired += 1;
        if line["complete"] == false || line["db"]["transaction"]["state"] == "in_transaction" {
            // A part is missing, or it is only queued.
            return Ok(());
        }
        let last = command.rsplit(' ').next().unwrap_or_default();
        let is_right = match name {
            "LRANGE" => response["returned_rows"].as_u64() == last.parse().ok().map(|last: u64| last + 1),
            "EVAL" => response["status_message"] == last,
            "SET" | "GET" | "PUBLISH" => {
                response["returned_rows"].is_null() && response["status_code"].is_null()
            }
            _ => return Ok(()),
        };
        self.proven += usize::from(is_right);
        if !is_right {
            self.wrong.push(line.to_string());
        }
        Ok(())
    }
}

/// How many times the server has executed each command.
fn server_counts(pair: &Pair) -> Result<BTreeMap<String, usize>> {
    let info =
        pair.client.exec(&Transport::Cleartext.program("/usr/bin/redis-cli", &["INFO", "commandstats"]))?;
    let counts = info.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        let calls = rest.strip_prefix("calls=")?.split(',').next()?.parse().ok()?;
        Some((name.to_ascii_uppercase(), calls))
    });
    Ok(counts.collect())
}

fn check_from_start(transport: Transport) -> Result<()> {
    let pair = start(&format!("redis-{transport:?}").to_lowercase())?;
    let before = server_counts(&pair)?;
    let ctrace = pair.trace(&transport.trace())?;
    let output = pair.client.exec(&transport.client("0"))?;
    let trace = ctrace.finish()?;
    let after = server_counts(&pair)?;
    let sent: BTreeMap<String, usize> =
        serde_json::from_str(output.lines().last().context("no counts")?).context("the client's counts")?;
    for container in [&pair.client, &pair.server] {
        let captured = Captured::of(&trace, container)?;
        println!("{transport:?} {}: {captured:?}", container.name());
        ensure!(captured.wrong.is_empty(), "wrong pairs: {:#?}", captured.wrong);
        ensure!(captured.messages == 20, "{} messages", captured.messages);
        for (name, count) in &sent {
            let executed = after.get(name).copied().unwrap_or(0) - before.get(name).copied().unwrap_or(0);
            // The transaction has one of each of these.
            let in_transaction = usize::from(["GET", "LRANGE"].contains(&name.as_str()));
            ensure!(executed == count + in_transaction, "{name}: {executed} executed, {count} sent");
            let (seen, paired) = captured.commands.get(name).copied().unwrap_or_default();
            ensure!(
                seen == executed && paired == seen,
                "{name}: {seen} seen, {paired} paired, {executed} executed"
            );
        }
    }
    Ok(())
}

#[test]
fn pipelines_with_tls_from_the_first_byte() -> Result<()> {
    check_from_start(Transport::Tls)
}

#[test]
fn pipelines_without_tls_from_the_first_byte() -> Result<()> {
    check_from_start(Transport::Cleartext)
}

fn check_joined(transport: Transport) -> Result<()> {
    let pair = start(&format!("redis-joined-{transport:?}").to_lowercase())?;
    let mut client = pair.start_client(&transport.client("8"))?;
    client.wait_for_lines(1)?;
    let ctrace = pair.trace(&transport.trace())?;
    client.finish()?;
    let trace = ctrace.finish()?;
    for container in [&pair.client, &pair.server] {
        let captured = Captured::of(&trace, container)?;
        println!("joined, {transport:?} {}: {captured:?}", container.name());
        ensure!(captured.wrong.is_empty(), "wrong pairs: {:#?}", captured.wrong);
        let seen: usize = captured.commands.values().map(|(seen, _)| seen).sum();
        ensure!(seen > 100 && captured.proven * 2 > seen, "{captured:?}");
    }
    Ok(())
}

#[test]
fn pipelines_with_tls_joined_in_the_middle() -> Result<()> {
    check_joined(Transport::Tls)
}

#[test]
fn pipelines_without_tls_joined_in_the_middle() -> Result<()> {
    check_joined(Transport::Cleartext)
}

/// Redis' own load, 16 commands at a time, and what its own monitor says of a command line.
#[test]
fn a_benchmark_and_a_monitor() -> Result<()> {
    let transport = Transport::Tls;
    let pair = start("redis-benchmark")?;
    let before = server_counts(&pair)?;
    let ctrace = pair.trace(&transport.trace())?;
    let load = ["-P", "16", "-c", "4", "-n", "4000", "-r", "1000", "-q", "-t", "set,get,lpush,mset"];
    pair.client.exec(&transport.program("/usr/bin/redis-benchmark", &load))?;
    let mut monitor = pair.client.exec_background(&transport.program("/usr/bin/redis-cli", &["MONITOR"]))?;
    std::thread::sleep(Duration::from_secs(2));
    pair.client
        .exec(&transport.program("/usr/bin/redis-cli", &["-n", "3", "HSET", "h", "field", "two words"]))?;
    std::thread::sleep(Duration::from_secs(1));
    monitor.kill()?;
    let trace = ctrace.finish()?;
    let after = server_counts(&pair)?;
    for container in [&pair.client, &pair.server] {
        let captured = Captured::of(&trace, container)?;
        println!("benchmark {}: {captured:?}", container.name());
        ensure!(captured.wrong.is_empty(), "wrong pairs: {:#?}", captured.wrong);
        for name in ["SET", "GET", "LPUSH", "MSET", "HSET"] {
            let executed = after.get(name).copied().unwrap_or(0) - before.get(name).copied().unwrap_or(0);
            let (seen, paired) = captured.commands.get(name).copied().unwrap_or_default();
            ensure!(
                seen == executed && paired == seen,
                "{name}: {seen} seen, {paired} paired, {executed} executed"
            );
        }
        // What the monitor shows, in the database of the command.
        let lines = trace.lines()?;
        let shown = lines.iter().filter(|line| line["type"] == "message").any(|line| {
            let database = &line["db"];
            database["namespace"] == "3" && database["query"]["text"] == "HSET h field \"two words\""
        });
        ensure!(shown, "the monitor's line was not seen");
    }
    Ok(())
}
