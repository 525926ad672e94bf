//! How long ctrace takes to start and to end, and how long a command takes that it traces.
//!
//! Owns the runs. Each is a new ctrace; no other load may run on the machine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ctrace_tests::{Child, Ctrace, LocalServer};

use super::Extent;
use super::process::BenchTarget;
use super::report::BenchReport;
use super::statistics::median;
use crate::shell;

/// What is traced, with the time that it may take to start.
const LIBSSL: (&str, f64) = ("a process with one libssl", 120.0);
const NODE: (&str, f64) = ("a process of node, which has its own OpenSSL", 250.0);
/// The command that is traced as a whole, with the time that this may take.
const CURL: (&str, f64) = ("`ctrace ssl -- curl https://localhost/`, the whole run", 400.0);
/// How long a trace runs before it is ended: what it does right after its start belongs to neither.
const SETTLE: Duration = Duration::from_millis(150);
/// How long a program may take to start.
const LOADING: Duration = Duration::from_millis(500);

/// The median times of one row, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Times {
    start: f64,
    end: Option<f64>,
}

/// What was measured. A row is None if what it needs is not installed.
#[derive(Clone, Debug)]
pub(super) struct Starts {
    runs: usize,
    rows: Vec<((&'static str, f64), Option<Times>)>,
}

/// Measures everything that concerns starts.
pub(super) fn measure(extent: Extent) -> Result<Starts> {
    let target = BenchTarget::start()?;
    let mut rows = vec![(LIBSSL, Some(traces(target.id(), extent)?))];
    drop(target);
    rows.push((NODE, node(extent)?));
    rows.push((CURL, curl(extent)?));
    Ok(Starts { runs: extent.traces, rows })
}

/// Traces of a process that does nothing.
fn traces(pid: u32, extent: Extent) -> Result<Times> {
    let options = ["ssl", "--pid", &pid.to_string(), "-o", "json", "--output", "/dev/null"];
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for run in 1..=extent.traces {
        eprintln!("bench: start, run {run} of {}", extent.traces);
        let begin = Instant::now();
        let ctrace = Ctrace::start(&options)?;
        starts.push(milliseconds(begin));
        thread::sleep(SETTLE);
        let begin = Instant::now();
        ctrace.finish()?;
        ends.push(milliseconds(begin));
    }
    Ok(Times { start: median(starts), end: Some(median(ends)) })
}

fn node(extent: Extent) -> Result<Option<Times>> {
    let Some(node) = shell::find("node") else { return Ok(None) };
    let mut command = Command::new(node);
    command.args(["-e", "setInterval(() => {}, 1e9)"]);
    let mut child = Child::start_with_stdout(&mut command, Stdio::null())?;
    thread::sleep(LOADING);
    let times = traces(child.id(), extent);
    child.kill()?;
    times.map(Some)
}

/// Runs of a command that makes one request, with ctrace around it.
fn curl(extent: Extent) -> Result<Option<Times>> {
    let Some(curl) = shell::find("curl") else { return Ok(None) };
    let server = LocalServer::start(extent.traces)?;
    let url = format!("https://localhost:{}/", server.port());
    let runs = (0..extent.traces).map(|_| once(&curl, &url)).collect::<Result<Vec<f64>>>()?;
    Ok(Some(Times { start: median(runs), end: None }))
}

/// One run in milliseconds.
fn once(curl: &Path, url: &str) -> Result<f64> {
    let curl = curl.to_str().context("curl's path")?;
    let options = ["ssl", "-o", "json", "--output", "/dev/null", "--", curl, "-sk", url];
    let begin = Instant::now();
    let trace = Ctrace::run_to_end(&options)?;
    let took = milliseconds(begin);
    ensure!(trace.status.success(), "curl failed:\n{}", trace.stderr);
    ensure!(!trace.stderr.contains("summary: 0 calls"), "curl was not traced:\n{}", trace.stderr);
    Ok(took)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

impl Starts {
    /// Adds the table.
    pub(super) fn describe(&self, report: &mut BenchReport) {
        report.paragraph("### To start and to end");
        report.paragraph(&format!(
            "Medians of {} runs in ms: from the start of ctrace until it traces, and from Ctrl-C until it has \
             ended.",
            self.runs
        ));
        let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|((name, wanted), times)| {
                let start = times.map_or_else(|| "not installed".to_owned(), |times| cell(Some(times.start)));
                [(*name).to_owned(), start, format!("{wanted:.0}"), cell(times.and_then(|times| times.end))]
            })
            .collect();
        report.table(["what is traced", "start", "wanted", "end"], &rows);
    }
}
