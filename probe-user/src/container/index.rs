//! Maps processes to containers: those that run at the start, and those that appear later.
//!
//! Owns the facts about containers during a run. A container that has ended is kept for a while, because its
//! events may still be on the way. Which containers are traced is decided elsewhere.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::entered::MountNamespaces;
use super::runtime::{ContainerInfo, ContainerQuery, InfoSource, Listing};
use super::state::{ContainerState, unnamed};
use super::unclaimed::UnclaimedCgroups;
use crate::event::{Container, Containment, Executable, Process, ProcessContext, Runtime};
use crate::proc::cgroup::Cgroup;
use crate::proc::cgroup::{ContainerKey, Hierarchy, KeyIndex, ProcCgroups};
use crate::proc::process::{Proc, ProcessEntry};

/// Limit of the containers and cgroups that are kept. Without it, anybody who may create cgroups could fill
/// the memory.
const REMEMBERED: usize = 1 << 16;
/// Limit of the cgroups whose container is cached.
const SETTLED: NonZeroUsize = NonZeroUsize::new(REMEMBERED).unwrap();
/// How long a container or cgroup is kept after it has ended.
const KEPT: Duration = Duration::from_mins(1);

/// Containers by id, and by the cgroups in which their processes were seen. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct ContainerIndex {
    state: Arc<Mutex<IndexState>>,
    hierarchy: Option<Hierarchy>,
    proc: Proc,
}

#[derive(Debug)]
struct IndexState {
    by_key: HashMap<Arc<str>, ContainerState>,
    by_cgroup: HashMap<u64, SeenProcess>,
    /// The container of every process in a v2 cgroup, where the path of the cgroup decides it. None stands
    /// for the host. Cleared when a runtime reports a container that was not seen before.
    settled: LruCache<u64, Option<Arc<str>>>,
    /// Keys of the containers that a runtime reported.
    marks: KeyIndex<Arc<str>>,
    /// Cgroups that may be a container's.
    unclaimed: UnclaimedCgroups,
    /// The mount namespaces of selected containers.
    mounts: MountNamespaces,
    /// Incremented when a runtime's report of a container is new or has changed.
    version: u64,
    /// When the runtimes have to be asked next. It is asked for many times a second, and there may be
    /// thousands of containers.
    next_question: NextQuestion,
}

/// When the runtimes have to be asked next about containers that they have not fully reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextQuestion {
    /// The facts have changed since it was determined.
    Unknown,
    Never,
    At(Instant),
}

impl Default for IndexState {
    fn default() -> Self {
        Self {
            by_key: HashMap::default(),
            by_cgroup: HashMap::default(),
            settled: LruCache::sparse(SETTLED),
            marks: KeyIndex::default(),
            unclaimed: UnclaimedCgroups::default(),
            mounts: MountNamespaces::default(),
            version: 0,
            next_question: NextQuestion::Unknown,
        }
    }
}

/// A container that a process is in, and its cgroup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CgroupPlace {
    /// The key of the container in the index.
    pub(crate) key: String,
    /// The path of the container's own cgroup in the v2 hierarchy. Its processes may have created others
    /// below.
    pub(crate) root: Option<Vec<u8>>,
}

/// A cgroup in which a container was seen.
#[derive(Debug)]
struct SeenProcess {
    container: Arc<str>,
    ended_at: Option<Instant>,
}

impl ContainerIndex {
    pub(crate) fn new(proc: Proc, hierarchy: Option<Hierarchy>, listing: &Listing) -> Self {
        let new = Self { hierarchy, proc, ..Self::default() };
        new.update(listing);
        new
    }

    fn lock(&self) -> MutexGuard<'_, IndexState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to ask the runtimes for now, because they have not fully reported some container that somebody
    /// asked about.
    pub fn unnamed(&self) -> Option<ContainerQuery> {
        let (now, mut state) = (Instant::now(), self.lock());
        let NextQuestion::At(time) = state.next_question() else { return None };
        let is_due = |fact: &&ContainerState| fact.is_open() && fact.next <= now;
        let due = || state.by_key.values().filter(is_due).map(|fact| fact.container.id.as_str());
        (time <= now).then(|| ContainerQuery::of(due()))
    }

