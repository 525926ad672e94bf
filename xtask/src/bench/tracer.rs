//! The ways to trace a process that are compared, and how each is started and stopped.
//!
//! Owns when a tracer counts as attached. Never measures what the tracer does to its target.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail};
use ctrace_tests::{Child, Ctrace, OutputLines, library, program, script};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::NamedTempFile;

use super::process::PROGRAM;
use crate::shell;

/// The library of the target program.
const LIBSSL: &str = "libssl.so.3";
/// How long bpftrace may take to compile and attach.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long bpftrace may take to end.
const BPFTRACE_ENDS: Duration = Duration::from_secs(5);
/// The probes of `bench-tls.bt`: entry and return of four functions.
const BPFTRACE_PROBES: usize = 8;

/// A way to trace, or not to trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing is attached.
    Untraced,
    /// ctrace traces the process.
    Ctrace,
    /// ctrace traces another process that maps the same library: the probes are hit, and the filter rejects
    /// the call.
    Elsewhere,
    /// Empty programs are at the places that ctrace probes: the least that any tracer there costs.
    Floor,
    /// bpftrace captures the same functions.
    Bpftrace,
}

/// A process to trace, and an idle one that maps the same libraries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pids {
    pub(super) measured: u32,
    pub(super) idle: u32,
}

/// A tracer that has attached.
#[derive(Debug)]
pub(super) struct Tracer {
    running: Running,
    /// How long it took to attach, counted from the start.
    pub(super) attach: Duration,
}

#[derive(Debug)]
enum Running {
    Nothing,
    Ctrace(Ctrace),
    Floor(Child),
    Bpftrace { child: Child, _script: NamedTempFile },
}

/// How a tracer ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// How long it took to detach; `None` if the tracer did not end by itself.
    pub(super) detach: Option<Duration>,
    /// The loss that it reported; bpftrace reports none.
    pub(super) lost: Option<String>,
}

impl Tracer {
    /// Starts a tracer, and returns when everything is attached.
    pub(super) fn start(way: Way, pids: Pids) -> Result<Self> {
        let begin = Instant::now();
        let running = match way {
            Way::Untraced => Running::Nothing,
            Way::Ctrace => Running::Ctrace(ctrace(pids.measured)?),
            Way::Elsewhere => Running::Ctrace(ctrace(pids.idle)?),
            Way::Floor => Running::Floor(floor(pids.measured)?),
            Way::Bpftrace => bpftrace(pids.measured)?,
        };
        Ok(Self { running, attach: begin.elapsed() })
    }

    /// The process id of a tracer.
    pub(super) fn id(&self) -> Option<u32> {
        match &self.running {
            Running::Nothing => None,
            Running::Ctrace(ctrace) => Some(ctrace.id()),
            Running::Floor(child) | Running::Bpftrace { child, .. } => Some(child.id()),
        }
    }

    /// Detaches, as Ctrl-C does.
    pub(super) fn finish(self) -> Result<Ended> {
        let begin = Instant::now();
        let (ended, lost) = match self.running {
            Running::Nothing => (true, None),
            Running::Ctrace(ctrace) => (true, lost(&ctrace.finish()?.stderr)?),
            Running::Floor(mut child) => {
                drop(child.take_stdin());
                (child.wait(PATIENCE)?.success(), None)
            }
            Running::Bpftrace { mut child, .. } => {
                child.signal(Signal::INT)?;
                // bpftrace 0.17 sometimes misses the signal; then dropping it kills it.
                (child.wait(BPFTRACE_ENDS).is_ok(), None)
            }
        };
        Ok(Ended { detach: ended.then(|| begin.elapsed()), lost })
    }
}

fn ctrace(pid: u32) -> Result<Ctrace> {
    Ctrace::start(&["ssl", "--pid", &pid.to_string(), "-o", "json", "--output", "/dev/null"])
}

/// Empty programs at the places that ctrace would probe.
fn floor(pid: u32) -> Result<Child> {
    let plan = Ctrace::run_to_end(&["ssl", "--dry-run", "--pid", &pid.to_string()])?;
    let places = places(&serde_json::from_slice(&plan.stdout).context("the plan is not JSON")?);
    let places = places.with_context(|| format!("the plan has no places in {LIBSSL}"))?;
    let mut command = shell::command(&program("bench-floor")?.to_string_lossy());
    command.arg(library(&program(PROGRAM)?, LIBSSL)?).args(&places);
    let mut child = Child::start_with_streams(&mut command, Stdio::piped(), Stdio::piped())?;
    let output = child.take_stdout().context("no pipe from bench-floor")?;
    OutputLines::of(output).wait("ready", PATIENCE, |line| line == "ready")?;
    Ok(child)
}

