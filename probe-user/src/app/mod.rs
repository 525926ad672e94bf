//! Wires the nouns: selector → processes → plan → session → pipeline → sink.
//!
//! Owns the order of the steps and the end of a trace. What each step does is in other modules.
mod child;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;
use tokio::task::JoinHandle;

use crate::bpf::{self, LoadedPrograms, MmapEvents, Preparation, Session, SessionError};
use crate::cli::{self, Action, Invocation, OnNoMatch, Operation, ProtoFiles, Trace, Verbosity};
use crate::clock::{self, Clock};
use crate::diagnose::{self, DiagnoseError};
use crate::discovery::{self, Discovery, ProgramStart, SkipDetail, Versioned};
use crate::enrich::{ProcessInfoCache, StackSymbolizer};
use crate::error_chain;
use crate::event::{Library, Output, StopReason, Summary};
use crate::output::{self, Destination};
use crate::pipeline::requests::RequestSettings;
use crate::pipeline::{Executions, Pipeline, Setup, Site};
use crate::plan::program_set::ProgramFamily;
use crate::plan::{Hook, HookImplementation, ObjectHooks, Plan};
use crate::probe::exec::ExecEvents;
use crate::probe::{Probe, uprobe};
use crate::proc::view::Blind;
use crate::scope::{ProcessFilter, Selector, Target, TargetError};
use crate::stderr::{print_error, say};

mod code_watch;
mod control;
mod destination;
mod discovery_worker;
mod event_loop;
mod harm;
mod http2_notice;
mod list;
mod missed;
mod playback;
mod proto_files;
mod room;
mod status;
mod stop;
mod target_tracker;
mod undecided;
mod unreported;

use child::exec_hold::ExecHold;
pub use child::launcher::run_helper;
use child::spawn::{self, CommandError, CommandProcess, HoldPolicy};
use event_loop::{EventLoop, EventLoopError, InitialProcesses, TraceEnd};
use harm::HarmWatch;
use http2_notice::Http2Notice;
use missed::MissedWatch;
pub use proto_files::ProtoError;
pub use room::{Shortage, event_loop};
use stop::StopSignals;
use target_tracker::TargetTracker;

/// Why ctrace could not do what was requested.
#[derive(Debug, Error)]
pub enum Failure {
    /// The processes to trace are not visible from this namespace.
    #[error(transparent)]
    Blind(#[from] Blind),
    /// The selection could not be resolved.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The selected processes have nothing that could be traced.
    #[error("nothing to attach to in {target}:\n{reasons}\n{next}")]
    NothingToAttach {
        /// What was selected.
        target: String,
        /// One line per process and file.
        reasons: String,
        /// The next step for the user.
        next: &'static str,
    },
    /// No function that was to be traced was in any file.
    #[error("nothing was attached to: nothing has matched {patterns}\n{next}")]
    NothingMatched {
        /// The patterns.
        patterns: String,
        /// The next step for the user.
        next: &'static str,
    },
    /// More functions match than may be attached to.
    #[error("{what}; narrow the pattern, or raise --max-probes")]
    TooMany {
        /// What there is too much of.
        what: String,
    },
    /// The command could not be started or waited for.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The kernel refused something.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A destination of the records cannot be used.
    #[error(transparent)]
    Destination(#[from] output::DestinationError),
    /// `--duration` has passed, but nobody has opened the FIFO of an output for reading.
    #[error("nothing was traced: no process has opened the FIFO {path} for reading; start its reader first")]
    NoReader {
        /// The path of the FIFO.
        path: String,
    },
    /// Records cannot be written.
    #[error("records cannot be written to {to}: {next}")]
    Write {
        /// The destination.
        to: String,
        /// The next step for the user.
        next: &'static str,
        /// The error of the write.
        #[source]
        source: io::Error,
    },
    /// Standard output cannot be written to, when something other than a trace is printed.
    #[error("standard output cannot be written to; redirect it to a file system with free space")]
    Print(#[source] io::Error),
    /// A recording cannot be read.
    #[error("the recording {path} cannot be read")]
    Recording {
        /// The path of the recording.
        path: String,
        /// The error of the read.
        #[source]
        source: io::Error,
    },
    /// The recording is to be read from standard input, which is a terminal.
    #[error("standard input is a terminal; pipe a recording into it, or name a file with --read")]
    RecordingTerminal,
    /// An output would overwrite the recording that is read.
    #[error(
        "{path} is the recording itself, and cannot be overwritten while it is read; name another file for \
         the output"
    )]
    RecordingOverwritten {
        /// The path of the recording.
        path: String,
    },
    /// The file contains no records.
    #[error("{path} is not a recording: line {line}: {why}; `ctrace ssl -o json` writes recordings")]
    NoRecording {
        /// The path of the file.
        path: String,
        /// The first line that is not a record.
        line: u64,
        /// What is wrong with that line.
        why: String,
    },
    /// Probes have harmed processes.
    #[error(
        "probes of ctrace have harmed {processes} process(es), see above; do not trace files that processes copy \
         (docs/limits.md), and do not let the kernel probe returns of programs that switch stacks"
    )]
    Harmed {
        /// How many.
        processes: u64,
    },
    /// A file of `--proto` cannot be used.
    #[error(transparent)]
    Proto(#[from] ProtoError),
    /// A diagnosis failed.
    #[error(transparent)]
    Explain(#[from] DiagnoseError),
    /// The signals that end a trace cannot be handled.
    #[error(
        "could not install handlers for the signals that end a trace; raise the limit of open files (ulimit \
         -n)"
    )]
    Signals(#[source] io::Error),
}

