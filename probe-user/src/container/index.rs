//! Which container a process belongs to, for processes known at the start and for those that come later.
//!
//! Owns the facts about containers for the length of a run, for a while also those of containers that have
//! ended: their events may still be on the way. Never decides which containers are traced.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::runtime::{ContainerInfo, InfoSource, Listing};
use super::state::{ContainerState, unnamed};
use super::unexplained::Unexplained;
use crate::event::{Container, Containment, Executable, Process, ProcessContext, Runtime};
use crate::proc::cgroup::Cgroup;
use crate::proc::cgroup::{ContainerKey, Hierarchy, KeyIndex, ProcCgroups};
use crate::proc::process::{Proc, ProcessEntry};

/// Containers and cgroups that are remembered. Who may make cgroups could otherwise fill memory.
const REMEMBERED: usize = 1 << 16;
/// Cgroups of which the answer is kept, at the most.
const SETTLED: NonZeroUsize = NonZeroUsize::new(REMEMBERED).unwrap();
/// How long what has gone is remembered.
const KEPT: Duration = Duration::from_mins(1);

/// Containers by id, and by the cgroups in which their processes were seen. Clones share what they know.
#[derive(Clone, Debug, Default)]
pub struct ContainerIndex {
    known: Arc<Mutex<IndexState>>,
    hierarchy: Option<Hierarchy>,
    proc: Proc,
}

#[derive(Debug)]
struct IndexState {
    by_key: HashMap<Arc<str>, ContainerState>,
    by_cgroup: HashMap<u64, SeenProcess>,
    /// What the path of a v2 cgroup tells of every process in it, by what was learned until now.
    settled: LruCache<u64, Option<Arc<str>>>,
    /// Keys of those that a runtime told of.
    marks: KeyIndex<Arc<str>>,
    /// Cgroups that may be a container's.
    unexplained: Unexplained,
    /// Counts what was learned.
    version: u64,
}

impl Default for IndexState {
    fn default() -> Self {
        Self {
            by_key: HashMap::default(),
            by_cgroup: HashMap::default(),
            settled: LruCache::sparse(SETTLED),
            marks: KeyIndex::default(),
            unexplained: Unexplained::default(),
            version: 0,
        }
    }
}

/// A container that a process is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CgroupPlace {
    /// What it is known by.
    pub(crate) key: String,
    /// Path of its own cgroup in the v2 hierarchy, below which its processes may have made others.
    pub(crate) root: Option<Vec<u8>>,
}

/// A cgroup in which a container was seen.
#[derive(Debug)]
struct SeenProcess {
    container: Arc<str>,
    gone: Option<Instant>,
}

impl ContainerIndex {
    pub(crate) fn new(proc: Proc, hierarchy: Option<Hierarchy>, listing: &Listing) -> Self {
        let new = Self { hierarchy, proc, ..Self::default() };
        new.update(listing);
        new
    }

    fn known(&self) -> MutexGuard<'_, IndexState> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a container is of interest of which the runtimes have not told all, and it is time to ask
    /// (again).
    pub fn has_unnamed(&self) -> bool {
        let now = Instant::now();
        let is_due = |fact: &ContainerState| {
            fact.sought.is_some() && !fact.is_told() && fact.gone.is_none() && fact.next <= now
        };
        self.known().by_key.values().any(is_due)
    }

    /// Changes whenever something is learned about a container that was known already.
    pub fn version(&self) -> u64 {
        self.known().version
    }

    /// Takes what the runtimes tell. What they do not tell any more is forgotten after a while.
    pub(crate) fn update(&self, listing: &Listing) {
        let now = Instant::now();
        let mut known = self.known();
        let mut told: HashSet<String> = HashSet::new();
        for listed in &listing.containers {
            let key = key(&listed.mark());
            known.learn(&key, listed);
            told.insert(key);
        }
        let live: HashSet<Arc<str>> = known.live().cloned().collect();
        for (key, fact) in &mut known.by_key {
            if fact.is_listed {
                let runtime = fact.container.runtime.as_ref().map(|runtime| runtime.name.as_str());
                let has_answered = listing.answered.iter().any(|name| Some(*name) == runtime);
                if has_answered && !told.contains(&**key) && !live.contains(key) {
                    fact.gone.get_or_insert(now);
                }
            }
            if !fact.is_told()
                && fact.sought.is_some_and(|since| listing.asked.is_none_or(|asked| since <= asked))
            {
                fact.wait(now);
            }
        }
        known.forget(now);
    }

