//! The lines of `ctrace exec`.
//!
//! Bytes that are not UTF-8: the text has U+FFFD in their place, and beside it is the same in base64, whole.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Serialize;

use super::line::{LineBody, Meanings, ProcessPart};
use crate::event::{ArgList, Exec, ExecFailed, Exit, ExitStatus, Fork, RecordKind};
use crate::output::signal_names;

mod parts;

use parts::{
    AttemptPart, CallerPart, ChildPart, DescentPart, EndedPart, EndingPart, ErrorPart, ExecPart,
    IdentityPart, ProgramPart, SignalPart, base64, base64s, text, texts,
};

/// What `time` is the time of, for the schema.
const WHEN: &str = "When it happened, in UTC.";
/// The thread. The process is the body's own, because it says more about it than the envelope.
const ORIGIN: Meanings = &[("thread", "The thread.")];

/// A program that was executed, or that ran already when it came into scope.
#[derive(Serialize, JsonSchema)]
pub(super) struct ExecBody<'a> {
    /// The process, as it is after the exec.
    process: ProgramPart<'a>,
    /// The execution.
    exec: ExecPart<'a>,
}

/// A program that could not be executed.
#[derive(Serialize, JsonSchema)]
pub(super) struct ExecFailedBody<'a> {
    /// The process, which goes on with what it ran before.
    process: CallerPart<'a>,
    /// What it tried to execute.
    exec: AttemptPart<'a>,
    /// Why it could not.
    error: ErrorPart,
}

/// A process that has ended.
#[derive(Serialize, JsonSchema)]
pub(super) struct ExitBody<'a> {
    /// The process, as it was.
    process: EndedPart<'a>,
    /// How long it ran its program, or was there if it has executed none, in nanoseconds; null when that is
    /// not known.
    duration: Option<u64>,
    /// Whether it has executed no program itself: its `exec_id` is that of the process that it was forked
    /// from.
    forked: bool,
}

/// A process has made another.
#[derive(Serialize, JsonSchema)]
pub(super) struct ForkBody<'a> {
    /// The process that forks.
    process: IdentityPart<'a>,
    /// The process that it has made.
    child: ChildPart,
}

impl LineBody for ExecBody<'_> {
    const KIND: RecordKind = RecordKind::Exec;
    const TIME: &'static str = WHEN;
    const ORIGIN: Meanings = ORIGIN;
}

impl LineBody for ExecFailedBody<'_> {
    const KIND: RecordKind = RecordKind::ExecFailed;
    const TIME: &'static str = WHEN;
    const ORIGIN: Meanings = ORIGIN;
}

impl LineBody for ExitBody<'_> {
    const KIND: RecordKind = RecordKind::Exit;
    const TIME: &'static str = WHEN;
    const ORIGIN: Meanings = ORIGIN;
}

impl LineBody for ForkBody<'_> {
    const KIND: RecordKind = RecordKind::Fork;
    const TIME: &'static str = WHEN;
    const ORIGIN: Meanings = ORIGIN;
}

impl<'a> ExecBody<'a> {
    pub(super) fn new(process: ProcessPart<'a>, exec: &'a Exec<'_>) -> Self {
        let variables = exec.environment.as_ref().map(|environment| environment.list.as_slice());
        let is_cut = |strings: &ArgList<'_>| strings.truncated;
        Self {
            process: ProgramPart {
                caller: CallerPart::new(process, &exec.lineage, exec.users),
                command_args: texts(&exec.arguments.list),
                command_args_base64: base64s(&exec.arguments.list),
                args_count: exec.arguments.count,
                environment: variables.map(texts),
                environment_base64: variables.and_then(base64s),
                working_directory: exec.directory.as_deref().map(text),
                working_directory_base64: exec.directory.as_deref().and_then(base64),
                tty: exec.tty.as_deref().map(Cow::Borrowed),
            },
            exec: ExecPart {
                path: exec.path.as_deref().map(text),
                path_base64: exec.path.as_deref().and_then(base64),
                interpreter: exec.interpreter.as_deref().map(text),
                truncated: is_cut(&exec.arguments) || exec.environment.as_ref().is_some_and(is_cut),
                existing: exec.existing,
            },
        }
    }
}

impl<'a> ExecFailedBody<'a> {
    pub(super) fn new(process: ProcessPart<'a>, failed: &'a ExecFailed<'_>) -> Self {
        Self {
            process: CallerPart::new(process, &failed.lineage, failed.users),
            exec: AttemptPart {
                path: failed.path.as_deref().map(text),
                path_base64: failed.path.as_deref().and_then(base64),
                command_args: texts(&failed.arguments.list),
                command_args_base64: base64s(&failed.arguments.list),
                truncated: failed.arguments.truncated,
            },
            error: ErrorPart { r#type: signal_names::error(failed.error), code: failed.error },
        }
    }
}

impl<'a> ExitBody<'a> {
    pub(super) fn new(process: ProcessPart<'a>, exit: &'a Exit<'_>) -> Self {
        let ending = exit.ending.map(|ending| match ending {
            ExitStatus::Code(code) => EndingPart { code: Some(code), signal: None },
            ExitStatus::Signal { number, dumped } => EndingPart {
                code: None,
                signal: Some(SignalPart { number, name: signal_names::signal(number), core_dumped: dumped }),
            },
        });
        Self {
            process: EndedPart {
                identity: IdentityPart::new(process, &exit.lineage),
                descent: DescentPart::new(&exit.lineage),
                exit: ending,
            },
            duration: exit.duration.and_then(|duration| u64::try_from(duration.as_nanos()).ok()),
            forked: exit.forked,
        }
    }
}

impl<'a> ForkBody<'a> {
    pub(super) fn new(process: ProcessPart<'a>, fork: &'a Fork<'_>) -> Self {
        Self { process: IdentityPart::new(process, &fork.lineage), child: ChildPart { pid: fork.child } }
    }
}
