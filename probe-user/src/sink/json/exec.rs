//! The lines of `ctrace exec`.
//!
//! Bytes that are not UTF-8: the text has U+FFFD in their place, and beside it is the same in base64, whole.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Serialize;

use super::line::{K8sPart, ThreadPart, Time};
use crate::event::{
    Actor, Ancestor, Container, Ending, Exec, ExecFailed, Executable, Exit, Fork, Plaintext, SCHEMA, Strings,
    Users,
};
use crate::sink::names;

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
    /// How long it ran its program, or was there if it has executed none, in nanoseconds; null when that is not known.
    duration: Option<u64>,
    /// Whether it has executed no program itself: its `exec_id` is that of the process that it was forked from.
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

/// When, and where.
#[derive(Serialize, JsonSchema)]
struct ActorPart<'a> {
    /// When it happened, in UTC.
    time: Time,
    /// The container of the process; null when it is in none.
    container: Option<&'a Container>,
    /// The OpenTelemetry namespace `k8s`; not there when the container is in no pod, or in none that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    k8s: Option<K8sPart<'a>>,
    /// The thread.
    thread: ThreadPart,
}

/// Which process.
#[derive(Serialize, JsonSchema)]
struct IdentityPart<'a> {
    /// Id in the initial PID namespace (the host's).
    pid: u32,
    /// Id in its own PID namespace, as its container sees it; null when it is not known.
    vpid: Option<u32>,
    /// Name (`comm`) of the thread; U+FFFD stands for what is not UTF-8.
    comm: Cow<'a, str>,
    /// What the process runs: the same in all records of one execution, and never another's, although process ids
    /// are used again. Null when it is not known.
    exec_id: Option<String>,
    /// Its executable, for a script the interpreter's; null when the process was gone before it was known.
    executable: Option<&'a Executable>,
}

/// A process with where it comes from.
#[derive(Serialize, JsonSchema)]
struct EndedPart<'a> {
    #[serde(flatten)]
    identity: IdentityPart<'a>,
    #[serde(flatten)]
    descent: DescentPart<'a>,
    /// How it ended; null when the kernel did not tell (it has no BTF).
    exit: Option<EndingPart>,
}

/// A process with where it comes from and its users.
#[derive(Serialize, JsonSchema)]
struct CallerPart<'a> {
    #[serde(flatten)]
    identity: IdentityPart<'a>,
    #[serde(flatten)]
    descent: DescentPart<'a>,
    #[serde(flatten)]
    users: UsersPart,
}

/// A process with all that its program was given.
#[derive(Serialize, JsonSchema)]
struct ProgramPart<'a> {
    #[serde(flatten)]
    caller: CallerPart<'a>,
    /// Its arguments, its name among them; U+FFFD stands for what is not UTF-8. Up to 128 KiB.
    command_args: Vec<Cow<'a, str>>,
    /// The same in base64; only there if one of them is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    command_args_base64: Option<Vec<String>>,
    /// How many arguments it was given; null when they could not be read.
    args_count: Option<u64>,
    /// The variables of its environment that were asked for (`--env`); not there when none were.
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<Vec<Cow<'a, str>>>,
    /// The same in base64; only there if one of them is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    environment_base64: Option<Vec<String>>,
    /// Its working directory, inside its root; null when the process was gone before it was known.
    working_directory: Option<Cow<'a, str>>,
    /// The same in base64; only there if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    working_directory_base64: Option<String>,
    /// Its terminal, such as `pts/0`; null when it has none, or was gone before it was known (`working_directory` is null
    /// then too).
    tty: Option<&'a str>,
}

/// Where a process comes from.
#[derive(Serialize, JsonSchema)]
struct DescentPart<'a> {
    /// The process that forked it; null when it is not known.
    parent_pid: Option<u32>,
    /// The same with its name; null when it is not known.
    parent: Option<ParentPart<'a>>,
}

/// A process that has forked another.
#[derive(Serialize, JsonSchema)]
struct ParentPart<'a> {
    /// Id in the initial PID namespace (the host's).
    pid: u32,
    /// Its name (`comm`) then; null when it is not known.
    comm: Option<Cow<'a, str>>,
    /// What it ran then, as its records have it; null when it is not known.
    exec_id: Option<String>,
}

/// Users of a process, as the host counts them.
#[derive(Serialize, JsonSchema)]
struct UsersPart {
    /// Effective user; null when it is not known.
    user: Option<IdPart>,
    /// Real user; null when it is not known.
    real_user: Option<IdPart>,
    /// Real group; null when it is not known.
    real_group: Option<IdPart>,
}

/// A user or group.
#[derive(Serialize, JsonSchema)]
struct IdPart {
    /// Its number.
    id: u32,
}

