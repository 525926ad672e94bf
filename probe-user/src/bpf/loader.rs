//! Loads the BPF object: sets its constants for this kernel and this trace, and loads its programs.

use std::collections::BTreeSet;
use std::{io, thread};

use aya::programs::{ProgramError, ProgramInfo, RawTracePoint, TracePoint, UProbe};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use probe_common::{
    CALL_BYTES, FUNCTION_COUNTS, FUNCTION_FRAMES, FUNCTION_SPECS, GO_CALLS, OPEN_CALLS, SOCKETS,
    UNATTRIBUTED_SOCKETS,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::btf::Btf;
use super::links::{Links, Removal};
use super::pod::PodCompat;
use super::programs::{self, AttachPoint, BpfProgram, LoadTime, PROGRAMS};
use super::sys::{self, AttachType};
use super::tracepoint_format::TracepointFormat;
use super::uprobe_multi::{IdleProgram, MultiPrograms, ParsedCode};
use super::{
    AttachWarmup, BpfLog, KernelReturns, ProbeLink, SessionError, SessionOptions, attach_warmup, exec,
    features, pod, preload, sockets,
};
use crate::plan::program_set::{ConnectionRecords, ProgramFamily};

/// The ring wakes its reader when its fill passes a multiple of its size divided by two to this power.
/// An eighth leaves the reader time, and is rare enough to cost the target nothing (docs/performance.md).
const WAKE_FRACTION_SHIFT: u32 = 3;

/// The compiled programs of `probe-ebpf`.
pub(super) static OBJECT_FILE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probe-ebpf"));

/// The offsets of fields in the records of tracepoints.
#[derive(Default)]
struct Offsets {
    fork_child_pid: u32,
    exec_old_pid: u32,
    exit_group_dead: u32,
    cgroup_root: u32,
    cgroup_level: u32,
    cgroup_id: u32,
    cgroup_path: u32,
}

impl Offsets {
    fn read(families: &BTreeSet<ProgramFamily>) -> Result<Self, SessionError> {
        let mut offsets = Self {
            fork_child_pid: TracepointFormat::read("sched", "sched_process_fork")?.offset("child_pid")?,
            exec_old_pid: TracepointFormat::read("sched", "sched_process_exec")?.offset("old_pid")?,
            exit_group_dead: TracepointFormat::read("sched", "sched_process_exit")?
                .offset_if_any("group_dead"),
            ..Self::default()
        };
        if families.contains(&ProgramFamily::Cgroups) {
            // cgroup_mkdir and cgroup_rmdir have the same record.
            let cgroup = TracepointFormat::read("cgroup", "cgroup_mkdir")?;
            offsets.cgroup_root = cgroup.offset("root")?;
            offsets.cgroup_level = cgroup.offset("level")?;
            offsets.cgroup_id = cgroup.offset("id")?;
            offsets.cgroup_path = cgroup.offset("path")?;
        }
        Ok(offsets)
    }
}

/// The constants that say which records of connections and calls the programs emit.
struct ConnectionConstants {
    records: u32,
    suppress_calls: u32,
    /// The payload bytes to capture per call.
    max_bytes: u32,
}

impl ConnectionConstants {
    fn of(options: &SessionOptions) -> Self {
        let max_bytes = options.max_bytes.min(CALL_BYTES);
        match options.programs.connections() {
            ConnectionRecords::Off => Self { records: 0, suppress_calls: 0, max_bytes },
            ConnectionRecords::Ends | ConnectionRecords::On => {
                Self { records: 1, suppress_calls: 0, max_bytes }
            }
            ConnectionRecords::Only => Self { records: 1, suppress_calls: 1, max_bytes: 0 },
        }
    }
}

/// A loader that does not know the kernel's types.
///
/// aya reads and parses all of them, 5 MB, when a loader is created, although only relocations need them that
/// our programs do not have. That takes about 25 ms and 25 MiB. It goes on without them if it cannot open the
/// file, and there is no other way to have it do so.
pub(super) fn without_kernel_types() -> EbpfLoader<'static> {
    let limit = getrlimit(Resource::Nofile);
    let no_files = Rlimit { current: Some(0), maximum: limit.maximum };
    if setrlimit(Resource::Nofile, no_files).is_err() {
        return EbpfLoader::new();
    }
    let loader = EbpfLoader::new();
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        // The limit was this before, so it is not refused.
        tracing::warn!("no more files can be opened: {error}");
    }
    loader
}