impl Failure {
    /// The exit status that docs/output.md promises.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Blind(_) => 4,
            Self::Target(error) => error.kind().exit_status(),
            Self::Explain(error) => error.exit_status(),
            Self::NothingToAttach { .. } | Self::NothingMatched { .. } => 3,
            Self::TooMany { .. } | Self::Proto(_) => 2,
            Self::Session(error) if error.is_kernel_or_rights() => 4,
            Self::Session(_)
            | Self::Command(_)
            | Self::Destination(_)
            | Self::NoReader { .. }
            | Self::Write { .. }
            | Self::Print(_)
            | Self::Recording { .. }
            | Self::RecordingTerminal
            | Self::RecordingOverwritten { .. }
            | Self::NoRecording { .. }
            | Self::Harmed { .. }
            | Self::Signals(_) => 1,
        }
    }
}

/// The most lines about files without hooks that are shown without -v.
const REASONS: usize = 40;

/// Runs what the command line requests. Returns the exit status: 0, or that of the traced command.
pub async fn run(invocation: Invocation) -> Result<u8, Failure> {
    let Invocation { operation, verbosity } = invocation;
    match operation {
        Operation::Trace(mut trace) => {
            name_bodies(&trace.proto, &mut trace.requests)?;
            return Box::pin(start(*trace, verbosity)).await;
        }
        Operation::Read(mut playback) => {
            name_bodies(&playback.proto, &mut playback.requests)?;
            Box::pin(playback::run(&playback, verbosity)).await?;
        }
        Operation::Explain(question, form) => diagnose::run(&question, form).await?,
        Operation::Schema => print(|out| writeln!(out, "{}", output::schema().trim_end()))?,
        Operation::Completion(shell) => print(|out| cli::write_completion(shell, out))?,
        Operation::Manual => print(|out| cli::write_manual(out))?,
    }
    Ok(0)
}

/// Reads the names of what is in bodies. Before anything else, because it may fail by the user's files.
fn name_bodies(proto: &ProtoFiles, requests: &mut Option<RequestSettings>) -> Result<(), ProtoError> {
    let schema = proto_files::load(proto)?;
    if let (Some(settings), Some(schema)) = (requests, schema) {
        settings.schema = Some(schema);
    }
    Ok(())
}

/// Prints to standard output. It is not an error if the reader has closed its end: it has seen enough.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| out.flush()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Print(source)),
        _ => Ok(()),
    }
}

