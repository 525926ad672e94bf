//! Process → Object → Hook: looks into every file that the target maps executable, once per real inode.
//!
//! Owns what is known of files, and which processes map what is hooked. Reads only. What was looked at and
//! not hooked is kept with its reason: it is the answer to "why is nothing there?".

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::mem;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::Library;
use crate::patience;
use crate::plan::{ObjectHooks, ObjectId, Plan, Skipped};
use crate::probe::{Found, Probe};
use crate::rootfs::{Device, ForeignFile, Mapping, RealInode};
use crate::target::Target;

mod look;
mod reasons;
mod users;
mod versions;

use look::{Looked, Unopened};
pub use reasons::{Detail, reasons};
use users::Users;
use versions::Unversioned;
pub use versions::Versioned;

/// How long what a mapping shows is taken for the file that was behind it last time. Longer, and a mount that
/// has got the device number of one that has gone could be taken for it.
const SHOWN: Duration = Duration::from_secs(5);

/// How long numbers of hooks are not used again: links are removed, and records read, some time after.
const REST: Duration = Duration::from_mins(10);

/// Files that are remembered. Who may map files could otherwise fill memory.
const REMEMBERED: usize = 1 << 16;

/// Looks into processes, and remembers: no real file is parsed twice.
pub struct Discovery {
    probe: Probe,
    /// Files without interest, by what their mappings show; a file may be shown in several ways. While a plan
    /// is made, all files: it is of one moment.
    shown: HashMap<(Device, u64, PathBuf), (Instant, Seen)>,
    /// By the real file.
    files: HashMap<RealInode, Seen>,
    users: Users,
    /// Numbers of hooks: those that are free again and since when, and the first that was never used.
    free: VecDeque<(Instant, Range<u32>)>,
    next: u32,
    objects: Vec<ObjectHooks>,
    skipped: Vec<Skipped>,
    foreign: Vec<Skipped>,
    excess: Option<String>,
    /// Devices that did not answer once: waiting for each of their files could take for ever.
    silent: HashSet<Device>,
    /// Versions, by the real file of the libcrypto and when it was changed last.
    libcrypto: HashMap<(RealInode, (i64, u32)), Option<String>>,
    /// Libraries whose version stands in a file that the process has not mapped yet.
    unversioned: Vec<Unversioned>,
}

/// What a file turned out to be.
#[derive(Clone, Debug)]
enum Seen {
    /// Hooked; also the file that it was copied up from.
    Hooked(Vec<ObjectId>),
    /// Nothing that is watched is in it, or it is no ELF file at all, when the file was changed last (seconds, nanoseconds).
    Foreign((i64, u32)),
    /// Perhaps something that is watched, but it cannot be used.
    Broken(String, (i64, u32)),
}

