//! Who uses which hooked object: the processes that map it, and the root file systems that have it. An object
//! that nobody uses any more is released after a while.
//!
//! Pure: times are passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::plan::ObjectId;
use crate::rootfs::{ForeignFile, MountView};

/// How long an object stays hooked after its last user has gone. Otherwise a container that is started again
/// and again would be attached to, and detached from, each time.
const DETACH_AFTER: Duration = Duration::from_secs(10);

/// The most objects that stay hooked while no process maps them, unless the caller sets another limit.
const MAX_UNMAPPED: usize = 256;

/// How long an object stays hooked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retention {
    /// While a process maps it.
    WhileMapped,
    /// While a process in scope has the root file system in which it was found, too: its next program may map
    /// it, and be so short that attaching would come too late.
    WithRoot,
}

/// The hooked objects with their users.
#[derive(Debug)]
pub(super) struct ObjectRefs {
    objects: BTreeMap<ObjectId, RefCounted>,
    last: u32,
    /// By process: what its program may map later. It counts as mapped.
    expected: BTreeMap<u32, BTreeSet<ObjectId>>,
    /// The root file system of each process in scope that was inspected.
    roots: BTreeMap<u32, MountView>,
    /// The processes that have each of them.
    residents: BTreeMap<MountView, BTreeSet<u32>>,
    /// Counts the uses of objects, for their order.
    uses: u64,
    max_unmapped: usize,
}

impl Default for ObjectRefs {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            last: 0,
            expected: BTreeMap::new(),
            roots: BTreeMap::new(),
            residents: BTreeMap::new(),
            uses: 0,
            max_unmapped: MAX_UNMAPPED,
        }
    }
}

#[derive(Debug)]
struct RefCounted {
    processes: BTreeSet<u32>,
    /// The root file systems in which it was found, as long as processes in scope have them.
    roots: BTreeSet<MountView>,
    retention: Retention,
    /// When it was last used, as counted by [`ObjectRefs::uses`].
    used: u64,
    /// Since when it has no user.
    idle: Option<Instant>,
    /// The ids of its hooks.
    sites: Range<u32>,
    /// Kept open so that its inode number is not reused for another file.
    file: Arc<ForeignFile>,
}

impl RefCounted {
    fn update_idle(&mut self, now: Instant) {
        let is_used = !self.processes.is_empty() || !self.roots.is_empty();
        self.idle = if is_used { None } else { self.idle.or(Some(now)) };
    }
}

impl ObjectRefs {
    /// An id for an object, which has never been used before.
    pub(super) fn next_id(&mut self) -> ObjectId {
        self.last += 1;
        ObjectId(self.last)
    }

    /// Adds an object. It has no users yet.
    pub(super) fn add(
        &mut self,
        id: ObjectId,
        (file, sites): (Arc<ForeignFile>, Range<u32>),
        retention: Retention,
    ) {
        self.uses += 1;
        let (processes, roots, used) = (BTreeSet::new(), BTreeSet::new(), self.uses);
        self.objects.insert(id, RefCounted { processes, roots, retention, used, idle: None, sites, file });
    }

    pub(super) fn pids_of(&self, id: ObjectId) -> Vec<u32> {
        self.objects.get(&id).map(|object| object.processes.iter().copied().collect()).unwrap_or_default()
    }

    /// One process of each root file system in which an object was found.
    pub(super) fn available_to(&self, id: ObjectId) -> Vec<u32> {
        let roots = self.objects.get(&id).into_iter().flat_map(|object| &object.roots);
        let mut pids: Vec<u32> = roots.filter_map(|root| self.residents_of(*root).next()).collect();
        pids.sort_unstable();
        pids
    }

    /// The path of an object's file.
    pub(super) fn path_of(&self, id: ObjectId) -> Option<String> {
        self.objects.get(&id).map(|object| object.file.name().to_string_lossy().into_owned())
    }

    /// Whether a process maps any object.
    pub(super) fn is_user(&self, pid: u32) -> bool {
        self.objects.values().any(|object| object.processes.contains(&pid))
    }

    /// Records the root file system of a process in scope. Returns whether no other process has it.
    pub(super) fn resides(&mut self, pid: u32, root: MountView, now: Instant) -> bool {
        if self.roots.get(&pid) == Some(&root) {
            return false;
        }
        self.leave_root(pid, now);
        self.roots.insert(pid, root);
        let residents = self.residents.entry(root).or_default();
        residents.insert(pid);
        residents.len() == 1
    }

    /// The root file system of a process, if it was recorded.
    pub(super) fn root_of(&self, pid: u32) -> Option<MountView> {
        self.roots.get(&pid).copied()
    }

    /// The processes in scope that have a root file system.
    pub(super) fn residents_of(&self, root: MountView) -> impl Iterator<Item = u32> {
        self.residents.get(&root).into_iter().flatten().copied()
    }

    /// The root file systems of the processes in scope.
    pub(super) fn roots(&self) -> impl Iterator<Item = MountView> {
        self.residents.keys().copied()
    }

