//! Selector → Target: what the user's selection means on this machine now.
//!
//! Owns the resolution of names to ids and of processes to trees. Reads the machine once, then computes.
//! Which containers and processes are in scope is decided in [`crate::scope::tracker`], at the start and
//! later.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use probe_common::NamespaceId;

use super::container_lookup::{Candidate, candidates, choose};
use super::error::TargetError;
use super::matcher::{ContainerDecision, Granularity, Matcher, ResolvedCriteria};
use super::tracker::ScopeDelta;
use super::{ContainerName, Criteria, Scope, ScopeChange, Selector, Target};
use crate::container::index::{CgroupPlace, ContainerIndex, key};
use crate::container::runtime::{self, Listing};
use crate::container::state::ContainerState;
use crate::proc::cgroup::Hierarchy;
use crate::proc::process::{Proc, ProcessEntry, descendants};
use crate::terminal::escaped;

impl Selector {
    /// Resolves the selection. Asks container runtimes, which takes up to five seconds if they hang.
    pub async fn resolve(&self) -> Result<Target, TargetError> {
        let listing = runtime::list(&self.runtime_sockets).await?;
        let world = World::read(Proc::default(), Hierarchy::find(), listing)?;
        self.resolve_in(world).await
    }

    async fn resolve_in(&self, world: World) -> Result<Target, TargetError> {
        if !self.selects() {
            return Err(TargetError::NothingSelected);
        }
        let all = candidates(&world.listing, &world.seen());
        let (wanted, chosen) = self.containers.find_containers(&all, &world.listing)?;
        let excluded_criteria = self.exclude.find_excluded(&all, &world.listing)?;
        let mut rules = Matcher::new(self, wanted, excluded_criteria);
        if world.containers.hierarchy().is_none() && rules.has_exclusions() {
            // The kernel's filter can exclude only cgroups of the v2 hierarchy.
            rules.granularity = Granularity::Process;
        }
        let mut target = world.target(rules);
        for container in chosen {
            if !target.rules.everything && !target.is_unwanted(&container.key) && !world.has(&container.key) {
                world.add_by_init(container, &mut target).await?;
            }
        }
        for pid in &self.pids {
            world.add_process(*pid, &mut target)?;
        }
        for inner in &self.inner_pids {
            let container = choose(&inner.container, &all, &world.listing)?;
            let pid = world.inside(inner, container).await?;
            world.add_process(pid, &mut target)?;
        }
        target.start(world.entries);
        if !self.has_pids() && target.leaves_nothing() {
            return Err(TargetError::AllExcluded { selector: self.to_string() });
        }
        target.warn_held();
        Ok(target)
    }

    fn selects(&self) -> bool {
        self.all || self.has_pids() || !self.containers.is_empty() || !self.processes.is_empty()
    }
}

impl Criteria {
    /// Resolves the names. Each must belong to a running container.
    fn find_containers<'a>(
        &self,
        all: &'a [Candidate],
        listing: &Listing,
    ) -> Result<(ResolvedCriteria, Vec<&'a Candidate>), TargetError> {
        let mut wanted = ResolvedCriteria { ids: BTreeSet::new(), criteria: self.clone() };
        let mut chosen = Vec::new();
        for name in &self.names {
            let found = choose(name, all, listing)?;
            wanted.take(name, found);
            chosen.push(found);
        }
        Ok((wanted, chosen))
    }

    /// Resolves the excluded names. They need not exist yet, but must not be ambiguous.
    fn find_excluded(&self, all: &[Candidate], listing: &Listing) -> Result<ResolvedCriteria, TargetError> {
        let mut excluded_criteria = ResolvedCriteria { ids: BTreeSet::new(), criteria: self.clone() };
        for name in &self.names {
            match choose(name, all, listing) {
                Ok(found) => excluded_criteria.take(name, found),
                Err(error @ (TargetError::AmbiguousContainer { .. } | TargetError::SameName { .. })) => {
                    return Err(error);
                }
                Err(error) => tracing::warn!("{error}; it will be excluded if it starts later"),
            }
        }
        Ok(excluded_criteria)
    }
}

impl ResolvedCriteria {
    /// Records the container that a name resolved to. A name that is only a part of the container's name
    /// matches this container alone.
    fn take(&mut self, name: &ContainerName, found: &Candidate) {
        self.ids.insert(found.key.clone());
        if !found.names.contains(&name.name) {
            self.criteria.names.retain(|other| other != name);
        }
    }
}

/// A snapshot of the machine.
pub(super) struct World {
    listing: Listing,
    pub(super) entries: Vec<ProcessEntry>,
    pub(super) containers: ContainerIndex,
    /// ctrace's PID namespace, which is never used as a scope: it is the host's.
    own_namespace: Option<NamespaceId>,
}

impl World {
    fn read(proc: Proc, hierarchy: Option<Hierarchy>, listing: Listing) -> Result<Self, TargetError> {
        let entries = proc.entries().map_err(TargetError::Proc)?;
        let own_namespace = proc.pid_namespace(proc.own());
        let containers = ContainerIndex::new(proc, hierarchy, &listing);
        Ok(Self { listing, entries, containers, own_namespace })
    }

    /// The containers that have processes, with the facts about them.
    fn seen(&self) -> BTreeMap<String, ContainerState> {
        let places = self.entries.iter().flat_map(|entry| self.containers.enclosing(&entry.cgroups));
        let fact = |place: CgroupPlace| {
            let fact = self.containers.fact(&place.key).unwrap_or_else(|| ContainerState::new(&place.key));
            (place.key, fact)
        };
        places.map(fact).collect()
    }

