//! How ctrace behaves on a machine with many containers: its start, memory, links, CPU at rest, and what each
//! new container costs, as the number of containers grows.
//!
//! Owns the rounds and the table. A container here is what `containers.rs` makes; Docker is not needed.

mod capacity;
mod containers;
mod engine_api;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ctrace_tests::Ctrace;

use super::Extent;
use super::process;
use super::report::BenchReport;
use super::statistics::median;
use super::tracer::lost;
use capacity::Capacity;
use containers::ContainerSet;
use engine_api::LABEL;

/// Images, each with files of its own. The containers take them in turn.
const IMAGES: usize = 20;
/// Processes of a container.
const PROCESSES: usize = 10;
/// Connections of a container, all of its first process.
const CONNECTIONS: usize = 5;
/// Memory that is left to the rest of the machine, in MiB.
const MACHINE_SHARE_MIB: usize = 1024;

/// New containers a second during the churn; as many end.
const CHURN_RATE: u32 = 5;
/// Containers with an image of their own, for each size.
const NEW_IMAGES: usize = 3;
/// How long ctrace gets to become quiet before it counts as idle.
const SETTLE: Duration = Duration::from_secs(3);
/// How long a new file may take to be attached to.
const PATIENCE: Duration = Duration::from_secs(30);
/// A part of ctrace's message about a library that it has attached to.
const ATTACHED: &str = "libssl.so.3 (OpenSSL)";

/// The most CPU that ctrace may use at rest, in % of one.
const IDLE_PERCENT: f64 = 0.5;

/// What was measured with so many containers.
#[derive(Clone, Debug, Default)]
struct Sample {
    containers: usize,
    start_ms: f64,
    memory_mib: f64,
    peak_mib: f64,
    links: usize,
    /// Links after the churn, when those to what has gone are removed.
    links_after: usize,
    idle_percent: f64,
    /// For each container that came and went; None where none came.
    churn_cpu_ms: Option<f64>,
    /// From before a container of a new image is made until its library is attached to.
    attach_ms: f64,
    calls: usize,
    /// The calls that ctrace has reported.
    reported: usize,
    lost: Option<String>,
}

/// What was measured.
pub(super) struct ScaleBench {
    samples: Vec<Sample>,
    refusal: Option<String>,
}

/// Measures with ever more containers, if the machine has room for them.
pub(super) fn measure(extent: Extent) -> Result<ScaleBench> {
    let most = extent.containers.iter().copied().max().unwrap_or_default();
    if let Some(refusal) = Capacity::read()?.refusal(most) {
        eprintln!("bench: many containers are not measured: {refusal}");
        return Ok(ScaleBench { samples: Vec::new(), refusal: Some(refusal) });
    }
    eprintln!("bench: scale, images");
    let mut containers = ContainerSet::new()?;
    let mut samples = Vec::new();
    for size in extent.containers {
        eprintln!("bench: scale, {size} containers");
        while containers.count() < *size {
            containers.start()?;
        }
        samples.push(sample(&mut containers, extent)?);
    }
    eprintln!("bench: scale, removing the containers");
    Ok(ScaleBench { samples, refusal: None })
}

fn sample(containers: &mut ContainerSet, extent: Extent) -> Result<Sample> {
    let mut sample = Sample { containers: containers.count(), ..Sample::default() };
    let mut ctrace = start(containers, extent, &mut sample)?;
    let pid = ctrace.id();
    sample.calls = containers.exchange()?;
    thread::sleep(SETTLE);

    let before = process::cpu_ms(pid)?;
    thread::sleep(extent.idle);
    sample.idle_percent = (process::cpu_ms(pid)? - before) / extent.idle.as_secs_f64() / 10.0;
    sample.memory_mib = process::memory_mib(pid)?;
    sample.links = links(pid)?;

    if sample.containers > 0 {
        sample.churn_cpu_ms = Some(churn(containers, pid, extent, sample.idle_percent)?);
        sample.links_after = links(pid)?;
    }
    sample.attach_ms = new_images(containers, &mut ctrace)?;
    sample.calls += containers.exchange()?;
    thread::sleep(SETTLE);
    sample.peak_mib = process::peak_memory_mib(pid)?;

    let stderr = ctrace.finish()?.stderr;
    sample.lost = lost(&stderr)?;
    sample.reported = reported(&stderr).with_context(|| format!("no calls in the summary:\n{stderr}"))?;
    Ok(sample)
}

