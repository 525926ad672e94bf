//! The load that ctrace takes without losing anything: calls per second, bytes per second, CPU and memory.
//!
//! Owns the loads. Each load has a new ctrace, so that peaks and counters belong to it.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Extent;
use super::process::{self, BenchTarget};
use super::report::BenchReport;
use super::tracer::{Pids, Tracer, Way};

/// Calls of 1 KiB per second that must be traced without loss.
const PACED_RATE: f64 = 20_000.0;
/// The most memory that ctrace may use.
const MEMORY_MIB: f64 = 64.0;
/// How often the interval that contains the capacity is halved.
const STEPS: u32 = 6;
/// A thread that is busy for more than this share of its time is the limit.
const BUSY: f64 = 0.9;

/// One load.
#[derive(Clone, Debug)]
struct Load {
    size: u32,
    calls: f64,
    seconds: f64,
    /// CPU seconds of ctrace per second; `None` when nothing traced.
    cpu: f64,
    peak_mib: f64,
    json_bytes: f64,
    lost: Option<String>,
}

impl Load {
    fn rate(&self) -> f64 {
        self.calls / self.seconds
    }

    fn payload_mb(&self) -> f64 {
        self.rate() * f64::from(self.size) / 1e6
    }
}

/// What was measured.
#[derive(Clone, Debug)]
pub(super) struct Loads {
    rows: Vec<(String, Load)>,
    paced: Load,
}

/// Measures everything that concerns loads.
pub(super) fn measure(extent: Extent) -> Result<Loads> {
    let mut target = BenchTarget::start()?;
    let mut rows = Vec::new();
    eprintln!("bench: load, {PACED_RATE} calls a second");
    let paced = run(&mut target, Way::Ctrace, 1024, PACED_RATE, extent)?;
    rows.push((format!("1024 B, {PACED_RATE} calls/s asked for"), paced.clone()));
    for size in [1024, 16384] {
        eprintln!("bench: load, calls of {size} bytes as fast as they go");
        let untraced = run(&mut target, Way::Untraced, size, 0.0, extent)?;
        let full = run(&mut target, Way::Ctrace, size, 0.0, extent)?;
        rows.push((format!("{size} B, as fast as it goes, untraced"), untraced));
        rows.push((format!("{size} B, as fast as it goes"), full.clone()));
        let most = capacity(&mut target, full, extent)?;
        rows.push((format!("{size} B, the most without loss"), most));
    }
    Ok(Loads { rows, paced })
}

/// The highest rate without loss, by bisection between a rate without and one with loss.
fn capacity(target: &mut BenchTarget, full: Load, extent: Extent) -> Result<Load> {
    if full.lost.is_none() {
        return Ok(full);
    }
    let (mut good, mut bad) = (0.0, full.rate());
    let mut best = None;
    for step in 1..=STEPS {
        let rate = f64::midpoint(good, bad);
        eprintln!("bench: load, {} bytes, {rate:.0} calls a second ({step} of {STEPS})", full.size);
        let mut load = run(target, Way::Ctrace, full.size, rate, extent)?;
        if load.lost.is_some() {
            // Something else may have run on the machine, so only a rate that loses twice counts as lossy.
            load = run(target, Way::Ctrace, full.size, rate, extent)?;
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

fn run(target: &mut BenchTarget, way: Way, size: u32, rate: f64, extent: Extent) -> Result<Load> {
    let pids = Pids { measured: target.id(), idle: target.id() };
    let tracer = Tracer::start(way, pids)?;
    let cpu = || tracer.id().map_or(Ok(0.0), process::cpu_ns);
    let before = cpu()?;
    let [calls, ns] = target.ask(&format!("load {size} {rate} {}", extent.load_ms))?;
    let cpu = (cpu()? - before) / ns;
    // Records that are still in the ring belong to the load.
    thread::sleep(Duration::from_millis(200));
    let (peak_mib, json_bytes) = match tracer.id() {
        Some(pid) => (process::peak_memory_mib(pid)?, process::written_bytes(pid)?),
        None => (0.0, 0.0),
    };
    let lost = tracer.finish()?.lost;
    Ok(Load { size, calls, seconds: ns / 1e9, cpu, peak_mib, json_bytes, lost })
}

impl Loads {
    fn peak_mib(&self) -> f64 {
        self.rows.iter().map(|(_, load)| load.peak_mib).fold(0.0, f64::max)
    }

    /// The limits that are missed.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if let Some(lost) = &self.paced.lost {
            failures.push(format!("at {PACED_RATE} calls a second ctrace lost {lost}"));
        }
        if self.paced.rate() < 0.95 * PACED_RATE {
            failures.push(format!(
                "the program made {:.0} of {PACED_RATE} calls a second: nothing is proven",
                self.paced.rate()
            ));
        }
        if self.peak_mib() > MEMORY_MIB {
            failures.push(format!("ctrace took {:.0} MiB; at most {MEMORY_MIB} is wanted", self.peak_mib()));
        }
        failures
    }

    /// Adds the table.
    pub(super) fn describe(&self, report: &mut BenchReport) {
        report.paragraph("### A load");
        report.paragraph(
            "One thread that calls SSL_write with text; `ctrace ssl --pid … -o json --output /dev/null` with \
             its default ring. CPU \
             is ctrace's, in cores; memory is its peak (VmHWM, with the ring); JSON is what it wrote.",
        );
        let rows: Vec<_> = self.rows.iter().map(|(name, load)| row(name, load)).collect();
        report.table(
            [
                "load",
                "calls/s",
                "payload MB/s",
                "lost",
                "ctrace CPU",
                "ctrace memory",
                "JSON MB/s",
                "limited by",
            ],
            &rows,
        );
    }
}

fn row(name: &str, load: &Load) -> [String; 8] {
    let traced = load.peak_mib > 0.0;
    let if_traced = |text: String| if traced { text } else { "-".to_owned() };
    // "12 records, 3 bytes: ring buffer full (…)": the number alone is enough here.
    let lost = load.lost.as_deref().map_or("nothing", |lost| lost.split([',', ':']).next().unwrap_or(lost));
    let limit = match (&load.lost, load.cpu > BUSY) {
        _ if !traced => "the program",
        (_, true) => "ctrace's thread",
        (Some(_), false) => "ctrace, for want of a CPU",
        (None, false) if name.contains("as fast") => "the program",
        (None, false) => "-",
    };
    [
        name.to_owned(),
        format!("{:.0}", load.rate()),
        format!("{:.0}", load.payload_mb()),
        if_traced(lost.to_owned()),
        if_traced(format!("{:.2}", load.cpu)),
        if_traced(format!("{:.0} MiB", load.peak_mib)),
        if_traced(format!("{:.0}", load.json_bytes / load.seconds / 1e6)),
        limit.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missed_limit_is_told() {
        let load = |calls: f64, peak_mib: f64, lost: Option<&str>| Load {
            size: 1024,
            calls,
            seconds: 1.0,
            cpu: 0.5,
            peak_mib,
            json_bytes: 0.0,
            lost: lost.map(str::to_owned),
        };
        let check = |paced: Load, missed: usize| {
            let loads = Loads { rows: vec![(String::new(), paced.clone())], paced };
            assert_eq!(loads.failures().len(), missed, "{loads:?}");
        };
        check(load(20_000.0, 50.0, None), 0);
        check(load(20_000.0, 50.0, Some("1 record")), 1);
        check(load(10_000.0, 150.0, None), 2);
    }
}
