//! `cargo xtask bench`: what tracing costs the traced program, and how much ctrace itself can take.
//!
//! Owns what is measured and in which order; `docs/performance.md` explains how to read it. All measurements
//! alternate between the ways to trace, round by round, so that a change of the machine's speed affects them
//! all. It never rates the figures, except with `--check`, and never measures a build other than the release
//! build.

mod attach;
mod calls;
mod execs;
mod functions;
mod load;
mod machine;
mod nginx;
mod process;
mod report;
mod requests;
mod scale;
mod starts;
mod statistics;
mod tracer;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use ctrace_tests::program;

use crate::shell::{self, RootAccess};
use crate::{build, setup};

/// How much to measure.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct BenchOptions {
    /// Fewer and shorter rounds: less than three minutes, instead of eight.
    #[arg(long)]
    quick: bool,
    /// Fail when ctrace adds more than half of what bpftrace adds to an SSL_write, loses records at 20 000
    /// calls a second, takes more than 64 MiB of memory, more than 0.5 % of a CPU at rest, or more links for
    /// more containers of the same images; or when requests take more than twice the CPU time of their calls,
    /// or fewer than 50 000 a second are shown without loss. With `--only`, fails for the limits of that
    /// part.
    #[arg(long)]
    check: bool,
    /// Measure only this, and print it: docs/performance.md stays as it is.
    #[arg(long, value_enum)]
    only: Option<Part>,
}

/// A part that can be measured alone.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Part {
    /// From the mapping of a library to its hooks.
    Attach,
    /// Calls of any function.
    Functions,
    /// Programs that are executed.
    Exec,
    /// Many containers.
    Scale,
    /// The load that ctrace takes without loss, and its memory.
    Load,
    /// Exchanges of HTTP, shown as requests.
    Requests,
    /// Until ctrace traces, and until it has ended.
    Start,
}

/// How long the measurements take.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// Rounds of each way to trace. An odd number, so that the median is one of the values.
    rounds: usize,
    /// Batches of 32 calls, for each kind and size, in a round.
    batches: u32,
    /// The length of a load, in milliseconds.
    load_ms: u32,
    /// How long nginx gets requests in a round, in seconds.
    request_seconds: u32,
    /// How many libraries are loaded after ctrace has started.
    attaches: usize,
    /// How often ctrace starts with one process, and runs a command.
    traces: usize,
    /// How many programs are executed in a round.
    execs: u32,
    /// The numbers of containers, in ascending order.
    containers: &'static [usize],
    /// How often ctrace starts with so many containers.
    starts: usize,
    /// How long its CPU time at rest is measured.
    idle: Duration,
    /// Containers that come and go.
    churn: u32,
}

const FULL: Extent = Extent {
    rounds: 7,
    batches: 120,
    load_ms: 2000,
    request_seconds: 2,
    attaches: 15,
    traces: 20,
    execs: 6000,
    containers: &[0, 125, 250, 500, 1000],
    starts: 5,
    idle: Duration::from_secs(20),
    churn: 50,
};
const QUICK: Extent = Extent {
    rounds: 3,
    batches: 60,
    load_ms: 1000,
    request_seconds: 1,
    attaches: 5,
    traces: 5,
    execs: 3000,
    containers: &[0, 50, 200],
    starts: 1,
    idle: Duration::from_secs(5),
    churn: 15,
};

/// Runs the command: prepares as the user, measures as root.
pub(crate) fn run(options: BenchOptions) -> Result<()> {
    let undone = setup::prepare(setup::SetupOptions { bench: true, ..setup::SetupOptions::default() })?;
    // The other measurements work without Docker, bpftrace or nginx.
    for step in &undone {
        println!("  without {}: {}", step.name, step.why);
    }
    println!("build");
    build::release()?;
    program(process::PROGRAM)?;

    let root = RootAccess::detect();
    if root == RootAccess::None {
        bail!("tracing takes root, and there is neither root nor a sudo that works here");
    }
    let mut measure = root.command(&std::env::current_exe()?.to_string_lossy(), &[]);
    measure.arg("bench-measure");
    measure.args(options.quick.then_some("--quick")).args(options.check.then_some("--check"));
    match options.only {
        Some(Part::Attach) => drop(measure.args(["--only", "attach"])),
        Some(Part::Functions) => drop(measure.args(["--only", "functions"])),
        Some(Part::Exec) => drop(measure.args(["--only", "exec"])),
        Some(Part::Scale) => drop(measure.args(["--only", "scale"])),
        Some(Part::Load) => drop(measure.args(["--only", "load"])),
        Some(Part::Requests) => drop(measure.args(["--only", "requests"])),
        Some(Part::Start) => drop(measure.args(["--only", "start"])),
        None => {}
    }
    let status = measure.status().with_context(|| format!("cannot run `{}`", shell::shown(&measure)))?;
    if !status.success() {
        bail!("the measurements ended with {status}");
    }
    Ok(())
}

/// The part that runs as root.
pub(crate) fn measure(options: BenchOptions) -> Result<()> {
    let extent = if options.quick { QUICK } else { FULL };
    eprintln!("bench: {} rounds; another load on this machine makes the figures worthless", extent.rounds);
    if let Some(part) = options.only {
        let mut report = report::BenchReport::default();
        let mut failures = Vec::new();
        match part {
            Part::Attach => attach::describe(attach::measure(extent)?.as_ref(), &mut report),
            Part::Functions => functions::measure(extent)?.describe(&mut report),
            Part::Exec => execs::measure(extent)?.describe(&mut report),
            Part::Scale => {
                let scale = scale::measure(extent)?;
                scale.describe(&mut report);
                failures = scale.failures();
            }
            Part::Load => {
                let load = load::measure(extent)?;
                load.describe(&mut report);
                failures = load.failures();
            }
            Part::Requests => {
                let requests = requests::measure(extent)?;
                requests.describe(&mut report);
                failures = requests.failures();
            }
            Part::Start => starts::measure(extent)?.describe(&mut report),
        }
        println!("{}", report.text());
        return if options.check { check(&failures) } else { Ok(()) };
    }
    let calls = calls::measure(extent)?;
    let starts = starts::measure(extent)?;
    let functions = functions::measure(extent)?;
    let execs = execs::measure(extent)?;
    let attaches = attach::measure(extent)?;
    let server = nginx::measure(extent)?;
    let load = load::measure(extent)?;
    let requests = requests::measure(extent)?;
    let scale = scale::measure(extent)?;

    let mut report = report::BenchReport::default();
    machine::describe(&mut report)?;
    calls.describe(&mut report);
    starts.describe(&mut report);
    functions.describe(&mut report);
    execs.describe(&mut report);
    attach::describe(attaches.as_ref(), &mut report);
    nginx::describe(server.as_ref(), &mut report);
    load.describe(&mut report);
    requests.describe(&mut report);
    scale.describe(&mut report);
    println!("{}", report.text());
    let file = report.write()?;
    println!("written to {}", file.display());
    if options.check {
        check(&[calls.failures(), load.failures(), requests.failures(), scale.failures()].concat())?;
    }
    Ok(())
}

fn check(failures: &[String]) -> Result<()> {
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    println!("check: all limits are kept");
    Ok(())
}