/// The places that a plan probes in libssl, as `bench-floor` takes them. None if there are none.
fn places(plan: &Value) -> Option<Vec<String>> {
    let objects = plan.get("objects")?.as_array()?;
    let is_libssl = |object: &&Value| object.pointer("/library/name").and_then(Value::as_str) == Some(LIBSSL);
    let libssl = objects.iter().find(is_libssl)?;
    let mut places = Vec::new();
    for hook in libssl.get("hooks")?.as_array()? {
        let entry = hook.get("offset")?.as_u64()?;
        places.push(entry.to_string());
        if hook.get("return_probe").and_then(Value::as_str) == Some("kernel") {
            places.push(format!("return:{entry}"));
        }
        let exits = hook.get("ends").and_then(Value::as_array).into_iter().flatten();
        places.extend(exits.filter_map(Value::as_u64).map(|exit| exit.to_string()));
    }
    Some(places).filter(|places| !places.is_empty())
}

/// The loss that the summary on standard error reports.
pub(super) fn lost(stderr: &str) -> Result<Option<String>> {
    let summary = stderr.lines().find(|line| line.starts_with("summary:"));
    let summary = summary.with_context(|| format!("ctrace wrote no summary, but:\n{stderr}"))?;
    // A library that a program maps at once is attached to late. What is missed then is not what a load
    // loses.
    if summary.ends_with("; nothing lost") || summary.contains("; missed ") && !summary.contains("; lost ") {
        return Ok(None);
    }
    let lost = summary.split_once("; lost ").map(|(_, lost)| lost.to_owned());
    Ok(Some(lost.with_context(|| format!("the summary does not report what was lost: {summary}"))?))
}

/// The path of bpftrace, if it is installed.
pub(super) fn bpftrace_program() -> Option<PathBuf> {
    shell::find("bpftrace")
}

fn bpftrace(pid: u32) -> Result<Running> {
    let file = bpftrace_program().context("bpftrace is not installed")?;
    let libssl = library(&program(PROGRAM)?, LIBSSL)?;
    let script = bpftrace_script(&libssl)?;
    let mut command = shell::command(&file.to_string_lossy());
    // bpftrace can capture at most 200 bytes of a payload, because they must fit on the stack of a BPF
    // program.
    command.env("BPFTRACE_STRLEN", "200").args(["-o", "/dev/null"]).arg(script.path()).arg(pid.to_string());
    let child = Child::start_with_stdout(&mut command, Stdio::null())?;
    wait_for_probes(&child)?;
    Ok(Running::Bpftrace { child, _script: script })
}

fn bpftrace_script(libssl: &Path) -> Result<NamedTempFile> {
    let source = script("bench-tls.bt");
    let text = fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let file = NamedTempFile::with_suffix(".bt").context("no file for the bpftrace script")?;
    let text = text.replace("LIBSSL", &libssl.to_string_lossy());
    fs::write(file.path(), text).with_context(|| format!("cannot write {}", file.path().display()))?;
    Ok(file)
}

/// Waits until bpftrace has attached. It reports when it begins, but not when it is done: then it has as many
/// perf events as there are probes times CPUs.
fn wait_for_probes(child: &Child) -> Result<()> {
    let wanted = BPFTRACE_PROBES + thread::available_parallelism()?.get();
    let deadline = Instant::now() + PATIENCE;
    while perf_events(child.id()) < wanted {
        if Instant::now() > deadline || !Path::new(&format!("/proc/{}/fd", child.id())).exists() {
            bail!("bpftrace did not attach; try it by hand with tests/programs/bench-tls.bt");
        }
        thread::sleep(Duration::from_millis(10));
    }
    // The last perf event exists before its program is attached to it.
    thread::sleep(Duration::from_millis(100));
    Ok(())
}

fn perf_events(pid: u32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|link| link.as_os_str() == "anon_inode:[perf_event]").count()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_place_of_a_plan_is_probed() {
        let hooks = json!([
            { "offset": 16, "return_probe": "emulated_exits", "ends": [32, 48] },
            { "offset": 64, "return_probe": "kernel" },
            { "offset": 80, "return_probe": "none" },
        ]);
        let plan = json!({ "objects": [
            { "library": { "name": "libcrypto.so.3" }, "hooks": [{ "offset": 1 }] },
            { "library": { "name": LIBSSL }, "hooks": hooks },
        ] });
        let expected = ["16", "32", "48", "64", "return:64", "80"].map(str::to_owned);
        assert_eq!(places(&plan), Some(expected.to_vec()));
        assert_eq!(places(&json!({ "objects": [] })), None);
    }

    #[test]
    fn the_summary_tells_what_was_lost() {
        let check = |stderr: &str, expected: Option<Option<&str>>| {
            assert_eq!(lost(stderr).ok(), expected.map(|lost| lost.map(str::to_owned)), "{stderr}");
        };
        check("tracing\nsummary: 2 calls, 9 bytes in 1.0 s (interrupted); nothing lost", Some(None));
        check("summary: 2 calls; lost 1 record", Some(Some("1 record")));
        check("summary: 2 calls; missed first calls of 3 processes: 3 programs", Some(None));
        check("summary: 2 calls; missed first calls of a process; lost 1 record", Some(Some("1 record")));
        check("summary: 2 calls", None);
        check("tracing", None);
    }
}
