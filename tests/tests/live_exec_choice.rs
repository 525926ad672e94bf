//! Only the requested programs are recorded: filtered by their properties, and not before a command starts.
//! Needs root and BPF.

#![expect(clippy::indexing_slicing, reason = "a JSON value that is not there is null")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{Ctrace, RunningTrace, program, require_live};
use serde_json::Value;

/// The user and group `nobody`.
const NOBODY: u32 = 65_534;
/// How many programs are executed, one after the other; each ends at once.
const STORM: usize = 200;

/// A copy, executable by everybody, of the program that executes itself.
fn copy(directory: &Path, name: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    fs::copy(program("exec-one")?, &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn records(trace: &RunningTrace, kind: &str) -> Result<Vec<Value>> {
    Ok(trace.lines()?.into_iter().filter(|record| record["type"] == kind).collect())
}

#[test]
fn programs_of_a_millisecond_are_chosen_and_none_is_missed() -> Result<()> {
    require_live()?;
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let (wanted, other) = (copy(directory.path(), "short-lived")?, copy(directory.path(), "other")?);
    let path = wanted.to_str().context("path")?;
    let (own, nobody) = (std::process::id().to_string(), NOBODY.to_string());
    let choices = [
        ["--comm", "short-lived"],
        ["--exe", path],
        ["--exe", "short-lived"],
        ["--uid", &nobody],
        ["--exclude-exe", "other"],
    ];
    for choice in choices {
        let ctrace =
            Ctrace::start(&[&["exec", "-o", "json", "--exits", "--pid", &own][..], &choice].concat())?;
        let count = STORM.to_string();
        ensure!(Command::new(&other).args(["storm", &count]).status()?.success());
        let by_nobody = Command::new(&wanted).args(["storm", &count]).uid(NOBODY).gid(NOBODY).status()?;
        ensure!(by_nobody.success());
        let trace = ctrace.finish()?;
        trace.check_complete()?;
        let programs = records(&trace, "exec")?;
        for program in &programs {
            let process = &program["process"];
            ensure!(
                process["executable"]["path"] == path && program["exec"]["existing"] == false,
                "{program:#}"
            );
            ensure!(process["user"]["id"] == NOBODY && process["comm"] == "short-lived", "{program:#}");
        }
        // Plus the program that executes the others.
        ensure!(programs.len() == STORM + 1, "{choice:?}: {} of {STORM} + 1", programs.len());
        let ids = |records: &[Value]| -> BTreeSet<String> {
            records.iter().map(|record| record["process"]["exec_id"].to_string()).collect()
        };
        let mut ends = records(&trace, "exit")?;
        if choice[0].starts_with("--exclude") {
            // The filter also matches this process and the processes that it forks.
            ends.retain(|end| end["forked"] == false);
        }
        ensure!(ids(&ends) == ids(&programs), "{choice:?}: {} ends", ends.len());
    }
    Ok(())
}

#[test]
fn scripts_are_chosen_by_their_own_names() -> Result<()> {
    require_live()?;
    let directory = tempfile::tempdir()?;
    let script = |name: &str, line: &str| -> Result<PathBuf> {
        let path = directory.path().join(name);
        // A relative argument can be resolved only while its program runs.
        fs::write(&path, format!("#!{line}\nsleep 0.1\nexec true\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    };
    let (job, other) = (script("job.sh", "/usr/bin/env sh")?, script("other.sh", "/bin/sh")?);
    let (path, own) = (job.to_str().context("path")?, std::process::id().to_string());
    for chosen in [path, "job.sh"] {
        let ctrace = Ctrace::start(&["exec", "-o", "json", "--pid", &own, "--exe", chosen])?;
        for mut command in [Command::new(&job), Command::new(&other)] {
            ensure!(command.status()?.success());
        }
        let arguments: [&[&str]; 3] = [&[path], &["-e", "job.sh"], &["-c", ":", "job.sh"]];
        for arguments in arguments {
            ensure!(Command::new("sh").current_dir(&directory).args(arguments).status()?.success());
        }
        let trace = ctrace.finish()?;
        trace.check_complete()?;
        let commands: Vec<String> = records(&trace, "exec")?
            .iter()
            .map(|record| record["process"]["command_args"].to_string().replace(path, "JOB"))
            .collect();
        let expected = [
            r#"["/usr/bin/env","sh","JOB"]"#,
            r#"["sh","JOB"]"#,
            r#"["sh","JOB"]"#,
            r#"["sh","-e","job.sh"]"#,
        ];
        ensure!(commands == expected, "{chosen}: {commands:#?}");
    }
    Ok(())
}

#[test]
fn what_ctrace_does_before_its_command_begins_is_not_told() -> Result<()> {
    require_live()?;
    let directory = tempfile::tempdir()?;
    let output = directory.path().join("out");
    let output = output.to_str().context("path")?;
    let traced = |command: &[&str]| -> Result<(RunningTrace, Vec<Value>)> {
        let options = ["exec", "--failed", "--exits", "--forks", "-o", "json", "--output", output, "--"];
        let trace = Ctrace::run_to_end(&[&options, command].concat())?;
        let lines = fs::read_to_string(output)?;
        let records: Result<Vec<Value>, _> = lines.lines().map(serde_json::from_str).collect();
        Ok((trace, records?))
    };
    // The shell tries the directories of PATH in turn; the first one does not have this program.
    let (trace, records) = traced(&["sh", "-c", ":"])?;
    let kinds: Vec<_> = records.iter().map(|record| &record["type"]).collect();
    ensure!(kinds == ["exec", "exit", "summary"], "{records:#?}\n{}", trace.stderr);
    ensure!(records[0]["process"]["command_args"][0] == "sh", "{records:#?}");

    let (trace, records) = traced(&["no-such-command"])?;
    ensure!(trace.code() == Some(127), "{:?}: {}", trace.code(), trace.stderr);
    ensure!(records.len() == 1 && records[0]["executions"] == 0, "{records:#?}");
    Ok(())
}
