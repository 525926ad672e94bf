//! What a call costs the thread that makes it: SSL_write, SSL_read with data, SSL_read without.
//!
//! Owns the rounds over the ways to trace, and the times to attach and to detach, which the rounds yield as
//! well. Uses no socket, so that only the library and the tracer are measured, and not the network.

use anyhow::Result;

use super::Extent;
use super::process::BenchTarget;
use super::report::BenchReport;
use super::statistics::median;
use super::tracer::{Pids, Tracer, Way, bpftrace_program};

const SIZES: [u32; 3] = [64, 1024, 16384];
/// In the order of the target program's answer.
const CALLS: [&str; 3] = ["SSL_write", "SSL_read", "SSL_read, nothing there"];
/// What ctrace may add to an SSL_write, relative to what bpftrace does.
const LIMIT: f64 = 0.5;

/// One round of one way to trace.
#[derive(Clone, Debug)]
struct Sample {
    way: Way,
    /// Nanoseconds by size and call.
    ns: [[f64; CALLS.len()]; SIZES.len()],
    attach_ms: f64,
    detach_ms: Option<f64>,
    lost: bool,
}

/// What was measured.
#[derive(Clone, Debug)]
pub(super) struct CallBench {
    rounds: Vec<Vec<Sample>>,
}

/// Measures all ways in turn, round by round.
pub(super) fn measure(extent: Extent) -> Result<CallBench> {
    let mut target = BenchTarget::start()?;
    let idle = BenchTarget::start()?;
    let pids = Pids { measured: target.id(), idle: idle.id() };
    let ways = [Way::Untraced, Way::Ctrace, Way::Elsewhere, Way::Floor].into_iter();
    let ways: Vec<Way> = ways.chain(bpftrace_program().map(|_| Way::Bpftrace)).collect();
    let mut rounds = Vec::new();
    for round in 1..=extent.rounds {
        eprintln!("bench: calls, round {round} of {}", extent.rounds);
        let samples: Result<Vec<_>> =
            ways.iter().map(|way| sample(*way, pids, &mut target, extent)).collect();
        rounds.push(samples?);
    }
    Ok(CallBench { rounds })
}

fn sample(way: Way, pids: Pids, target: &mut BenchTarget, extent: Extent) -> Result<Sample> {
    let tracer = Tracer::start(way, pids)?;
    let attach_ms = tracer.attach.as_secs_f64() * 1e3;
    // The first calls after attaching find cold caches.
    target.ask::<3>("call 1024 4")?;
    let mut ns = [[0.0; CALLS.len()]; SIZES.len()];
    for (ns, size) in ns.iter_mut().zip(SIZES) {
        *ns = target.ask(&format!("call {size} {}", extent.batches))?;
    }
    let ended = tracer.finish()?;
    if let Some(lost) = &ended.lost {
        eprintln!("bench: ctrace lost {lost}");
    }
    let detach_ms = ended.detach.map(|detach| detach.as_secs_f64() * 1e3);
    Ok(Sample { way, ns, attach_ms, detach_ms, lost: ended.lost.is_some() })
}

impl CallBench {
    fn has_bpftrace(&self) -> bool {
        self.rounds.iter().flatten().any(|sample| sample.way == Way::Bpftrace)
    }

    /// The samples of a way, each with the untraced one of the same round.
    fn pairs(&self, way: Way) -> impl Iterator<Item = (&Sample, &Sample)> {
        let of = move |samples: &'_ [Sample], way| samples.iter().position(|sample| sample.way == way);
        self.rounds.iter().filter_map(move |samples| {
            Some((samples.get(of(samples, way)?)?, samples.get(of(samples, Way::Untraced)?)?))
        })
    }

    /// Nanoseconds that a way adds to a call.
    fn added(&self, way: Way, ns: impl Fn(&Sample) -> f64) -> f64 {
        median(self.pairs(way).map(|(traced, untraced)| ns(traced) - ns(untraced)))
    }

    /// Median over the rounds of a way.
    fn median(&self, way: Way, value: impl Fn(&Sample) -> f64) -> f64 {
        median(self.pairs(way).map(|(sample, _)| value(sample)))
    }

    /// What ctrace adds, relative to bpftrace, to each size of SSL_write.
    fn write_ratios(&self) -> Vec<(u32, f64)> {
        let ratio = |index: usize| {
            let ns = |sample: &Sample| cell(sample, index, 0);
            self.added(Way::Ctrace, ns) / self.added(Way::Bpftrace, ns)
        };
        SIZES.iter().enumerate().map(|(index, size)| (*size, ratio(index))).collect()
    }