/// Starts several times, and returns the last ctrace.
fn start(containers: &ContainerSet, extent: Extent, sample: &mut Sample) -> Result<Ctrace> {
    let (name, value) = LABEL;
    let (label, socket) = (format!("{name}={value}"), containers.runtime_option());
    let options = ["ssl", "--label", &label, "--runtime-socket", &socket];
    // Should this process be killed, ctrace ends by itself.
    let options = [&options[..], &["-o", "json", "--output", "/dev/null", "--duration", "10m"]].concat();
    let once = || -> Result<(f64, Ctrace)> {
        let begin = Instant::now();
        let ctrace = Ctrace::start(&options)?;
        Ok((begin.elapsed().as_secs_f64() * 1e3, ctrace))
    };
    let mut times = Vec::new();
    for _ in 1..extent.starts {
        let (ms, ctrace) = once()?;
        times.push(ms);
        ctrace.finish()?;
    }
    let (ms, ctrace) = once()?;
    times.push(ms);
    sample.start_ms = median(times);
    Ok(ctrace)
}

/// Lets containers of the images come and go, and returns ctrace's CPU time for each, in ms.
fn churn(containers: &mut ContainerSet, pid: u32, extent: Extent, idle_percent: f64) -> Result<f64> {
    let interval = Duration::from_secs(1) / CHURN_RATE;
    let (begin, before) = (Instant::now(), process::cpu_ms(pid)?);
    for turn in 0..extent.churn {
        containers.start()?;
        containers.stop_oldest()?;
        thread::sleep((interval * (turn + 1)).saturating_sub(begin.elapsed()));
    }
    // What a container costs includes what is done when it has gone.
    thread::sleep(SETTLE);
    let idle_ms = idle_percent * 10.0 * begin.elapsed().as_secs_f64();
    Ok((process::cpu_ms(pid)? - before - idle_ms).max(0.0) / f64::from(extent.churn))
}

/// Starts containers whose libraries nobody has seen, one after the other, and returns how long each took,
/// from before it was made until ctrace had attached to its library.
fn new_images(containers: &mut ContainerSet, ctrace: &mut Ctrace) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..NEW_IMAGES {
        let begin = Instant::now();
        containers.start_new_image()?;
        let stderr = ctrace.child().stderr.as_mut().context("ctrace has no standard error")?;
        stderr.wait("message that libssl is attached to", PATIENCE, |line| line.contains(ATTACHED))?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        containers.stop_newest()?;
    }
    Ok(median(times))
}

/// The links of BPF programs that a process holds.
fn links(pid: u32) -> Result<usize> {
    let directory = format!("/proc/{pid}/fdinfo");
    let files = fs::read_dir(&directory).with_context(|| format!("cannot list {directory}"))?;
    // A descriptor may have been closed since it was listed.
    let texts = files.flatten().filter_map(|file| fs::read_to_string(file.path()).ok());
    Ok(texts.filter(|text| text.lines().any(|line| line.starts_with("link_type:"))).count())
}

/// The calls in the summary on standard error: "summary: 12 calls, …".
fn reported(stderr: &str) -> Option<usize> {
    let summary = stderr.lines().find_map(|line| line.strip_prefix("summary: "))?;
    let (number, rest) = summary.split_once(' ')?;
    rest.starts_with("call").then(|| number.parse().ok())?
}

