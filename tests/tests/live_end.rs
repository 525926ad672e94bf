//! How a trace ends, and that it leaves nothing behind. Needs root, BPF and Docker.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{
    Ctrace, LocalServer, RunningTrace, Server, TracedCommand, Transfer, program, require_bpf, require_live,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(20);
/// Sends requests for as long as the client lives.
const TALK: &[&str] = &["--http", "20"];

fn check_end(trace: &RunningTrace, end: &str) -> Result<()> {
    ensure!(trace.code() == Some(0), "{:?}: {}", trace.code(), trace.stderr);
    let summary = trace.summary()?;
    ensure!(summary.get("end").and_then(serde_json::Value::as_str) == Some(end), "{summary}");
    Ok(())
}

#[test]
fn ctrl_c() -> Result<()> {
    require_live()?;
    let server = Server::start("ctrl-c", &[])?;
    let _client = server.client_background(TALK)?;
    let trace = Ctrace::json(&["--container", server.container.name()])?.finish()?;
    check_end(&trace, "interrupted")
}

#[test]
fn a_second_ctrl_c_leaves_at_once() -> Result<()> {
    require_live()?;
    let server = Server::start("second-ctrl-c", &[])?;
    let _client = server.client_background(TALK)?;
    let arguments = ["ssl", "-o", "json", "--container", server.container.name()];
    let (_reader, writer) = std::io::pipe()?;
    let mut ctrace = Ctrace::start_with_stdout(&arguments, writer.try_clone()?)?;
    // At its end ctrace waits up to two seconds for the reader of a full pipe.
    let deadline = Instant::now() + PATIENCE;
    while poll(&mut [PollFd::new(&writer, PollFlags::OUT)], Some(&Timespec::default()))? > 0 {
        ensure!(Instant::now() < deadline, "{} bytes came", rustix::io::ioctl_fionread(&writer)?);
        thread::sleep(Duration::from_millis(50));
    }
    ctrace.child().signal(Signal::INT)?;
    thread::sleep(Duration::from_millis(500));
    ctrace.child().signal(Signal::INT)?;
    // The kernel takes some time to remove the probes.
    let trace = ctrace.wait(Duration::from_secs(5))?;
    ensure!(trace.code() == Some(130), "{:?}: {}", trace.status, trace.stderr);
    Ok(())
}

#[test]
fn a_closed_pipe() -> Result<()> {
    require_live()?;
    let server = Server::start("closed-pipe", &[])?;
    let _client = server.client_background(TALK)?;
    for format in ["text", "json"] {
        let arguments = ["ssl", "-o", format, "--container", server.container.name()];
        let mut ctrace = Ctrace::start_with_stdout(&arguments, Stdio::piped())?;
        let mut pipe = ctrace.child().take_stdout().context("no pipe")?;
        pipe.read_exact(&mut [0; 64])?;
        drop(pipe);
        let trace = ctrace.wait(Duration::from_secs(10))?;
        ensure!(trace.code() == Some(0), "{format}: {:?}: {}", trace.code(), trace.stderr);
    }
    Ok(())
}

#[test]
fn a_count() -> Result<()> {
    require_live()?;
    let server = Server::start("count", &[])?;
    let _client = server.client_background(TALK)?;
    let trace = Ctrace::json(&["--limit", "3", "--container", server.container.name()])?.wait(PATIENCE)?;
    check_end(&trace, "count")?;
    ensure!(trace.records()?.len() == 3, "{} records", trace.records()?.len());
    trace.check_complete()
}

#[test]
fn a_duration() -> Result<()> {
    require_live()?;
    let server = Server::start("duration", &[])?;
    let trace =
        Ctrace::json(&["--duration", "1s", "--container", server.container.name()])?.wait(PATIENCE)?;
    check_end(&trace, "duration")
}

#[test]
fn the_target() -> Result<()> {
    require_live()?;
    let server = Server::start("target-ends", &["--connections", "1"])?;
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    server.client_outside(&["--up", "100000", "--down", "100000"])?;
    let transfers = server.transfers(1)?;
    let trace = ctrace.wait(PATIENCE)?;
    check_end(&trace, "target_ended")?;
    trace.check_complete()?;
    trace.streams(|_| true)?.check(&transfers)
}

#[test]
fn the_target_by_pid() -> Result<()> {
    require_live()?;
    let server = Server::start("target-pid-ends", &["--connections", "1"])?;
    let ctrace = Ctrace::json(&["--pid", &server.container.pid().to_string()])?;
    server.client_outside(&["--up", "100000", "--down", "100000"])?;
    let transfers = server.transfers(1)?;
    let trace = ctrace.wait(PATIENCE)?;
    check_end(&trace, "target_ended")?;
    trace.streams(|_| true)?.check(&transfers)
}

