//! What a probe costs the function that it is on: an empty one, called in a loop.
//!
//! Owns the rounds over what is recorded of a call, each next to what bpftrace needs for the same.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use ctrace_tests::{ctrace_binary, program};

use super::Extent;
use super::report::BenchReport;
use super::statistics::median;
use super::tracer::bpftrace_program;

/// Calls in a run: few enough that no record is lost.
const CALLS: &str = "20000";

/// What is recorded of each call.
struct Question {
    name: &'static str,
    /// Arguments of `ctrace uprobe`.
    ctrace: &'static [&'static str],
    /// A bpftrace program; FILE stands for the traced file.
    bpftrace: &'static str,
}

const QUESTIONS: [Question; 4] = [
    Question {
        name: "a record at the entry",
        ctrace: &[":empty"],
        bpftrace: r#"uprobe:FILE:empty { printf("%d %s\n", pid, comm); }"#,
    },
    Question {
        name: "a record of entry and return",
        ctrace: &[":empty -> int"],
        bpftrace: r#"uprobe:FILE:empty { @begun[tid] = nsecs; }
                     uretprobe:FILE:empty { printf("%d %s %d %d\n", pid, comm, retval, nsecs - @begun[tid]); }"#,
    },
    Question {
        name: "counted",
        ctrace: &["--count", ":empty"],
        bpftrace: "uprobe:FILE:empty { @ = count(); }",
    },
    Question {
        name: "its time counted",
        ctrace: &["--latency", ":empty"],
        bpftrace: "uprobe:FILE:empty { @begun[tid] = nsecs; }
                   uretprobe:FILE:empty { @ = hist(nsecs - @begun[tid]); }",
    },
];

/// Nanoseconds per call in one round.
struct Sample {
    untraced: f64,
    ctrace: f64,
    bpftrace: Option<f64>,
}

/// What was measured: the rounds of each question.
pub(super) struct FunctionBench(Vec<Vec<Sample>>);

/// Measures each question in turn, round by round.
pub(super) fn measure(extent: Extent) -> Result<FunctionBench> {
    let mut all: Vec<Vec<Sample>> = QUESTIONS.iter().map(|_| Vec::new()).collect();
    for round in 1..=extent.rounds {
        eprintln!("bench: functions, round {round} of {}", extent.rounds);
        for (question, samples) in QUESTIONS.iter().zip(&mut all) {
            samples.push(sample(question)?);
        }
    }
    Ok(FunctionBench(all))
}

fn sample(question: &Question) -> Result<Sample> {
    let target = program("functions")?;
    let untraced = nanoseconds(Command::new(&target).args(["loop", CALLS]))?;
    let mut command = Command::new(ctrace_binary()?);
    command.args(["uprobe", "-o", "json", "--output", "/dev/null"]).args(question.ctrace);
    let ctrace = nanoseconds(command.arg("--").arg(&target).args(["loop", CALLS]))?;
    let file = target.to_string_lossy();
    let bpftrace = bpftrace_program().map(|bpftrace| {
        let source = question.bpftrace.replace("FILE", &file);
        let command = format!("{file} loop {CALLS}");
        nanoseconds(Command::new(bpftrace).args(["-o", "/dev/null", "-e", &source, "-c", &command]))
    });
    Ok(Sample { untraced, ctrace, bpftrace: bpftrace.transpose()? })
}

/// Runs a program that prints its own measurement: one number on standard output.
fn nanoseconds(command: &mut Command) -> Result<f64> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let number = stdout.lines().find_map(|line| line.trim().parse().ok());
    number.with_context(|| format!("{command:?} gave no number, but {stdout:?}; {stderr}"))
}

impl FunctionBench {
    /// Adds the table.
    pub(super) fn describe(&self, report: &mut BenchReport) {
        report.paragraph("### Any function");
        report.paragraph(
            "Time that `ctrace uprobe` and bpftrace add to a call of an empty function that begins with \
             `push`, in µs.",
        );
        let rows: Vec<[String; 4]> =
            QUESTIONS.iter().zip(&self.0).map(|(question, samples)| row(question.name, samples)).collect();
        report.table(["asked of each call", "ctrace", "bpftrace", "ctrace / bpftrace"], &rows);
    }
}

fn row(name: &str, samples: &[Sample]) -> [String; 4] {
    let us = |ns: f64| format!("{:.2}", ns / 1e3);
    let ctrace = median(samples.iter().map(|sample| sample.ctrace - sample.untraced));
    let added: Option<Vec<f64>> =
        samples.iter().map(|sample| Some(sample.bpftrace? - sample.untraced)).collect();
    let (bpftrace, ratio) = match added {
        Some(added) => {
            let bpftrace = median(added);
            (us(bpftrace), format!("{:.2}", ctrace / bpftrace))
        }
        None => ("not installed".to_owned(), "-".to_owned()),
    };
    [name.to_owned(), us(ctrace), bpftrace, ratio]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_what_is_added() {
        let sample = |bpftrace| Sample { untraced: 100.0, ctrace: 1100.0, bpftrace };
        assert_eq!(row("x", &[sample(Some(2100.0))]), ["x", "1.00", "2.00", "0.50"]);
        assert_eq!(row("x", &[sample(None)]), ["x", "1.00", "not installed", "-"]);
    }
}