/// Starts the command, if there is one, traces, and waits for the end of the command even if the trace
/// failed.
async fn start(mut trace: Trace, verbosity: Verbosity) -> Result<u8, Failure> {
    room::check_visibility(trace.action)?;
    if trace.action == Action::Run {
        bpf::check()?;
    }
    // Before anything else, because the command must inherit neither our signal handling nor a mount
    // namespace of our own.
    let policy = match trace.hold_limit {
        Some(_) if trace.probe.inspects_files() => HoldPolicy::Allowed,
        _ => HoldPolicy::Never,
    };
    let start = || CommandProcess::start(&trace.command, policy);
    let command = (!trace.command.is_empty()).then(start).transpose()?;
    trace.selector.pids.extend(command.as_ref().map(CommandProcess::pid));
    let mut endings = StopSignals::new(command).map_err(Failure::Signals)?;
    let traced = Box::pin(self::trace(&trace, verbosity, &mut endings)).await;
    let Some(command) = endings.command.take() else { return traced.map(|()| 0) };
    // Printed before the wait for the command, which may run for hours.
    let failure = traced.err().inspect(|failure| print_error(failure));
    let end = endings.end_of(command).await?;
    Ok(end.exit_status(failure.as_ref().map(Failure::exit_status)))
}

async fn trace(trace: &Trace, verbosity: Verbosity, endings: &mut StopSignals) -> Result<(), Failure> {
    // Exec records carry every attribute that programs are filtered on. So these criteria can wait for the
    // record, and no program slips past before the filter has seen it.
    let (scope, choice) = match trace.probe {
        Probe::Exec(_) => trace.selector.split(),
        Probe::Ssl(_) | Probe::Uprobe(_) => (trace.selector.clone(), ProcessFilter::default()),
    };
    let mut ready = None;
    if trace.action == Action::Run {
        ready = prepare(trace, endings).await?;
        if ready.is_none() {
            return Ok(());
        }
    }
    let command = endings.command.as_ref().map(CommandProcess::pid);
    let preparation = ready.as_mut().and_then(|ready| ready.preparation.take());
    let loading = preparation.map(|preparation| load(preparation, trace, &scope, (verbosity, command)));
    let (target, discovery, mut plan) = tokio::select! {
        biased;
        end = endings.recv() => {
            destination::interrupted(end);
            return Ok(());
        }
        found = find(&scope, trace, command, loading.as_ref()) => found?,
    };
    status::first_process(&trace.selector, verbosity);
    if let Some(what) = plan.over_limit.take().or_else(|| too_many(trace, &plan)) {
        return Err(Failure::TooMany { what });
    }
    if trace.action == Action::PrintPlan {
        return print(|out| output::write_plan(&plan, out));
    }
    if let Action::List(kind) = trace.action
        && !plan.objects.is_empty()
    {
        status::skipped(&plan, &target);
        return print(|out| list::write(&plan, kind, out));
    }
    let may_wait =
        endings.command.is_some() || trace.on_no_match == OnNoMatch::Wait || target.may_match_later();
    let has_any = may_wait || plan.has_users() || trace.probe.works_without_hooks();
    let (Some(ready), Some(loading), true) = (ready, loading, has_any) else {
        return Err(nothing_to_attach(trace, &plan, &target, verbosity));
    };
    let found = ((target, discovery, plan), choice);
    Box::pin(run_trace(trace, verbosity, endings, (ready, loading), found)).await
}

/// What a trace prepares before it searches for processes and files.
struct Ready {
    /// One per output.
    destinations: Vec<Destination>,
    /// Mappings that are made in the meantime are queued here.
    mappings: Option<MmapEvents>,
    /// What the programs are loaded with. None when they are being loaded.
    preparation: Option<Preparation>,
}

/// Prepares a trace. None if the trace ends before a FIFO has a reader.
async fn prepare(trace: &Trace, endings: &mut StopSignals) -> Result<Option<Ready>, Failure> {
    let preparation = bpf::prepare()?;
    // First, because it may take long until there is a reader.
    let Some(destinations) = destination::open(&trace.outputs, trace.duration, endings).await? else {
        return Ok(None);
    };
    let programs = match trace.probe {
        Probe::Exec(_) => bpf::TrackExec::FromExecRecords,
        Probe::Ssl(_) | Probe::Uprobe(_) => bpf::TrackExec::FromMmapEvents,
    };
    let mappings = MmapEvents::open(programs).inspect_err(|error| tracing::warn!("{error}")).ok();
    Ok(Some(Ready { destinations, mappings, preparation: Some(preparation) }))
}