    /// Changes whenever a runtime reports something new about a container.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Records what the runtimes report, and returns the keys of the containers whose report is new or has
    /// changed. A container that its runtime no longer reports is removed after a while.
    pub(crate) fn update(&self, listing: &Listing) -> Vec<String> {
        let now = Instant::now();
        let mut state = self.lock();
        let mut reported: HashSet<String> = HashSet::new();
        let mut news = Vec::new();
        for listed in &listing.containers {
            let key = key(&listed.mark());
            if state.record(&key, listed) {
                news.push(key.clone());
            }
            reported.insert(key);
        }
        // Only a listing of all containers shows that one is no longer there.
        let is_partial = listing.partial.is_some();
        let live: HashSet<Arc<str>> = state.live().filter(|_| !is_partial).cloned().collect();
        for (key, fact) in &mut state.by_key {
            if fact.is_listed && !is_partial {
                let runtime = fact.container.runtime.as_ref().map(|runtime| runtime.name.as_str());
                let has_answered = listing.answered.iter().any(|name| Some(*name) == runtime);
                if has_answered && !reported.contains(&**key) && !live.contains(key) {
                    fact.ended_at.get_or_insert(now);
                }
            }
            let is_wanted = |since| listing.includes(&fact.container.id, since);
            if !fact.is_complete() && fact.wanted_since.is_some_and(is_wanted) {
                fact.postpone(now);
            }
        }
        state.next_question = NextQuestion::Unknown;
        state.forget(now);
        news
    }

    /// The container with this key. Only its id is set until a runtime reports it.
    pub(crate) fn get(&self, key: &str) -> Arc<Container> {
        let container = self.lock().want(key);
        container.unwrap_or_else(|| Arc::new(unnamed(key)))
    }

    pub(crate) fn fact(&self, key: &str) -> Option<ContainerState> {
        self.lock().by_key.get(key).cloned()
    }

    /// The containers that a process is in, outermost first. A container may name a cgroup of its own like
    /// another container's id; such a cgroup does not count.
    pub(crate) fn enclosing(&self, cgroups: &ProcCgroups) -> Vec<CgroupPlace> {
        let mut state = self.lock();
        let mut places: Vec<CgroupPlace> = Vec::new();
        for key in state.marks.holders(cgroups) {
            let mark = state.by_key.get(key).and_then(|fact| fact.mark.as_ref());
            let root = mark.and_then(|mark| cgroups.unified_root(mark)).map(<[u8]>::to_vec);
            places.push(CgroupPlace { key: key.to_string(), root });
        }
        let is_by_path = places.iter().any(|place| place.key.starts_with('/'));
        if let Some((key, id)) = outermost(cgroups).filter(|_| !is_by_path) {
            if !places.iter().any(|place| place.key == key) {
                let root = cgroups.unified_root_of(id).map(<[u8]>::to_vec);
                places.insert(0, CgroupPlace { key: key.clone(), root });
            }
            if let Some(runtime) = cgroups.runtime() {
                state.record_by_path(&key, id, runtime);
            }
        }
        places
    }

    /// The container of a process in these cgroups. Records the v2 cgroup as the container's, for events that
    /// arrive after the process has exited.
    pub(crate) fn of_cgroups(&self, cgroups: &ProcCgroups) -> Option<Arc<Container>> {
        let place = self.enclosing(cgroups).pop();
        // With v1 hierarchies too, processes in one v2 cgroup may be in different containers.
        let is_host = || cgroups.legacy.is_empty() && !self.lock().unclaimed.holds(cgroups);
        let is_settled = place.as_ref().map_or_else(is_host, |place| place.root.is_some());
        if place.is_none() && !is_settled {
            return None;
        }
        let cgroup = cgroups.unified.as_deref().and_then(|path| self.cgroup(path));
        let key = place.map(|place| place.key);
        if let Some(cgroup) = cgroup.as_ref().filter(|_| is_settled) {
            self.lock().settle(cgroup.id, key.as_deref());
        }
        match (key?, cgroup) {
            (key, Some(cgroup)) => self.seen_in(&key, cgroup.id),
            (key, None) => Some(self.get(&key)),
        }
    }

    /// The container of a process, also of one that has exited. `cgroup` is its cgroup in the v2 hierarchy as
    /// the kernel reported it (0: unknown). /proc is read only if that cgroup is not in the cache.
    pub fn of_process(&self, pid: u32, cgroup: u64) -> Containment {
        if let Some(settled) = self.lock().settled(cgroup) {
            return settled;
        }
        let cgroups = self.proc.cgroups(pid);
        if cgroups == ProcCgroups::default() {
            return self.lock().of_cgroup(cgroup).map_or(Containment::Unknown, Containment::In);
        }
        match self.of_cgroups(&cgroups) {
            Some(container) => Containment::In(container),
            None if self.lock().unclaimed.holds(&cgroups) => Containment::Unknown,
            None => Containment::Host,
        }
    }

