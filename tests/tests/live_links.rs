//! Both kinds of links: one per place, to a perf event, and one for all places of a file (`uprobe_multi`).
//! Needs root, BPF, Docker and Linux 6.6.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ctrace::bpf::{self, BpfLog, ProbeLink, Session, SessionOptions};
use ctrace::elf::FileOffset;
use ctrace::event::Library;
use ctrace::plan::program_set::{CapturedConnections, ConnectionRecords, ProgramSet};
use ctrace::plan::{Hook, ObjectHooks, ObjectId, ProbeProgram};
use ctrace::rootfs::{self, access_paths};
use ctrace::scope::Scope;
use ctrace_tests::{Ctrace, Server, require_bpf, require_live};
use rustix::process::Signal;
use tokio::runtime::Builder;

const KINDS: [&str; 2] = ["perf", "multi"];
const PATIENCE: Duration = Duration::from_mins(1);
/// Around the end of TLS records.
const MOVE: &[&str] = &["--up", "1,16384,70000", "--down", "100000,1,2"];

/// How many links of each kind a process holds, such as `perf`, `uprobe_multi` and `uretprobe_multi`.
fn links(pid: u32) -> Result<BTreeMap<String, usize>> {
    let mut links = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        if let Some(kind) = text.lines().find_map(|line| line.strip_prefix("link_type:")) {
            *links.entry(kind.trim().to_owned()).or_default() += 1;
        }
    }
    Ok(links)
}

fn to_many_places(links: &BTreeMap<String, usize>) -> usize {
    links.iter().filter(|(kind, _)| kind.ends_with("probe_multi")).map(|(_, count)| count).sum()
}

/// How long a trace takes from Ctrl-C to its end.
fn time_to_end(mut ctrace: Ctrace) -> Result<Duration> {
    let begin = Instant::now();
    ctrace.child().signal(Signal::INT)?;
    let trace = ctrace.wait(PATIENCE)?;
    ensure!(trace.code() == Some(0), "{:?}: {}", trace.code(), trace.stderr);
    Ok(begin.elapsed())
}

#[test]
fn both_kinds_show_every_byte() -> Result<()> {
    require_live()?;
    for kind in KINDS {
        let server = Server::start(&format!("links-{kind}"), &[])?;
        let ctrace = Ctrace::json(&["--probe-link", kind, "--container", server.container.name()])?;
        server.client_outside(MOVE)?;
        let links = links(ctrace.id())?;
        let multi = to_many_places(&links);
        match kind {
            "perf" => ensure!(multi == 0, "{links:?}"),
            // One for each program that its functions have, whatever their number.
            _ => ensure!((3..=6).contains(&multi), "{links:?}"),
        }
        let trace = ctrace.finish()?;
        trace.check_complete()?;
        trace.streams(|_| true)?.check(&server.transfers(1)?)?;
    }
    Ok(())
}

#[test]
fn the_programs_log_with_both_kinds() -> Result<()> {
    require_live()?;
    for kind in KINDS {
        let server = Server::start(&format!("links-log-{kind}"), &[])?;
        let arguments = ["ssl", "-vv", "--probe-link", kind, "--container", server.container.name()];
        let ctrace = Ctrace::start(&arguments)?;
        server.client_outside(MOVE)?;
        let trace = ctrace.finish()?;
        let logged = trace.stderr.lines().find(|line| line.contains(" opens connection "));
        let logged = logged.with_context(|| format!("{kind}: no message of a program: {}", trace.stderr))?;
        ensure!(logged.contains(&format!("process {}", server.container.pid())), "{kind}: {logged}");
    }
    Ok(())
}

#[test]
fn many_functions_of_a_file_are_one_link() -> Result<()> {
    require_live()?;
    let server = Server::start("links-many", &[])?;
    let container = server.container.name();
    let arguments = ["uprobe", "--probe-link", "multi", "--container", container, "libssl.so.3:SSL_*"];
    let ctrace = Ctrace::start(&arguments)?;
    let links = links(ctrace.id())?;
    // An entry and a return; whoever cannot have a return probe has return instructions.
    ensure!((1..=3).contains(&to_many_places(&links)), "{links:?}");
    println!("many functions of libssl: {:?} from Ctrl-C to the end", time_to_end(ctrace)?);
    Ok(())
}

#[test]
fn the_end_of_both_kinds() -> Result<()> {
    require_live()?;
    let server = Server::start("links-end", &[])?;
    for kind in KINDS {
        let ctrace = Ctrace::json(&["--probe-link", kind, "--container", server.container.name()])?;
        println!("{kind}: {:?} from Ctrl-C to the end", time_to_end(ctrace)?);
    }
    Ok(())
}