/// Attaches to what was found, and streams until the end.
async fn run_trace(
    trace: &Trace,
    verbosity: Verbosity,
    endings: &mut StopSignals,
    (Ready { destinations, mut mappings, .. }, loading): (Ready, Loading),
    ((target, mut discovery, mut plan), choice): (Found, ProcessFilter),
) -> Result<(), Failure> {
    destinations.iter().try_for_each(Destination::claim)?;
    let mut keep_mappings = || mappings.iter_mut().for_each(MmapEvents::keep);
    keep_mappings();
    let command = endings.command.as_ref().map(CommandProcess::pid);
    let programs = loading.await.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))?;
    let mut session = Session::start(programs, &plan.scope)?;
    // Collected while the processes are alive, so that one that ends as soon as it is traced can still be
    // described.
    let info =
        ProcessInfoCache::new(target.containers.clone(), target.processes.iter().map(|process| process.pid));
    keep_mappings();
    attach(&mut session, &mut plan, &mut discovery, verbosity)?;
    keep_mappings();
    // Whoever reads that ctrace traces may start a process or a connection at once.
    let began = clock::boot_time();
    status::attached((&plan, &target), trace, command, (&session, verbosity));
    session.load_rest();
    endings.after(trace.duration);
    endings.watch_readers(&destinations);
    let output = destination::tee(&trace.outputs, destinations, &endings.stop());
    let output = destination::decoded(output, trace.requests.as_ref());
    let output: Box<dyn Output> = match (&trace.probe, &trace.requests) {
        (Probe::Ssl(_), None) if verbosity >= Verbosity::Normal => Box::new(Http2Notice::new(output)),
        _ => output,
    };
    let pipeline = pipeline(trace, (&plan, began), (output, choice));
    let mut harm = HarmWatch::default();
    plan.objects.iter().for_each(|object| harm.attached(object));
    let ahead = session.ahead();
    discovery.on_uncached_file(move || ahead.prime());
    let missed = MissedWatch::new(&plan.objects, began);
    let seeds = seeds(trace, &target, command);
    let hold = endings.command.as_ref().and_then(|command| hold(trace, command));
    let sockets = trace.selector.runtime_sockets.clone();
    let watch = TargetTracker::new(&trace.probe, (target, discovery), mappings, sockets, hold);
    if let Some(command) = &mut endings.command {
        command.release()?;
    }
    let stream =
        EventLoop::new(&mut session, (pipeline, info), (watch, harm, missed), verbosity, (seeds, trace));
    let TraceEnd { summary, harmed, unmatched } =
        stream.run(endings).await.map_err(|source| match source {
            EventLoopError::Write(source) => destination::write_failure(source),
            EventLoopError::Session(error) => error.into(),
        })?;
    status::ended(&summary, &trace.outputs, verbosity);
    if harmed > 0 {
        return Err(Failure::Harmed { processes: harmed });
    }
    matched(trace, &summary, &unmatched, verbosity)
}

/// Reports the patterns that have matched nothing. It is an error if none has matched anything, unless the
/// user has not waited any longer.
fn matched(
    trace: &Trace,
    summary: &Summary,
    unmatched: &[String],
    verbosity: Verbosity,
) -> Result<(), Failure> {
    let Probe::Uprobe(uprobe) = &trace.probe else { return Ok(()) };
    let is_any = unmatched.len() < uprobe.patterns.len() + uprobe.usdt.len();
    if !is_any && summary.end != StopReason::Interrupted {
        return Err(Failure::NothingMatched { patterns: quoted(unmatched), next: trace.probe.next_step() });
    }
    if !unmatched.is_empty() && verbosity >= Verbosity::Normal {
        say(&format_args!("nothing has matched {}", quoted(unmatched)));
    }
    Ok(())
}

fn quoted(patterns: &[String]) -> String {
    patterns.iter().map(|pattern| format!("`{pattern}`")).collect::<Vec<_>>().join(", ")
}

/// The result of the search on this machine.
type Found = (Target, Discovery, Plan);