/// Creates the maps, and loads the programs of `families` that are needed at the start. Programs for sockets
/// are left out if the kernel does not describe its sockets.
pub(super) fn load(
    loader: EbpfLoader<'static>,
    options: &SessionOptions,
    families: &mut BTreeSet<ProgramFamily>,
) -> Result<(Ebpf, Uprobes), SessionError> {
    // It refers to values of this function from now on.
    let mut loader: EbpfLoader<'_> = loader;
    let wake_shift = options.ring_bytes.ilog2().saturating_sub(WAKE_FRACTION_SHIFT);
    let (own_pid, command) = (std::process::id(), options.command.unwrap_or(0));
    let connections = ConnectionConstants::of(options);
    let offsets = Offsets::read(families)?;
    let log_level = log_level(options.log);
    // All maps are created. Those that this trace does not use are made as small as possible.
    let sized = |family, size: u32| if options.programs.has(family) { size } else { 1 };
    let of_functions = |size| sized(ProgramFamily::Functions, size);
    let (wanted, group_dead) = (options.programs.exec_records(), offsets.exit_group_dead);
    let reads_btf =
        families.contains(&ProgramFamily::Sockets) || exec::Constants::read_btf(wanted, group_dead);
    // aya tries what the kernel can do when it is first asked.
    let (_, btf) = at_once(aya::features, || reads_btf.then(Btf::read).flatten());
    let constants = exec::Constants::read(wanted, group_dead, btf.as_ref())?;
    let socket_fields = btf.as_ref().and_then(sockets::fields).map(PodCompat);
    if socket_fields.is_none() {
        use ProgramFamily::{ClearSockets, SocketCloses, Sockets};
        families.retain(|family| !matches!(family, Sockets | ClearSockets | SocketCloses));
    }
    let captures_cleartext = options.programs.captures_cleartext();
    let cleartext = u32::from(captures_cleartext);
    let unattributed = if captures_cleartext { SOCKETS } else { UNATTRIBUTED_SOCKETS };
    loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .map_max_entries("EVENTS", options.ring_bytes)
        .map_max_entries("SPECS", of_functions(FUNCTION_SPECS))
        .map_max_entries("FUNCTION_FRAMES", of_functions(FUNCTION_FRAMES))
        .map_max_entries("GO_CALLS", sized(ProgramFamily::Tls, GO_CALLS))
        .map_max_entries("OPEN_CALLS", sized(ProgramFamily::Tls, OPEN_CALLS))
        .map_max_entries("SOCKETS", sized(ProgramFamily::SocketCloses, SOCKETS))
        .map_max_entries("UNATTRIBUTED", unattributed)
        .map_max_entries("COUNTS", of_functions(FUNCTION_COUNTS))
        .map_max_entries("LATENCIES", of_functions(FUNCTION_COUNTS))
        .override_global("OWN_PID", &own_pid, true)
        .override_global("COMMAND", &command, true)
        .override_global("MAX_BYTES", &connections.max_bytes, true)
        .override_global("WAKE_SHIFT", &wake_shift, true)
        .override_global("FORK_CHILD_PID", &offsets.fork_child_pid, true)
        .override_global("EXEC_OLD_PID", &offsets.exec_old_pid, true)
        .override_global("EXIT_GROUP_DEAD", &offsets.exit_group_dead, true)
        .override_global("CGROUP_ROOT", &offsets.cgroup_root, true)
        .override_global("CGROUP_LEVEL", &offsets.cgroup_level, true)
        .override_global("CGROUP_ID", &offsets.cgroup_id, true)
        .override_global("CGROUP_PATH", &offsets.cgroup_path, true)
        .override_global("CLEARTEXT", &cleartext, true)
        .override_global("CONNECTION_RECORDS", &connections.records, true)
        .override_global("SUPPRESS_CALLS", &connections.suppress_calls, true)
        .override_global(aya_log::LEVEL, &log_level, true);
    constants.set(&mut loader);
    if let Some(fields) = &socket_fields {
        loader.override_global("SOCKET_FIELDS", fields, true);
    }
    let is_multi = Uprobes::are_multi(options)?;
    // aya creates the maps, among them the ring, whose memory takes the kernel a while.
    let (ebpf, code) = at_once(|| loader.load(OBJECT_FILE), || is_multi.then(ParsedCode::read).transpose());
    let mut ebpf = ebpf.map_err(SessionError::load)?;
    let uprobes = load_needed(options, families, &mut ebpf, code?)?;
    // Several MiB: the object file, parsed, and the kernel's types.
    drop((loader, btf));
    sys::give_memory_back();
    Ok((ebpf, uprobes))
}

