//! The BPF object: its constants, set for this kernel and this trace, and its programs.

use std::collections::BTreeSet;

use aya::programs::{ProgramError, ProgramInfo, TracePoint, UProbe};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use probe_common::{
    CALL_BYTES, FUNCTION_COUNTS, FUNCTION_FRAMES, FUNCTION_SPECS, GO_CALLS, SOCKETS, SocketFields,
};

use super::links::Links;
use super::pod::PodCompat;
use super::tracepoint_format::TracepointFormat;
use super::{Log, Options, SessionError, exec, pod};
use crate::probe::Probe;
use crate::scope::Scope;

/// The ring wakes its reader when its fill passes a multiple of its size divided by two to this power.
/// An eighth leaves the reader time, and is rare enough to cost the target nothing (docs/performance.md).
const WAKE_FRACTION_SHIFT: u32 = 3;

static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probe-ebpf"));

/// Programs on tracepoints of cgroups, which only a scope that [watches](Scope::watch) needs.
pub(super) const CGROUP_PROGRAMS: [(&str, &str); 2] =
    [("cgroup_made", "cgroup_mkdir"), ("cgroup_gone", "cgroup_rmdir")];

/// Programs that only some libraries or records need, and that take the verifier long: they are loaded when a
/// hook needs them, or at once when everything is told.
const LOADED_ON_DEMAND: [&str; 13] = [
    "handshake_return",
    "outer_enter",
    "handed_enter",
    "call_leave",
    "open_leave",
    "open_once_enter",
    "cipher_enter",
    "gather_enter",
    "gather_return",
    "gather_leave",
    "whole_enter",
    "lent_return",
    "unpack_return",
];

/// Where the fields of tracepoints are.
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
    fn read(scope: &Scope) -> Result<Self, SessionError> {
        let mut offsets = Self {
            fork_child_pid: TracepointFormat::read("sched", "sched_process_fork")?.offset("child_pid")?,
            exec_old_pid: TracepointFormat::read("sched", "sched_process_exec")?.offset("old_pid")?,
            exit_group_dead: TracepointFormat::read("sched", "sched_process_exit")?
                .offset_if_any("group_dead"),
            ..Self::default()
        };
        if scope.watch {
            // Both events have the same record.
            let cgroup = TracepointFormat::read("cgroup", "cgroup_mkdir")?;
            offsets.cgroup_root = cgroup.offset("root")?;
            offsets.cgroup_level = cgroup.offset("level")?;
            offsets.cgroup_id = cgroup.offset("id")?;
            offsets.cgroup_path = cgroup.offset("path")?;
        }
        Ok(offsets)
    }
}