/// Searches for processes and files. Takes seconds if a container runtime or a file system does not respond.
///
/// What the command will map is found before it starts.
async fn find(
    selector: &Selector,
    trace: &Trace,
    command: Option<u32>,
    loading: Option<&Loading>,
) -> Result<Found, TargetError> {
    let target = selector.resolve().await?;
    let mut discovery = Discovery::new(trace.probe.clone());
    if let Some(pid) = command {
        discovery.set_launcher(pid);
    }
    let mut plan = discovery.plan(&target).await;
    if let Some(pid) = command {
        // Until the command starts, its process runs ctrace's own code.
        plan.forget(pid);
    }
    let program = trace.command.first().and_then(|word| spawn::program(word));
    if let (Some(pid), Some(path)) = (command, program)
        && let words = trace.command.clone()
        && let Some(started) = discovery.program(ProgramStart::Command { pid, path, words }).await
    {
        plan.objects.extend(started.objects);
        plan.skipped.extend(started.blind_spots);
        let withdrawn = discovery.take_withdrawn();
        plan.objects.retain(|object| !withdrawn.contains(&object.id));
        plan.over_limit = plan.over_limit.or(started.over_limit);
        set_versions(&mut plan, discovery.versions(pid).await);
    }
    if !trace.probe_link.is_multi() {
        discovery.limit_unmapped(MAX_UNMAPPED_BY_PERF);
    }
    let is_over = || loading.is_some_and(JoinHandle::is_finished);
    let early = discovery.early_for(early_budget(trace.action), is_over).await;
    let pids: BTreeSet<u32> =
        early.iter().filter_map(|object| object.available_to.first()).copied().collect();
    plan.objects.extend(early);
    for pid in pids {
        set_versions(&mut plan, discovery.versions(pid).await);
    }
    Ok((target, discovery, plan))
}

/// The most files that are attached to while no process maps them, if each of their places has a link of its
/// own. The kernel takes a tenth of a second to remove one, and a library has some fifteen.
const MAX_UNMAPPED_BY_PERF: usize = 8;

/// How long files are inspected that no process maps yet.
fn early_budget(action: Action) -> Duration {
    match action {
        // At most as long as the programs are loaded. What is left is inspected later.
        Action::Run => Duration::from_millis(200),
        Action::PrintPlan => Duration::from_secs(10),
        Action::List(_) => Duration::ZERO,
    }
}

fn set_versions(plan: &mut Plan, versions: Vec<Versioned>) {
    for Versioned { sites, library } in versions {
        if let Some(object) = plan.objects.iter_mut().find(|object| object.sites == sites) {
            object.library = library;
        }
    }
}

/// Holds the programs of the command from now on, if that is wanted and possible.
fn hold(trace: &Trace, command: &CommandProcess) -> Option<ExecHold> {
    let limit = trace.hold_limit.filter(|_| trace.probe.inspects_files())?;
    let hold = command.hold(limit).inspect_err(|error| {
        tracing::warn!(
            "the command's programs are not held until ctrace has attached to them, so calls at their start may \
             be missed: {}",
            error_chain::in_one_line(error)
        );
    });
    hold.ok()
}

/// The processes that already run a program. Without the process of the command, which has not executed it
/// yet.
fn seeds(trace: &Trace, target: &Target, command: Option<u32>) -> InitialProcesses {
    let Probe::Exec(exec) = &trace.probe else { return InitialProcesses::default() };
    let mut processes: Vec<_> =
        target.processes.iter().map(|process| (process.start_time, process.pid)).collect();
    processes.sort_unstable();
    let pids = processes.into_iter().map(|(_, pid)| pid).filter(|pid| Some(*pid) != command).collect();
    if exec.includes(ExecEvents::Existing) {
        InitialProcesses::Report(pids)
    } else {
        InitialProcesses::SeedOnly(pids)
    }
}

fn nothing_to_attach(trace: &Trace, plan: &Plan, target: &Target, verbosity: Verbosity) -> Failure {
    let detail = if verbosity >= Verbosity::Verbose { SkipDetail::Everything } else { SkipDetail::Skipped };
    let mut reasons = discovery::reasons(plan, target, detail);
    if detail == SkipDetail::Skipped && reasons.len() > REASONS {
        let more = reasons.len() - REASONS;
        reasons.truncate(REASONS);
        reasons.push(format!("… and {more} more"));
    }
    Failure::NothingToAttach {
        target: trace.selector.to_string(),
        reasons: reasons.join("\n"),
        next: trace.probe.next_step(),
    }
}

/// The programs, which are loaded on another thread.
type Loading = JoinHandle<Result<LoadedPrograms, SessionError>>;

