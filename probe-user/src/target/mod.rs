//! Selector → Process: which processes the user means, and what is known of them.
//!
//! Owns the reading of /proc about processes, of cgroups, and of container runtimes. It never opens a
//! file of a target ([`crate::rootfs`] does) and never signals, stops or changes one.

mod candidate;
pub mod cgroup;
mod containers;
mod error;
pub mod proc;
pub mod runtime;
mod select;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use probe_common::NamespaceId;
use serde::Serialize;

pub use containers::Containers;
pub use error::{Kind, TargetError};
pub use select::{alive, descendants};

use crate::event::Container;

/// What the user asked for, parsed once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Everything on the machine but ctrace.
    pub all: bool,
    /// Names, ids or unique prefixes of either.
    pub containers: Vec<String>,
    /// Processes with their descendants.
    pub pids: Vec<u32>,
}

/// A process at a moment. (pid, start time) is its identity; a pid alone is not.
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

/// A cgroup of the v2 hierarchy, as the kernel's filter needs it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Cgroup {
    /// Inode number of its directory.
    pub id: u64,
    /// Depth below the root of the hierarchy, whose level is 0.
    pub level: u32,
    /// Path in the hierarchy.
    pub path: String,
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
    /// Processes, with all that they fork from now on.
    pub pids: Vec<u32>,
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
    pub containers: Containers,
    /// Pid → start time of the processes that are in scope by [`Scope::pids`], with their descendants.
    pub(crate) followed: HashMap<u32, u64>,
}

impl fmt::Display for Selector {
    /// In the user's words, escaped: `container web, pid 12`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let containers = self.containers.iter().map(|name| format!("container {}", name.escape_debug()));
        let pids = self.pids.iter().map(|pid| format!("pid {pid}"));
        let all = self.all.then(|| "all processes".to_owned());
        f.write_str(&containers.chain(pids).chain(all).collect::<Vec<_>>().join(", "))
    }
}
