//! `ctrace doctor` says whether tracing would work, and why not. Needs root, BPF and Docker.
#![expect(clippy::indexing_slicing, reason = "what a JSON value does not have is null")]

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{
    Ctrace, Server, TestContainer, answer, images, json, list, require_live, run_as_nobody, text,
};

#[test]
fn doctor_says_yes_here_and_of_a_server() -> Result<()> {
    require_live()?;
    let machine = json(&answer(&["doctor", "-o", "json"])?)?;
    ensure!(machine["traceable"] == true && machine["processes"] == serde_json::json!([]), "{machine}");
    let checks = list(&machine, "machine")?;
    ensure!(checks.iter().all(|check| check["status"] != "no"), "{machine}");
    for name in ["loading the programs", "setting a probe", "PID namespace", "lockdown", "ring buffer"] {
        ensure!(
            checks.iter().any(|check| check["check"] == name && check["status"] == "ok"),
            "{name}: {machine}"
        );
    }
    let server = Server::start("doctor", &[])?;
    let found = json(&answer(&["doctor", server.container.name(), "-o", "json"])?)?;
    let [process] = list(&found, "processes")?.as_slice() else { anyhow::bail!("{found}") };
    ensure!(process["pid"] == server.container.pid() && process["traceable"] == true, "{process}");
    let last = list(process, "steps")?.last().context("no steps")?;
    ensure!(last["check"] == "probes set" && last["status"] == "ok", "{process}");
    Ok(())
}

#[test]
fn doctor_says_no_of_a_container_without_tls_and_what_to_do() -> Result<()> {
    require_live()?;
    let container = TestContainer::start(&images::tls()?, "doctor-idle", &[], &["/idle"])?;
    let trace = Ctrace::run_to_end(&["doctor", container.name(), "-o", "json"])?;
    ensure!(trace.code() == Some(3), "{:?}: {}", trace.code(), trace.stderr);
    let found = json(&trace)?;
    let [process] = list(&found, "processes")?.as_slice() else { anyhow::bail!("{found}") };
    ensure!(found["traceable"] == false && process["traceable"] == false, "{found}");
    let steps = list(process, "steps")?;
    let last = steps.last().context("no steps")?;
    ensure!(last["check"] == "TLS functions" && last["status"] == "no", "{process}");
    for step in steps {
        ensure!(
            step["next"].is_string() == (step["status"] != "ok"),
            "an answer without a next step: {step}"
        );
    }
    let unknown = Ctrace::run_to_end(&["doctor", "ctrace-test-no-such-container"])?;
    ensure!(unknown.code() == Some(3), "{:?}: {}", unknown.code(), unknown.stderr);
    Ok(())
}

/// The number of calls that `--watch` counted in the container.
fn watched(container: &TestContainer) -> Result<u64> {
    let found = json(&answer(&["doctor", container.name(), "--watch", "2s", "-o", "json"])?)?;
    let functions = list(&found["watch"], "functions")?;
    ensure!(functions.iter().any(|one| one["pid"] == container.pid()), "{found}");
    let sum: u64 = functions.iter().filter_map(|one| one["hits"].as_u64()).sum();
    ensure!(found["watch"]["hits"] == sum, "{found}");
    Ok(sum)
}

#[test]
fn doctor_watch_counts_traffic_and_silence_beside_a_trace() -> Result<()> {
    require_live()?;
    let server = Server::start("watch", &[])?;
    ensure!(watched(&server.container)? == 0, "calls without traffic");
    let shown = text(&answer(&["doctor", server.container.name(), "--watch", "200ms"])?);
    ensure!(shown.contains("0 calls: "), "{shown}");
    let trace = Ctrace::json(&["--container", server.container.name()])?;
    let client = server.client_background(&["--http", "20"])?;
    let calls = watched(&server.container)?;
    drop(client);
    ensure!(calls >= 20, "{calls} calls");
    let trace = trace.finish()?;
    ensure!(trace.records()?.len() as u64 >= calls, "{} records, {calls} calls", trace.records()?.len());
    Ok(())
}

#[test]
fn doctor_as_nobody_says_which_right_is_missing() -> Result<()> {
    require_live()?;
    let trace = run_as_nobody(&["doctor", "-o", "json"])?;
    ensure!(trace.code() == Some(4), "{:?}: {}", trace.code(), trace.stderr);
    let found = json(&trace)?;
    let rights = list(&found, "machine")?.iter().find(|check| check["check"] == "right to load programs");
    let rights = rights.context("no such check")?;
    ensure!(rights["status"] == "no" && rights["next"].is_string(), "{rights}");
    ensure!(rights["found"].as_str().is_some_and(|found| found.contains("CAP_BPF")), "{rights}");
    Ok(())
}
