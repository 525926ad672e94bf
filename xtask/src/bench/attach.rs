//! How long it takes from the moment that a program in a container maps a TLS library until the library is
//! hooked.
//!
//! Owns the runs; ctrace itself measures the time and prints it with `-v`.

use std::time::Duration;

use anyhow::{Context, Result};
use ctrace_tests::{Ctrace, TestContainer, images, require_docker};

use super::Extent;
use super::report::BenchReport;
use super::statistics::median;

/// The text before and after the milliseconds in ctrace's message.
const LINE: (&str, &str) = ("attached to libssl.so.3 ", " ms after it was mapped");
/// The program makes four calls, well after its library is hooked.
const PROGRAM: [&str; 5] = ["/app/tls-late", "--before", "300", "--after", "300"];
const PATIENCE: Duration = Duration::from_secs(20);

/// Milliseconds, run by run; `None` without Docker.
pub(super) fn measure(extent: Extent) -> Result<Option<Vec<f64>>> {
    if let Err(error) = require_docker() {
        eprintln!("bench: the time to attach is not measured: {error:#}");
        return Ok(None);
    }
    let image = images::elsewhere()?;
    let container = TestContainer::start(&image, "bench-attach", &[images::ELSEWHERE], &["/idle"])?;
    let run = |run| {
        eprintln!("bench: attach, run {run} of {}", extent.attaches);
        once(&container)
    };
    (1..=extent.attaches).map(run).collect::<Result<_>>().map(Some)
}

/// Starts a new trace for each run, because a library that is already hooked costs nothing.
fn once(container: &TestContainer) -> Result<f64> {
    let options =
        ["ssl", "-v", "--wait", "--container", container.name(), "--limit", "4", "--max-bytes", "0"];
    let ctrace = Ctrace::start(&options)?;
    container.exec(&PROGRAM)?;
    let stderr = ctrace.wait(PATIENCE)?.stderr;
    milliseconds(&stderr).with_context(|| format!("ctrace does not report the time, but:\n{stderr}"))
}

fn milliseconds(stderr: &str) -> Option<f64> {
    let (before, after) = LINE;
    stderr.lines().find_map(|line| line.strip_prefix(before)?.strip_suffix(after)?.parse().ok())
}

/// Adds the table.
pub(super) fn describe(all: Option<&Vec<f64>>, report: &mut BenchReport) {
    report.paragraph("### A library that is loaded later");
    let Some(all) = all else {
        report.paragraph("Not measured: Docker is not there.");
        return;
    };
    report.paragraph(
        "From the mapping of libssl.so.3 by a program in a Docker container until it is hooked, as `-v` \
         reports it, in ms. The library is where ctrace does not search before anybody maps it.",
    );
    let least = all.iter().copied().fold(f64::INFINITY, f64::min);
    let most = all.iter().copied().fold(0.0, f64::max);
    let cells = [least, median(all.iter().copied()), most].map(|value| format!("{value:.1}"));
    let [least, median, most] = cells;
    report.table(["runs", "least", "median", "most"], &[[all.len().to_string(), least, median, most]]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_read() {
        let check =
            |stderr: &str, expected: Option<f64>| assert_eq!(milliseconds(stderr), expected, "{stderr}");
        check("tracing\nattached to libssl.so.3 13.6 ms after it was mapped\nsummary:", Some(13.6));
        check("attached to libssl.so.3 13.6 ms after its program started", None);
        check("", None);
    }
}
