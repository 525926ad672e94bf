//! What the lines of `ctrace exec` are made of.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Serialize;

use crate::event::{ExecLineage, Executable, Plaintext, ProcessUsers};
use crate::output::json::line::{EnteredPart, ProcessPart};

/// Which process.
#[derive(Serialize, JsonSchema)]
pub(super) struct IdentityPart<'a> {
    /// Id in the initial PID namespace (the host's).
    pub(super) pid: u32,
    /// Id in its own PID namespace, as its container sees it; null when it is not known.
    pub(super) vpid: Option<u32>,
    /// Name (`comm`) of the thread; U+FFFD stands for what is not UTF-8.
    pub(super) comm: Cow<'a, str>,
    /// What the process runs: the same in all records of one execution, and never another's, although process
    /// ids are used again. Null when it is not known.
    pub(super) exec_id: Option<String>,
    /// Its executable, for a script the interpreter's; null when the process was gone before it was known.
    pub(super) executable: Option<Cow<'a, Executable>>,
    /// The container whose mount namespace it has entered without being in its cgroup (nsenter); absent for
    /// all other processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) entered_container: Option<EnteredPart<'a>>,
}

/// A process with where it comes from.
#[derive(Serialize, JsonSchema)]
pub(super) struct EndedPart<'a> {
    #[serde(flatten)]
    pub(super) identity: IdentityPart<'a>,
    #[serde(flatten)]
    pub(super) descent: DescentPart<'a>,
    /// How it ended; null when the kernel did not tell (it has no BTF).
    pub(super) exit: Option<EndingPart>,
}

/// A process with where it comes from and its users.
#[derive(Serialize, JsonSchema)]
pub(super) struct CallerPart<'a> {
    #[serde(flatten)]
    pub(super) identity: IdentityPart<'a>,
    #[serde(flatten)]
    pub(super) descent: DescentPart<'a>,
    #[serde(flatten)]
    pub(super) users: UsersPart,
}

/// A process with all that its program was given.
#[derive(Serialize, JsonSchema)]
pub(super) struct ProgramPart<'a> {
    #[serde(flatten)]
    pub(super) caller: CallerPart<'a>,
    /// Its arguments, its name among them; U+FFFD stands for what is not UTF-8. Up to 128 KiB.
    pub(super) command_args: Vec<Cow<'a, str>>,
    /// The same in base64; only there if one of them is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) command_args_base64: Option<Vec<String>>,
    /// How many arguments it was given; null when they could not be read.
    pub(super) args_count: Option<u64>,
    /// The variables of its environment that were asked for (`--env`); not there when none were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) environment: Option<Vec<Cow<'a, str>>>,
    /// The same in base64; only there if one of them is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) environment_base64: Option<Vec<String>>,
    /// Its working directory, inside its root; null when the process was gone before it was known.
    pub(super) working_directory: Option<Cow<'a, str>>,
    /// The same in base64; only there if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) working_directory_base64: Option<String>,
    /// Its terminal, such as `pts/0`; null when it has none, or was gone before it was known
    /// (`working_directory` is null then too).
    pub(super) tty: Option<Cow<'a, str>>,
}

/// Where a process comes from.
#[derive(Serialize, JsonSchema)]
pub(super) struct DescentPart<'a> {
    /// The process that forked it; null when it is not known.
    pub(super) parent_pid: Option<u32>,
    /// The same with its name; null when it is not known.
    pub(super) parent: Option<ParentPart<'a>>,
}

/// A process that has forked another.
#[derive(Serialize, JsonSchema)]
pub(super) struct ParentPart<'a> {
    /// Id in the initial PID namespace (the host's).
    pub(super) pid: u32,
    /// Its name (`comm`) then; null when it is not known.
    pub(super) comm: Option<Cow<'a, str>>,
    /// What it ran then, as its records have it; null when it is not known.
    pub(super) exec_id: Option<String>,
}

/// Users of a process, as the host counts them.
#[derive(Serialize, JsonSchema)]
pub(super) struct UsersPart {
    /// Effective user; null when it is not known.
    pub(super) user: Option<IdPart>,
    /// Real user; null when it is not known.
    pub(super) real_user: Option<IdPart>,
    /// Real group; null when it is not known.
    pub(super) real_group: Option<IdPart>,
}