    /// The limits that are missed.
    pub(super) fn failures(&self) -> Vec<String> {
        if !self.has_bpftrace() {
            return vec!["bpftrace is not installed: nothing to compare with".to_owned()];
        }
        let ratios = self.write_ratios().into_iter();
        let missed = ratios.filter(|(_, ratio)| !(0.0..=LIMIT).contains(ratio));
        missed
            .map(|(size, ratio)| {
                format!(
                    "SSL_write of {size} bytes: ctrace adds {ratio:.2} of what bpftrace adds; at most \
                 {LIMIT} is wanted"
                )
            })
            .collect()
    }

    /// Adds the tables.
    pub(super) fn describe(&self, report: &mut BenchReport) {
        report.paragraph("### A call");
        report.paragraph(
            "CPU time of the calling thread, in µs a call. The four columns after the first are what comes on top \
             of the untraced call; *empty programs* are at the places that ctrace probes, and do nothing.",
        );
        let mut rows = Vec::new();
        for (call, name) in CALLS.iter().enumerate() {
            for (index, size) in SIZES.iter().enumerate() {
                rows.push(self.row(&format!("{name}, {size} B"), |sample| cell(sample, index, call)));
            }
        }
        report.table(
            [
                "call",
                "untraced",
                "ctrace",
                "ctrace, another process selected",
                "empty programs",
                "bpftrace",
                "ctrace / bpftrace",
                "empty / bpftrace",
            ],
            &rows,
        );
        if self.rounds.iter().flatten().any(|sample| sample.lost) {
            report.paragraph("ctrace lost records in some of the rounds: its column is too low.");
        }
        report.paragraph("### To attach and to detach");
        let mut rows = Vec::new();
        for (name, way) in [("ctrace", Way::Ctrace), ("bpftrace", Way::Bpftrace)] {
            let cell = |value: fn(&Sample) -> Option<f64>| {
                if way == Way::Bpftrace && !self.has_bpftrace() {
                    "not installed".to_owned()
                } else {
                    format!("{:.0} ms", median(self.pairs(way).filter_map(|(sample, _)| value(sample))))
                }
            };
            rows.push([
                name.to_owned(),
                cell(|sample| Some(sample.attach_ms)),
                cell(|sample| sample.detach_ms),
            ]);
        }
        report
            .table(["tracer", "from its start until it traces", "from the signal until it has ended"], &rows);
    }

    fn row(&self, name: &str, ns: impl Fn(&Sample) -> f64 + Copy) -> [String; 8] {
        let us = |ns: f64| format!("{:.2}", ns / 1e3);
        let [ctrace, elsewhere, floor, bpftrace] =
            [Way::Ctrace, Way::Elsewhere, Way::Floor, Way::Bpftrace].map(|way| self.added(way, ns));
        let (compared, ratios) = if self.has_bpftrace() {
            (us(bpftrace), [ctrace, floor].map(|added| format!("{:.3}", added / bpftrace)))
        } else {
            ("not installed".to_owned(), ["-", "-"].map(str::to_owned))
        };
        let [ratio, floor_ratio] = ratios;
        let untraced = us(self.median(Way::Untraced, ns));
        let [ctrace, elsewhere, floor] = [ctrace, elsewhere, floor].map(us);
        [name.to_owned(), untraced, ctrace, elsewhere, floor, compared, ratio, floor_ratio]
    }
}

fn cell(sample: &Sample, size: usize, call: usize) -> f64 {
    sample.ns.get(size).and_then(|ns| ns.get(call)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(way: Way, ns: f64) -> Sample {
        Sample { way, ns: [[ns; 3]; 3], attach_ms: 1.0, detach_ms: Some(2.0), lost: false }
    }

    #[test]
    fn what_is_added_is_compared_within_a_round() {
        // In the second round the machine was ten times as slow.
        let round = |factor: f64| {
            vec![
                sample(Way::Untraced, 100.0 * factor),
                sample(Way::Ctrace, 200.0 * factor),
                sample(Way::Bpftrace, 500.0 * factor),
            ]
        };
        let calls = CallBench { rounds: vec![round(1.0), round(10.0), round(1.0)] };
        assert!((calls.added(Way::Ctrace, |sample| cell(sample, 0, 0)) - 100.0).abs() < 1e-9);
        assert_eq!(calls.failures(), Vec::<String>::new());
        let slow =
            vec![sample(Way::Untraced, 100.0), sample(Way::Ctrace, 400.0), sample(Way::Bpftrace, 500.0)];
        let calls = CallBench { rounds: vec![slow] };
        assert_eq!(calls.failures().len(), 3);
    }
}
