//! How much `ctrace exec` can take: programs per second that execute and end at once, on all processors.
//!
//! Owns the storms, untraced and traced in turn.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ctrace_tests::{Ctrace, program};

use super::Extent;
use super::process;
use super::report::BenchReport;
use super::statistics::median;
use super::tracer::lost;

/// One round.
struct Sample {
    /// Programs per second.
    untraced: f64,
    traced: f64,
    /// CPU time of ctrace, in nanoseconds per program.
    cpu: f64,
    lost: Option<String>,
}

/// What was measured.
pub(super) struct ExecBench(Vec<Sample>);

/// Measures round by round.
pub(super) fn measure(extent: Extent) -> Result<ExecBench> {
    let mut samples = Vec::new();
    for round in 1..=extent.rounds {
        eprintln!("bench: execs, round {round} of {}", extent.rounds);
        let untraced = storm(extent.execs)?;
        let own = std::process::id().to_string();
        let ctrace =
            Ctrace::start(&["exec", "--exits", "--pid", &own, "-o", "json", "--output", "/dev/null"])?;
        let before = process::cpu_ns(ctrace.id())?;
        let traced = storm(extent.execs)?;
        let cpu = (process::cpu_ns(ctrace.id())? - before) / f64::from(extent.execs);
        samples.push(Sample { untraced, traced, cpu, lost: lost(&ctrace.finish()?.stderr)? });
    }
    Ok(ExecBench(samples))
}

/// Executes this many programs, and returns how many there were per second.
fn storm(execs: u32) -> Result<f64> {
    let processors = thread::available_parallelism()?.get();
    let each = execs / u32::try_from(processors)?;
    let target = program("exec-one")?;
    let start = || Command::new(&target).args(["storm", &each.to_string()]).stdout(Stdio::null()).spawn();
    let begin = Instant::now();
    let storms: Vec<Child> =
        (0..processors).map(|_| start()).collect::<Result<_, _>>().context("no storm")?;
    for mut storm in storms {
        ensure!(storm.wait()?.success(), "a storm failed");
    }
    Ok(f64::from(execs) / begin.elapsed().as_secs_f64())
}

impl ExecBench {
    /// Adds the table.
    pub(super) fn describe(&self, report: &mut BenchReport) {
        report.paragraph("### Programs");
        report.paragraph(
            "A process for each processor that starts a small static program again and again, which ends at \
             once; `ctrace exec \
             --exits --pid … -o json --output /dev/null`. CPU is ctrace's, in µs a program, as its own threads are charged.",
        );
        let of = |value: fn(&Sample) -> f64| median(self.0.iter().map(value));
        let (untraced, traced) = (of(|sample| sample.untraced), of(|sample| sample.traced));
        let lost = self.0.iter().find_map(|sample| sample.lost.clone());
        let row = [
            "exec and exit".to_owned(),
            format!("{untraced:.0}"),
            format!("{traced:.0}"),
            format!("{:.2}", traced / untraced),
            format!("{:.0}", of(|sample| sample.cpu) / 1e3),
            lost.unwrap_or_else(|| "nothing".to_owned()),
        ];
        report.table(["storm", "untraced/s", "traced/s", "traced / untraced", "ctrace CPU", "lost"], &[row]);
    }
}