    fn has(&self, key: &str) -> bool {
        let mut around = self.entries.iter().flat_map(|entry| self.containers.enclosing(&entry.cgroups));
        around.any(|place| place.key == key)
    }

    fn target(&self, rules: Matcher) -> Target {
        let scope = Scope {
            all: rules.everything && rules.granularity == Granularity::Whole,
            watch: rules.needs_events(),
            leaves_at_exec: rules.granularity == Granularity::Process,
            ..Scope::default()
        };
        let listed_at = Some(Instant::now());
        Target { scope, rules, containers: self.containers.clone(), listed_at, ..Target::default() }
    }

    /// Adds a container whose id appears in no cgroup (it was created without cgroups, or below names of the
    /// user's choice): by its PID namespace, unless it shares ctrace's, or else as a process with its
    /// descendants.
    async fn add_by_init(&self, container: &Candidate, target: &mut Target) -> Result<(), TargetError> {
        let entry = self.init(container).await?;
        match self.nested_namespace(entry) {
            Some(namespace) => push_new(&mut target.namespaces, namespace),
            None => self.follow(vec![entry.process.pid], target),
        }
        Ok(())
    }

    /// The first process of a container, according to its runtime.
    pub(super) async fn init(&self, container: &Candidate) -> Result<&ProcessEntry, TargetError> {
        let unseen = || TargetError::Unseen { name: container.name().to_owned() };
        let listed = self.listing.containers.iter().find(|listed| key(&listed.mark()) == container.key);
        let pid = runtime::init(listed.ok_or_else(unseen)?).await;
        pid.and_then(|pid| self.entry(pid)).ok_or_else(unseen)
    }

    /// The PID namespace of a process, unless it is ctrace's own.
    pub(super) fn nested_namespace(&self, entry: &ProcessEntry) -> Option<NamespaceId> {
        entry.namespace.filter(|namespace| self.own_namespace.is_some_and(|own| own != *namespace))
    }

    /// Adds a process with its descendants. If it is the init of its PID namespace, everything in that
    /// namespace and in those nested in it is added too.
    fn add_process(&self, pid: u32, target: &mut Target) -> Result<(), TargetError> {
        let proc = self.containers.proc();
        if pid == proc.own() {
            return Err(TargetError::Itself { pid });
        }
        let Some(entry) = self.entry(pid) else {
            return Err(match proc.thread_group(pid) {
                Some(process) if process != pid => TargetError::Thread { thread: pid, pid: process },
                Some(_) => TargetError::NoCode { pid },
                None => TargetError::NoProcess { pid },
            });
        };
        let mut roots = vec![pid];
        if let Some(namespace) = entry.namespace.filter(|_| proc.is_namespace_init(pid)) {
            push_new(&mut target.namespaces, namespace);
            // Processes that entered it from outside (docker exec) are not descendants of the init. The init
            // of a nested namespace is a descendant of the process that created that namespace.
            let inside = self.entries.iter().filter(|entry| entry.namespace == Some(namespace));
            roots.extend(inside.map(|entry| entry.process.pid));
        }
        self.follow(roots, target);
        Ok(())
    }

    fn follow(&self, roots: Vec<u32>, target: &mut Target) {
        let tree = descendants(roots, &self.entries);
        let tree = self.entries.iter().filter(|entry| tree.contains(&entry.process.pid));
        target.followed.extend(tree.map(|entry| (entry.process.pid, entry.process.start_time)));
    }

    fn entry(&self, pid: u32) -> Option<&ProcessEntry> {
        self.entries.iter().find(|entry| entry.process.pid == pid)
    }
}

impl Target {
    /// Scans the processes for the first time. What would be reported as a change later becomes the initial
    /// scope.
    fn start(&mut self, entries: Vec<ProcessEntry>) {
        let mut pids = BTreeSet::new();
        if self.rules.granularity == Granularity::Whole {
            pids.extend(self.followed.keys().copied());
            self.scope.pid_namespaces.clone_from(&self.namespaces);
        }
        let ScopeDelta { scope, processes: _ } = self.scan(entries);
        pids.extend(scope.into_iter().filter_map(|change| match change {
            ScopeChange::EnterProcess(pid) => Some(pid),
            _ => None,
        }));
        self.scope.pids = pids.into_iter().collect();
    }
}

impl Target {
    fn is_unwanted(&self, key: &str) -> bool {
        self.rules.decision(key, self.containers.fact(key).as_ref()) == ContainerDecision::Exclude
    }

    /// Whether every container that was named is excluded, so that nothing can match later either.
    fn leaves_nothing(&self) -> bool {
        let is_out = |id: &String| self.is_unwanted(id);
        !self.rules.is_open_ended() && self.rules.named().all(is_out) && self.rules.named().next().is_some()
    }

    /// Warns about the containers that are kept out because the facts about them are incomplete.
    fn warn_held(&self) {
        let held: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.is_held())
            .map(|(id, _)| escaped(id.get(..12).unwrap_or(id)))
            .collect();
        if !held.is_empty() {
            tracing::warn!(
                "not traced, because no container runtime reported whether they are excluded: containers {}",
                held.join(", ")
            );
        }
    }
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, value: T) {
    if !list.contains(&value) {
        list.push(value);
    }
}

#[cfg(test)]
pub(super) mod tests;