    /// Records that a process maps these objects, besides others.
    pub(super) fn maps(&mut self, pid: u32, ids: &[ObjectId]) {
        let root = self.root_of(pid);
        for id in ids {
            self.uses += 1;
            if let Some(object) = self.objects.get_mut(id) {
                object.processes.insert(pid);
                object.roots.extend(root.filter(|_| object.retention == Retention::WithRoot));
                object.used = self.uses;
                object.idle = None;
            }
        }
    }

    /// Records that a root file system has these objects, which its processes may map later.
    pub(super) fn found_in(&mut self, root: MountView, ids: &[ObjectId], now: Instant) {
        let is_in_scope = self.residents.contains_key(&root);
        for id in ids {
            if let Some(object) = self.objects.get_mut(id) {
                object
                    .roots
                    .extend(Some(root).filter(|_| is_in_scope && object.retention == Retention::WithRoot));
                object.update_idle(now);
            }
        }
    }

    /// Records that a process executes a program that maps these objects, or may map them.
    pub(super) fn expect(&mut self, pid: u32, ids: &[ObjectId]) {
        self.expected.insert(pid, ids.iter().copied().collect());
        self.maps(pid, ids);
    }

    /// Records that a process has exited.
    pub(super) fn ended(&mut self, pid: u32, now: Instant) {
        self.expected.remove(&pid);
        self.set_mapped(pid, &BTreeSet::new(), now);
        self.leave_root(pid, now);
    }

    fn leave_root(&mut self, pid: u32, now: Instant) {
        let Some(root) = self.roots.remove(&pid) else { return };
        let Some(residents) = self.residents.get_mut(&root) else { return };
        residents.remove(&pid);
        if !residents.is_empty() {
            return;
        }
        self.residents.remove(&root);
        for object in self.objects.values_mut() {
            if object.roots.remove(&root) {
                object.update_idle(now);
            }
        }
    }

    /// Records that a process maps no objects but these.
    pub(super) fn set_mapped(&mut self, pid: u32, ids: &BTreeSet<ObjectId>, now: Instant) {
        let expected = self.expected.get(&pid);
        let is_used =
            |id: &ObjectId| ids.contains(id) || expected.is_some_and(|expected| expected.contains(id));
        for (id, object) in &mut self.objects {
            if !is_used(id) && object.processes.remove(&pid) {
                object.update_idle(now);
            }
        }
    }

    /// The processes that map any object, or whose root file system is recorded.
    pub(super) fn processes(&self) -> BTreeSet<u32> {
        let mapping = self.objects.values().flat_map(|object| object.processes.iter().copied());
        mapping.chain(self.roots.keys().copied()).collect()
    }

    /// When the next object can be released.
    pub(super) fn due(&self) -> Option<Instant> {
        self.objects.values().filter_map(|object| object.idle).min().map(|idle| idle + DETACH_AFTER)
    }

    /// Removes and returns the objects that nobody has used for a while, with the ids of their hooks.
    pub(super) fn take_unused(&mut self, now: Instant) -> Vec<(ObjectId, Range<u32>)> {
        let is_over =
            |object: &RefCounted| object.idle.is_some_and(|idle| now.duration_since(idle) >= DETACH_AFTER);
        self.objects
            .extract_if(.., |_, object| is_over(object))
            .map(|(id, object)| (id, object.sites))
            .collect()
    }

    /// Sets the most objects that stay hooked while no process maps them.
    pub(super) fn limit_unmapped(&mut self, most: usize) {
        self.max_unmapped = most;
    }

    /// Whether an object that no process maps can be added without removing another one.
    pub(super) fn has_room(&self) -> bool {
        let unmapped = self.objects.values().filter(|object| object.processes.is_empty());
        unmapped.count() < self.max_unmapped
    }

    /// Removes and returns the objects that are too many: those that no process maps, the least recently used
    /// ones first.
    pub(super) fn take_excess(&mut self) -> Vec<(ObjectId, Range<u32>)> {
        let unmapped = self.objects.iter().filter(|(_, object)| object.processes.is_empty());
        let mut unmapped: Vec<(u64, ObjectId)> = unmapped.map(|(id, object)| (object.used, *id)).collect();
        let excess = unmapped.len().saturating_sub(self.max_unmapped);
        unmapped.sort_unstable();
        let removed = unmapped.into_iter().take(excess);
        removed.filter_map(|(_, id)| Some((id, self.objects.remove(&id)?.sites))).collect()
    }

