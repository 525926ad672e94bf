//! Selector → Process: which processes the user means, and what is known about them.
//!
//! Resolves the selection with the facts of [`crate::proc`] and [`crate::container`], and keeps it up to date
//! while processes and containers come and go. Never opens a file of a target ([`crate::rootfs`] does), and
//! never signals, stops or changes one.

mod container_lookup;
mod decisions;
mod error;
mod image_ref;
mod inside;
mod matcher;
mod pod;
mod resolve;
mod selector;
mod tracker;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use probe_common::NamespaceId;
use serde::Serialize;

pub use crate::container::index::ContainerIndex;
pub use crate::proc::process::descendants;
pub use error::{Kind, TargetError};
pub use matcher::{ProcessAttrs, ProcessFilter};
pub use pod::{PodName, PodNameKind};
pub use tracker::ScopeDelta;

use crate::container::runtime::RuntimeSocket;
use crate::event::Container;
use crate::proc::cgroup::Cgroup;
use crate::proc::process::ProcessId;
use decisions::TrackedContainer;
use matcher::Matcher;

/// The user's selection, parsed once.
///
/// - In each list, one matching value is enough (or).
/// - For [`Criteria`], a container must match one value of each list that is not empty (and).
/// - `pids` and `inner_pids` add processes with their descendants, to those that the containers select.
/// - `processes` narrows that to the processes that match one value of each of its lists. With neither
///   containers nor pids it narrows the whole machine.
/// - `exclude` and `exclude_processes` take away: one matching value of any list is enough.
///
/// A container that is named must exist and run, so that a misspelt name is reported at once. Everything else
/// need not match anything yet: containers and processes that appear later are matched then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Everything on the machine except ctrace.
    pub all: bool,
    /// The selected containers.
    pub containers: Criteria,
    /// The selected processes, with their descendants.
    pub pids: Vec<u32>,
    /// Selected processes by their ids inside of containers, with their descendants.
    pub inner_pids: Vec<InnerPid>,
    /// Filters the selected processes.
    pub processes: Properties,
    /// The excluded containers.
    pub exclude: Criteria,
    /// The excluded processes.
    pub exclude_processes: Properties,
    /// Sockets that replace the usual ones of their runtimes: `RUNTIME=PATH`.
    pub runtime_sockets: Vec<RuntimeSocket>,
}

/// Properties of containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Criteria {
    /// Names, ids or unique prefixes of either.
    pub names: Vec<ContainerName>,
    /// Images, by a name that the runtime shows; tag and registry may be left out.
    pub images: Vec<String>,
    /// Labels: a key, and the value unless any value matches.
    pub labels: Vec<(String, Option<String>)>,
    /// Services of Docker Compose or Podman Compose.
    pub services: Vec<String>,
    /// Pods.
    pub pods: Vec<PodName>,
    /// Kubernetes namespaces.
    pub namespaces: Vec<String>,
}

/// Properties of processes. They are matched when a process is first seen, and whenever it executes a
/// program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Names, as the kernel has them (`comm`).
    pub comms: Vec<String>,
    /// Executables: a path in the process's root, or a file name.
    pub executables: Vec<String>,
    /// Effective user ids, as the host counts them.
    pub uids: Vec<u32>,
}

/// A container: `web`, `docker://web`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerName {
    /// The runtime's name, if the user gave it.
    pub runtime: Option<String>,
    /// A name, an id, or a unique prefix of either.
    pub name: String,
}

/// `web:1`: a process by its id inside of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InnerPid {
    /// The container.
    pub container: ContainerName,
    /// The id in the process's own PID namespace.
    pub pid: u32,
}

/// A change of the [`Scope`] while it is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopeChange {
    /// Adds a cgroup with everything below it.
    EnterCgroup(Cgroup),
    /// Excludes a cgroup with everything below it, which takes precedence over everything else.
    ExcludeCgroup(Cgroup),
    /// Removes a cgroup, given by id, from the filter.
    ForgetCgroup(u64),
    /// Adds a PID namespace.
    EnterNamespace(NamespaceId),
    /// Adds a process, with all of its threads and what they fork.
    EnterProcess(u32),
    /// Removes a process with all of its threads, because it no longer matches.
    LeaveProcess(u32),
}

/// A process and its container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// The id in the PID namespace of ctrace (the host's).
    pub pid: u32,
    /// Clock ticks after boot (field 22 of /proc/PID/stat).
    pub start_time: u64,
    /// The name of its main thread, as the kernel has it. Bytes that are not UTF-8 are replaced.
    pub comm: String,
    /// Its container, if it has one.
    #[serde(skip)]
    pub container: Option<Arc<Container>>,
}

impl From<ProcessId> for Process {
    fn from(ProcessId { pid, start_time, comm }: ProcessId) -> Self {
        Self { pid, start_time, comm, container: None }
    }
}

/// What the kernel's filter lets through: the union of its parts, without `excluded`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scope {
    /// Everything except ctrace.
    pub all: bool,
    /// Cgroups with everything below them.
    pub cgroups: Vec<Cgroup>,
    /// PID namespaces (not the ones nested in them).
    #[serde(serialize_with = "serialize_namespaces")]
    pub pid_namespaces: Vec<NamespaceId>,
    /// Processes, with everything that they fork from now on. Their existing descendants are listed too,
    /// unless [`Self::leaves_at_exec`] is set: then only those that match are.
    pub pids: Vec<u32>,
    /// Cgroups that are out of scope with everything below them, whatever the other parts say.
    pub excluded: Vec<Cgroup>,
    /// Whether the kernel reports every exec, and every cgroup that is created or removed, because they may
    /// come into scope.
    pub watch: bool,
    /// Whether a process of `pids` that executes another program leaves the scope until it is added again.
    pub leaves_at_exec: bool,
}

fn serialize_namespaces<S: serde::Serializer>(ids: &[NamespaceId], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ids.iter().map(|id| id.inode))
}

/// What a [`Selector`] means now, kept up to date while a trace runs.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The scope for the kernel's filter.
    pub scope: Scope,
    /// The processes in scope now, in the order in which they were found. Never ctrace itself.
    pub processes: Vec<Process>,
    /// The containers of processes, also of those that appear later.
    pub containers: ContainerIndex,
    /// Pid → start time of the processes that are in scope whatever their cgroup is, with their descendants.
    pub(crate) followed: HashMap<u32, u64>,
    /// The matcher of the user's selection.
    rules: Matcher,
    /// The containers that are, or may be, selected or excluded, by their keys.
    members: BTreeMap<String, TrackedContainer>,
    /// Whether a decision about a container, or its cgroups, may have changed since the kernel's filter was
    /// last compared with them.
    has_new_decisions: bool,
    /// The paths of `scope.cgroups`.
    covered: HashSet<Vec<u8>>,
    /// Pid → start time of `processes`.
    start_times: HashMap<u32, u64>,
    /// PID namespaces that are selected with everything in them.
    namespaces: Vec<NamespaceId>,
    /// The length of the list of processes from which ended ones are removed.
    most: usize,
    /// When the runtimes last listed their containers. None before that.
    listed_at: Option<Instant>,
}
