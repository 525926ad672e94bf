//! Selector → Target: what the user's words mean on this machine now.
//!
//! Owns the translation of containers and processes to a scope for the kernel, and the list of the
//! processes in it. Reads the machine once, then computes.

use std::collections::{BTreeSet, HashMap, HashSet};

use probe_common::NamespaceId;

use crate::target::candidate::{Candidate, candidates, choose};
use crate::target::cgroup::{Hierarchy, is_below};
use crate::target::containers::Containers;
use crate::target::error::TargetError;
use crate::target::proc::{Entry, Proc, children};
use crate::target::runtime::{self, Listing};
use crate::target::{Process, Scope, Selector, Target};

impl Selector {
    /// Finds what is meant. Asks container runtimes, which takes up to two seconds each when they hang.
    pub async fn resolve(&self) -> Result<Target, TargetError> {
        let listing = runtime::list(&self.runtime_sockets).await?;
        let world = World::read(Proc::default(), Hierarchy::find(), listing)?;
        let mut target = self.resolve_in(world).await?;
        target.containers.ask_at(&self.runtime_sockets);
        Ok(target)
    }

    async fn resolve_in(&self, world: World) -> Result<Target, TargetError> {
        if !self.all && self.containers.names.is_empty() && self.pids.is_empty() {
            return Err(TargetError::NothingSelected);
        }
        let mut scope = Scope { all: self.all, ..Scope::default() };
        let all = candidates(&world.listing, &world.entries);
        for wanted in &self.containers.names {
            let container = choose(&wanted.name, &all, &world.listing)?;
            if !world.add_container(&container.id, &mut scope) {
                world.add_by_init(container, &mut scope).await?;
            }
        }
        for pid in &self.pids {
            world.add_process(*pid, &mut scope)?;
        }
        scope.cgroups.sort();
        scope.cgroups.dedup();
        scope.pids.sort_unstable();
        scope.pids.dedup();
        Ok(world.into_target(scope))
    }
}

/// The machine at a moment.
struct World {
    proc: Proc,
    hierarchy: Option<Hierarchy>,
    listing: Listing,
    entries: Vec<Entry>,
    /// ctrace's PID namespace, which is never a scope: it is the host's.
    own_namespace: Option<NamespaceId>,
}

impl World {
    fn read(proc: Proc, hierarchy: Option<Hierarchy>, listing: Listing) -> Result<Self, TargetError> {
        let entries = proc.entries().map_err(TargetError::Proc)?;
        let own_namespace = proc.pid_namespace(proc.own());
        Ok(Self { proc, hierarchy, listing, entries, own_namespace })
    }

    /// Whether the container has a process here.
    fn add_container(&self, id: &str, scope: &mut Scope) -> bool {
        let mut members = self.entries.iter().filter(|entry| entry.cgroups.is_in(id)).peekable();
        let found = members.peek().is_some();
        let mut paths = BTreeSet::new();
        for entry in members {
            let path = entry.cgroups.unified_root_of(id);
            let cgroup = path.and_then(|path| self.hierarchy.as_ref()?.cgroup(path));
            match cgroup {
                Some(cgroup) if paths.insert(path) => scope.cgroups.push(cgroup),
                Some(_) => {}
                None => self.add_without_cgroup(entry, scope),
            }
        }
        found
    }

    /// A container whose id no cgroup shows (made without cgroups, or below names of the user's choice).
    async fn add_by_init(&self, container: &Candidate, scope: &mut Scope) -> Result<(), TargetError> {
        let unseen = || TargetError::Unseen { name: container.name().to_owned() };
        let listed = self.listing.containers.iter().find(|listed| listed.id == container.id);
        let pid = runtime::init(listed.ok_or_else(unseen)?).await;
        let entry = pid.and_then(|pid| self.entry(pid)).ok_or_else(unseen)?;
        self.add_without_cgroup(entry, scope);
        Ok(())
    }

    /// By PID namespace, if it is not the one that everything shares, else by pid.
    fn add_without_cgroup(&self, entry: &Entry, scope: &mut Scope) {
        match entry.namespace {
            Some(namespace) if self.own_namespace.is_some_and(|own| own != namespace) => {
                push_new(&mut scope.pid_namespaces, namespace);
            }
            _ => scope.pids.push(entry.process.pid),
        }
    }

