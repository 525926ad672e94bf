//! Wires the nouns: selector → processes → plan → session → pipeline → sink.
//!
//! Owns the order of things and the end of a trace; what each step does is elsewhere.
mod child;
use std::io::{self, Write};

use jiff::Timestamp;
use thiserror::Error;

use crate::bpf::{self, MmapEvents, Session, SessionError};
use crate::cli::{self, Action, Invocation, OnNoMatch, Request, Trace, Verbosity};
use crate::clock::Clock;
use crate::diagnose::{self, DiagnoseError};
use crate::discovery::{self, Discovery, SkipDetail};
use crate::enrich::{ProcessInfoCache, StackSymbolizer};
use crate::error_chain;
use crate::output::{self, Destination, Tee};
use crate::pipeline::{Executions, Pipeline, Setup, Site};
use crate::plan::{Hook, ObjectHooks, Plan};
use crate::probe::exec::ExecEvents;
use crate::probe::{Probe, uprobe};
use crate::proc::view::Blind;
use crate::scope::{ProcessFilter, Selector, Target, TargetError};
use crate::stderr::print_error;

mod control;
mod destination;
mod discovery_worker;
mod event_loop;
mod list;
mod playback;
mod room;
mod status;
mod stop;
mod target_tracker;

pub use child::launcher::run_helper;
use child::spawn::{CommandError, CommandProcess};
use event_loop::{EventLoop, EventLoopError, InitialProcesses};
pub use room::{Shortage, event_loop};
use stop::StopSignals;
use target_tracker::TargetTracker;

