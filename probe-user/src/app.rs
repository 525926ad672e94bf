//! Wires the nouns: selector → processes → plan → session → pipeline → sink.
//!
//! Owns the order of things and the end of a trace; what each step does is elsewhere.

use std::io::{self, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use thiserror::Error;

use crate::cli::{self, Action, Invocation, Request, Trace, Verbosity};
use crate::discover::{self, Detail, Discovery};
use crate::enrich::Facts;
use crate::explain::{self, ExplainError};
use crate::pipeline::{Clock, Pipeline, Setup, Site};
use crate::plan::{ObjectHooks, Plan};
use crate::session::{self, Session, SessionError};
use crate::sink::{self, Output};
use crate::target::{Kind, Selector, Target, TargetError};

mod ending;
mod follow;
mod report;
mod stream;

use ending::Endings;
use follow::Follower;
pub use report::say;
use stream::{Stream, StreamError};

/// Why ctrace could not do what was asked.
#[derive(Debug, Error)]
pub enum Failure {
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
    /// The kernel.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The output file cannot be made.
    #[error(transparent)]
    Create(#[from] sink::CreateError),
    /// Records cannot be written.
    #[error("records cannot be written to {to}")]
    Write {
        /// Where to.
        to: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// An explanation.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// Signals cannot be handled.
    #[error("signals cannot be handled")]
    Signals(#[source] io::Error),
}

impl Failure {
    /// The exit status that README.md promises.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Target(error) => match error.kind() {
                Kind::NotFound | Kind::Ambiguous => 3,
                Kind::NotPermitted => 4,
                Kind::Failed => 1,
            },
            Self::Explain(error) => error.exit_status(),
            Self::NothingToAttach { .. } => 3,
            Self::Session(error) if error.is_kernel_or_rights() => 4,
            Self::Session(_) | Self::Create(_) | Self::Write { .. } | Self::Signals(_) => 1,
        }
    }
}

/// Lines about what was not hooked that are shown without -v.
const REASONS: usize = 40;

/// What to do about a target that has nothing to attach to.
const NEXT_STEP: &str = "If a process that uses TLS starts later, start ctrace after it has. TLS libraries are \
     recognised by the functions of the OpenSSL API (SSL_read, SSL_write) that they export or have symbols of; \
     run with -v to see each file.";

/// Does what the command line asks for.
pub async fn run(invocation: Invocation) -> Result<(), Failure> {
    let Invocation { request, verbosity } = invocation;
    match request {
        Request::Trace(trace) => self::trace(*trace, verbosity).await,
        Request::Explain(question, form) => Ok(explain::answer(&question, form).await?),
        Request::Schema => print(|out| writeln!(out, "{}", sink::schema().trim_end())),
        Request::Completion(shell) => print(|out| cli::write_completion(shell, out)),
        Request::Manual => print(|out| cli::write_manual(out)),
    }
}

/// Prints to standard output; a reader that has gone has seen enough.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| out.flush()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Write { to: "standard output".to_owned(), source })
        }
        _ => Ok(()),
    }
}

async fn trace(trace: Trace, verbosity: Verbosity) -> Result<(), Failure> {
    let mut endings = Endings::new().map_err(Failure::Signals)?;
    if trace.action == Action::Run {
        session::prepare()?;
    }
    let (mut target, discovery, mut plan) = tokio::select! {
        biased;
        _ = endings.first() => {
            say(&"interrupted before anything was attached");
            return Ok(());
        }
        found = find(&trace.selector) => found?,
    };
    if trace.action == Action::PrintPlan {
        return print(|out| sink::write_plan(&plan, out));
    }
    if plan.objects.is_empty() {
        return Err(nothing_to_attach(&trace, &plan, &target, verbosity));
    }
    let file = trace.output.as_deref().map(Output::create).transpose()?;
    let mut session = load(&trace, &plan, verbosity)?;
    attach(&mut session, &mut plan)?;
    report::attached(&plan, &target, verbosity);
    let mut endings = endings.after(trace.duration);
    let output = if let Some(file) = file {
        file
    } else {
        endings = endings.watching_stdout();
        Output::stdout(endings.stop()).map_err(|source| write_failure(&trace, source))?
    };
    let pipeline = pipeline(&trace, &plan, &target, output);
    // What began since the first look is looked for once more; from here on the kernel tells of it.
    target.rescan();
    let follower = Follower::start(discovery, verbosity, target.processes.iter().map(|process| process.pid));
    let stream = Stream::new(&mut session, pipeline, &target, follower);
    let summary = stream.run(endings).await.map_err(|source| match source {
        StreamError::Write(source) => write_failure(&trace, source),
        StreamError::Session(error) => error.into(),
    })?;
    report::ended(&summary, &trace, verbosity);
    Ok(())
}