    /// Records that a container has, or will have, processes in this cgroup.
    pub(crate) fn seen_in(&self, key: &str, cgroup: u64) -> Option<Arc<Container>> {
        let mut state = self.lock();
        let room = state.by_cgroup.len() < REMEMBERED;
        if let Some(fact) = state.by_key.get_mut(key).filter(|fact| fact.ended_at.is_some()) {
            fact.mark_running();
            state.next_question = NextQuestion::Unknown;
        }
        let container = state.want(key)?;
        if room || state.by_cgroup.contains_key(&cgroup) {
            state.by_cgroup.insert(cgroup, SeenProcess { container: key.into(), ended_at: None });
        }
        Some(container)
    }

    /// Runs `visit` on the cgroups that may be a container's.
    pub(crate) fn unclaimed<T>(&self, visit: impl FnOnce(&mut UnclaimedCgroups) -> T) -> T {
        visit(&mut self.lock().unclaimed)
    }

    /// Records that a cgroup was removed. Its container is kept for a while.
    pub(crate) fn cgroup_removed(&self, cgroup: u64) {
        let now = Instant::now();
        let mut state = self.lock();
        state.settled.pop(&cgroup);
        state.unclaimed.remove(cgroup);
        let Some(seen) = state.by_cgroup.get_mut(&cgroup) else { return };
        seen.ended_at = Some(now);
        let key = Arc::clone(&seen.container);
        state.next_question = NextQuestion::Unknown;
        if !state.live().any(|live| *live == key)
            && let Some(fact) = state.by_key.get_mut(&key)
        {
            fact.ended_at = Some(now);
        }
        state.forget(now);
    }

    pub(crate) fn cgroup(&self, path: &[u8]) -> Option<Cgroup> {
        self.hierarchy.as_ref()?.cgroup(path)
    }

    pub(crate) fn hierarchy(&self) -> Option<&Hierarchy> {
        self.hierarchy.as_ref()
    }

    pub(crate) fn proc(&self) -> &Proc {
        &self.proc
    }

    /// All processes that run now. Empty if /proc cannot be read.
    pub(crate) fn entries(&self) -> Vec<ProcessEntry> {
        self.proc.entries().unwrap_or_default()
    }

    /// The context of a process for its events. `cgroup` is the id that the kernel reported with the event
    /// (0: none); it leads to the container even if the process has exited.
    pub fn origin(&mut self, pid: u32, cgroup: u64) -> ProcessContext {
        let container = self.of_process(pid, cgroup);
        let executable = self.proc.executable(pid);
        let executable = executable.map(|path| Executable { path: path.to_string_lossy().into_owned() });
        let entered = self.entered_by(pid, &container);
        ProcessContext { process: Process { pid, vpid: self.proc.vpid(pid), executable, entered }, container }
    }

    /// The container whose mount namespace a process has entered, if the scope has found one for it
    /// or for another process in it. None for a process that is in a container by its cgroup.
    pub fn entered_by(&self, pid: u32, own: &Containment) -> Option<Arc<Container>> {
        if own.container().is_some() || self.lock().mounts.is_empty() {
            return None;
        }
        let namespace = self.proc.mount_namespace(pid);
        let key = self.lock().mounts.of_process(&self.proc, (pid, namespace))?;
        Some(self.get(&key))
    }

    /// The key of the container, one of these with these cgroups, in whose mount namespace a process is.
    pub(crate) fn entered<'a>(
        &self,
        pid: u32,
        containers: impl Iterator<Item = (&'a str, &'a [Cgroup])>,
    ) -> Option<String> {
        let hierarchy = self.hierarchy.as_ref()?;
        let namespace = self.proc.mount_namespace(pid)?;
        if self.proc.host_mount_namespaces()?.contains(&namespace) {
            return None;
        }
        let mut state = self.lock();
        let owner = state.mounts.of_process(&self.proc, (pid, Some(namespace)));
        if owner.is_some() || !state.mounts.may_reread() {
            return owner;
        }
        state.mounts.reread(&self.proc, hierarchy, containers);
        state.mounts.of_process(&self.proc, (pid, Some(namespace)))
    }
}

impl IndexState {
    /// The state of a container, which is created unless the index is full.
    fn get_or_insert(&mut self, key: &str) -> Option<&mut ContainerState> {
        if !self.by_key.contains_key(key) {
            if self.by_key.len() >= REMEMBERED {
                return None;
            }
            self.by_key.insert(key.into(), ContainerState::new(key));
        }
        self.by_key.get_mut(key)
    }

    /// The container, about which everything shall be reported from now on. None if the index is full.
    fn want(&mut self, key: &str) -> Option<Arc<Container>> {
        let fact = self.get_or_insert(key)?;
        let is_new = fact.wanted_since.is_none();
        fact.wanted_since.get_or_insert_with(Instant::now);
        let container = Arc::clone(&fact.container);
        if is_new {
            self.next_question = NextQuestion::Unknown;
        }
        Some(container)
    }