    /// A process with its descendants; with everything in its PID namespace, and in those nested in it, if
    /// it is that namespace's init.
    fn add_process(&self, pid: u32, scope: &mut Scope) -> Result<(), TargetError> {
        if pid == self.proc.own() {
            return Err(TargetError::Itself { pid });
        }
        let Some(entry) = self.entry(pid) else {
            return Err(match self.proc.thread_group(pid) {
                Some(process) if process != pid => TargetError::Thread { thread: pid, pid: process },
                Some(_) => TargetError::NoCode { pid },
                None => TargetError::NoProcess { pid },
            });
        };
        let mut roots = vec![pid];
        if let Some(namespace) = entry.namespace.filter(|_| self.proc.is_namespace_init(pid)) {
            push_new(&mut scope.pid_namespaces, namespace);
            // Those that entered it from outside (docker exec) are not the init's descendants. A nested
            // namespace's init is a descendant of whoever made it.
            let inside = self.entries.iter().filter(|entry| entry.namespace == Some(namespace));
            roots.extend(inside.map(|entry| entry.process.pid));
        }
        scope.pids.extend(descendants(roots, &self.entries));
        Ok(())
    }

    fn entry(&self, pid: u32) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.process.pid == pid)
    }

    fn into_target(self, scope: Scope) -> Target {
        let containers = Containers::new(self.proc.clone(), self.hierarchy.clone(), &self.listing);
        let followed = scope.pids.iter().filter_map(|pid| self.entry(*pid));
        let followed = followed.map(|entry| (entry.process.pid, entry.process.start_time)).collect();
        let mut target = Target { scope, processes: Vec::new(), containers, followed };
        target.take(self.entries);
        target
    }
}

impl Target {
    /// Looks for processes that are in scope now and were not when it last looked; forgets those that have
    /// ended. Returns the new ones, in the order of their pids.
    pub fn rescan(&mut self) -> Vec<Process> {
        let entries = self.containers.entries();
        self.take(entries)
    }

    /// Whether anything of the target still runs or can still begin to run.
    pub fn any_alive(&self) -> bool {
        alive(&self.scope, &self.processes) || !in_scope(self, &self.containers.entries()).is_empty()
    }

    /// Makes the processes those among `entries` that are in scope; returns the new ones.
    fn take(&mut self, entries: Vec<Entry>) -> Vec<Process> {
        let chosen: HashSet<u32> = in_scope(self, &entries);
        let known: HashMap<u32, u64> =
            self.processes.iter().map(|process| (process.pid, process.start_time)).collect();
        let followed = descendants(self.living_followed(&entries), &entries);
        self.followed = entries
            .iter()
            .filter(|entry| followed.contains(&entry.process.pid))
            .map(|entry| (entry.process.pid, entry.process.start_time))
            .collect();
        self.processes.clear();
        let mut new = Vec::new();
        for entry in entries.into_iter().filter(|entry| chosen.contains(&entry.process.pid)) {
            let container = self.containers.of_cgroups(&entry.cgroups);
            let process = Process { container, ..entry.process };
            if known.get(&process.pid) != Some(&process.start_time) {
                new.push(process.clone());
            }
            self.processes.push(process);
        }
        new
    }

    /// Processes that are in scope by their pid and still the ones that had it.
    fn living_followed(&self, entries: &[Entry]) -> Vec<u32> {
        let lives = |entry: &&Entry| self.followed.get(&entry.process.pid) == Some(&entry.process.start_time);
        entries.iter().filter(lives).map(|entry| entry.process.pid).collect()
    }
}

/// Whether a process that was known still runs, or a cgroup in scope holds any.
///
/// For a PID namespace, or for descendants that were not seen yet, [`Target::any_alive`] looks further.
pub fn alive(scope: &Scope, known: &[Process]) -> bool {
    let proc = Proc::default();
    if scope.all || known.iter().any(|process| proc.is_alive(process)) {
        return true;
    }
    let Some(hierarchy) = (!scope.cgroups.is_empty()).then(Hierarchy::find).flatten() else { return false };
    scope.cgroups.iter().any(|cgroup| hierarchy.is_populated(cgroup) == Some(true))
}

/// Pids of the entries that are in the target's scope.
fn in_scope(target: &Target, entries: &[Entry]) -> HashSet<u32> {
    let scope = &target.scope;
    let mut pids: HashSet<u32> = descendants(target.living_followed(entries), entries).into_iter().collect();
    for entry in entries {
        let path = entry.cgroups.unified.as_deref();
        let in_cgroup = || {
            scope.cgroups.iter().any(|cgroup| path.is_some_and(|path| is_below(path, cgroup.path.as_bytes())))
        };
        let in_namespace = || entry.namespace.is_some_and(|id| scope.pid_namespaces.contains(&id));
        if scope.all || in_cgroup() || in_namespace() {
            pids.insert(entry.process.pid);
        }
    }
    pids
}

/// The roots and everything below them, as the parents are now.
pub fn descendants(roots: Vec<u32>, entries: &[Entry]) -> BTreeSet<u32> {
    let children = children(entries);
    let mut found = BTreeSet::new();
    let mut next = roots;
    // `found` ends this even if the parents, read one after another, form a circle.
    while let Some(pid) = next.pop() {
        if found.insert(pid) {
            next.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, value: T) {
    if !list.contains(&value) {
        list.push(value);
    }
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
