//! Errors of resolving a selection. Names in the messages are untrusted: they are always shown escaped
//! (`{:?}`).

use std::io;

/// The kind of failure, which decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing that runs matches.
    NotFound,
    /// More than one thing matches.
    Ambiguous,
    /// There may be a match, but ctrace lacks the permission to see it.
    NotPermitted,
    /// Something else went wrong.
    Failed,
}

impl Kind {
    /// The exit status that docs/output.md promises.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::NotFound | Self::Ambiguous => 3,
            Self::NotPermitted => 4,
            Self::Failed => 1,
        }
    }
}

/// Why a selection could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A selector without any part.
    #[error("nothing is selected: name a container (--container), a process (--pid), or everything (--all)")]
    NothingSelected,
    /// No container has this name or id.
    #[error("no container has a name or id that starts with {wanted:?}{}", hint(.nearest, .unanswered))]
    UnknownContainer {
        /// As the user wrote it.
        wanted: String,
        /// The most similar names, best first.
        nearest: Vec<String>,
        /// Which runtimes did not answer, and why.
        unanswered: String,
    },
    /// No container has this id, and no runtime answered that could report names.
    #[error(
        "no running container has an id that starts with {wanted:?}, and names cannot be resolved because no \
         container runtime answered ({unanswered}): start the runtime, give its address (--runtime-socket), \
         or use a container id"
    )]
    NoRuntime {
        /// As the user wrote it.
        wanted: String,
        /// Which runtimes did not answer, and why.
        unanswered: String,
    },
    /// The runtime that the user named did not answer.
    #[error(
        "container {wanted:?} cannot be looked up: {runtime} did not answer ({unanswered}); start it, or \
         give its address: --runtime-socket {runtime}=ADDRESS"
    )]
    SilentRuntime {
        /// The runtime, one of those that ctrace supports.
        runtime: String,
        /// As the user wrote it.
        wanted: String,
        /// Which runtimes did not answer, and why.
        unanswered: String,
    },
    /// Several containers have this name.
    #[error(
        "{} containers have the name {name:?}: {}; select one by runtime, id or cgroup",
        .candidates.len(),
        .candidates.join(", ")
    )]
    SameName {
        /// As the user wrote it.
        name: String,
        /// What to write instead, escaped.
        candidates: Vec<String>,
    },
    /// Everything that was selected is excluded.
    #[error("{selector}: everything that is selected is also excluded; change one of the two")]
    AllExcluded {
        /// The selection in the user's words, escaped.
        selector: String,
    },
    /// Several containers have an id or a name with this prefix.
    #[error(
        "{wanted:?} matches {} containers: {}; give a longer prefix",
        .candidates.len(),
        .candidates.join("; ")
    )]
    AmbiguousContainer {
        /// As the user wrote it.
        wanted: String,
        /// The name, short id and image of each, escaped.
        candidates: Vec<String>,
    },
    /// The container exists but has no processes.
    #[error("container {name:?} is not running (it is {state:?}): start it first")]
    NotRunning {
        /// Its name or id.
        name: String,
        /// The state, as its runtime calls it.
        state: String,
    },
    /// The container runs according to its runtime, but none of its processes can be seen.
    #[error(
        "container {name:?} runs, but none of its processes can be seen from here: ctrace must run on the \
         same machine, in the host's PID namespace"
    )]
    Unseen {
        /// Its name or id.
        name: String,
    },
    /// There is no such process.
    #[error("there is no process {pid}: it has exited, or runs in a PID namespace that ctrace cannot see")]
    NoProcess {
        /// As the user gave it.
        pid: u32,
    },
    /// There is no such process in the container.
    #[error(
        "container {container:?} has no process {pid} in its own PID namespace, only {processes}; for an id \
         of the host, use --pid {pid}"
    )]
    NoInnerProcess {
        /// Its name.
        container: String,
        /// As the user gave it.
        pid: u32,
        /// Some processes of the container, escaped.
        processes: String,
    },
    /// Several processes of the container have this id in their PID namespaces.
    #[error(
        "{} processes have the id {pid} in PID namespaces inside container {container:?}: use --pid with one \
         of their ids on the host: {}",
        .processes.len(),
        .processes.join(" and ")
    )]
    InnerProcesses {
        /// Its name.
        container: String,
        /// As the user gave it.
        pid: u32,
        /// Their ids on the host.
        processes: Vec<String>,
    },
    /// The id belongs to a thread that is not the first one of its process.
    #[error("{thread} is a thread of process {pid}: a single thread cannot be traced, use --pid {pid}")]
    Thread {
        /// As the user gave it.
        thread: u32,
        /// The process of the thread.
        pid: u32,
    },
    /// The process is a kernel thread, or has ended.
    #[error("process {pid} is a kernel thread, or has exited: there is no code to trace")]
    NoCode {
        /// As the user gave it.
        pid: u32,
    },
    /// The process is ctrace itself.
    #[error("process {pid} is ctrace itself, which is never traced: use another process id")]
    Itself {
        /// The pid of ctrace.
        pid: u32,
    },
    /// A runtime that the user named cannot be asked.
    #[error(transparent)]
    Runtime(#[from] crate::container::runtime::RuntimeError),
    /// The processes could not be listed.
    #[error("could not list the processes in /proc: it must be mounted and readable")]
    Proc(#[source] io::Error),
}

impl TargetError {
    /// The kind of the failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::UnknownContainer { .. }
            | Self::NoRuntime { .. }
            | Self::SilentRuntime { .. }
            | Self::AllExcluded { .. }
            | Self::NotRunning { .. }
            | Self::Unseen { .. }
            | Self::NoProcess { .. }
            | Self::NoInnerProcess { .. }
            | Self::Thread { .. }
            | Self::NoCode { .. } => Kind::NotFound,
            Self::AmbiguousContainer { .. } | Self::SameName { .. } | Self::InnerProcesses { .. } => {
                Kind::Ambiguous
            }
            Self::Proc(source) if source.kind() == io::ErrorKind::PermissionDenied => Kind::NotPermitted,
            Self::NothingSelected | Self::Itself { .. } | Self::Runtime(_) | Self::Proc(_) => Kind::Failed,
        }
    }
}

fn hint(nearest: &[String], unanswered: &str) -> String {
    if nearest.is_empty() && unanswered.is_empty() {
        return "; no container was found at all".to_owned();
    }
    if nearest.is_empty() {
        return format!(
            "; no container names are available, and some runtimes did not answer ({unanswered}): start the \
             container's runtime, or give its address (--runtime-socket)"
        );
    }
    let names: Vec<String> = nearest.iter().map(|name| format!("{name:?}")).collect();
    format!("; did you mean {}?", names.join(" or "))
}
