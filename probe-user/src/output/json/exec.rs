//! The lines of `ctrace exec`.
//!
//! Bytes that are not UTF-8: the text has U+FFFD in their place, and beside it is the same in base64, whole.

use schemars::JsonSchema;
use serde::Serialize;

use crate::event::{ArgList, Exec, ExecFailed, Exit, ExitStatus, Fork, SCHEMA};
use crate::output::signal_names;

mod parts;

use parts::{
    ActorPart, AttemptPart, CallerPart, ChildPart, DescentPart, EndedPart, EndingPart, ErrorPart, ExecPart,
    IdentityPart, ProgramPart, SignalPart, base64, base64s, text, texts,
};

/// A program that was executed, or that ran already when it came into scope.
#[derive(Serialize, JsonSchema)]
pub(super) struct ExecLine<'a> {
    /// Version of the schema.
    #[schemars(extend("const" = SCHEMA))]
    schema: u32,
    r#type: ExecType,
    #[serde(flatten)]
    actor: ActorPart<'a>,
    /// The process, as it is after the exec.
    process: ProgramPart<'a>,
    /// The execution.
    exec: ExecPart<'a>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ExecType {
    Exec,
}

/// A program that could not be executed.
#[derive(Serialize, JsonSchema)]
pub(super) struct ExecFailedLine<'a> {
    /// Version of the schema.
    #[schemars(extend("const" = SCHEMA))]
    schema: u32,
    r#type: ExecFailedType,
    #[serde(flatten)]
    actor: ActorPart<'a>,
    /// The process, which goes on with what it ran before.
    process: CallerPart<'a>,
    /// What it tried to execute.
    exec: AttemptPart<'a>,
    /// Why it could not.
    error: ErrorPart,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ExecFailedType {
    ExecFailed,
}

/// A process that has ended.
#[derive(Serialize, JsonSchema)]
pub(super) struct ExitLine<'a> {
    /// Version of the schema.
    #[schemars(extend("const" = SCHEMA))]
    schema: u32,
    r#type: ExitType,
    #[serde(flatten)]
    actor: ActorPart<'a>,
    /// The process, as it was.
    process: EndedPart<'a>,
    /// How long it ran its program, or was there if it has executed none, in nanoseconds; null when that is
    /// not known.
    duration: Option<u64>,
    /// Whether it has executed no program itself: its `exec_id` is that of the process that it was forked
    /// from.
    forked: bool,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ExitType {
    Exit,
}

/// A process has made another.
#[derive(Serialize, JsonSchema)]
pub(super) struct ForkLine<'a> {
    /// Version of the schema.
    #[schemars(extend("const" = SCHEMA))]
    schema: u32,
    r#type: ForkType,
    #[serde(flatten)]
    actor: ActorPart<'a>,
    /// The process that forks.
    process: IdentityPart<'a>,
    /// The process that it has made.
    child: ChildPart,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ForkType {
    Fork,
}

impl<'a> ExecLine<'a> {
    pub(super) fn new(exec: &'a Exec<'a>) -> Self {
        let variables = exec.environment.as_ref().map(|environment| environment.list.as_slice());
        let is_cut = |strings: &ArgList<'_>| strings.truncated;
        Self {
            schema: SCHEMA,
            r#type: ExecType::Exec,
            actor: ActorPart::new(&exec.actor),
            process: ProgramPart {
                caller: CallerPart::new(&exec.actor, exec.users),
                command_args: texts(&exec.arguments.list),
                command_args_base64: base64s(&exec.arguments.list),
                args_count: exec.arguments.count,
                environment: variables.map(texts),
                environment_base64: variables.and_then(base64s),
                working_directory: exec.directory.map(text),
                working_directory_base64: exec.directory.and_then(base64),
                tty: exec.tty,
            },
            exec: ExecPart {
                path: exec.path.map(text),
                path_base64: exec.path.and_then(base64),
                interpreter: exec.interpreter.map(text),
                truncated: is_cut(&exec.arguments) || exec.environment.as_ref().is_some_and(is_cut),
                existing: exec.existing,
            },
        }
    }
}

impl<'a> ExecFailedLine<'a> {
    pub(super) fn new(failed: &'a ExecFailed<'a>) -> Self {
        Self {
            schema: SCHEMA,
            r#type: ExecFailedType::ExecFailed,
            actor: ActorPart::new(&failed.actor),
            process: CallerPart::new(&failed.actor, failed.users),
            exec: AttemptPart {
                path: failed.path.map(text),
                path_base64: failed.path.and_then(base64),
                command_args: texts(&failed.arguments.list),
                command_args_base64: base64s(&failed.arguments.list),
                truncated: failed.arguments.truncated,
            },
            error: ErrorPart { r#type: signal_names::error(failed.error), code: failed.error },
        }
    }
}

impl<'a> ExitLine<'a> {
    pub(super) fn new(exit: &'a Exit<'a>) -> Self {
        let ending = exit.ending.map(|ending| match ending {
            ExitStatus::Code(code) => EndingPart { code: Some(code), signal: None },
            ExitStatus::Signal { number, dumped } => EndingPart {
                code: None,
                signal: Some(SignalPart { number, name: signal_names::signal(number), core_dumped: dumped }),
            },
        });
        Self {
            schema: SCHEMA,
            r#type: ExitType::Exit,
            actor: ActorPart::new(&exit.actor),
            process: EndedPart {
                identity: IdentityPart::new(&exit.actor),
                descent: DescentPart::new(exit.actor.parent),
                exit: ending,
            },
            duration: exit.duration.and_then(|duration| u64::try_from(duration.as_nanos()).ok()),
            forked: exit.forked,
        }
    }
}

impl<'a> ForkLine<'a> {
    pub(super) fn new(fork: &'a Fork<'a>) -> Self {
        Self {
            schema: SCHEMA,
            r#type: ForkType::Fork,
            actor: ActorPart::new(&fork.actor),
            process: IdentityPart::new(&fork.actor),
            child: ChildPart { pid: fork.child },
        }
    }
}