#[test]
fn a_descendant_outlives_its_parent() -> Result<()> {
    require_live()?;
    let (server, client) = (program("tls-server")?, program("tls-client")?);
    let mut shell = Command::new("sh")
        .args(["-c", "\"$0\" --connections 1 & read _"])
        .arg(server)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(shell.stdout.take().context("no output")?).lines();
    let line = lines.next().context("the server says nothing")??;
    let port = line.strip_prefix("listening ").context("no port")?.to_owned();
    let ctrace = Ctrace::json(&["--pid", &shell.id().to_string()])?;
    drop(shell.stdin.take());
    shell.wait()?;
    // Longer than ctrace takes to notice that the process has ended.
    thread::sleep(Duration::from_secs(2));
    let talk = Command::new(client).args(["--port", &port, "--up", "1000", "--down", "1000"]).output()?;
    ensure!(talk.status.success(), "{}", String::from_utf8_lossy(&talk.stderr));
    let rest = lines.collect::<std::io::Result<Vec<_>>>()?.join("\n");
    let trace = ctrace.wait(PATIENCE)?;
    check_end(&trace, "target_ended")?;
    trace.check_complete()?;
    trace.streams(|_| true)?.check(&Transfer::all(&rest)?)
}

#[test]
fn nobody_reads_standard_error() -> Result<()> {
    require_live()?;
    let server = Server::start("closed-stderr", &[])?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut command = Command::new(ctrace_tests::ctrace_binary()?);
    command.args(["ssl", "--duration", "500ms", "--container", server.container.name()]);
    let status = command.stdout(Stdio::null()).stderr(writer).status()?;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}

#[test]
fn a_file_as_output_is_the_owners_alone() -> Result<()> {
    require_live()?;
    let server = Server::start("output", &[])?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("trace.json");
    let path = file.to_str().context("path")?;
    let ctrace = Ctrace::json(&["--output", path, "--container", server.container.name()])?;
    let client = server.client(&["--up", "100", "--down", "100"])?;
    let transfers = [server.transfers(1)?, client].concat();
    let mut trace = ctrace.finish()?;
    ensure!(trace.stdout.is_empty(), "{:?}", String::from_utf8_lossy(&trace.stdout));
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600, "{:?}", fs::metadata(&file)?);
    trace.stdout = fs::read(&file)?;
    trace.check_complete()?;
    trace.streams(|_| true)?.check(&transfers)
}

#[test]
fn a_limit_of_bytes() -> Result<()> {
    require_live()?;
    let server = Server::start("max-bytes", &[])?;
    for (limit, kept) in [("10", 10), ("0", 0), ("16385", 16385)] {
        let ctrace = Ctrace::json(&["--max-bytes", limit, "--container", server.container.name()])?;
        let client = server.client(&["--up", "7,10,100000", "--down", "20000,1,0"])?;
        let moved: u64 = client.iter().map(|transfer| 2 * transfer.bytes()).sum();
        let trace = ctrace.finish()?;
        ensure!(trace.code() == Some(0), "{}", trace.stderr);
        let records = trace.records()?;
        for record in &records {
            let call = &record.call;
            ensure!(call.captured == call.length.min(kept), "--max-bytes {limit}: {call:?}");
            ensure!(call.truncated == (call.length > kept), "--max-bytes {limit}: {call:?}");
            ensure!(record.payload()?.len() as u64 == call.captured, "--max-bytes {limit}: {call:?}");
            ensure!(kept > 0 || !record.has_payload(), "--max-bytes 0 has a payload");
        }
        let length: u64 = records.iter().map(|record| record.call.length).sum();
        ensure!(length == moved, "--max-bytes {limit}: {length} of {moved} bytes are recorded");
        ensure!(trace.counted("/lost/events")? == 0, "{}", trace.summary()?);
    }
    Ok(())
}

#[test]
fn text_ends_with_a_summary_on_standard_error() -> Result<()> {
    require_live()?;
    let server = Server::start("text", &[])?;
    let ctrace = Ctrace::start(&["ssl", "--container", server.container.name()])?;
    server.client(&["--http", "1", "--requests", "2"])?;
    let trace = ctrace.finish()?;
    ensure!(trace.code() == Some(0), "{}", trace.stderr);
    let text = String::from_utf8(trace.stdout)?;
    for part in
        ["GET /orders/42 HTTP/1.1", "HTTP/1.1 200 OK", server.container.name(), "tls-server[", "tls-client["]
    {
        ensure!(text.contains(part), "{part} is not in:\n{text}");
    }
    ensure!(!text.contains("\"schema\""), "{text}");
    let last = trace.stderr.lines().last().unwrap_or_default();
    ensure!(last.starts_with("summary:"), "{}", trace.stderr);
    let attached = trace.stderr.lines().any(|line| {
        line.starts_with(server.container.name())
            && line.contains("libssl.so.3")
            && line.contains("functions")
    });
    ensure!(attached, "{}", trace.stderr);
    Ok(())
}

