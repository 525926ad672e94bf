//! Which container a process belongs to, for processes known at the start and for those that come later.
//!
//! Owns the facts about containers for the length of a run, also of those that have ended: their events
//! may still be on the way.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::{Container, Executable, Origin, Process, Runtime};
use crate::target::RuntimeSocket;
use crate::target::cgroup::{Hierarchy, Membership};
use crate::target::proc::{Entry, Proc};
use crate::target::runtime::{self, Listing};

/// Containers and cgroups that are remembered. Who may make cgroups could otherwise fill memory.
const REMEMBERED: usize = 1 << 16;

/// Containers by id, and by the cgroups in which their processes were seen.
#[derive(Clone, Debug, Default)]
pub struct Containers {
    by_id: HashMap<Arc<str>, Arc<Container>>,
    by_cgroup: HashMap<u64, Arc<Container>>,
    hierarchy: Option<Hierarchy>,
    proc: Proc,
    sockets: Vec<RuntimeSocket>,
}

impl Containers {
    pub(super) fn new(proc: Proc, hierarchy: Option<Hierarchy>, listing: &Listing) -> Self {
        let mut new = Self { hierarchy, proc, ..Self::default() };
        new.learn(listing);
        new
    }

    /// Asks the runtimes again, for the names of containers that have come since.
    pub async fn refresh(&mut self) {
        match runtime::list(&self.sockets).await {
            Ok(listing) => self.learn(&listing),
            // It answered when the trace began: what it told stays.
            Err(error) => tracing::debug!("{error}"),
        }
    }

    /// Where [`Self::refresh`] asks instead of at the places that are known.
    pub(super) fn ask_at(&mut self, sockets: &[RuntimeSocket]) {
        self.sockets = sockets.to_vec();
    }

    /// Whether a container was met of which no runtime has told a name: [`Self::refresh`] may help.
    pub fn has_unnamed(&self) -> bool {
        self.by_id.values().any(|container| container.name.is_none())
    }

    fn learn(&mut self, listing: &Listing) {
        for listed in &listing.containers {
            let known = self.by_id.get(listed.id.as_str());
            let container = listed.to_container();
            if known.is_some_and(|known| **known == container) {
                continue;
            }
            let container = Arc::new(container);
            self.by_id.insert(listed.id.as_str().into(), Arc::clone(&container));
            for other in self.by_cgroup.values_mut().filter(|other| other.id == container.id) {
                *other = Arc::clone(&container);
            }
        }
    }

    /// The container with this id; without a runtime's help nothing but its id is known.
    pub fn get(&mut self, id: &str) -> Arc<Container> {
        if let Some(known) = self.by_id.get(id) {
            return Arc::clone(known);
        }
        let container = Arc::new(Container { id: id.to_owned(), ..Container::default() });
        if self.by_id.len() < REMEMBERED {
            self.by_id.insert(id.into(), Arc::clone(&container));
        }
        container
    }

    fn told_by_path(&mut self, id: &str, runtime: &str) -> Arc<Container> {
        let known = self.get(id);
        if known.name.is_some() {
            return known;
        }
        let runtime = Some(Runtime { name: runtime.to_owned() });
        let container = Arc::new(Container {
            id: id.to_owned(),
            name: Some(id.to_owned()),
            runtime,
            ..Container::default()
        });
        self.by_id.insert(id.into(), Arc::clone(&container));
        container
    }

    /// The container of a process in these cgroups. Remembers the v2 cgroup, for events that arrive when the
    /// process has gone.
    pub(super) fn of_cgroups(&mut self, cgroups: &Membership) -> Option<Arc<Container>> {
        let container = match cgroups.runtime() {
            // The path has all that is to be known.
            Some(runtime) => self.told_by_path(cgroups.container()?, runtime),
            None => self.get(cgroups.container()?),
        };
        let path = cgroups.unified.as_deref().filter(|_| self.by_cgroup.len() < REMEMBERED);
        let hierarchy = self.hierarchy.as_ref();
        if let Some(cgroup) = path.and_then(|path| hierarchy?.cgroup(path)) {
            self.by_cgroup.insert(cgroup.id, Arc::clone(&container));
        }
        Some(container)
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
            None if cgroups == Membership::default() => self.by_cgroup.get(&cgroup).cloned(),
            None => None,
        };
        let executable = self.proc.executable(pid);
        let executable = executable.map(|path| Executable { path: path.to_string_lossy().into_owned() });
        Origin { process: Process { pid, vpid: self.proc.vpid(pid), executable }, container }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::target::proc::fixture::{Fake, Tree};
    use crate::target::runtime::Listed;

    #[test]
    fn a_late_process_gets_its_container_and_one_that_has_gone_keeps_it() {
        let id = "a".repeat(64);
        let listed = Listed {
            id: id.clone(),
            names: vec!["web".into()],
            image: Some("img".into()),
            is_running: true,
            state: "running".into(),
            runtime: "docker",
            ..Listed::default()
        };
        let listing = Listing { containers: vec![listed], ..Listing::default() };
        let tree = Tree::new();
        let cgroup = format!("/docker/{id}");
        tree.add(&Fake { pid: 30, nspid: "9", cgroup: &cgroup, ..Fake::default() });
        tree.add(&Fake { pid: 31, ..Fake::default() });
        let mut containers = Containers::new(tree.proc(), None, &listing);
        let origin = containers.origin(30, 5);
        assert_eq!((origin.process.pid, origin.process.vpid), (30, Some(9)));
        let container = origin.container.unwrap();
        assert_eq!((container.name.as_deref(), container.id.as_str()), (Some("web"), id.as_str()));
        assert_eq!(containers.origin(31, 5).container, None);
        containers.by_cgroup.insert(5, Arc::clone(&container));
        assert_eq!(containers.origin(31, 5).container, None, "it is there and in no container");
        let gone = containers.origin(99, 5);
        assert_eq!((gone.process.vpid, gone.process.executable), (None, None));
        assert!(Arc::ptr_eq(&gone.container.unwrap(), &container));
        assert!(!containers.has_unnamed());
        assert_eq!(containers.get(&"b".repeat(64)).name, None);
        assert!(containers.has_unnamed());
    }
}