/// Why ctrace could not do what was asked.
#[derive(Debug, Error)]
pub enum Failure {
    /// What would be traced cannot be seen from here.
    #[error(transparent)]
    Blind(#[from] Blind),
    /// The target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The target has nothing that could be traced.
    #[error("nothing to attach to in {target}:\n{reasons}\n{next}")]
    NothingToAttach {
        /// What was selected.
        target: String,
        /// A line per process and file.
        reasons: String,
        /// What to do.
        next: &'static str,
    },
    /// More is asked for than may be attached to.
    #[error("{what}; name fewer, or allow more with --max-probes")]
    TooMany {
        /// What.
        what: String,
    },
    /// The command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The kernel.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// What is to take the records does not.
    #[error(transparent)]
    Destination(#[from] output::DestinationError),
    /// `--duration` has passed, and nobody has read a FIFO that an output names.
    #[error("nothing was traced: nobody has opened the FIFO {path} for reading; start its reader first")]
    NoReader {
        /// Its name.
        path: String,
    },
    /// Records cannot be written.
    #[error("records cannot be written to {to}: {next}")]
    Write {
        /// Where to.
        to: String,
        /// What to do.
        next: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What is printed, and no trace, cannot be.
    #[error("standard output cannot be written to; redirect it to where there is room")]
    Print(#[source] io::Error),
    /// A recording cannot be read.
    #[error("the recording {path} cannot be read")]
    Recording {
        /// Its name.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Standard input is a terminal.
    #[error("standard input is a terminal; pipe a recording into it, or name a file with --read")]
    RecordingTerminal,
    /// A recording would be emptied to take its own records.
    #[error("{path} is read, and cannot be written at the same time; name another file for the output")]
    RecordingOverwritten {
        /// Its name.
        path: String,
    },
    /// Nothing of a file is a record.
    #[error("{path} is no recording: line {line}: {why}; `ctrace ssl -o json` writes one")]
    NoRecording {
        /// Its name.
        path: String,
        /// The first line that is no record.
        line: u64,
        /// Why not.
        why: String,
    },
    /// An explanation.
    #[error(transparent)]
    Explain(#[from] DiagnoseError),
    /// Signals cannot be handled.
    #[error("the signals that end a trace cannot be listened for; raise the limit of open files (ulimit -n)")]
    Signals(#[source] io::Error),
}

impl Failure {
    /// The exit status that docs/output.md promises.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Blind(_) => 4,
            Self::Target(error) => error.kind().exit_status(),
            Self::Explain(error) => error.exit_status(),
            Self::NothingToAttach { .. } => 3,
            Self::TooMany { .. } => 2,
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
            | Self::Signals(_) => 1,
        }
    }
}

/// Lines about what was not hooked that are shown without -v.
const REASONS: usize = 40;

/// Does what the command line asks for. Gives the exit status: 0, or that of a command that was traced.
pub async fn run(invocation: Invocation) -> Result<u8, Failure> {
    let Invocation { request, verbosity } = invocation;
    match request {
        Request::Trace(trace) => return Box::pin(start(*trace, verbosity)).await,
        Request::Read(playback) => Box::pin(playback::run(&playback, verbosity)).await?,
        Request::Explain(question, form) => diagnose::run(&question, form).await?,
        Request::Schema => print(|out| writeln!(out, "{}", output::schema().trim_end()))?,
        Request::Completion(shell) => print(|out| cli::write_completion(shell, out))?,
        Request::Manual => print(|out| cli::write_manual(out))?,
    }
    Ok(0)
}

/// Prints to standard output; a reader that has gone has seen enough.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| out.flush()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Print(source)),
        _ => Ok(()),
    }
}

/// Starts the command if there is one, traces, and waits for the command's end whatever became of the trace.
async fn start(mut trace: Trace, verbosity: Verbosity) -> Result<u8, Failure> {
    room::can_see(trace.action)?;
    if trace.action == Action::Run {
        bpf::check()?;
    }
    // Before anything else: neither handled signals nor a mount namespace of our own are for the command.
    let command = (!trace.command.is_empty()).then(|| CommandProcess::start(&trace.command)).transpose()?;
    trace.selector.pids.extend(command.as_ref().map(CommandProcess::pid));
    let mut endings = StopSignals::new(command).map_err(Failure::Signals)?;
    let traced = self::trace(&trace, verbosity, &mut endings).await;
    let Some(command) = endings.command.take() else { return traced.map(|()| 0) };
    // Said before the command is waited for, which may go on for hours.
    let failure = traced.err().inspect(|failure| print_error(failure));
    let end = endings.end_of(command).await?;
    Ok(end.exit_status(failure.as_ref().map(Failure::exit_status)))
}

async fn trace(trace: &Trace, verbosity: Verbosity, endings: &mut StopSignals) -> Result<(), Failure> {
    // The kernel tells all of a program that it can be chosen by: of those that are executed, none is chosen
    // too late.
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
    let (target, discovery, mut plan) = tokio::select! {
        biased;
        end = endings.recv() => {
            destination::interrupted(end);
            return Ok(());
        }
        found = find(&scope, &trace.probe) => found?,
    };
    status::first_process(&trace.selector, verbosity);
    if let Some(launch) = &endings.command {
        // What runs in it now is a part of ctrace.
        plan.forget(launch.pid());
    }
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
    let may_wait = endings.command.is_some() || trace.nothing == OnNoMatch::Wait || target.may_match_later();
    let has_any = may_wait || !plan.objects.is_empty() || !trace.probe.looks_into_files();
    let Some(ready) = ready.filter(|_| has_any) else {
        return Err(nothing_to_attach(trace, &plan, &target, verbosity));
    };
    run_trace(trace, verbosity, endings, ready, ((target, discovery, plan), choice)).await
}

/// What a trace needs before anything is looked at.
struct Ready {
    /// Of each output.
    destinations: Vec<Destination>,
    /// What is mapped in the meantime waits there.
    mappings: Option<MmapEvents>,
}

/// Nothing if the trace is to end before a FIFO has a reader.
async fn prepare(trace: &Trace, endings: &mut StopSignals) -> Result<Option<Ready>, Failure> {
    bpf::prepare()?;
    // First, as its reader may be long in coming.
    let Some(destinations) = destination::open(&trace.outputs, trace.duration, endings).await? else {
        return Ok(None);
    };
    let programs = match trace.probe {
        Probe::Exec(_) => bpf::TrackExec::FromExecRecords,
        Probe::Ssl(_) | Probe::Uprobe(_) => bpf::TrackExec::FromMmapEvents,
    };
    let mappings = MmapEvents::open(programs).inspect_err(|error| tracing::warn!("{error}")).ok();
    Ok(Some(Ready { destinations, mappings }))
}

/// Attaches to what was found, and streams until the end.
async fn run_trace(
    trace: &Trace,
    verbosity: Verbosity,
    endings: &mut StopSignals,
    Ready { destinations, mappings }: Ready,
    ((target, mut discovery, mut plan), choice): (Found, ProcessFilter),
) -> Result<(), Failure> {
    destinations.iter().try_for_each(Destination::claim)?;
    let command = endings.command.as_ref().map(CommandProcess::pid);
    let mut session = load(trace, &plan, verbosity, command)?;
    // While they live: one that ends as soon as it is traced is known all the same.
    let info =
        ProcessInfoCache::new(target.containers.clone(), target.processes.iter().map(|process| process.pid));
    attach(&mut session, &mut plan, &mut discovery)?;
    status::attached(&plan, &target, trace, verbosity);
    endings.after(trace.duration);
    endings.watch_readers(&destinations);
    let output = destination::tee(&trace.outputs, destinations, &endings.stop());
    let pipeline = pipeline(trace, &plan, (output, choice));
    let ahead = session.ahead();
    discovery.on_uncached_file(move || ahead.prime());
    let seeds = seeds(trace, &target, command);
    let watch =
        TargetTracker::new(&trace.probe, target, discovery, mappings, trace.selector.runtime_sockets.clone());
    if let Some(command) = &mut endings.command {
        session.stopped().into_iter().for_each(|table| command.start_watchdog(table));
        command.release()?;
    }
    let stream = EventLoop::new(&mut session, (pipeline, info), watch, verbosity, (seeds, trace.interval));
    let summary = stream.run(endings).await.map_err(|source| match source {
        EventLoopError::Write(source) => destination::write_failure(source),
        EventLoopError::Session(error) => error.into(),
    })?;
    status::ended(&summary, &trace.outputs, verbosity);
    Ok(())
}

/// What was found on the machine.
type Found = (Target, Discovery, Plan);

/// Looks at the machine. Takes seconds when a container runtime or a file system does not answer.
async fn find(selector: &Selector, probe: &Probe) -> Result<Found, TargetError> {
    let target = selector.resolve().await?;
    let mut discovery = Discovery::new(probe.clone());
    let plan = discovery.plan(&target).await;
    Ok((target, discovery, plan))
}

/// Whose programs run already. Not the command's: its program is not there yet.
fn seeds(trace: &Trace, target: &Target, command: Option<u32>) -> InitialProcesses {
    let Probe::Exec(exec) = &trace.probe else { return InitialProcesses::default() };
    let mut processes: Vec<_> =
        target.processes.iter().map(|process| (process.start_time, process.pid)).collect();
    processes.sort_unstable();
    let pids = processes.into_iter().map(|(_, pid)| pid).filter(|pid| Some(*pid) != command).collect();
    if exec.includes(ExecEvents::Existing) {
        InitialProcesses::Told(pids)
    } else {
        InitialProcesses::Known(pids)
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

fn load(
    trace: &Trace,
    plan: &Plan,
    verbosity: Verbosity,
    command: Option<u32>,
) -> Result<Session, SessionError> {
    let log = match verbosity {
        Verbosity::Debug => bpf::BpfLog::Debug,
        _ => bpf::BpfLog::Off,
    };
    let options = bpf::SessionOptions {
        programs: plan.programs.clone(),
        ring_bytes: trace.ring_bytes,
        max_bytes: trace.max_bytes,
        log,
        command,
    };
    Session::load(&options, &plan.scope)
}

/// More functions than may be probed, in words.
fn too_many(trace: &Trace, plan: &Plan) -> Option<String> {
    let Probe::Uprobe(uprobe) = &trace.probe else { return None };
    let functions = functions(plan);
    (functions > uprobe.max_probes)
        .then(|| format!("{functions} functions match, more than {}", uprobe.max_probes))
}

/// Functions that are probed.
fn functions(plan: &Plan) -> usize {
    plan.objects.iter().flat_map(|object| &object.hooks).filter(|hook| !hook.public_names.is_empty()).count()
}

/// Attaches everything; some failures are warnings, nothing but failures is an error. So is a limit that can
/// be raised.
fn attach(session: &mut Session, plan: &mut Plan, discovery: &mut Discovery) -> Result<(), SessionError> {
    let mut attached = 0;
    let mut first = None;
    let mut progress = status::Progress::of(plan.objects.iter().map(|object| object.hooks.len()).sum());
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
            // Its place is kept, because the hooks after it have their numbers; it serves nothing.
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

/// What the pipeline needs to know of the hooks of an object, by their numbers.
fn sites(object: &ObjectHooks) -> impl Iterator<Item = (u32, Site)> {
    let site = |hook: &Hook| Site {
        library: object.library.clone(),
        function: hook.function.clone(),
        callers: hook.call_sites.clone(),
        reading: hook.capture.clone(),
    };
    object.sites.clone().zip(object.hooks.iter().map(site))
}

fn pipeline(trace: &Trace, plan: &Plan, (output, choice): (Tee, ProcessFilter)) -> Pipeline {
    Pipeline::new(Setup {
        sites: plan.objects.iter().flat_map(sites).collect(),
        clock: Clock::now(),
        sink: Box::new(output),
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