    /// Removes an object to which no probe could be attached.
    pub(super) fn remove(&mut self, id: ObjectId) {
        self.objects.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::rootfs;

    fn file() -> Arc<ForeignFile> {
        let own = std::process::id();
        let mappings = rootfs::executable_mappings(own).unwrap();
        Arc::new(rootfs::inspect(own, mappings.first().unwrap(), &rootfs::Mounts::default()).unwrap().0)
    }

    impl ObjectRefs {
        fn added(&mut self, sites: Range<u32>, retention: Retention) -> ObjectId {
            let id = self.next_id();
            self.add(id, (file(), sites), retention);
            id
        }

        fn mapped_by(&mut self, pid: u32, sites: Range<u32>) -> ObjectId {
            let id = self.added(sites, Retention::WithRoot);
            self.maps(pid, &[id]);
            id
        }
    }

    #[test]
    fn an_object_is_released_some_time_after_its_last_process() {
        let mut users = ObjectRefs::default();
        let start = Instant::now();
        let object = users.mapped_by(10, 0..3);
        users.maps(11, &[object]);
        assert_eq!(users.pids_of(object), [10, 11]);
        users.set_mapped(10, &BTreeSet::new(), start);
        assert_eq!((users.due(), users.processes()), (None, BTreeSet::from([11])));
        users.set_mapped(11, &BTreeSet::from([object]), start);
        assert_eq!(users.due(), None, "it still maps the object");
        users.set_mapped(11, &BTreeSet::new(), start);
        assert_eq!(users.due(), Some(start + DETACH_AFTER));
        assert_eq!(users.take_unused(start + DETACH_AFTER / 2), []);
        users.maps(12, &[object]);
        assert_eq!(users.take_unused(start + DETACH_AFTER * 2), [], "somebody else came in time");
        users.set_mapped(12, &BTreeSet::new(), start);
        assert_eq!(users.take_unused(start + DETACH_AFTER), [(object, 0..3)]);
        assert_eq!(users.processes(), BTreeSet::new());
    }

    #[test]
    fn an_object_stays_while_a_process_has_its_root() {
        let mut users = ObjectRefs::default();
        let start = Instant::now();
        let (web, other) = (MountView::fixture(1), MountView::fixture(2));
        assert!(users.resides(1, web, start), "it is the first");
        assert!(!users.resides(2, web, start) && !users.resides(1, web, start));
        let mapped = users.mapped_by(2, 0..1);
        let found = users.added(1..2, Retention::WithRoot);
        users.found_in(web, &[found], start);
        users.ended(2, start);
        assert_eq!((users.due(), users.pids_of(mapped)), (None, Vec::new()), "an idle process has the root");
        assert_eq!(users.available_to(found), [1]);
        // That process changes its root.
        assert!(users.resides(1, other, start));
        assert_eq!(users.due(), Some(start + DETACH_AFTER));
        assert_eq!(users.take_unused(start + DETACH_AFTER).len(), 2);
        assert_eq!((users.processes(), users.roots().collect()), (BTreeSet::from([1]), vec![other]));
        let gone = users.added(2..3, Retention::WithRoot);
        users.found_in(web, &[gone], start);
        assert_eq!(users.due(), Some(start + DETACH_AFTER), "nobody has that root any more");
    }

    #[test]
    fn what_may_not_be_kept_goes_with_its_last_process() {
        let mut users = ObjectRefs::default();
        let start = Instant::now();
        users.resides(1, MountView::fixture(1), start);
        let object = users.added(0..1, Retention::WhileMapped);
        users.maps(1, &[object]);
        users.set_mapped(1, &BTreeSet::new(), start);
        assert_eq!(users.due(), Some(start + DETACH_AFTER));
    }

    #[test]
    fn of_too_many_unmapped_objects_the_least_recently_used_go() {
        let mut users = ObjectRefs::default();
        let start = Instant::now();
        let (root, file) = (MountView::fixture(1), file());
        users.resides(1, root, start);
        let add = |users: &mut ObjectRefs| {
            let id = users.next_id();
            users.add(id, (Arc::clone(&file), 0..1), Retention::WithRoot);
            users.found_in(root, &[id], start);
            id
        };
        users.limit_unmapped(5);
        let ids: Vec<ObjectId> = (0..8).map(|_| add(&mut users)).collect();
        assert!(!users.has_room());
        let [first, second, third, fourth, ..] = ids[..] else { panic!("{ids:?}") };
        // One is mapped, and another one was.
        users.maps(2, &[first, third]);
        users.set_mapped(2, &BTreeSet::from([first]), start);
        let removed: Vec<ObjectId> = users.take_excess().into_iter().map(|(id, _)| id).collect();
        assert_eq!(removed, [second, fourth]);
        assert_eq!(users.take_excess(), []);
    }

    #[test]
    fn what_a_program_may_map_is_kept_until_its_process_has_ended() {
        let mut users = ObjectRefs::default();
        let start = Instant::now();
        let (first, second) = (users.mapped_by(10, 0..1), users.mapped_by(10, 1..2));
        users.expect(10, &[first, second]);
        users.set_mapped(10, &BTreeSet::from([first]), start);
        assert_eq!((users.pids_of(second), users.due()), (vec![10], None));
        // Its next program does not use the second.
        users.expect(10, &[first]);
        users.set_mapped(10, &BTreeSet::new(), start);
        assert_eq!((users.pids_of(first), users.pids_of(second)), (vec![10], Vec::new()));
        users.ended(10, start);
        assert_eq!(users.take_unused(start + DETACH_AFTER).len(), 2);
    }

    #[test]
    fn ids_are_not_used_twice() {
        let mut users = ObjectRefs::default();
        let first = users.mapped_by(1, 0..1);
        users.remove(first);
        assert_ne!(users.mapped_by(1, 1..2), first);
    }
}