/// The most detailed messages that programs log, or 0.
fn log_level(wanted: BpfLog) -> u8 {
    match wanted {
        BpfLog::Off => 0,
        BpfLog::Debug => log::Level::Debug as u8,
    }
}

/// Loads what is needed at the start.
fn load_needed(
    options: &SessionOptions,
    families: &BTreeSet<ProgramFamily>,
    ebpf: &mut Ebpf,
    code: Option<ParsedCode>,
) -> Result<Uprobes, SessionError> {
    let mut uprobes = match code {
        Some(code) => Uprobes::Multi(Box::new(MultiPrograms::new(code, ebpf)?)),
        None => Uprobes::Perf,
    };
    let needed = needed_at_start(options, families, &uprobes);
    preload::load(ebpf, &mut uprobes, &needed)?;
    Ok(uprobes)
}

/// The programs that are loaded before a session starts.
fn needed_at_start(
    options: &SessionOptions,
    families: &BTreeSet<ProgramFamily>,
    uprobes: &Uprobes,
) -> Vec<&'static BpfProgram> {
    let is_needed = |program: &&BpfProgram| {
        // So that their steps are logged.
        let all = options.log == BpfLog::Debug && uprobes.can_run(program);
        let now = match program.load {
            LoadTime::AtStart => true,
            // Programs of aya cannot be loaded on another thread.
            LoadTime::InBackground => matches!(uprobes, Uprobes::Perf),
            LoadTime::OnDemand => false,
        };
        families.contains(&program.family) && (now || all)
    };
    PROGRAMS.iter().filter(is_needed).collect()
}

/// Does two things at the same time, the second on another thread if one can be started.
fn at_once<A, B: Send>(first: impl FnOnce() -> A, second: impl Fn() -> B + Sync) -> (A, B) {
    let second = &second;
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, second);
        let first = first();
        // A panic of the thread was reported where it happened.
        let second = thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(second);
        (first, second)
    })
}

/// How the programs for functions are loaded, and what their links are.
pub(super) enum Uprobes {
    /// Programs of aya, with one link per place, to a perf event.
    Perf,
    /// Programs of our own, with one link for all places of an object.
    Multi(Box<MultiPrograms>),
}

impl Uprobes {
    /// Whether links are to have many places: what was asked for, or else the best that the kernel has.
    fn are_multi(options: &SessionOptions) -> Result<bool, SessionError> {
        let is_wanted = match options.probe_link {
            _ if !options.programs.probes_files() => return Ok(false),
            ProbeLink::Perf => return Ok(false),
            ProbeLink::Multi => true,
            ProbeLink::Auto => false,
        };
        match features::uprobe_multi() {
            Some(true) => Ok(true),
            _ if is_wanted => Err(SessionError::no_uprobe_multi()),
            _ => Ok(false),
        }
    }

    /// Loads the programs that were not needed at the start, on another thread.
    pub(super) fn load_rest(&mut self, families: &BTreeSet<ProgramFamily>) {
        let Self::Multi(programs) = self else { return };
        let is_left = |program: &&BpfProgram| {
            program.load == LoadTime::InBackground && families.contains(&program.family)
        };
        let left: Vec<_> = PROGRAMS.iter().filter(is_left).collect();
        if !left.is_empty() {
            programs.load_in_background(left);
        }
    }

    /// For which calls the kernel probes a return. What the kernel can do is tried when this is first asked.
    pub(super) fn kernel_returns(&self) -> KernelReturns {
        match self {
            Self::Multi(_) if features::uprobe_session() == Some(true) => KernelReturns::OfKeptCalls,
            Self::Multi(_) | Self::Perf => KernelReturns::OfAllCalls,
        }
    }