impl Discovery {
    /// Knows nothing yet.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            shown: HashMap::new(),
            files: HashMap::new(),
            users: Users::default(),
            free: VecDeque::new(),
            next: 0,
            objects: Vec::new(),
            skipped: Vec::new(),
            foreign: Vec::new(),
            excess: None,
            silent: HashSet::new(),
            libcrypto: HashMap::new(),
            unversioned: Vec::new(),
        }
    }

    /// The plan for a target.
    pub async fn plan(&mut self, target: &Target) -> Plan {
        for process in &target.processes {
            self.look(process.pid, Keep::Everything).await;
        }
        self.shown.retain(|_, (_, seen)| matches!(seen, Seen::Foreign(_)));
        for object in &mut self.objects {
            object.pids = self.users.of(object.id);
        }
        Plan {
            scope: target.scope.clone(),
            objects: mem::take(&mut self.objects),
            skipped: mem::take(&mut self.skipped),
            foreign: mem::take(&mut self.foreign),
            excess: self.excess.take(),
        }
    }

    /// Looks at everything that a process maps now: it has come into scope, or executes another program.
    /// Returns the objects that are to be attached to.
    pub async fn process(&mut self, pid: u32) -> Vec<ObjectHooks> {
        self.look(pid, Keep::Foreign).await;
        self.found()
    }

    /// Looks at one file that a process has mapped. Returns the objects that are to be attached to.
    pub async fn mapped(&mut self, pid: u32, mapping: &Mapping) -> Vec<ObjectHooks> {
        if !self.probe.looks_into_files() {
            return Vec::new();
        }
        // By itself first: what the process maps beside it matters only to a TLS library.
        match self.mapping(pid, mapping, None, Keep::Foreign).await {
            Seen::Hooked(ids) => self.users.maps(pid, &ids),
            Seen::Foreign(_) => {}
            // The range may be another one by now.
            Seen::Broken(..) => self.look(pid, Keep::Foreign).await,
        }
        self.found()
    }

    /// A process has ended.
    pub fn ended(&mut self, pid: u32) {
        self.unversioned.retain(|waiting| waiting.pid != pid);
        self.users.maps_only(pid, &BTreeSet::new(), Instant::now());
    }

    /// What a process told of its end may have been lost: forgets those that are not alive.
    pub fn forget_dead(&mut self, is_alive: impl Fn(u32) -> bool) {
        for pid in self.users.processes() {
            if !is_alive(pid) {
                self.ended(pid);
            }
        }
    }

    /// An object could not be attached to: it is tried again when a process that maps it changes.
    pub fn failed(&mut self, id: ObjectId) {
        self.unversioned.retain(|waiting| waiting.object != id);
        self.users.remove(id);
        self.files.retain(|_, seen| !matches!(seen, Seen::Hooked(ids) if ids.contains(&id)));
    }

    /// When [`Discovery::let_go`] will have something to tell.
    pub fn due(&self) -> Option<Instant> {
        self.users.due()
    }

    /// The objects that nobody maps any more: they are to be detached from. The numbers of their hooks are
    /// used again, so nothing that was seen before may come after.
    pub fn let_go(&mut self) -> Vec<ObjectId> {
        let (ids, sites): (Vec<_>, Vec<_>) = self.users.let_go(Instant::now()).into_iter().unzip();
        self.free.extend(sites.into_iter().map(|sites| (Instant::now(), sites)));
        self.unversioned.retain(|waiting| !ids.contains(&waiting.object));
        self.files
            .retain(|_, seen| !matches!(seen, Seen::Hooked(of) if of.iter().any(|id| ids.contains(id))));
        ids
    }

    fn found(&mut self) -> Vec<ObjectHooks> {
        self.skipped.clear();
        self.foreign.clear();
        mem::take(&mut self.objects)
    }

    async fn look(&mut self, pid: u32, keep: Keep) {
        if !self.probe.looks_into_files() {
            return;
        }
        let mappings = match look::mappings(pid).await {
            Ok(mappings) => mappings,
            Err(why) => return self.skip(pid, "its mappings", why),
        };
        let mut foreign = 0;
        let mut maps = BTreeSet::new();
        for mapping in &mappings {
            match self.mapping(pid, mapping, Some(&mappings), keep).await {
                Seen::Hooked(ids) => maps.extend(ids),
                Seen::Foreign(_) => foreign += 1,
                Seen::Broken(why, _) => self.skip(pid, &mapping.path.to_string_lossy(), why),
            }
        }
        self.users.maps(pid, &maps.iter().copied().collect::<Vec<_>>());
        self.users.maps_only(pid, &maps, Instant::now());
        if maps.is_empty() {
            let files = if foreign == 1 { "file" } else { "files" };
            let what = format!("{foreign} mapped {files}");
            self.skip(pid, &what, self.probe.nothing_found().to_owned());
        }
    }

    /// `all` is what the process maps, if it is known already.
    async fn mapping(&mut self, pid: u32, mapping: &Mapping, all: Option<&[Mapping]>, keep: Keep) -> Seen {
        let shown = (mapping.device, mapping.inode, mapping.path.clone());
        let now = Instant::now();
        if let Some((at, seen)) = self.shown.get(&shown)
            && (keep == Keep::Everything || now.duration_since(*at) < SHOWN)
        {
            return seen.clone();
        }
        if self.silent.contains(&mapping.device) {
            return Seen::Broken(patience::no_answer(), (0, 0));
        }
        let seen = match look::open(pid, mapping).await {
            Ok(opened) => self.file(pid, opened, all).await,
            // Not remembered: the process may have ended in between, and others may map the file.
            Err(Unopened::Failed(why)) => return Seen::Broken(why, (0, 0)),
            Err(Unopened::Silent) => {
                self.silent.insert(mapping.device);
                return Seen::Broken(patience::no_answer(), (0, 0));
            }
        };
        // A hooked file that is copied up looks the same from outside, and is another one.
        if keep == Keep::Everything || matches!(seen, Seen::Foreign(_)) {
            make_room(&mut self.shown);
            self.shown.insert(shown, (now, seen.clone()));
        }
        seen
    }

    async fn file(
        &mut self,
        pid: u32,
        (file, inode): (ForeignFile, RealInode),
        all: Option<&[Mapping]>,
    ) -> Seen {
        let changed = file.changed();
        match self.files.get(&inode) {
            Some(seen @ Seen::Hooked(_)) => return seen.clone(),
            // Without the stamp, a new file that has got the number of one that has gone would be taken for it.
            Some(seen @ (Seen::Foreign(then) | Seen::Broken(_, then))) if *then == changed => {
                return seen.clone();
            }
            _ => {}
        }
        let file = Arc::new(file);
        let mut seen = self.look_into(pid, Arc::clone(&file), all).await;
        // Both are needed: who mapped the file before it was copied up goes on executing the original.
        if let Seen::Hooked(ids) = &mut seen
            && let Some((original, of)) = look::before_copy_up(pid, file).await
        {
            let known = self.files.get(&of).cloned();
            let original = match known {
                Some(Seen::Hooked(original)) => original,
                _ => match self.look_into(pid, Arc::new(original), all).await {
                    Seen::Hooked(original) => original,
                    Seen::Foreign(_) | Seen::Broken(..) => Vec::new(),
                },
            };
            if !original.is_empty() {
                self.files.insert(of, Seen::Hooked(original.clone()));
            }
            ids.extend(original);
        }
        make_room_in_files(&mut self.files);
        self.files.insert(inode, seen.clone());
        seen
    }

    async fn look_into(&mut self, pid: u32, file: Arc<ForeignFile>, all: Option<&[Mapping]>) -> Seen {
        let changed = file.changed();
        match look::look_into(Arc::clone(&file), &self.probe).await {
            Looked::Watched(found) => self.hook(pid, file, *found, all).await,
            Looked::Foreign(why) => {
                let what = file_name(&file);
                self.foreign.push(Skipped { pid: Some(pid), what, why });
                Seen::Foreign(changed)
            }
            Looked::Broken(why) => Seen::Broken(why, changed),
        }
    }

    async fn hook(
        &mut self,
        pid: u32,
        file: Arc<ForeignFile>,
        found: Found,
        all: Option<&[Mapping]>,
    ) -> Seen {
        let Found { library: facts, hooks, skipped, excess } = found;
        self.excess = self.excess.take().or(excess);
        let path = file_name(&file);
        for why in skipped {
            self.skip(pid, &path, why);
        }
        if hooks.is_empty() {
            return Seen::Broken(self.probe.nothing_usable().to_owned(), file.changed());
        }
        let version = match (facts.version, &facts.version_in, all) {
            (None, Some(libcrypto), Some(all)) => self.version_of(libcrypto, pid, all).await,
            (version, _, _) => version,
        };
        let name = facts.name.unwrap_or_else(|| {
            file.name().file_name().map_or_else(|| path.clone(), |name| name.to_string_lossy().into_owned())
        });
        let library = Library { name, path, implementation: facts.implementation, version };
        let sites = self.number(u32::try_from(hooks.len()).unwrap_or(u32::MAX));
        let library = Arc::new(library);
        let id = self.users.add(Arc::clone(&file), sites.clone(), pid);
        if let (None, Some(version_in)) = (&library.version, facts.version_in) {
            let (library, sites) = (Arc::clone(&library), sites.clone());
            self.unversioned.push(Unversioned { pid, object: id, version_in, library, sites });
        }
        self.objects.push(ObjectHooks { id, library, file, pids: vec![pid], sites, hooks });
        Seen::Hooked(vec![id])
    }

    /// Numbers for so many hooks.
    fn number(&mut self, count: u32) -> Range<u32> {
        let can_be =
            |(since, free): &(Instant, Range<u32>)| since.elapsed() >= REST && free.len() == count as usize;
        if let Some((_, free)) = self.free.iter().position(can_be).and_then(|index| self.free.remove(index)) {
            return free;
        }
        let first = self.next;
        self.next = first.saturating_add(count);
        first..self.next
    }

    fn skip(&mut self, pid: u32, what: &str, why: String) {
        self.skipped.push(Skipped { pid: Some(pid), what: what.to_owned(), why });
    }
}