/// Loads the programs while processes and files are searched for.
fn load(
    preparation: Preparation,
    trace: &Trace,
    scope: &Selector,
    (verbosity, command): (Verbosity, Option<u32>),
) -> Loading {
    let log = match verbosity {
        Verbosity::Debug => bpf::BpfLog::Debug,
        _ => bpf::BpfLog::Off,
    };
    let options = bpf::SessionOptions {
        programs: trace.probe.programs(),
        ring_bytes: trace.ring_bytes,
        probe_link: trace.probe_link,
        max_bytes: trace.max_bytes,
        log,
        command,
    };
    let of_scope = scope.may_need_events().then_some(ProgramFamily::Cgroups);
    tokio::task::spawn_blocking(move || LoadedPrograms::load(preparation, &options, of_scope))
}

/// The message if more functions match than may be probed.
fn too_many(trace: &Trace, plan: &Plan) -> Option<String> {
    let Probe::Uprobe(uprobe) = &trace.probe else { return None };
    let functions = functions(plan);
    (functions > uprobe.max_probes)
        .then(|| format!("{functions} functions match, more than {}", uprobe.max_probes))
}

/// The number of functions that are probed in files that processes map.
fn functions(plan: &Plan) -> usize {
    let mapped = plan.objects.iter().filter(|object| !object.pids.is_empty());
    mapped.flat_map(|object| &object.hooks).filter(|hook| !hook.public_names.is_empty()).count()
}

/// Attaches everything. Some failures are only warned about. It is an error if nothing could be attached, or
/// if a limit was reached that the user can raise.
fn attach(
    session: &mut Session,
    plan: &mut Plan,
    discovery: &mut Discovery,
    verbosity: Verbosity,
) -> Result<(), SessionError> {
    let mut attached = 0;
    let mut first = None;
    let all = plan.objects.iter().map(|object| object.hooks.len()).sum();
    let mut progress = status::Progress::of(all, verbosity);
    for object in &mut plan.objects {
        let failed = session.attach_telling(object, |_| progress.step());
        attached += object.hooks.len() - failed.len();
        if failed.len() == object.hooks.len() {
            discovery.failed(object.id);
        }
        for (index, error) in failed {
            if error.is_shortage() {
                return Err(error);
            }
            tracing::warn!("{}", error_chain::in_one_line(&error));
            first.get_or_insert(error);
            // The hook keeps its place, because the numbers of the hooks after it depend on it. It serves no
            // function.
            if let Some(hook) = object.hooks.get_mut(index) {
                hook.public_names.clear();
            }
        }
    }
    match first {
        Some(error) if attached == 0 => Err(error),
        _ => Ok(()),
    }
}

/// What the pipeline needs for each hook of an object, by site. All of its hooks are attached since a time of
/// the kernel.
fn sites(object: &ObjectHooks, complete_since: u64) -> impl Iterator<Item = (u32, Site)> {
    let library = move |hook: &Hook| match hook.implementation.as_deref() {
        Some(HookImplementation { name, version }) => Arc::new(Library {
            implementation: Some(name.clone()),
            version: version.clone(),
            ..Library::clone(&object.library)
        }),
        None => Arc::clone(&object.library),
    };
    let site = move |hook: &Hook| Site {
        library: library(hook),
        function: hook.function.clone(),
        callers: hook.call_sites.clone(),
        reading: hook.capture.clone(),
        complete_since,
    };
    object.sites.clone().zip(object.hooks.iter().map(site))
}

/// All hooks of the plan are attached since a time of the kernel.
fn pipeline(
    trace: &Trace,
    (plan, complete_since): (&Plan, u64),
    (sink, choice): (Box<dyn Output>, ProcessFilter),
) -> Pipeline {
    Pipeline::new(Setup {
        sites: plan.objects.iter().flat_map(|object| sites(object, complete_since)).collect(),
        clock: Clock::now(),
        sink,
        started: Timestamp::now(),
        count: trace.limit,
        symbols: match &trace.probe {
            Probe::Uprobe(uprobe) if uprobe.stacks == uprobe::Stacks::Captured => {
                Some(Box::new(StackSymbolizer::default()))
            }
            _ => None,
        },
        executions: match &trace.probe {
            Probe::Exec(exec) => Some(Executions { environment: exec.environment.clone(), choice }),
            Probe::Ssl(_) | Probe::Uprobe(_) => None,
        },
    })
}
