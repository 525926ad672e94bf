//! `ctrace ps`, `inspect` and `doctor` with processes that are hard to inspect. Needs root, BPF and Docker.
#![expect(clippy::indexing_slicing, reason = "what a JSON value does not have is null")]

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{
    Child, OutputLines, TestContainer, TestImage, answer, check_harmless, images, json, list, program,
    require_live, text,
};
use serde_json::Value;

/// Starts the target program that is hard to inspect in its own container, and waits until it is ready.
fn churn(label: &str, options: &[&str]) -> Result<TestContainer> {
    let tree = images::tls_tree()?.program(&program("churn")?, "/churn")?;
    let image = TestImage::build("churn", &tree)?;
    let container = TestContainer::start(&image, label, &[], &[&["/churn"], options].concat())?;
    let mut logs = Command::new("docker");
    let mut logs = Child::start_with_stdout(logs.args(["logs", "-f", container.id()]), Stdio::piped())?;
    let mut lines = OutputLines::of(logs.take_stdout().context("no output")?);
    lines.wait("line \"ready\"", Duration::from_secs(20), |line| line == "ready")?;
    Ok(container)
}

#[test]
fn a_process_with_5000_mappings() -> Result<()> {
    require_live()?;
    let container = churn("maps", &["--maps", "5000"])?;
    let mapped = fs::read_to_string(format!("/proc/{}/maps", container.pid()))?.lines().count();
    ensure!(mapped > 5000, "only {mapped} mappings");
    for arguments in [
        ["ps", "--container", container.name()].as_slice(),
        &["inspect", container.name()],
        &["doctor", container.name()],
    ] {
        let started = Instant::now();
        let shown = text(&answer(arguments)?);
        ensure!(shown.contains("libssl.so.3"), "{arguments:?}:\n{shown}");
        ensure!(started.elapsed() < Duration::from_secs(10), "{arguments:?} took {:?}", started.elapsed());
    }
    Ok(())
}

#[test]
fn processes_that_end_while_they_are_read() -> Result<()> {
    require_live()?;
    let container = churn("forks", &["--forks"])?;
    for _ in 0..10 {
        let found = json(&answer(&["ps", "--container", container.name(), "-o", "json"])?)?;
        let rows = list(&found, "processes")?;
        ensure!(
            rows.iter().any(|row| row["process"]["pid"] == container.pid() && row["traceable"] == true),
            "{found}"
        );
        ensure!(rows.iter().all(|row| row["traceable"] == true), "{found}");
        answer(&["inspect", container.name()])?;
        let found = json(&answer(&["doctor", container.name(), "-o", "json"])?)?;
        let is_ours = |process: &&Value| process["pid"] == container.pid();
        let ours = list(&found, "processes")?.iter().find(is_ours).context("not listed")?;
        ensure!(ours["traceable"] == true, "{ours}");
    }
    Ok(())
}

#[test]
fn names_with_escape_sequences_do_not_reach_the_terminal() -> Result<()> {
    require_live()?;
    let container = churn("names", &["--name", "\u{1b}[2J\u{9b}\u{202e}\n"])?;
    let comm = fs::read_to_string(format!("/proc/{}/comm", container.pid()))?;
    ensure!(comm.starts_with('\u{1b}'), "{comm:?}");
    for command in ["ps", "inspect", "doctor"] {
        for format in ["text", "json"] {
            let subject: &[&str] = if command == "ps" {
                &["--wide", "--container", container.name()]
            } else {
                &[container.name()]
            };
            let trace = answer(&[&[command, "-o", format], subject].concat())?;
            check_harmless(&trace)?;
            let shown = if format == "text" { "\\x1b[2J" } else { "\\u001b[2J" };
            ensure!(text(&trace).contains(shown), "{command} {format}:\n{}", text(&trace));
        }
    }
    Ok(())
}
