//! Which container a process belongs to, for processes known at the start and for those that come later.
//!
//! Owns the facts about containers for the length of a run, for a while also those of containers that have
//! ended: their events may still be on the way. Never decides which containers are traced.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::event::{Container, Executable, Origin, Process, Runtime};
use crate::target::Cgroup;
use crate::target::cgroup::{Hierarchy, Mark, Marked, Membership};
use crate::target::proc::{Entry, Proc};
use crate::target::runtime::{Listed, Listing};

/// Containers and cgroups that are remembered. Who may make cgroups could otherwise fill memory.
const REMEMBERED: usize = 1 << 16;
/// How long what has gone is remembered.
const KEPT: Duration = Duration::from_mins(1);
/// How long the runtimes are not asked again for a container that they did not know: twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Containers by id, and by the cgroups in which their processes were seen. Clones share what they know.
#[derive(Clone, Debug, Default)]
pub struct Containers {
    known: Arc<Mutex<Known>>,
    hierarchy: Option<Hierarchy>,
    proc: Proc,
}

#[derive(Debug, Default)]
struct Known {
    by_id: HashMap<Arc<str>, Fact>,
    /// The containers that runtimes list, by how their processes are recognised.
    marked: Marked<(Arc<str>, Mark)>,
    by_cgroup: HashMap<u64, Seen>,
    /// Counts what was learned.
    version: u64,
}

/// What is known of one container.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    pub(super) container: Arc<Container>,
    /// All of its names.
    pub(super) names: Vec<String>,
    /// How its processes are recognised, as its runtime told.
    mark: Option<Mark>,
    /// Whether a runtime has told of it; otherwise nothing but its id is known.
    pub(super) is_listed: bool,
    /// Whether somebody wants to know more of it.
    is_sought: bool,
    /// When to ask for it next, and how long to wait then.
    next: Instant,
    pause: Duration,
    /// Since when it has gone.
    gone: Option<Instant>,
}

/// A container around a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Around {
    pub(super) id: Arc<str>,
    /// Path in the v2 hierarchy of its own cgroup, below which its processes may have made others.
    pub(super) root: Option<Vec<u8>>,
}

/// A cgroup in which a container was seen.
#[derive(Debug)]
struct Seen {
    container: Arc<str>,
    gone: Option<Instant>,
}

impl Fact {
    fn new(id: &str) -> Self {
        Self {
            container: Arc::new(Container { id: id.to_owned(), ..Container::default() }),
            names: Vec::new(),
            mark: None,
            is_listed: false,
            is_sought: false,
            next: Instant::now(),
            pause: FIRST_PAUSE,
            gone: None,
        }
    }
}

impl Containers {
    pub(super) fn new(proc: Proc, hierarchy: Option<Hierarchy>, listing: &Listing) -> Self {
        let new = Self { hierarchy, proc, ..Self::default() };
        new.learn(listing);
        new
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a container is of interest of which no runtime has told anything, and it is time to ask (again).
    pub fn has_unnamed(&self) -> bool {
        let now = Instant::now();
        let is_due =
            |fact: &Fact| fact.is_sought && !fact.is_listed && fact.gone.is_none() && fact.next <= now;
        self.known().by_id.values().any(is_due)
    }

    /// Changes whenever something is learned about a container that was known already.
    pub fn version(&self) -> u64 {
        self.known().version
    }

    /// Takes what the runtimes tell. What they do not tell any more is forgotten after a while.
    pub(super) fn learn(&self, listing: &Listing) {
        let now = Instant::now();
        let mut known = self.known();
        let mut told: HashSet<&str> = HashSet::new();
        for listed in &listing.containers {
            // One container may be in the lists of two runtimes: Docker's are containerd's, too.
            if told.insert(&listed.id) {
                known.learn(listed);
            }
        }
        let live: HashSet<Arc<str>> = known.live().cloned().collect();
        for (id, fact) in &mut known.by_id {
            if fact.is_listed {
                let runtime = fact.container.runtime.as_ref().map(|runtime| runtime.name.as_str());
                let has_answered = listing.answered.iter().any(|name| Some(*name) == runtime);
                if has_answered && !told.contains(&**id) && !live.contains(id) {
                    fact.gone.get_or_insert(now);
                }
            } else {
                fact.next = now + fact.pause;
                fact.pause = LONGEST_PAUSE.min(fact.pause * 2);
            }
        }
        known.forget(now);
        known.mark();
    }

    /// The container with this id; without a runtime's help nothing but its id is known.
    pub fn get(&self, id: &str) -> Arc<Container> {
        let mut known = self.known();
        match known.meet(id) {
            Some(fact) => {
                fact.is_sought = true;
                Arc::clone(&fact.container)
            }
            None => Arc::new(Container { id: id.to_owned(), ..Container::default() }),
        }
    }

    /// What is known of a container.
    pub(super) fn fact(&self, id: &str) -> Option<Fact> {
        self.known().by_id.get(id).cloned()
    }

    /// The containers that a process is in, outermost first. One that no runtime lists is known by its id alone, if
    /// it is the outermost: an id below it could be its own words ([`crate::target::cgroup`]).
    pub(super) fn around(&self, cgroups: &Membership) -> Vec<Around> {
        let mut known = self.known();
        let place = |(id, mark): &(Arc<str>, Mark)| Around {
            id: Arc::clone(id),
            root: cgroups.unified_root(mark).map(<[u8]>::to_vec),
        };
        let holders = known.marked.holders(cgroups);
        let is_by_path = holders.iter().any(|(_, mark)| matches!(mark, Mark::Path(_)));
        let mut around: Vec<Around> = holders.into_iter().map(place).collect();
        if let Some(id) = cgroups.container()
            && !is_by_path
            && around.first().is_none_or(|first| *first.id != *id)
        {
            if let Some(runtime) = cgroups.runtime() {
                known.told_by_path(id, runtime);
            }
            let root = cgroups.unified_root_of(id).map(<[u8]>::to_vec);
            around.insert(0, Around { id: id.into(), root });
        }
        around
    }

    /// The container of a process in these cgroups. Remembers the v2 cgroup, for events that arrive when the
    /// process has gone.
    pub(super) fn of_cgroups(&self, cgroups: &Membership) -> Option<Arc<Container>> {
        let Around { id, root: _ } = self.around(cgroups).pop()?;
        let hierarchy = self.hierarchy.as_ref();
        let cgroup = cgroups.unified.as_deref().and_then(|path| hierarchy?.cgroup(path));
        match cgroup {
            Some(cgroup) => self.seen_in(&id, cgroup.id),
            None => Some(self.get(&id)),
        }
    }

    /// A container has processes in this cgroup, or will have.
    pub(super) fn seen_in(&self, id: &str, cgroup: u64) -> Option<Arc<Container>> {
        let mut known = self.known();
        let room = known.by_cgroup.len() < REMEMBERED;
        let fact = known.meet(id)?;
        fact.gone = None;
        fact.is_sought = true;
        let container = Arc::clone(&fact.container);
        if room || known.by_cgroup.contains_key(&cgroup) {
            known.by_cgroup.insert(cgroup, Seen { container: id.into(), gone: None });
        }
        Some(container)
    }

    /// A cgroup has gone. Its container is remembered for a while.
    pub(super) fn cgroup_gone(&self, cgroup: u64) {
        let now = Instant::now();
        let mut known = self.known();
        let Some(seen) = known.by_cgroup.get_mut(&cgroup) else { return };
        seen.gone = Some(now);
        let id = Arc::clone(&seen.container);
        if !known.live().any(|live| *live == id)
            && let Some(fact) = known.by_id.get_mut(&id)
        {
            fact.gone = Some(now);
        }
        known.forget(now);
    }

    /// A cgroup of the v2 hierarchy, if there is one.
    pub(super) fn cgroup(&self, path: &[u8]) -> Option<Cgroup> {
        self.hierarchy.as_ref()?.cgroup(path)
    }

    pub(super) fn hierarchy(&self) -> Option<&Hierarchy> {
        self.hierarchy.as_ref()
    }

    pub(super) fn proc(&self) -> &Proc {
        &self.proc
    }

    /// All processes now; none when /proc cannot be read.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.proc.entries().unwrap_or_default()
    }