    /// When some container that somebody asked about, and that is not fully reported, may be asked about.
    fn next_question(&mut self) -> NextQuestion {
        if self.next_question == NextQuestion::Unknown {
            let open = self.by_key.values().filter(|fact| fact.is_open());
            let next = open.map(|fact| fact.next).min();
            self.next_question = next.map_or(NextQuestion::Never, NextQuestion::At);
        }
        self.next_question
    }

    /// Returns whether the report is new or has changed.
    fn record(&mut self, key: &str, listed: &ContainerInfo) -> bool {
        let container = listed.to_container();
        let mut runtimes = vec![listed.runtime];
        runtimes.extend(listed.sources.iter().map(InfoSource::runtime));
        let is_seen = self.by_key.contains_key(key);
        let Some(fact) = self.get_or_insert(key) else { return false };
        fact.runtimes = runtimes;
        let is_same = *fact.container == container
            && fact.names == listed.names
            && fact.images == listed.image_names
            && fact.gaps == listed.gaps;
        if fact.mark.is_some() && is_same {
            return false;
        }
        fact.images = listed.image_names.clone();
        fact.gaps = listed.gaps;
        fact.container = Arc::new(container);
        fact.names.clone_from(&listed.names);
        fact.is_listed = true;
        let mark = listed.mark();
        let is_as_before = is_seen && fact.mark.as_ref().is_none_or(|before| *before == mark);
        fact.mark = Some(mark.clone());
        self.marks.insert(mark, key.into());
        // Cgroups in which it was seen before have led to its key already.
        if !is_as_before {
            self.settled.clear();
        }
        self.version += 1;
        true
    }

    /// Records a container about which the path of its cgroup says everything.
    fn record_by_path(&mut self, key: &str, id: &str, runtime: &'static str) {
        let Some(fact) = self.get_or_insert(key).filter(|fact| !fact.is_listed) else { return };
        let runtime_name = Runtime { name: runtime.to_owned() };
        fact.container = Arc::new(Container {
            id: id.to_owned(),
            name: Some(id.to_owned()),
            runtime: Some(runtime_name),
            ..Container::default()
        });
        fact.names = vec![id.to_owned()];
        fact.runtimes = vec![runtime];
        fact.is_listed = true;
        self.next_question = NextQuestion::Unknown;
    }

    /// Caches the container of every process in a cgroup, or that they are on the host.
    fn settle(&mut self, cgroup: u64, key: Option<&str>) {
        self.settled.put(cgroup, key.map(Into::into));
    }

    /// The answer that [`Self::settle`] cached.
    fn settled(&self, cgroup: u64) -> Option<Containment> {
        match self.settled.peek(&cgroup)? {
            Some(key) => Some(Containment::In(Arc::clone(&self.by_key.get(key)?.container))),
            None => Some(Containment::Host),
        }
    }

    fn of_cgroup(&self, cgroup: u64) -> Option<Arc<Container>> {
        let seen = self.by_cgroup.get(&cgroup)?;
        self.by_key.get(&seen.container).map(|fact| Arc::clone(&fact.container))
    }

    /// The containers that have a cgroup at present. A container appears once for each of them.
    fn live(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_cgroup.values().filter(|seen| seen.ended_at.is_none()).map(|seen| &seen.container)
    }

    fn forget(&mut self, now: Instant) {
        let is_kept =
            |ended_at: Option<Instant>| ended_at.is_none_or(|ended_at| now.duration_since(ended_at) < KEPT);
        let before = self.by_key.len();
        self.by_key.retain(|_, fact| is_kept(fact.ended_at));
        if self.by_key.len() < before {
            let marks =
                self.by_key.iter().filter_map(|(key, fact)| Some((fact.mark.clone()?, Arc::clone(key))));
            self.marks = marks.collect();
        }
        self.by_cgroup.retain(|_, seen| is_kept(seen.ended_at));
    }
}

/// The key of a container: its id, after the ids of the containers around it; or the path of its cgroup, if
/// its id alone is ambiguous.
pub(crate) fn key(mark: &ContainerKey) -> String {
    match mark {
        ContainerKey::Path(path) => String::from_utf8_lossy(path).into_owned(),
        ContainerKey::Id { within: None, id } => id.clone(),
        ContainerKey::Id { within: Some(within), id } => format!("{within}/{id}"),
    }
}

/// The key and id of the outermost container, as the path of the cgroup shows them, whether or not a runtime
/// reports it.
fn outermost(cgroups: &ProcCgroups) -> Option<(String, &str)> {
    let id = cgroups.container()?;
    let path = cgroups.container_path()?;
    // The parts before the id are users; those after it were created by the container itself.
    let mut around: Vec<&str> = path.split('/').take_while(|part| *part != id).collect();
    around.push(id);
    Some((around.join("/"), id))
}

#[cfg(test)]
mod tests;
