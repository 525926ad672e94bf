//! The namespaces of a process, and who else is in them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::diagnose::ps::place;
use crate::proc::namespaces::{NAMESPACES, namespace};
use crate::scope::Target;

/// Processes of the host that are named as sharing a namespace, at the most.
const NAMED: usize = 16;

/// A namespace.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Namespace {
    /// `mnt`, `pid`, …
    pub(super) kind: &'static str,
    /// Its number, as `readlink /proc/PID/ns/KIND` shows it; null when it is not ours to see.
    pub(super) id: Option<u64>,
    /// Whether it is the host's.
    pub(super) host: bool,
    /// Other containers in it (unless it is the host's).
    pub(super) containers: Vec<Sharer>,
    /// Processes in it that are in no container (unless it is the host's), 16 at the most.
    pub(super) processes: Vec<u32>,
}

/// Another container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Sharer {
    /// Its id.
    pub(super) id: String,
    /// What it is called.
    pub(super) name: String,
}

/// The namespaces of a process of `target`; `all` are the machine's processes.
pub(super) fn of(pid: u32, target: &Target, all: &Target) -> Vec<Namespace> {
    // Without the right to see that of the first process, ctrace's own is the host's, where it belongs.
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