    /// What events say of a process. `cgroup` is the id that the kernel gave with the event (0: none): for a
    /// process that has gone it still tells the container.
    pub fn origin(&mut self, pid: u32, cgroup: u64) -> Origin {
        let cgroups = self.proc.cgroups(pid);
        let container = match self.of_cgroups(&cgroups) {
            Some(container) => Some(container),
            None if cgroups == Membership::default() => self.known().of_cgroup(cgroup),
            None => None,
        };
        let executable = self.proc.executable(pid);
        let executable = executable.map(|path| Executable { path: path.to_string_lossy().into_owned() });
        Origin { process: Process { pid, vpid: self.proc.vpid(pid), executable }, container }
    }
}

impl Known {
    /// The fact of a container, which is made if there is room.
    fn meet(&mut self, id: &str) -> Option<&mut Fact> {
        if !self.by_id.contains_key(id) {
            if self.by_id.len() >= REMEMBERED {
                return None;
            }
            self.by_id.insert(id.into(), Fact::new(id));
        }
        self.by_id.get_mut(id)
    }

    /// A container of which the path of its cgroup has all that is to be known.
    fn told_by_path(&mut self, id: &str, runtime: &str) {
        let Some(fact) = self.meet(id).filter(|fact| !fact.is_listed) else { return };
        fact.container = Arc::new(Container {
            id: id.to_owned(),
            name: Some(id.to_owned()),
            runtime: Some(Runtime { name: runtime.to_owned() }),
            ..Container::default()
        });
        fact.names = vec![id.to_owned()];
        fact.is_listed = true;
        self.version += 1;
    }

    /// Makes the table of marks that of the containers that are remembered.
    fn mark(&mut self) {
        let marks = self.by_id.iter().filter_map(|(id, fact)| {
            let mark = fact.mark.clone()?;
            Some((mark.clone(), (Arc::clone(id), mark)))
        });
        self.marked = marks.collect();
    }

    fn learn(&mut self, listed: &Listed) {
        let container = listed.to_container();
        let Some(fact) = self.meet(&listed.id) else { return };
        if fact.is_listed && *fact.container == container && fact.names == listed.names {
            return;
        }
        fact.container = Arc::new(container);
        fact.names.clone_from(&listed.names);
        fact.mark = Some(listed.mark());
        fact.is_listed = true;
        self.version += 1;
    }

    fn of_cgroup(&self, cgroup: u64) -> Option<Arc<Container>> {
        let seen = self.by_cgroup.get(&cgroup)?;
        self.by_id.get(&seen.container).map(|fact| Arc::clone(&fact.container))
    }

    /// Containers that have a cgroup.
    fn live(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_cgroup.values().filter(|seen| seen.gone.is_none()).map(|seen| &seen.container)
    }

    fn forget(&mut self, now: Instant) {
        let is_kept = |gone: Option<Instant>| gone.is_none_or(|gone| now.duration_since(gone) < KEPT);
        self.by_id.retain(|_, fact| is_kept(fact.gone));
        self.by_cgroup.retain(|_, seen| is_kept(seen.gone));
    }
}

#[cfg(test)]
#[path = "containers_tests.rs"]
mod tests;
