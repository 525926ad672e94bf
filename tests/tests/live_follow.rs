//! Whatever starts, loads or ends after ctrace has started is traced from its first byte, and leaves nothing
//! behind. Needs root, BPF and Docker.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{
    Ctrace, JsonRecord, RunningTrace, Server, TestContainer, TestImage, Transfer, docker, images, program,
    require_live,
};

/// How long a program waits between loading its library and its first call, in milliseconds: about as long as
/// resolving a host and connecting takes. `ctrace -v` prints the real time from mapping to attaching.
const AFTER: &str = "200";

/// Runs a container without a network until it ends, and returns what its program reports.
fn run(image: &TestImage, options: &[&str], command: &[&str]) -> Result<Vec<Transfer>> {
    let arguments = [&["run", "--rm", "--network=none"], options, &[image.tag()], command].concat();
    Transfer::all(&docker(&arguments)?)
}

/// Checks that the trace is complete, and has exactly these transfers.
fn check(trace: &RunningTrace, transfers: &[Transfer]) -> Result<()> {
    trace.check_complete()?;
    let result = trace.streams(|_| true)?.check(transfers);
    result.with_context(|| format!("standard error of ctrace:\n{}", trace.stderr))
}

/// A label that only this test's containers have, in the forms for `docker run` and `ctrace`.
fn label(name: &str) -> (String, String) {
    let label = format!("ctrace-follow={name}-{}", process::id());
    (format!("--label={label}"), label)
}

fn names(records: &[JsonRecord]) -> Vec<Option<String>> {
    records.iter().map(|record| record.container.as_ref().and_then(|found| found.name.clone())).collect()
}

#[test]
fn a_library_loaded_three_seconds_after_the_start() -> Result<()> {
    require_live()?;
    let image = images::elsewhere()?;
    let container = TestContainer::start(&image, "dlopen", &[images::ELSEWHERE], &["/idle"])?;
    let late = ["exec", container.id(), "/app/tls-late", "--before", "3000", "--after", AFTER];
    let program = Command::new("docker").args(late).stdout(Stdio::piped()).spawn()?;
    let ctrace = Ctrace::json(&["-v", "--wait", "--container", container.name()])?;
    let output = program.wait_with_output()?;
    let transfers = Transfer::all(&String::from_utf8(output.stdout)?)?;
    ensure!(transfers.len() == 2, "{transfers:?}");
    let trace = ctrace.finish()?;
    check(&trace, &transfers)?;
    // -v prints how long it took.
    ensure!(trace.stderr.contains(" ms after it was mapped"), "{}", trace.stderr);
    Ok(())
}

#[test]
fn nothing_to_attach_to_yet_is_an_error_unless_it_may_wait() -> Result<()> {
    require_live()?;
    let container = TestContainer::start(&images::late()?, "no-wait", &[], &["/idle"])?;
    let trace = Ctrace::run_to_end(&["ssl", "--container", container.name()])?;
    ensure!(trace.code() == Some(3), "{:?}: {}", trace.code(), trace.stderr);
    ensure!(trace.stderr.contains("--wait"), "the way out is not named: {}", trace.stderr);
    Ok(())
}

#[test]
fn the_first_process_of_a_container_that_starts_later() -> Result<()> {
    require_live()?;
    let image = images::late()?;
    let (option, selected) = label("first");
    let ctrace = Ctrace::json(&["--label", &selected])?;
    let transfers = run(&image, &[&option], &["/app/tls-late", "--after", AFTER])?;
    let outside = run(&image, &[], &["/app/tls-late", "--after", AFTER])?;
    ensure!(transfers.len() == 2 && outside.len() == 2, "{transfers:?} {outside:?}");
    let trace = ctrace.finish()?;
    check(&trace, &transfers)?;
    let names = names(&trace.records()?);
    ensure!(names.iter().all(Option::is_some), "a container of a runtime has no name: {names:?}");
    Ok(())
}

#[test]
fn an_image_whose_containers_start_later() -> Result<()> {
    require_live()?;
    let image = images::late()?;
    let ctrace = Ctrace::json(&["--image", image.tag()])?;
    // The program lives for some 300 ms.
    let transfers = run(&image, &[], &["/app/tls-late", "--after", AFTER, "--stay", "100"])?;
    check(&ctrace.finish()?, &transfers)
}

