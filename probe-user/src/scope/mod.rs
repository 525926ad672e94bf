//! Selector → Process: which processes the user means, and what is known of them.
//!
//! Owns the reading of /proc about processes, of cgroups, and of container runtimes. It never opens a
//! file of a target ([`crate::rootfs`] does) and never signals, stops or changes one.

mod container_lookup;
mod decisions;
mod error;
mod image_ref;
mod inside;
mod matcher;
mod resolve;
mod selector;
mod tracker;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use probe_common::NamespaceId;
use serde::Serialize;

pub use crate::container::index::ContainerIndex;
pub use crate::proc::process::descendants;
pub use error::{Kind, TargetError};
pub use matcher::{ProcessAttrs, ProcessFilter};
pub use tracker::ScopeDelta;

use crate::container::runtime::RuntimeSocket;
use crate::event::Container;
use crate::proc::cgroup::Cgroup;
use crate::proc::process::ProcessId;
use decisions::TrackedContainer;
use matcher::Matcher;

/// What the user asked for, parsed once.
///
/// - Each list is a choice: one of its values is enough (or).
/// - Of [`Criteria`], a container must have one value of each list that is not empty (and).
/// - `pids` and `inner_pids` add processes with their descendants; what is chosen by either is traced.
/// - `processes` narrows that to the processes that have one value of each of its lists. With neither
///   containers nor pids it narrows the whole machine.
/// - `exclude` and `exclude_processes` take away: one value of any list is enough.
///
/// A container that is named must be there and run: what is misspelt is told at once. Everything else need
/// not match anything yet: containers and processes that come later are judged when they come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Everything on the machine but ctrace.
    pub all: bool,
    /// Which containers.
    pub containers: Criteria,
    /// Processes with their descendants.
    pub pids: Vec<u32>,
    /// The same by their ids inside of containers.
    pub inner_pids: Vec<InnerPid>,
    /// Which processes of those.
    pub processes: Properties,
    /// Which containers never.
    pub exclude: Criteria,
    /// Which processes never.
    pub exclude_processes: Properties,
    /// The sockets to ask instead of those that are known: `RUNTIME=PATH`.
    pub runtime_sockets: Vec<RuntimeSocket>,
}

/// Properties of containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Criteria {
    /// Names, ids or unique prefixes of either.
    pub names: Vec<ContainerName>,
    /// Images: as the runtime shows them, without tag or registry too.
    pub images: Vec<String>,
    /// Labels: a key, and its value if that matters.
    pub labels: Vec<(String, Option<String>)>,
    /// Services of Docker Compose or Podman Compose.
    pub services: Vec<String>,
    /// Pods.
    pub pods: Vec<PodName>,
    /// Kubernetes namespaces.
    pub namespaces: Vec<String>,
}

/// Properties of processes, as they are when a process is first seen and whenever it executes a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Names, as the kernel has them (`comm`).
    pub comms: Vec<String>,
    /// Executables: a path in the process's root, or a file name.
    pub executables: Vec<String>,
    /// Effective user ids, as the host counts them.
    pub uids: Vec<u32>,
}

/// `web`, `docker://web`.
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

/// `web-0`, `prod/web-0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// The Kubernetes namespace, if the user gave it.
    pub namespace: Option<String>,
    /// The pod's name.
    pub name: String,
}

/// A change of the [`Scope`] while it is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopeChange {
    /// A cgroup, with all below it, comes in.
    EnterCgroup(Cgroup),
    /// A cgroup, with all below it, is kept out whatever else says it is in.
    ExcludeCgroup(Cgroup),
    /// A cgroup is gone (by id).
    ForgetCgroup(u64),
    /// A PID namespace comes in.
    EnterNamespace(NamespaceId),
    /// A process comes in, with all of its threads and what they fork.
    EnterProcess(u32),
    /// A process goes, with all of its threads: it executes what is not selected.
    LeaveProcess(u32),
}

/// A process, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Id in the PID namespace of ctrace (the host's).
    pub pid: u32,
    /// Clock ticks after boot (field 22 of /proc/PID/stat).
    pub start_time: u64,
    /// Name of its main thread, as the kernel has it (not UTF-8 always).
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

/// What the kernel lets through: the union of its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scope {
    /// Everything but ctrace.
    pub all: bool,
    /// Cgroups with all below them.
    pub cgroups: Vec<Cgroup>,
    /// PID namespaces (not the ones nested in them).
    #[serde(serialize_with = "serialize_namespaces")]
    pub pid_namespaces: Vec<NamespaceId>,
    /// Processes, with all that they fork from now on. The descendants that they have already are listed too,
    /// unless [`Self::leaves_at_exec`]: then only those that match are.
    pub pids: Vec<u32>,
    /// Cgroups that are not in scope with all below them, whatever the other parts say.
    pub excluded: Vec<Cgroup>,
    /// Every exec, and every cgroup that comes or goes, is told: they may come into scope.
    pub watch: bool,
    /// A process of `pids` that executes another program is out of scope until it is let in again.
    pub leaves_at_exec: bool,
}

fn serialize_namespaces<S: serde::Serializer>(ids: &[NamespaceId], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ids.iter().map(|id| id.inode))
}

/// What a [`Selector`] means now.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// For the kernel.
    pub scope: Scope,
    /// The processes in scope now, in the order of their pids; never ctrace itself.
    pub processes: Vec<Process>,
    /// For the containers of processes, also of those to come.
    pub containers: ContainerIndex,
    /// Pid → start time of the processes that are in scope whatever their cgroup, with their descendants.
    pub(crate) followed: HashMap<u32, u64>,
    /// What the user asked for.
    rules: Matcher,
    /// The containers that matter, or may, by their ids.
    members: BTreeMap<String, TrackedContainer>,
    /// PID namespaces that are chosen with all in them.
    namespaces: Vec<NamespaceId>,
    /// How long the list of processes may be before ended ones are looked for.
    most: usize,
    /// When the runtimes told last what containers are; none before that.
    told: Option<Instant>,
}