impl ScaleBench {
    /// The limits that are missed.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures: Vec<String> = Vec::new();
        failures.extend(self.refusal.iter().map(|why| format!("many containers were not measured: {why}")));
        for sample in &self.samples {
            let with = format!("with {} containers ctrace", sample.containers);
            if sample.idle_percent > IDLE_PERCENT {
                let idle = sample.idle_percent;
                failures
                    .push(format!("{with} takes {idle:.2} % of a CPU at rest; {IDLE_PERCENT} is allowed"));
            }
            if sample.churn_cpu_ms.is_some() && sample.links_after > sample.links {
                let (links, after) = (sample.links, sample.links_after);
                failures.push(format!("{with} had {links} links, and {after} after the churn"));
            }
            if sample.reported != sample.calls {
                failures.push(format!("{with} reported {} of {} calls", sample.reported, sample.calls));
            }
        }
        // With fewer containers, not every image is in use.
        let mut all_images = self.samples.iter().filter(|sample| sample.containers >= IMAGES);
        if let Some(first) = all_images.next() {
            let grown = all_images.filter(|sample| sample.links > first.links);
            failures.extend(grown.map(|sample| {
                let (few, many) = (first.containers, sample.containers);
                format!("{many} containers take {} links, {few} take {}", sample.links, first.links)
            }));
        }
        failures
    }

    /// Adds the table.
    pub(super) fn describe(&self, report: &mut BenchReport) {
        report.paragraph("### Many containers");
        if let Some(refusal) = &self.refusal {
            report.paragraph(&format!("Not measured: {refusal}."));
            return;
        }
        report.paragraph(&format!(
            "`ctrace ssl --label …` on containers of {IMAGES} images, {PROCESSES} processes and {CONNECTIONS} \
             connections each. CPU is ctrace's; memory is what is resident at rest, and at its peak (with the \
             ring)."
        ));
        let header = [
            "containers",
            "processes",
            "connections",
            "start ms",
            "memory, peak MiB",
            "links",
            "idle CPU %",
            "a new container, CPU ms",
            "a new image, attached ms",
            "calls reported",
            "lost",
        ];
        let rows: Vec<[String; 11]> = self.samples.iter().map(row).collect();
        report.table(header, &rows);
    }
}

fn row(sample: &Sample) -> [String; 11] {
    [
        sample.containers.to_string(),
        (sample.containers * PROCESSES).to_string(),
        (sample.containers * CONNECTIONS).to_string(),
        format!("{:.0}", sample.start_ms),
        format!("{:.0}, {:.0}", sample.memory_mib, sample.peak_mib),
        sample.links.to_string(),
        format!("{:.2}", sample.idle_percent),
        sample.churn_cpu_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}")),
        format!("{:.1}", sample.attach_ms),
        format!("{} of {}", sample.reported, sample.calls),
        sample.lost.clone().unwrap_or_else(|| "nothing".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_are_in_the_summary() {
        let summary = "tracing\nsummary: 20 calls, 900 bytes in 2.0 s (interrupted); nothing lost";
        assert_eq!(reported(summary), Some(20));
        assert_eq!(reported("summary: 1 call, 9 bytes in 2.0 s"), Some(1));
        assert_eq!(reported("tracing"), None);
    }

    #[test]
    fn each_missed_limit_is_named() {
        let good = |containers: usize| Sample {
            containers,
            links: if containers == 0 { 0 } else { 120 },
            links_after: 120,
            idle_percent: 0.1,
            churn_cpu_ms: (containers > 0).then_some(2.0),
            calls: containers * 20,
            reported: containers * 20,
            ..Sample::default()
        };
        let check = |last: Sample, expected: &[&str]| {
            let bench = ScaleBench { samples: vec![good(0), good(100), last], refusal: None };
            let failures = bench.failures();
            assert_eq!(failures.len(), expected.len(), "{failures:?}");
            for (failure, part) in failures.iter().zip(expected) {
                assert!(failure.contains(part), "{failure}");
            }
        };
        check(good(1000), &[]);
        check(Sample { idle_percent: 0.6, ..good(1000) }, &["0.60 % of a CPU"]);
        check(Sample { links: 121, links_after: 121, ..good(1000) }, &["1000 containers take 121 links"]);
        check(Sample { links_after: 130, ..good(1000) }, &["130 after the churn"]);
        check(Sample { reported: 19_999, ..good(1000) }, &["19999 of 20000 calls"]);
        let refused = ScaleBench { samples: Vec::new(), refusal: Some("no room".to_owned()) };
        assert_eq!(refused.failures().len(), 1);
    }
}