/// Loads maps and programs. `hold` is not zero if processes may be held; `socket_fields` are needed by the
/// programs of [`sockets`](super::sockets), which are not loaded here.
pub(super) fn load(
    options: &Options,
    scope: &Scope,
    hold: u32,
    socket_fields: Option<SocketFields>,
) -> Result<Ebpf, SessionError> {
    let wake_shift = options.ring_bytes.ilog2().saturating_sub(WAKE_FRACTION_SHIFT);
    let (own_pid, command) = (std::process::id(), options.command.unwrap_or(0));
    let max_bytes = if options.probe.has_call_records() { options.max_bytes.min(CALL_BYTES) } else { 0 };
    let offsets = Offsets::read(scope)?;
    let log_level = match options.log {
        Log::Off => 0_u8,
        Log::Debug => log::Level::Debug as u8,
    };
    let connection_records = u32::from(options.probe.has_connection_records());
    let calls_untold = u32::from(!options.probe.has_call_records());
    // All maps are made, those of other kinds as small as can be.
    let of_functions = |size: u32| if matches!(options.probe, Probe::Uprobe(_)) { size } else { 1 };
    let constants = exec::Constants::read(&options.probe, offsets.exit_group_dead)?;
    let socket_fields = socket_fields.map(PodCompat);
    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .map_max_entries("EVENTS", options.ring_bytes)
        .map_max_entries("SPECS", of_functions(FUNCTION_SPECS))
        .map_max_entries("FUNCTION_FRAMES", of_functions(FUNCTION_FRAMES))
        .map_max_entries("GO_CALLS", if matches!(options.probe, Probe::Ssl(_)) { GO_CALLS } else { 1 })
        .map_max_entries("SOCKETS", if connection_records == 0 { 1 } else { SOCKETS })
        .map_max_entries("COUNTS", of_functions(FUNCTION_COUNTS))
        .map_max_entries("LATENCIES", of_functions(FUNCTION_COUNTS))
        .override_global("OWN_PID", &own_pid, true)
        .override_global("COMMAND", &command, true)
        .override_global("MAX_BYTES", &max_bytes, true)
        .override_global("WAKE_SHIFT", &wake_shift, true)
        .override_global("FORK_CHILD_PID", &offsets.fork_child_pid, true)
        .override_global("EXEC_OLD_PID", &offsets.exec_old_pid, true)
        .override_global("EXIT_GROUP_DEAD", &offsets.exit_group_dead, true)
        .override_global("CGROUP_ROOT", &offsets.cgroup_root, true)
        .override_global("CGROUP_LEVEL", &offsets.cgroup_level, true)
        .override_global("CGROUP_ID", &offsets.cgroup_id, true)
        .override_global("CGROUP_PATH", &offsets.cgroup_path, true)
        .override_global("HOLD", &hold, true)
        .override_global("CONNECTION_RECORDS", &connection_records, true)
        .override_global("SUPPRESS_CALLS", &calls_untold, true)
        .override_global(aya_log::LEVEL, &log_level, true);
    constants.set(&mut loader);
    if let Some(fields) = &socket_fields {
        loader.override_global("SOCKET_FIELDS", fields, true);
    }
    let mut ebpf = loader.load(PROGRAMS).map_err(SessionError::load)?;
    let uprobes: &[&str] = match options.probe {
        Probe::Ssl(_) => &[
            "call_enter",
            "call_return",
            "open_return",
            "open_enter",
            "open_behind_return",
            "close_enter",
            "go_enter",
            "go_leave",
            "go_open",
            "go_close",
        ],
        Probe::Exec(_) => &[],
        Probe::Uprobe(_) => &["function_enter", "function_return", "function_leave"],
    };
    let rare = LOADED_ON_DEMAND
        .iter()
        .filter(|_| matches!((&options.probe, options.log), (Probe::Ssl(_), Log::Debug)));
    for &name in uprobes.iter().chain(rare) {
        uprobe(&mut ebpf, name)?;
    }
    let cgroup = CGROUP_PROGRAMS.iter().filter(|_| scope.watch).map(|(name, _)| *name);
    // One program may be for several tracepoints.
    let own: BTreeSet<&str> = exec::tracepoints(&options.probe).into_iter().map(|(name, _)| name).collect();
    for name in ["task_fork", "task_exec", "task_exit"].into_iter().chain(cgroup).chain(own) {
        let program: &mut TracePoint = pod::program(&mut ebpf, name)?;
        program.load().map_err(|source| SessionError::program(name, source))?;
        log_verifier_stats(name, program.info());
    }
    Ok(ebpf)
}

/// A program on functions, which is loaded unless it was.
pub(super) fn uprobe<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut UProbe, SessionError> {
    let program: &mut UProbe = pod::program(ebpf, name)?;
    if program.fd().is_err() {
        program.load().map_err(|source| SessionError::program(name, source))?;
        log_verifier_stats(name, program.info());
    }
    Ok(program)
}

/// Tells the steps that the verifier took: it refuses a program that needs more than a million.
pub(super) fn log_verifier_stats(name: &str, info: Result<ProgramInfo, ProgramError>) {
    let steps = info.ok().and_then(|info| info.verified_instruction_count()).unwrap_or(0);
    tracing::debug!("the kernel verified the BPF program {name} in {steps} steps");
}

/// Attaches a program to a tracepoint (group, event) as long as the session lasts.
pub(super) fn attach_tracepoint(
    ebpf: &mut Ebpf,
    links: &mut Links,
    name: &str,
    (group, event): (&str, &str),
) -> Result<(), SessionError> {
    let program: &mut TracePoint = pod::program(ebpf, name)?;
    let link = program.attach(group, event).and_then(|id| program.take_link(id));
    links.keep_lasting(link.map_err(|source| SessionError::program(name, source))?);
    Ok(())
}