/// Looks at the machine. Takes seconds when a container runtime or a file system does not answer.
async fn find(selector: &Selector) -> Result<(Target, Discovery, Plan), TargetError> {
    let target = selector.resolve().await?;
    let mut discovery = Discovery::default();
    let plan = discovery.plan(&target).await;
    Ok((target, discovery, plan))
}

fn nothing_to_attach(trace: &Trace, plan: &Plan, target: &Target, verbosity: Verbosity) -> Failure {
    let detail = if verbosity >= Verbosity::Verbose { Detail::Everything } else { Detail::Skipped };
    let mut reasons = discover::reasons(plan, target, detail);
    if detail == Detail::Skipped && reasons.len() > REASONS {
        let more = reasons.len() - REASONS;
        reasons.truncate(REASONS);
        reasons.push(format!("… and {more} more"));
    }
    Failure::NothingToAttach {
        target: trace.selector.to_string(),
        reasons: reasons.join("\n"),
        next: NEXT_STEP,
    }
}

fn write_failure(trace: &Trace, source: io::Error) -> Failure {
    let to = trace.output.as_ref().map_or_else(
        || "standard output".to_owned(),
        |path| path.to_string_lossy().escape_debug().to_string(),
    );
    Failure::Write { to, source }
}

fn load(trace: &Trace, plan: &Plan, verbosity: Verbosity) -> Result<Session, SessionError> {
    let log = match verbosity {
        Verbosity::Debug => session::Log::Debug,
        _ => session::Log::Off,
    };
    let options = session::Options { ring_bytes: trace.ring_bytes, max_bytes: trace.max_bytes, log };
    Session::load(options, &plan.scope)
}

/// Attaches everything; some failures are warnings, nothing but failures is an error.
fn attach(session: &mut Session, plan: &mut Plan) -> Result<(), SessionError> {
    let mut attached = 0;
    let mut first = None;
    for object in &mut plan.objects {
        let failed = session.attach(object);
        attached += object.hooks.len() - failed.len();
        for (index, error) in failed {
            tracing::warn!("{error}");
            first.get_or_insert(error);
            // Its place is kept, because the hooks after it have their numbers; it serves nothing.
            if let Some(hook) = object.hooks.get_mut(index) {
                hook.serves.clear();
            }
        }
    }
    match first {
        Some(error) if attached == 0 => Err(error),
        _ => Ok(()),
    }
}

/// What the pipeline needs to know of the hooks of an object, in their order.
fn sites(object: &ObjectHooks) -> impl Iterator<Item = Site> {
    object.hooks.iter().map(|hook| Site {
        library: object.library.clone(),
        function: hook.function.clone(),
        callers: hook.callers.clone(),
    })
}

fn pipeline(trace: &Trace, plan: &Plan, target: &Target, output: Output) -> Pipeline<Facts> {
    let pids = target.processes.iter().map(|process| process.pid);
    let options = sink::Options { look: trace.look, zone: TimeZone::system() };
    Pipeline::new(Setup {
        sites: plan.objects.iter().flat_map(sites).collect(),
        origins: Facts::new(target.containers.clone(), pids),
        clock: Clock::now(),
        sink: (trace.format.open)(output, options),
        started: Timestamp::now(),
        count: trace.count,
    })
}