/// Functions that are probed and never called.
mod probed {
    #[inline(never)]
    pub(super) extern "C" fn first(value: u64) -> u64 {
        std::hint::black_box(value) + 1
    }
    #[inline(never)]
    pub(super) extern "C" fn second(value: u64) -> u64 {
        std::hint::black_box(value) + 2
    }
    #[inline(never)]
    pub(super) extern "C" fn third(value: u64) -> u64 {
        std::hint::black_box(value) + 3
    }
}

/// An offset beyond the end of every file.
const NOWHERE: u64 = 1 << 40;

fn hook(function: &str, offset: u64) -> Hook {
    let hook = Hook::new(ProbeProgram::Io, function.to_owned(), FileOffset(offset), 0);
    Hook { public_names: Vec::new(), ..hook.with_kernel_return(None) }
}

/// Hooks of this program: some of its functions, and places that are not there.
fn own_hooks() -> Result<ObjectHooks> {
    let own = std::process::id();
    let functions = [probed::first, probed::second, probed::third];
    let mappings = rootfs::executable_mappings(own)?;
    let ranges: Vec<_> = mappings.iter().flat_map(|mapping| &mapping.ranges).collect();
    let mut hooks = vec![hook("nowhere", NOWHERE)];
    for function in functions {
        let address = function as usize as u64;
        let range = ranges.iter().find(|range| (range.start..range.end).contains(&address));
        let range = range.context("a function is in no mapping")?;
        hooks.push(hook("probed", address - range.start + range.offset));
        if hooks.len() == 3 {
            hooks.push(hook("nowhere", NOWHERE + 1));
        }
    }
    let file = access_paths::executable(own)?;
    let path = file.name().to_string_lossy().into_owned();
    Ok(ObjectHooks {
        id: ObjectId(0),
        library: Arc::new(Library { name: "test".to_owned(), path, implementation: None, version: None }),
        file: Arc::new(file),
        pids: vec![own],
        available_to: Vec::new(),
        evidence: Vec::new(),
        sites: 0..u32::try_from(hooks.len())?,
        hooks,
    })
}

/// The first byte of each probed function: a breakpoint if it is probed.
fn first_bytes() -> Vec<u8> {
    [probed::first, probed::second, probed::third]
        .iter()
        .map(|function| {
            let mut byte = [0];
            let memory = fs::File::open("/proc/self/mem");
            let read = memory.and_then(|memory| {
                std::os::unix::fs::FileExt::read_exact_at(&memory, &mut byte, *function as usize as u64)
            });
            read.map_or(0, |()| byte[0])
        })
        .collect()
}

#[test]
fn one_bad_place_takes_no_good_one_with_it() -> Result<()> {
    require_bpf()?;
    bpf::prepare()?;
    let before = first_bytes();
    ensure!(before.iter().all(|byte| *byte != 0 && *byte != 0xcc), "{before:x?}");
    for probe_link in [ProbeLink::Perf, ProbeLink::Multi] {
        let options = SessionOptions {
            programs: ProgramSet::connections_of(CapturedConnections::Tls, ConnectionRecords::Off),
            ring_bytes: 1 << 20,
            max_bytes: 0,
            log: BpfLog::Off,
            probe_link,
            command: None,
        };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let mut session = runtime.block_on(async { Session::load(&options, &Scope::default()) })?;
        let object = own_hooks()?;
        let failed = session.attach(&object);
        let indexes: Vec<usize> = failed.iter().map(|(index, _)| *index).collect();
        ensure!(indexes == [0, 3], "{probe_link:?}: {failed:?}");
        for ((_, error), offset) in failed.into_iter().zip([NOWHERE, NOWHERE + 1]) {
            let reason = format!("{:#}", anyhow::Error::new(error));
            let place = format!("nowhere at file offset {offset:#x} of ");
            ensure!(
                reason.contains(&place) && reason.contains("Invalid argument"),
                "{probe_link:?}: {reason}"
            );
        }
        ensure!(first_bytes() == [0xcc; 3], "{probe_link:?}: {:x?}", first_bytes());
        // Soon, without an end of the session.
        session.detach(object.id);
        let deadline = Instant::now() + PATIENCE;
        while first_bytes() != before {
            ensure!(Instant::now() < deadline, "{probe_link:?}: not detached: {:x?}", first_bytes());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    ensure!(probed::first(1) + probed::second(1) + probed::third(1) == 9, "they are functions");
    Ok(())
}