#[test]
fn hex_output() -> Result<()> {
    require_live()?;
    let server = Server::start("hex", &[])?;
    let ctrace = Ctrace::start(&["ssl", "--hex", "--container", server.container.name()])?;
    server.client(&["--text", "ABCDEFGH"])?;
    let text = String::from_utf8(ctrace.finish()?.stdout)?;
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    ensure!(digits.contains("4142434445464748"), "{text}");
    Ok(())
}

#[test]
fn an_output_that_cannot_be_written() -> Result<()> {
    require_live()?;
    let server = Server::start("no-output", &[])?;
    let path = "/nonexistent/trace.json";
    let trace = Ctrace::run_to_end(&["ssl", "--container", server.container.name(), "--output", path])?;
    ensure!(trace.code() == Some(1), "{:?}: {}", trace.code(), trace.stderr);
    ensure!(trace.stderr.contains(path) && trace.stdout.is_empty(), "{}", trace.stderr);
    Ok(())
}

#[test]
fn quiet_says_only_that_it_traces() -> Result<()> {
    require_live()?;
    let server = Server::start("quiet", &[])?;
    let quiet = ["ssl", "-o", "json", "-q", "--container", server.container.name()];
    let trace = Ctrace::start(&quiet)?.finish()?;
    check_end(&trace, "interrupted")?;
    ensure!(!trace.stderr.contains("libssl.so.3"), "{}", trace.stderr);
    Ok(())
}

#[test]
fn a_dry_run_loads_nothing() -> Result<()> {
    require_live()?;
    let server = Server::start("dry-run", &[])?;
    let trace = Ctrace::run_to_end(&["ssl", "--dry-run", "--container", server.container.name()])?;
    ensure!(trace.code() == Some(0), "{}", trace.stderr);
    let plan: serde_json::Value = serde_json::from_slice(&trace.stdout).context("the plan is not JSON")?;
    ensure!(plan.to_string().contains("SSL_write_ex"), "{plan}");
    ensure!(!trace.stderr.contains("tracing;"), "{}", trace.stderr);
    Ok(())
}

/// The BPF objects of a process, according to its descriptors in /proc.
fn bpf_objects_of(pid: u32) -> Result<BTreeSet<String>> {
    let mut objects = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        for (field, kind) in [("prog_id:", "program"), ("map_id:", "map"), ("link_id:", "link")] {
            let ids = text.lines().filter_map(|line| line.strip_prefix(field));
            objects.extend(ids.map(|id| format!("{kind} {}", id.trim())));
        }
    }
    Ok(objects)
}

fn bpf_objects_of_the_kernel() -> Result<BTreeSet<String>> {
    let output = Command::new(program("bpf-ids")?).output()?;
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

#[test]
fn sigkill_leaves_nothing_behind() -> Result<()> {
    require_live()?;
    let tracefs = || fs::read_to_string("/sys/kernel/tracing/uprobe_events").unwrap_or_default();
    let before = tracefs();
    let server = Server::start("sigkill", &[])?;
    let mut ctrace = Ctrace::json(&["--container", server.container.name()])?;
    let objects = bpf_objects_of(ctrace.id())?;
    ensure!(!objects.is_empty(), "ctrace has no BPF objects: this test shows nothing");
    ensure!(bpf_objects_of_the_kernel()?.is_superset(&objects), "bpf-ids does not list them");
    ctrace.child().signal(Signal::KILL)?;
    let trace = ctrace.wait(PATIENCE)?;
    ensure!(trace.code().is_none(), "{:?}", trace.status);
    // The kernel frees programs only after a grace period.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left: Vec<_> = bpf_objects_of_the_kernel()?.intersection(&objects).cloned().collect();
        if left.is_empty() {
            break;
        }
        ensure!(Instant::now() < deadline, "still there: {left:?}");
        thread::sleep(Duration::from_millis(100));
    }
    ensure!(tracefs() == before, "uprobe_events changed");
    // The target still runs, and can be traced again.
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    let client = server.client(&["--up", "100000", "--down", "100000"])?;
    let transfers = [server.transfers(1)?, client].concat();
    let trace = ctrace.finish()?;
    trace.check_complete()?;
    trace.streams(|_| true)?.check(&transfers)
}

#[test]
fn a_parent_that_stops_with_its_child_goes_on() -> Result<()> {
    require_bpf()?;
    let server = LocalServer::start(1)?;
    let client = program("tls-client")?;
    let text = format!("{} --port {} --up 1 --down 1", client.display(), server.port());
    // It waits for a child that stops, and then stops itself, too.
    TracedCommand::run(&[], &["su", "root", "-s", "/bin/sh", "-c", &text])?.check()
}