    /// The container with this key; without a runtime's help nothing but its id is known.
    pub(crate) fn get(&self, key: &str) -> Arc<Container> {
        let mut known = self.known();
        match known.get_or_insert(key) {
            Some(fact) => {
                fact.sought.get_or_insert_with(Instant::now);
                Arc::clone(&fact.container)
            }
            None => Arc::new(unnamed(key)),
        }
    }

    /// What is known of a container.
    pub(crate) fn fact(&self, key: &str) -> Option<ContainerState> {
        self.known().by_key.get(key).cloned()
    }

    /// The containers that a process is in, outermost first. A name that a container chose for a cgroup of
    /// its own, and that is another container's id, is none of them.
    pub(crate) fn enclosing(&self, cgroups: &ProcCgroups) -> Vec<CgroupPlace> {
        let mut known = self.known();
        let mut places: Vec<CgroupPlace> = Vec::new();
        for key in known.marks.holders(cgroups) {
            let mark = known.by_key.get(key).and_then(|fact| fact.mark.as_ref());
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
                known.told_by_path(&key, id, runtime);
            }
        }
        places
    }

    /// The container of a process in these cgroups. Remembers the v2 cgroup, for events that arrive when the
    /// process has gone.
    pub(crate) fn of_cgroups(&self, cgroups: &ProcCgroups) -> Option<Arc<Container>> {
        let place = self.enclosing(cgroups).pop();
        // Where there are other hierarchies too, processes in one v2 cgroup may differ by those.
        let is_host = || cgroups.legacy.is_empty() && !self.known().unexplained.holds(cgroups);
        let is_settled = place.as_ref().map_or_else(is_host, |place| place.root.is_some());
        if place.is_none() && !is_settled {
            return None;
        }
        let cgroup = cgroups.unified.as_deref().and_then(|path| self.cgroup(path));
        let key = place.map(|place| place.key);
        if let Some(cgroup) = cgroup.as_ref().filter(|_| is_settled) {
            self.known().settle(cgroup.id, key.as_deref());
        }
        match (key?, cgroup) {
            (key, Some(cgroup)) => self.seen_in(&key, cgroup.id),
            (key, None) => Some(self.get(&key)),
        }
    }

    /// The container of a process that was in this cgroup of the v2 hierarchy (0: not known), as the kernel
    /// told: of one that has gone, too. /proc is read only if the cgroup does not tell by itself.
    pub fn of_process(&self, pid: u32, cgroup: u64) -> Containment {
        if let Some(settled) = self.known().settled(cgroup) {
            return settled;
        }
        let cgroups = self.proc.cgroups(pid);
        if cgroups == ProcCgroups::default() {
            return self.known().of_cgroup(cgroup).map_or(Containment::Unknown, Containment::In);
        }
        match self.of_cgroups(&cgroups) {
            Some(container) => Containment::In(container),
            None if self.known().unexplained.holds(&cgroups) => Containment::Unknown,
            None => Containment::Host,
        }
    }

    /// A container has processes in this cgroup, or will have.
    pub(crate) fn seen_in(&self, key: &str, cgroup: u64) -> Option<Arc<Container>> {
        let mut known = self.known();
        let room = known.by_cgroup.len() < REMEMBERED;
        let fact = known.get_or_insert(key)?;
        fact.come_back();
        fact.sought.get_or_insert_with(Instant::now);
        let container = Arc::clone(&fact.container);
        if room || known.by_cgroup.contains_key(&cgroup) {
            known.by_cgroup.insert(cgroup, SeenProcess { container: key.into(), gone: None });
        }
        Some(container)
    }

    /// Cgroups that may be a container's.
    pub(crate) fn unexplained<T>(&self, look: impl FnOnce(&mut Unexplained) -> T) -> T {
        look(&mut self.known().unexplained)
    }

    /// A cgroup has gone. Its container is remembered for a while.
    pub(crate) fn cgroup_gone(&self, cgroup: u64) {
        let now = Instant::now();
        let mut known = self.known();
        known.settled.pop(&cgroup);
        known.unexplained.remove(cgroup);
        let Some(seen) = known.by_cgroup.get_mut(&cgroup) else { return };
        seen.gone = Some(now);
        let key = Arc::clone(&seen.container);
        if !known.live().any(|live| *live == key)
            && let Some(fact) = known.by_key.get_mut(&key)
        {
            fact.gone = Some(now);
        }
        known.forget(now);
    }

    /// A cgroup of the v2 hierarchy, if there is one.
    pub(crate) fn cgroup(&self, path: &[u8]) -> Option<Cgroup> {
        self.hierarchy.as_ref()?.cgroup(path)
    }

    pub(crate) fn hierarchy(&self) -> Option<&Hierarchy> {
        self.hierarchy.as_ref()
    }

    pub(crate) fn proc(&self) -> &Proc {
        &self.proc
    }

    /// All processes now; none when /proc cannot be read.
    pub(crate) fn entries(&self) -> Vec<ProcessEntry> {
        self.proc.entries().unwrap_or_default()
    }

    /// What events say of a process. `cgroup` is the id that the kernel gave with the event (0: none): for a
    /// process that has gone it still tells the container.
    pub fn origin(&mut self, pid: u32, cgroup: u64) -> ProcessContext {
        let container = self.of_process(pid, cgroup);
        let executable = self.proc.executable(pid);
        let executable = executable.map(|path| Executable { path: path.to_string_lossy().into_owned() });
        ProcessContext { process: Process { pid, vpid: self.proc.vpid(pid), executable }, container }
    }
}