/// What is remembered by what mappings show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    /// All, until the plan is made.
    Everything,
    /// Files without interest.
    Foreign,
}

fn make_room<K, V>(map: &mut HashMap<K, V>) {
    if map.len() >= REMEMBERED {
        map.clear();
    }
}

/// What is hooked is never forgotten: it would be attached to twice.
fn make_room_in_files(files: &mut HashMap<RealInode, Seen>) {
    if files.len() >= REMEMBERED {
        files.retain(|_, seen| matches!(seen, Seen::Hooked(_)));
    }
}

fn file_name(file: &ForeignFile) -> String {
    file.name().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::rootfs;

    #[test]
    fn a_file_that_cannot_be_opened_in_one_process_is_opened_in_the_next() {
        let own = std::process::id();
        let mappings = rootfs::executable_mappings(own).unwrap();
        let first = mappings.first().unwrap();
        let mut discovery = Discovery::new(Probe::Ssl);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let gone = discovery.mapping(u32::MAX, first, Some(&mappings), Keep::Everything).await;
            assert!(matches!(gone, Seen::Broken(..)), "{gone:?}");
            let there = discovery.mapping(own, first, Some(&mappings), Keep::Everything).await;
            assert!(!matches!(there, Seen::Broken(..)), "{there:?}");
        });
    }

    #[test]
    fn numbers_of_hooks_are_used_again() {
        let mut discovery = Discovery::new(Probe::Ssl);
        let (first, second) = (discovery.number(3), discovery.number(2));
        assert_eq!((first.clone(), second), (0..3, 3..5));
        discovery.free.push_back((Instant::now(), first.clone()));
        assert_eq!(discovery.number(3), 5..8, "its links may still be there");
        discovery.free.clear();
        discovery.free.push_back((Instant::now().checked_sub(REST).unwrap(), first));
        assert_eq!(discovery.number(2), 8..10, "of another length");
        assert_eq!(discovery.number(3), 0..3);
    }
}