#[test]
fn a_container_that_is_restarted() -> Result<()> {
    require_live()?;
    let image = images::late()?;
    let (option, selected) = label("restarted");
    let command = ["/app/tls-late", "--after", AFTER];
    let container = TestContainer::start(&image, "restarted", &[&option], &command)?;
    docker(&["wait", container.id()])?;
    let ctrace = Ctrace::json(&["--label", &selected])?;
    docker(&["start", container.id()])?;
    docker(&["wait", container.id()])?;
    let mut reports = Transfer::all(&docker(&["logs", container.id()])?)?;
    ensure!(reports.len() == 4, "{reports:?}");
    let second = reports.split_off(2);
    check(&ctrace.finish()?, &second)
}

#[test]
fn a_server_that_starts_later_and_forks_for_each_connection() -> Result<()> {
    require_live()?;
    let (option, selected) = label("fork");
    let ctrace = Ctrace::json(&["--label", &selected])?;
    let server = Server::start_in(&images::tls()?, "prefork", &[&option], &["/tls-server", "--fork"])?;
    let options = ["--delay", AFTER, "--connections", "3", "--up", "5,20000", "--down", "100000,1"];
    let client = server.client(&options)?;
    let transfers = [server.transfers(3)?, client].concat();
    check(&ctrace.finish()?, &transfers)
}

/// Runs a program that loads its library, becomes a daemon `hold` milliseconds later, and speaks TLS `after`
/// milliseconds after that.
fn daemon(name: &str, hold: &str, after: &str) -> Result<()> {
    require_live()?;
    let container = TestContainer::start(&images::late()?, name, &[], &["/idle"])?;
    let ctrace = Ctrace::json(&["--wait", "--container", container.name()])?;
    container.exec(&["/app/tls-late", "--hold", hold, "--detach", "/report", "--after", after])?;
    let report = container.path("/report");
    let deadline = Instant::now() + Duration::from_secs(40);
    let transfers = loop {
        let transfers = Transfer::all(&fs::read_to_string(&report).unwrap_or_default())?;
        if transfers.len() == 2 {
            break transfers;
        }
        ensure!(Instant::now() < deadline, "the daemon does not report: {transfers:?}");
        thread::sleep(Duration::from_millis(100));
    };
    check(&ctrace.finish()?, &transfers)
}

/// The process that loaded the library has ended, and no event reports that the library is still mapped, for
/// longer than an unused library stays hooked.
#[test]
fn a_daemon_that_is_silent_for_a_while() -> Result<()> {
    daemon("daemon", "1000", "15000")
}

/// The process that loaded the library ends before ctrace can inspect it.
#[test]
fn a_daemon_that_forks_at_once() -> Result<()> {
    daemon("daemon-at-once", "0", "5000")
}

#[test]
fn connections_of_two_programs_in_one_process_are_two() -> Result<()> {
    require_live()?;
    // The default seccomp profile forbids the call that gives a process the same addresses again.
    let container =
        TestContainer::start(&images::late()?, "again", &["--security-opt=seccomp=unconfined"], &["/idle"])?;
    let ctrace = Ctrace::json(&["--wait", "--container", container.name()])?;
    let output = container.exec(&["/app/tls-late", "--after", AFTER, "--again"])?;
    let transfers = Transfer::all(&output)?;
    ensure!(transfers.len() == 4, "{transfers:?}");
    let trace = ctrace.finish()?;
    check(&trace, &transfers)?;
    let mut connections: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
    for record in trace.records()? {
        let connection = record.connection.context("a record has no connection")?;
        connections.entry(connection.id).or_default().insert(record.process.pid);
    }
    let pids: BTreeSet<u32> = connections.values().flatten().copied().collect();
    ensure!(connections.len() == 4 && pids.len() == 1, "{connections:?}");
    Ok(())
}