impl IndexState {
    /// The fact of a container, which is made if there is room.
    fn get_or_insert(&mut self, key: &str) -> Option<&mut ContainerState> {
        if !self.by_key.contains_key(key) {
            if self.by_key.len() >= REMEMBERED {
                return None;
            }
            self.by_key.insert(key.into(), ContainerState::new(key));
        }
        self.by_key.get_mut(key)
    }

    fn learn(&mut self, key: &str, listed: &ContainerInfo) {
        let container = listed.to_container();
        let mut runtimes = vec![listed.runtime];
        runtimes.extend(listed.sources.iter().map(InfoSource::runtime));
        let Some(fact) = self.get_or_insert(key) else { return };
        fact.runtimes = runtimes;
        let is_same = *fact.container == container
            && fact.names == listed.names
            && fact.images == listed.image_names
            && fact.gaps == listed.gaps;
        if fact.mark.is_some() && is_same {
            return;
        }
        fact.images = listed.image_names.clone();
        fact.gaps = listed.gaps;
        fact.container = Arc::new(container);
        fact.names.clone_from(&listed.names);
        fact.is_listed = true;
        fact.mark = Some(listed.mark());
        self.marks.insert(listed.mark(), key.into());
        self.settled.clear();
        self.version += 1;
    }

    /// The path of a container's cgroup has all that is to be known of it.
    fn told_by_path(&mut self, key: &str, id: &str, runtime: &'static str) {
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
    }

    /// The path of a cgroup tells the container of all in it, or that they are in none.
    fn settle(&mut self, cgroup: u64, key: Option<&str>) {
        self.settled.put(cgroup, key.map(Into::into));
    }

    /// What [`Self::settle`] was told.
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

    /// Containers that have a cgroup.
    fn live(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_cgroup.values().filter(|seen| seen.gone.is_none()).map(|seen| &seen.container)
    }

    fn forget(&mut self, now: Instant) {
        let is_kept = |gone: Option<Instant>| gone.is_none_or(|gone| now.duration_since(gone) < KEPT);
        let before = self.by_key.len();
        self.by_key.retain(|_, fact| is_kept(fact.gone));
        if self.by_key.len() < before {
            let marks =
                self.by_key.iter().filter_map(|(key, fact)| Some((fact.mark.clone()?, Arc::clone(key))));
            self.marks = marks.collect();
        }
        self.by_cgroup.retain(|_, seen| is_kept(seen.gone));
    }
}

/// What a container is known by here: its id, with the containers that it is in; or the path of its cgroup,
/// if its id alone does not tell it from others.
pub(crate) fn key(mark: &ContainerKey) -> String {
    match mark {
        ContainerKey::Path(path) => String::from_utf8_lossy(path).into_owned(),
        ContainerKey::Id { within: None, id } => id.clone(),
        ContainerKey::Id { within: Some(within), id } => format!("{within}/{id}"),
    }
}

/// Key and id of the container that is outside of all others, whether or not a runtime tells of it.
fn outermost(cgroups: &ProcCgroups) -> Option<(String, &str)> {
    let id = cgroups.container()?;
    let path = cgroups.container_path()?;
    // Before it are users alone; after it what it made itself.
    let mut around: Vec<&str> = path.split('/').take_while(|part| *part != id).collect();
    around.push(id);
    Some((around.join("/"), id))
}

#[cfg(test)]
mod tests;
