//! The namespaces of a process, and what else is in them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::diagnose::ps::place;
use crate::proc::namespaces::{NAMESPACES, namespace};
use crate::scope::Target;

/// Limit of the host's processes that are listed in a namespace.
const NAMED: usize = 16;

/// A namespace of the inspected process.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Namespace {
    /// The kind: `mnt`, `pid`, …
    pub(super) kind: &'static str,
    /// The inode number, as `readlink /proc/PID/ns/KIND` shows it; null if ctrace may not see it.
    pub(super) id: Option<u64>,
    /// Whether it is the host's.
    pub(super) host: bool,
    /// The other containers in it. Empty if it is the host's.
    pub(super) containers: Vec<Sharer>,
    /// The processes in it that are outside of containers, at most 16. Empty if it is the host's.
    pub(super) processes: Vec<u32>,
}

/// Another container in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Sharer {
    /// The id of the container.
    pub(super) id: String,
    /// The name of the container.
    pub(super) name: String,
}

/// The namespaces of a process of `target`. `all` contains all processes of the machine.
pub(super) fn read(pid: u32, target: &Target, all: &Target) -> Vec<Namespace> {
    // Without the permission to see the namespaces of the first process, ctrace's own count as the host's:
    // that is where it should run.
    let hosts = |kind| namespace(1, kind).or_else(|_| namespace(std::process::id(), kind)).ok();
    let one = |kind| {
        let id = namespace(pid, kind).ok();
        let host = id.is_some() && id == hosts(kind);
        let others = if host { None } else { id };
        let (containers, processes) = others.map(|id| sharers(kind, id, target, all)).unwrap_or_default();
        Namespace { kind, id, host, containers, processes }
    };
    NAMESPACES.into_iter().map(one).collect()
}

fn sharers(kind: &str, id: u64, target: &Target, all: &Target) -> (Vec<Sharer>, Vec<u32>) {
    let own: Vec<u32> = target.processes.iter().map(|process| process.pid).collect();
    let containers = target.processes.iter().filter_map(|process| process.container.as_ref());
    let own_containers: Vec<&str> = containers.map(|container| container.id.as_str()).collect();
    let mut found: BTreeMap<&str, Sharer> = BTreeMap::new();
    let mut processes = Vec::new();
    for other in all.processes.iter().filter(|other| !own.contains(&other.pid)) {
        if namespace(other.pid, kind).ok() != Some(id) {
            continue;
        }
        match other.container.as_deref() {
            Some(container) if !own_containers.contains(&container.id.as_str()) => {
                let name = place(Some(container));
                found.entry(&container.id).or_insert_with(|| Sharer { id: container.id.clone(), name });
            }
            None if processes.len() < NAMED => processes.push(other.pid),
            Some(_) | None => {}
        }
    }
    (found.into_values().collect(), processes)
}