#[test]
fn fifty_processes_at_once() -> Result<()> {
    require_live()?;
    let image = images::late()?;
    let container = TestContainer::start(&image, "fifty", &[], &["/idle"])?;
    let ctrace = Ctrace::json(&["--wait", "--container", container.name()])?;
    // Entering a container takes time, so they all wait, and then start at once.
    let programs: Vec<_> = (0..50)
        .map(|_| {
            Command::new("docker")
                .args(["exec", container.id(), "/app/tls-late", "--before", "8000", "--after", "1000"])
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot run docker")
        })
        .collect::<Result<_>>()?;
    let mut transfers = Vec::new();
    for program in programs {
        transfers.extend(Transfer::all(&String::from_utf8(program.wait_with_output()?.stdout)?)?);
    }
    ensure!(transfers.len() == 100, "{} reports", transfers.len());
    check(&ctrace.finish()?, &transfers)
}

/// The resources of a process: its open files, the entries of its BPF maps by map name, and its resident
/// memory in KiB.
#[derive(Debug)]
struct Held {
    files: usize,
    entries: BTreeMap<String, u64>,
    resident: u64,
}

impl Held {
    fn by(pid: u32) -> Result<Self> {
        let mut ids = Vec::new();
        let mut files = 0;
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            files += 1;
            ids.extend(
                text.lines().filter_map(|line| line.strip_prefix("map_id:")).map(|id| id.trim().to_owned()),
            );
        }
        let output = Command::new(program("bpf-ids")?).args(&ids).output()?;
        let mut entries = BTreeMap::new();
        for line in String::from_utf8(output.stdout)?.lines() {
            let (name, count) = line.split_once(' ').with_context(|| format!("bpf-ids said {line:?}"))?;
            entries.insert(name.to_owned(), count.parse()?);
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let resident = resident.trim().trim_end_matches(" kB").parse()?;
        Ok(Self { files, entries, resident })
    }

    /// Whether the maps have nothing in scope and no call in progress.
    fn is_empty(&self) -> Result<bool> {
        ["CGROUPS", "THREADS", "CALLS"].into_iter().try_fold(true, |empty, map| {
            let count = self.entries.get(map).with_context(|| format!("no map {map}: {self:?}"))?;
            Ok(empty && *count == 0)
        })
    }
}

#[test]
fn eighty_containers_come_and_go() -> Result<()> {
    const THREADS: usize = 4;
    const EACH: usize = 20;
    require_live()?;
    let image = images::late()?;
    let (option, selected) = label("churn");
    let ctrace = Ctrace::json(&["--label", &selected])?;
    let one = || run(&image, &[&option], &["/app/tls-late", "--after", AFTER]);
    // One run first, because what it creates once stays.
    let mut transfers = one()?;
    let with_links = Held::by(ctrace.id())?;
    let without_links = settle(&ctrace, with_links.files)?;
    ensure!(
        without_links.files < with_links.files,
        "nothing was detached: {with_links:?}, {without_links:?}"
    );
    let results: Vec<Result<Vec<Transfer>>> = thread::scope(|scope| {
        let work = || (0..EACH).map(|_| one()).collect::<Result<Vec<_>>>().map(|all| all.concat());
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let panicked = |_| anyhow::anyhow!("a thread panicked");
        threads.into_iter().map(|thread| thread.join().map_err(panicked).flatten()).collect()
    });
    for result in results {
        transfers.extend(result?);
    }
    ensure!(transfers.len() == 2 * (1 + THREADS * EACH), "{} reports", transfers.len());
    let after = settle(&ctrace, with_links.files)?;
    // A connection to a runtime may be open at this moment. A leak would be eighty files.
    ensure!(after.files <= without_links.files + 8, "files: {after:?}, before {without_links:?}");
    ensure!(after.is_empty()?, "map entries: {after:?}, before {without_links:?}");
    ensure!(
        after.resident < without_links.resident + 20 * 1024,
        "memory: {after:?}, before {without_links:?}"
    );
    check(&ctrace.finish()?, &transfers)
}

/// Waits until nothing is in scope, fewer files are open than with links, and their number is stable. ctrace
/// detaches from unmapped files after some seconds, one link after the other.
fn settle(ctrace: &Ctrace, with_links: usize) -> Result<Held> {
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut held = Held::by(ctrace.id())?;
    let mut since = Instant::now();
    while Instant::now() < deadline {
        thread::sleep(Duration::from_millis(200));
        let now = Held::by(ctrace.id())?;
        if now.files != held.files {
            since = Instant::now();
        }
        held = now;
        if held.files < with_links && held.is_empty()? && since.elapsed() > Duration::from_secs(3) {
            break;
        }
    }
    Ok(held)
}
