//! What it costs ctrace to show requests, beside showing the same calls.
//!
//! Owns these measurements: CPU time an exchange, the rate without loss, and the memory of open connections.
//! The target program is both ends of its connections, and both are traced, so that each exchange is shown
//! twice and counts twice: as one of a client, and as one of a server.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ctrace_tests::Ctrace;

use super::Extent;
use super::process::{self, BenchTarget};
use super::report::BenchReport;
use super::statistics::median;
use super::tracer::lost;

/// Exchanges a second of which the CPU time is measured: few enough that nothing is lost.
const PACED_RATE: f64 = 20_000.0;
/// The CPU time of an exchange, relative to showing its calls, that is wanted.
const RATIO: f64 = 2.0;
/// Exchanges of HTTP/1 a second that are wanted without loss.
const RATE: f64 = 50_000.0;
/// How often the interval that contains the highest rate is halved.
const STEPS: u32 = 6;
/// The connections whose memory is measured.
const CONNECTIONS: u32 = 10_000;
/// The ends of an exchange.
const ENDS: f64 = 2.0;

const COMMANDS: [&str; 2] = ["ssl", "requests"];
const VERSIONS: [(u32, &str); 2] = [(1, "HTTP/1.1"), (2, "HTTP/2")];

/// A run of exchanges that was traced.
#[derive(Clone, Debug)]
struct Run {
    exchanges: f64,
    seconds: f64,
    /// CPU seconds of ctrace.
    cpu: f64,
    json_bytes: f64,
    lost: Option<String>,
}

impl Run {
    fn rate(&self) -> f64 {
        self.exchanges / self.seconds
    }

    /// CPU time of ctrace an exchange, in µs.
    fn cpu_us(&self) -> f64 {
        self.cpu * 1e6 / self.exchanges
    }
}