/// A user or group.
#[derive(Serialize, JsonSchema)]
pub(super) struct IdPart {
    /// Its number.
    pub(super) id: u32,
}

/// An execution.
#[derive(Serialize, JsonSchema)]
pub(super) struct ExecPart<'a> {
    /// The path as it was given, for a script the script's; null for a program that ran already.
    pub(super) path: Option<Cow<'a, str>>,
    /// The same in base64; only there if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path_base64: Option<String>,
    /// The interpreter that a script names in its first line; null for what is no script.
    pub(super) interpreter: Option<Cow<'a, str>>,
    /// Whether arguments or variables are missing, or the last one is cut: by the limit, a loss, or because
    /// they could not be read.
    pub(super) truncated: bool,
    /// Whether the program ran already when it came into scope: everything is as /proc had it then, and
    /// `time` is when its process began.
    pub(super) existing: bool,
}

/// An attempt to execute.
#[derive(Serialize, JsonSchema)]
pub(super) struct AttemptPart<'a> {
    /// The path as it was given; null when it could not be read.
    pub(super) path: Option<Cow<'a, str>>,
    /// The same in base64; only there if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path_base64: Option<String>,
    /// The arguments; U+FFFD stands for what is not UTF-8. Up to 128 of 4095 bytes, 24 KiB together.
    pub(super) command_args: Vec<Cow<'a, str>>,
    /// The same in base64; only there if one of them is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) command_args_base64: Option<Vec<String>>,
    /// Whether arguments are missing or cut.
    pub(super) truncated: bool,
}

/// The OpenTelemetry namespace `error`.
#[derive(Serialize, JsonSchema)]
pub(super) struct ErrorPart {
    /// Name of the error, as errno(3) has it.
    pub(super) r#type: String,
    /// Its number.
    pub(super) code: i32,
}

/// The OpenTelemetry namespace `process.exit`.
#[derive(Serialize, JsonSchema)]
pub(super) struct EndingPart {
    /// Its exit status; null when a signal ended it.
    pub(super) code: Option<u8>,
    /// The signal that ended it; null when it ended by itself.
    pub(super) signal: Option<SignalPart>,
}

/// A signal.
#[derive(Serialize, JsonSchema)]
pub(super) struct SignalPart {
    /// Its number.
    pub(super) number: u8,
    /// Its name, as signal(7) has it.
    pub(super) name: String,
    /// Whether memory was dumped.
    pub(super) core_dumped: bool,
}

/// A new process.
#[derive(Serialize, JsonSchema)]
pub(super) struct ChildPart {
    /// Id in the initial PID namespace (the host's).
    pub(super) pid: u32,
}

pub(super) fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// In base64, what text alone would lose something of.
pub(super) fn base64(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).is_err().then(|| base64_simd::STANDARD.encode_to_string(bytes))
}

pub(super) fn texts<'a>(list: &'a [Plaintext<'_>]) -> Vec<Cow<'a, str>> {
    list.iter().map(|string| text(&string.0)).collect()
}

pub(super) fn base64s(list: &[Plaintext<'_>]) -> Option<Vec<String>> {
    let is_needed = list.iter().any(|string| std::str::from_utf8(&string.0).is_err());
    is_needed.then(|| list.iter().map(|string| base64_simd::STANDARD.encode_to_string(&string.0)).collect())
}

impl<'a> IdentityPart<'a> {
    pub(super) fn new(process: ProcessPart<'a>, lineage: &ExecLineage<'_>) -> Self {
        let ProcessPart { pid, vpid, comm, executable, entered_container } = process;
        let exec_id = lineage.id.map(|id| id.to_string());
        Self { pid, vpid, comm, exec_id, executable, entered_container }
    }
}

impl<'a> DescentPart<'a> {
    pub(super) fn new(lineage: &'a ExecLineage<'_>) -> Self {
        let parent = lineage.parent.as_deref();
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
    pub(super) fn new(process: ProcessPart<'a>, lineage: &'a ExecLineage<'_>, users: ProcessUsers) -> Self {
        let id = |id: Option<u32>| id.map(|id| IdPart { id });
        let ProcessUsers { real, effective, group } = users;
        Self {
            identity: IdentityPart::new(process, lineage),
            descent: DescentPart::new(lineage),
            users: UsersPart { user: id(effective), real_user: id(real), real_group: id(group) },
        }
    }
}
