//! The report at the end of a run: how long each suite took, what did not run and why, and the totals.
//!
//! Owns the clock and the sum. Never decides what runs.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::tally::TestCounts;

/// A part of the run.
#[derive(Debug)]
struct Row {
    name: String,
    took: Duration,
    /// `None` if nothing was tested.
    tally: Option<TestCounts>,
}

/// The parts that have run so far.
#[derive(Debug)]
pub(super) struct Report {
    begin: Instant,
    rows: Vec<Row>,
    not_run: Vec<String>,
}

impl Default for Report {
    fn default() -> Self {
        Self { begin: Instant::now(), rows: Vec::new(), not_run: Vec::new() }
    }
}

impl Report {
    /// Runs and times a preparation.
    pub(super) fn time<T>(&mut self, name: &str, what: impl FnOnce() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let result = what();
        self.rows.push(Row { name: name.to_owned(), took: begin.elapsed(), tally: None });
        result
    }

    /// Runs a suite. A suite that cannot run to its end counts as failed.
    pub(super) fn run(&mut self, name: &str, suite: impl FnOnce() -> Result<TestCounts>) {
        let begin = Instant::now();
        let tally = suite().unwrap_or_else(|error| {
            println!("error: {name}: {error:#}");
            TestCounts { failed: 1, ..TestCounts::default() }
        });
        let took = begin.elapsed();
        println!("suite {name}: {:.1} s", took.as_secs_f64());
        self.rows.push(Row { name: name.to_owned(), took, tally: Some(tally) });
    }

    /// Notes suites that did not run.
    pub(super) fn not_run(&mut self, names: &str, reason: &str) {
        self.not_run.push(format!("NOT RUN: {names}: {reason}"));
    }

    /// Prints the report; the last line has the totals.
    pub(super) fn end(self) -> ExitCode {
        let tally: TestCounts = self.rows.iter().filter_map(|row| row.tally).sum();
        println!("\n{}", self.table());
        self.not_run.iter().for_each(|line| println!("{line}"));
        if tally.ignored > 0 {
            println!("{} ignored", tally.ignored);
        }
        println!("in {} s", self.begin.elapsed().as_secs());
        println!("{} passed, {} failed", tally.passed, tally.failed);
        if tally.failed > 0 || tally.passed == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
        let line = |row: &Row| {
            let numbers = row.tally.map(|TestCounts { passed, failed, .. }| match failed {
                0 => format!("  {passed:>6} passed"),
                _ => format!("  {passed:>6} passed, {failed} FAILED"),
            });
            format!("{:<width$} {:>7.1} s{}", row.name, row.took.as_secs_f64(), numbers.unwrap_or_default())
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_seconds_of_each_suite() {
        let row = |name: &str, millis, tally| Row {
            name: name.to_owned(),
            took: Duration::from_millis(millis),
            tally,
        };
        let rows = vec![
            row("setup", 1_000, None),
            row("live_exec", 61_500, Some(TestCounts { passed: 12, failed: 0, ignored: 0 })),
            row("cli", 50, Some(TestCounts { passed: 1, failed: 2, ignored: 0 })),
        ];
        let report = Report { rows, ..Report::default() };
        let expected = "setup         1.0 s\n\
                        live_exec    61.5 s      12 passed\n\
                        cli           0.1 s       1 passed, 2 FAILED";
        assert_eq!(report.table(), expected);
    }

    #[test]
    fn a_suite_that_does_not_run_to_its_end_has_failed() {
        let mut report = Report::default();
        report.run("live", || anyhow::bail!("died"));
        report.run("cli", || Ok(TestCounts { passed: 1, failed: 0, ignored: 0 }));
        assert_eq!(report.end(), ExitCode::FAILURE);
    }
}