/// What was measured.
#[derive(Clone, Debug)]
pub(super) struct RequestsBench {
    /// For each version of HTTP, the runs of each round by command.
    paced: Vec<(&'static str, Vec<[Run; COMMANDS.len()]>)>,
    /// The highest rate without loss, by version.
    most: Vec<(&'static str, Run)>,
    /// The memory at rest with open connections, and without any, by command, in MiB.
    memory: [[f64; 2]; COMMANDS.len()],
}

/// Measures everything.
pub(super) fn measure(extent: Extent) -> Result<RequestsBench> {
    let mut target = BenchTarget::start()?;
    let mut paced = Vec::new();
    let mut most = Vec::new();
    for (version, name) in VERSIONS {
        let mut rounds = Vec::new();
        for round in 1..=extent.rounds {
            eprintln!("bench: requests of {name}, round {round} of {}", extent.rounds);
            let [ssl, requests] =
                COMMANDS.map(|command| run(&mut target, command, version, PACED_RATE, extent));
            rounds.push([ssl?, requests?]);
        }
        paced.push((name, rounds));
        most.push((name, highest_rate(&mut target, version, name, extent)?));
    }
    let [ssl, requests] = COMMANDS.map(memory);
    Ok(RequestsBench { paced, most, memory: [ssl?, requests?] })
}

/// The highest rate without loss, by bisection. A rate is too high if it loses something twice.
fn highest_rate(target: &mut BenchTarget, version: u32, name: &str, extent: Extent) -> Result<Run> {
    let full = run(target, "requests", version, 0.0, extent)?;
    if full.lost.is_none() {
        return Ok(full);
    }
    let (mut good, mut bad) = (0.0, full.rate());
    let mut best = None;
    for step in 1..=STEPS {
        let rate = f64::midpoint(good, bad);
        eprintln!("bench: requests of {name}, {rate:.0} exchanges a second ({step} of {STEPS})");
        let mut load = run(target, "requests", version, rate, extent)?;
        if load.lost.is_some() {
            load = run(target, "requests", version, rate, extent)?;
        }
        if load.lost.is_some() {
            bad = rate;
        } else {
            good = rate;
            best = Some(load);
        }
    }
    best.context("ctrace lost records at every rate that was tried")
}

/// Traces exchanges at a rate that counts both ends. All of them must be shown, unless something was lost.
fn run(target: &mut BenchTarget, command: &str, version: u32, rate: f64, extent: Extent) -> Result<Run> {
    let ctrace = start(command, target.id())?;
    let before = process::cpu_ns(ctrace.id())?;
    let [exchanges, ns] = target.ask(&format!("http {version} {} {}", rate / ENDS, extent.load_ms))?;
    // Records that are still in the ring belong to the exchanges.
    thread::sleep(Duration::from_millis(300));
    let cpu = (process::cpu_ns(ctrace.id())? - before) / 1e9;
    let json_bytes = process::written_bytes(ctrace.id())?;
    let ended = ctrace.finish()?;
    let lost = lost(&ended.stderr)?;
    let exchanges = exchanges * ENDS;
    if command == "requests" && lost.is_none() {
        let shown = shown(&ended.stderr).context("the summary has no number of requests")?;
        if shown != format!("{exchanges:.0}") {
            bail!("ctrace counted {shown} requests of {exchanges}, and reported no loss:\n{}", ended.stderr);
        }
    }
    Ok(Run { exchanges, seconds: ns / 1e9, cpu, json_bytes, lost })
}

fn start(command: &str, pid: u32) -> Result<Ctrace> {
    Ctrace::start(&[command, "--pid", &pid.to_string(), "-o", "json", "--output", "/dev/null"])
}

/// The number in `summary: 12 requests in 1.0 s`. None if it is not there, or if some are incomplete.
fn shown(stderr: &str) -> Option<&str> {
    let summary = stderr.lines().find_map(|line| line.strip_prefix("summary: "))?;
    let (count, _) = summary.split_once(" requests in ")?;
    Some(count).filter(|count| count.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The resident memory in MiB with open connections, and without any.
fn memory(command: &str) -> Result<[f64; 2]> {
    eprintln!("bench: {command}, {CONNECTIONS} open connections");
    let mut target = BenchTarget::start()?;
    let ctrace = start(command, target.id())?;
    let without = process::memory_mib(ctrace.id())?;
    target.ask::<1>(&format!("open {}", CONNECTIONS / 2))?;
    thread::sleep(Duration::from_millis(500));
    let with = process::memory_mib(ctrace.id())?;
    if let Some(lost) = lost(&ctrace.finish()?.stderr)? {
        bail!("ctrace lost {lost} while the connections were opened");
    }
    Ok([with, without])
}

impl RequestsBench {
    /// CPU time an exchange by command, and their ratio: the median of the rounds' own.
    fn cpu(rounds: &[[Run; COMMANDS.len()]]) -> ([f64; COMMANDS.len()], f64) {
        let of = |command: usize| median(rounds.iter().filter_map(|runs| Some(runs.get(command)?.cpu_us())));
        let ratio = median(rounds.iter().map(|[ssl, requests]| requests.cpu_us() / ssl.cpu_us()));
        ([of(0), of(1)], ratio)
    }

    /// The limits that are missed.
    pub(super) fn failures(&self) -> Vec<String> {
        let ratios = self.paced.iter().filter_map(|(name, rounds)| {
            let (_, ratio) = Self::cpu(rounds);
            (ratio > RATIO).then(|| {
                format!(
                    "an exchange of {name} takes {ratio:.2} of what its calls take; at most {RATIO} is wanted"
                )
            })
        });
        let first = self.most.first().filter(|(_, run)| run.rate() < RATE);
        let rate = first.map(|(name, run)| {
            format!("{:.0} exchanges a second of {name} without loss; {RATE} are wanted", run.rate())
        });
        ratios.chain(rate).collect()
    }

    /// Adds the tables.
    pub(super) fn describe(&self, report: &mut BenchReport) {
        report.paragraph("### Requests");
        report.paragraph(&format!(
            "CPU time of ctrace an exchange, in µs: a request without a body, and a response with one of 1 KiB, \
             {PACED_RATE} a second; `ctrace ssl` and `ctrace requests --pid … -o json --output /dev/null` in turns."
        ));
        let rows: Vec<_> = self.paced.iter().map(|(name, rounds)| row(name, rounds)).collect();
        report.table(["exchange", "ssl", "requests", "requests / ssl", "lost"], &rows);
        let rows: Vec<_> = self.most.iter().map(|(name, run)| most_row(name, run)).collect();
        report.table(
            [
                "the most of `requests` without loss",
                "exchanges/s",
                "ctrace CPU",
                "µs an exchange",
                "JSON MB/s",
                "limited by",
            ],
            &rows,
        );
        let [ssl, requests] = self.memory;
        let mib = |mib: f64| format!("{mib:.0} MiB");
        let row = |name: &str, [with, without]: [f64; 2]| {
            let each = (with - without) * 1024.0 / f64::from(CONNECTIONS);
            [name.to_owned(), mib(without), mib(with), format!("{each:.2} KiB")]
        };
        report.table(
            ["resident memory", "no connection", &format!("{CONNECTIONS} open ones"), "each"],
            &[row("ssl", ssl), row("requests", requests)],
        );
    }
}

fn row(name: &str, rounds: &[[Run; COMMANDS.len()]]) -> [String; 5] {
    let ([ssl, requests], ratio) = RequestsBench::cpu(rounds);
    let lost = rounds.iter().flatten().filter(|run| run.lost.is_some()).count();
    let lost = if lost == 0 { "nothing".to_owned() } else { format!("in {lost} runs") };
    [name.to_owned(), format!("{ssl:.2}"), format!("{requests:.2}"), format!("{ratio:.2}"), lost]
}

fn most_row(name: &str, run: &Run) -> [String; 6] {
    let cpu = run.cpu / run.seconds;
    let limit = if cpu > 0.9 { "ctrace's thread" } else { "the program, and two CPUs for both" };
    [
        name.to_owned(),
        format!("{:.0}", run.rate()),
        format!("{cpu:.2}"),
        format!("{:.2}", run.cpu_us()),
        format!("{:.0}", run.json_bytes / run.seconds / 1e6),
        limit.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_in_the_summary() {
        for (stderr, expected) in [
            ("tracing\nsummary: 4000 requests in 2.0 s (interrupted); nothing lost", Some("4000")),
            ("summary: 4000 requests (2 incomplete) in 2.0 s", None),
            ("summary: 3 calls, 9 bytes in 2.0 s", None),
        ] {
            assert_eq!(shown(stderr), expected, "{stderr}");
        }
    }

    #[test]
    fn each_missed_limit_is_told() {
        let run =
            |exchanges: f64, cpu: f64| Run { exchanges, seconds: 1.0, cpu, json_bytes: 0.0, lost: None };
        let check = |ratio: f64, rate: f64, missed: usize| {
            let bench = RequestsBench {
                paced: vec![("HTTP/1.1", vec![[run(1000.0, 0.1), run(1000.0, 0.1 * ratio)]])],
                most: vec![("HTTP/1.1", run(rate, 1.0))],
                memory: [[0.0; 2]; 2],
            };
            assert_eq!(bench.failures().len(), missed, "{bench:?}");
        };
        check(1.5, 60_000.0, 0);
        check(2.5, 60_000.0, 1);
        check(2.5, 40_000.0, 2);
    }
}