/// An execution.
#[derive(Serialize, JsonSchema)]
struct ExecPart<'a> {
    /// The path as it was given, for a script the script's; null for a program that ran already.
    path: Option<Cow<'a, str>>,
    /// The same in base64; only there if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    /// The interpreter that a script names in its first line; null for what is no script.
    interpreter: Option<Cow<'a, str>>,
    /// Whether arguments or variables are missing, or the last one is cut: by the limit, a loss, or because they could
    /// not be read.
    truncated: bool,
    /// Whether the program ran already when it came into scope: everything is as /proc had it then, and `time` is when
    /// its process began.
    existing: bool,
}

/// An attempt to execute.
#[derive(Serialize, JsonSchema)]
struct AttemptPart<'a> {
    /// The path as it was given; null when it could not be read.
    path: Option<Cow<'a, str>>,
    /// The same in base64; only there if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    /// The arguments; U+FFFD stands for what is not UTF-8. Up to 128 of 4095 bytes, 24 KiB together.
    command_args: Vec<Cow<'a, str>>,
    /// The same in base64; only there if one of them is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    command_args_base64: Option<Vec<String>>,
    /// Whether arguments are missing or cut.
    truncated: bool,
}

/// The OpenTelemetry namespace `error`.
#[derive(Serialize, JsonSchema)]
struct ErrorPart {
    /// Name of the error, as errno(3) has it.
    r#type: String,
    /// Its number.
    code: i32,
}

/// The OpenTelemetry namespace `process.exit`.
#[derive(Serialize, JsonSchema)]
struct EndingPart {
    /// Its exit status; null when a signal ended it.
    code: Option<u8>,
    /// The signal that ended it; null when it ended by itself.
    signal: Option<SignalPart>,
}

/// A signal.
#[derive(Serialize, JsonSchema)]
struct SignalPart {
    /// Its number.
    number: u8,
    /// Its name, as signal(7) has it.
    name: String,
    /// Whether memory was dumped.
    core_dumped: bool,
}

/// A new process.
#[derive(Serialize, JsonSchema)]
struct ChildPart {
    /// Id in the initial PID namespace (the host's).
    pid: u32,
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// In base64, what text alone would lose something of.
fn base64(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).is_err().then(|| base64_simd::STANDARD.encode_to_string(bytes))
}

fn texts<'a>(list: &[Plaintext<'a>]) -> Vec<Cow<'a, str>> {
    list.iter().map(|string| text(string.0)).collect()
}

fn base64s(list: &[Plaintext<'_>]) -> Option<Vec<String>> {
    let is_needed = list.iter().any(|string| std::str::from_utf8(string.0).is_err());
    is_needed.then(|| list.iter().map(|string| base64_simd::STANDARD.encode_to_string(string.0)).collect())
}

impl<'a> ActorPart<'a> {
    fn new(actor: &Actor<'a>) -> Self {
        let container = actor.origin.container.as_deref();
        Self {
            time: Time(actor.time),
            container,
            k8s: container.and_then(|container| container.pod.as_deref()).map(K8sPart::new),
            thread: ThreadPart { id: actor.thread.id },
        }
    }
}

impl<'a> IdentityPart<'a> {
    fn new(actor: &'a Actor<'a>) -> Self {
        let process = &actor.origin.process;
        Self {
            pid: process.pid,
            vpid: process.vpid,
            comm: text(actor.thread.name()),
            exec_id: actor.id.map(|id| id.to_string()),
            executable: process.executable.as_ref(),
        }
    }
}

impl<'a> DescentPart<'a> {
    fn new(parent: Option<&'a Ancestor>) -> Self {
        Self {
            parent_pid: parent.map(|parent| parent.pid),
            parent: parent.map(|parent| ParentPart {
                pid: parent.pid,
                comm: parent.comm.as_deref().map(text),
                exec_id: parent.id.map(|id| id.to_string()),
            }),
        }
    }
}

impl<'a> CallerPart<'a> {
    fn new(actor: &'a Actor<'a>, users: Users) -> Self {
        let id = |id: Option<u32>| id.map(|id| IdPart { id });
        let Users { real, effective, group } = users;
        Self {
            identity: IdentityPart::new(actor),
            descent: DescentPart::new(actor.parent),
            users: UsersPart { user: id(effective), real_user: id(real), real_group: id(group) },
        }
    }
}

impl<'a> ExecLine<'a> {
    pub(super) fn new(exec: &'a Exec<'a>) -> Self {
        let variables = exec.environment.as_ref().map(|environment| environment.list.as_slice());
        let is_cut = |strings: &Strings<'_>| strings.truncated;
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
            error: ErrorPart { r#type: names::error(failed.error), code: failed.error },
        }
    }
}

impl<'a> ExitLine<'a> {
    pub(super) fn new(exit: &'a Exit<'a>) -> Self {
        let ending = exit.ending.map(|ending| match ending {
            Ending::Code(code) => EndingPart { code: Some(code), signal: None },
            Ending::Signal { number, dumped } => EndingPart {
                code: None,
                signal: Some(SignalPart { number, name: names::signal(number), core_dumped: dumped }),
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
