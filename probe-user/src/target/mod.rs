//! Selector → Process: which processes the user means, and what is known of them.
//!
//! Owns the reading of /proc about processes, of cgroups, and of container runtimes. It never opens a
//! file of a target ([`crate::rootfs`] does) and never signals, stops or changes one.

use std::sync::Arc;

use probe_common::NamespaceId;
use serde::Serialize;

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
}

/// t
#[derive(Default)]
pub struct Proc;
impl Proc { /// t
 pub fn with_descendants(&self, p: &[u32]) -> Vec<u32> { p.to_vec() } /// t
 pub fn threads(&self, p: u32) -> Vec<u32> { vec![p] } }
