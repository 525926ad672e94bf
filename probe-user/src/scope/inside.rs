//! `--pid web:1`: finds the process on the host.
//!
//! Owns the meaning of a process id inside of a container. Reads /proc where the snapshot of the machine does
//! not say enough.

use std::collections::BTreeSet;

use probe_common::NamespaceId;

use super::InnerPid;
use super::container_lookup::Candidate;
use super::error::TargetError;
use super::resolve::World;
use crate::proc::process::{ProcessEntry, descendants};
use crate::terminal::escaped;

/// Limit of the processes in a message.
const NAMED: usize = 5;

struct Inner<'a> {
    entry: &'a ProcessEntry,
    /// Its id in its own PID namespace.
    pid: u32,
}

impl World {
    /// The process of a container that has this id in its own PID namespace. The container's own namespace
    /// takes precedence over those that its processes have created, because each of these has a process 1
    /// too.
    pub(super) async fn inside(&self, wanted: &InnerPid, container: &Candidate) -> Result<u32, TargetError> {
        let entries = self.entries_of(container).await?;
        let proc = self.containers.proc();
        let inner = |entry| Inner { entry, pid: proc.vpid(entry.process.pid).unwrap_or_default() };
        let all: Vec<Inner<'_>> = entries.iter().copied().map(inner).collect();
        let named: Vec<&Inner<'_>> = all.iter().filter(|inner| inner.pid == wanted.pid).collect();
        let own = own_namespace(&entries);
        let in_own: Vec<&Inner<'_>> =
            named.iter().copied().filter(|inner| inner.entry.namespace == own).collect();
        match (in_own.as_slice(), named.as_slice()) {
            ([one], _) | ([], [one]) => Ok(one.entry.process.pid),
            ([], []) => Err(TargetError::NoInnerProcess {
                container: container.name().to_owned(),
                pid: wanted.pid,
                processes: listed(&all),
            }),
            _ => Err(TargetError::InnerProcesses {
                container: container.name().to_owned(),
                pid: wanted.pid,
                processes: named.iter().map(|one| one.entry.process.pid.to_string()).collect(),
            }),
        }
    }

    /// The processes of a container. If no cgroup shows it, those in its first process's PID namespace or
    /// tree.
    async fn entries_of(&self, container: &Candidate) -> Result<Vec<&ProcessEntry>, TargetError> {
        let is_in = |entry: &&ProcessEntry| {
            self.containers.enclosing(&entry.cgroups).iter().any(|place| place.key == container.key)
        };
        let found: Vec<&ProcessEntry> = self.entries.iter().filter(is_in).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let init = self.init(container).await?;
        let tree = descendants(vec![init.process.pid], &self.entries);
        let namespace = self.nested_namespace(init);
        let is_of = |entry: &&ProcessEntry| match namespace {
            Some(_) => entry.namespace == namespace,
            None => tree.contains(&entry.process.pid),
        };
        Ok(self.entries.iter().filter(is_of).collect())
    }
}

/// The PID namespace of a container's first process: the earliest process whose parent is not in the
/// container.
fn own_namespace(entries: &[&ProcessEntry]) -> Option<NamespaceId> {
    let pids: BTreeSet<u32> = entries.iter().map(|entry| entry.process.pid).collect();
    let from_outside = entries.iter().filter(|entry| !pids.contains(&entry.parent));
    from_outside.min_by_key(|entry| (entry.process.start_time, entry.process.pid))?.namespace
}

/// Some of the processes, for a message: `1 (nginx), 29 (nginx)`.
fn listed(all: &[Inner<'_>]) -> String {
    let mut named: Vec<(u32, &str)> =
        all.iter().map(|inner| (inner.pid, inner.entry.process.comm.as_str())).collect();
    named.sort_unstable();
    let more = named.len().saturating_sub(NAMED);
    let words = named.iter().take(NAMED).map(|(pid, comm)| format!("{pid} ({})", escaped(comm)));
    words.chain((more > 0).then(|| format!("{more} more"))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
