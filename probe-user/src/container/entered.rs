//! Processes in a container's mount namespace whose cgroup is another: what nsenter(1) starts.
//!
//! Owns which mount namespace is which container's, bounded. Only the namespace of a container's first
//! process is that container's: another one of its processes may itself have entered the host's, or another
//! container's.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use probe_common::NamespaceId;

use crate::proc::cgroup::Cgroup;
use crate::proc::cgroup::Hierarchy;
use crate::proc::process::Proc;

/// Limit of the processes among which a container's first one is searched.
const PROCESSES: usize = 256;
/// Namespaces are read again for a process whose namespace is none of these, but so rarely that it takes at
/// most one part in this many of the time.
const REREADING: u32 = 20;
/// The shortest time between two such reads.
const PAUSE: Duration = Duration::from_millis(20);

/// Limit of the processes whose container is kept for when they have ended.
const ENTERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Which mount namespace is which container's, by the containers' keys.
#[derive(Debug)]
pub(super) struct MountNamespaces {
    owners: HashMap<NamespaceId, NamespaceOwner>,
    /// The processes that were found in one. Their records may be handled after they have ended.
    entered: LruCache<u32, String>,
    /// When they may be read again.
    rereading: Option<Instant>,
}

#[derive(Debug)]
struct NamespaceOwner {
    /// The container's key.
    key: String,
    /// Its first process.
    first: u32,
}

impl Default for MountNamespaces {
    fn default() -> Self {
        Self { owners: HashMap::new(), entered: LruCache::sparse(ENTERED), rereading: None }
    }
}

impl MountNamespaces {
    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// The container whose mount namespace a process is in. Without one, the process has ended: then that in
    /// which it was found last.
    pub(super) fn of_process(
        &mut self,
        proc: &Proc,
        (pid, namespace): (u32, Option<NamespaceId>),
    ) -> Option<String> {
        let Some(namespace) = namespace else { return self.entered.get(&pid).cloned() };
        // The kernel gives the number of a namespace that is gone to another one.
        let is_still = |owner: &&NamespaceOwner| proc.mount_namespace(owner.first) == Some(namespace);
        let owner = self.owners.get(&namespace).filter(is_still).map(|owner| owner.key.clone());
        match &owner {
            Some(owner) => self.entered.put(pid, owner.clone()),
            None => self.entered.pop(&pid),
        };
        owner
    }

    pub(super) fn may_reread(&self) -> bool {
        self.rereading.is_none_or(|after| Instant::now() >= after)
    }

    /// Replaces them by those of these containers, whose cgroups are given. The host's namespaces are
    /// nobody's, even if a container's first process is in them. Nor is a namespace in which the parent of
    /// the first process is as well: a container that is being created is still in that of its runtime, which
    /// need not be the host's.
    pub(super) fn reread<'a>(
        &mut self,
        proc: &Proc,
        hierarchy: &Hierarchy,
        containers: impl Iterator<Item = (&'a str, &'a [Cgroup])>,
    ) {
        let begin = Instant::now();
        let hosts = proc.host_mount_namespaces();
        let found = containers.filter_map(|(key, cgroups)| {
            let first = first(proc, hierarchy, cgroups)?;
            let (namespace, around) =
                (proc.mount_namespace(first)?, proc.mount_namespace(proc.parent(first)?)?);
            let is_its = namespace != around && !hosts.as_ref()?.contains(&namespace);
            is_its.then(|| (namespace, NamespaceOwner { key: key.to_owned(), first }))
        });
        self.owners = found.collect();
        let now = Instant::now();
        self.rereading = Some(now + PAUSE.max((now - begin) * REREADING));
    }
}

/// The process of a container that has started first.
fn first(proc: &Proc, hierarchy: &Hierarchy, cgroups: &[Cgroup]) -> Option<u32> {
    let pids = cgroups.iter().filter_map(|cgroup| hierarchy.processes(cgroup)).flatten();
    let processes = pids.take(PROCESSES).filter_map(|pid| proc.process(pid));
    processes.min_by_key(|process| (process.start_time, process.pid)).map(|process| process.pid)
}