    /// Whether a program runs in files, and the kernel can run it.
    fn can_run(&self, program: &BpfProgram) -> bool {
        match program.attach_point {
            AttachPoint::Session(_) => self.kernel_returns() == KernelReturns::OfKeptCalls,
            _ => program.attach_point.is_in_files(),
        }
    }
}

/// The place for links, and for idle probes of the same kind. If links have many places, the first idle probe
/// is set, so that the kernel's longest wait is over when the programs are loaded.
pub(super) fn links(options: &SessionOptions) -> Result<Links, SessionError> {
    if !Uprobes::are_multi(options)? {
        let links = Links::new(Removal::WhenQuiet, AttachWarmup::new(attach_warmup::idle_perf_event));
        return Ok(links);
    }
    let idle = IdleProgram::load(AttachType::UprobeMulti);
    let attach = move || match &idle {
        Ok(program) => program.attach_to_nothing(),
        Err(error) => Err(io::Error::other(error.to_string())),
    };
    let links = Links::new(Removal::AtOnce, AttachWarmup::new(attach));
    links.ahead().prime();
    Ok(links)
}

/// Loads a program that runs in files or at tracepoints, if it is not loaded yet.
pub(super) fn load_program(
    ebpf: &mut Ebpf,
    uprobes: &mut Uprobes,
    program: &BpfProgram,
) -> Result<(), SessionError> {
    match uprobes {
        _ if !program.attach_point.is_in_files() => tracepoint(ebpf, program.name).map(drop),
        Uprobes::Perf => uprobe(ebpf, program.name).map(drop),
        Uprobes::Multi(programs) => programs.program(program).map(drop),
    }
}

/// A program for tracepoints, loaded on first use.
pub(super) fn tracepoint<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut TracePoint, SessionError> {
    let program: &mut TracePoint = pod::program(ebpf, name)?;
    if program.fd().is_err() {
        program.load().map_err(|source| SessionError::program(name, source))?;
        log_verifier_stats(name, program.info());
    }
    Ok(program)
}

/// The same, for the arguments of a tracepoint.
pub(super) fn raw_tracepoint<'e>(
    ebpf: &'e mut Ebpf,
    name: &str,
) -> Result<&'e mut RawTracePoint, SessionError> {
    let program: &mut RawTracePoint = pod::program(ebpf, name)?;
    if program.fd().is_err() {
        program.load().map_err(|source| SessionError::program(name, source))?;
        log_verifier_stats(name, program.info());
    }
    Ok(program)
}

/// A program of aya for functions, loaded on first use.
pub(super) fn uprobe<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut UProbe, SessionError> {
    let program: &mut UProbe = pod::program(ebpf, name)?;
    if program.fd().is_err() {
        program.load().map_err(|source| SessionError::program(name, source))?;
        log_verifier_stats(name, program.info());
    }
    Ok(program)
}

pub(super) fn log_verifier_stats(name: &str, info: Result<ProgramInfo, ProgramError>) {
    log_steps(name, info.ok().and_then(|info| info.verified_instruction_count()).unwrap_or(0));
}

/// Logs how many steps the verifier took. It refuses a program that needs more than a million.
pub(super) fn log_steps(name: &str, steps: u32) {
    tracing::debug!("the kernel verified the BPF program {name} in {steps} steps");
}

/// Attaches a family of programs to its tracepoints, for as long as the session lasts.
pub(super) fn attach_tracepoints(
    ebpf: &mut Ebpf,
    links: &mut Links,
    family: ProgramFamily,
) -> Result<(), SessionError> {
    for program in programs::of(family) {
        let name = program.name;
        let failed = |source| SessionError::program(name, source);
        match program.attach_point {
            AttachPoint::Tracepoint { category, events } => {
                for event in events {
                    let loaded = tracepoint(ebpf, name)?;
                    let link = loaded.attach(category, event).and_then(|id| loaded.take_link(id));
                    links.keep_lasting(link.map_err(failed)?);
                }
            }
            AttachPoint::RawTracepoint(event) => {
                let loaded = raw_tracepoint(ebpf, name)?;
                let link = loaded.attach(event).and_then(|id| loaded.take_link(id));
                links.keep_lasting(link.map_err(failed)?);
            }
            _ => {}
        }
    }
    Ok(())
}
