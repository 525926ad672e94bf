//! Which processes map which hooked object. An object that no process maps any more is released after a
//! while.
//!
//! Pure: times are passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::plan::ObjectId;
use crate::rootfs::ForeignFile;

/// How long an object stays hooked after its last process has exited. Otherwise a program that is started
/// again and again would be attached to, and detached from, each time.
const DETACH_AFTER: Duration = Duration::from_secs(10);

/// The hooked objects, with the processes that map them.
#[derive(Debug, Default)]
pub(super) struct ObjectRefs {
    objects: BTreeMap<ObjectId, RefCounted>,
    last: u32,
    /// By process: what its program may map later. It counts as mapped.
    expected: BTreeMap<u32, BTreeSet<ObjectId>>,
}

#[derive(Debug)]
struct RefCounted {
    processes: BTreeSet<u32>,
    /// Since when no process maps it.
    idle: Option<Instant>,
    /// The ids of its hooks.
    sites: Range<u32>,
    /// Kept open so that its inode number is not reused for another file.
    file: Arc<ForeignFile>,
}

impl ObjectRefs {
    /// Adds an object that a process maps. Its id has never been used before.
    pub(super) fn add(&mut self, file: Arc<ForeignFile>, sites: Range<u32>, pid: u32) -> ObjectId {
        self.last += 1;
        let id = ObjectId(self.last);
        let object = RefCounted { processes: BTreeSet::from([pid]), idle: None, sites, file };
        self.objects.insert(id, object);
        id
    }

    pub(super) fn pids_of(&self, id: ObjectId) -> Vec<u32> {
        self.objects.get(&id).map(|object| object.processes.iter().copied().collect()).unwrap_or_default()
    }

    /// The path of an object's file.
    pub(super) fn path_of(&self, id: ObjectId) -> Option<String> {
        self.objects.get(&id).map(|object| object.file.name().to_string_lossy().into_owned())
    }

    /// Whether a process maps any object.
    pub(super) fn is_user(&self, pid: u32) -> bool {
        self.objects.values().any(|object| object.processes.contains(&pid))
    }

    /// Records that a process maps these objects, besides others.
    pub(super) fn maps(&mut self, pid: u32, ids: &[ObjectId]) {
        for id in ids {
            if let Some(object) = self.objects.get_mut(id) {
                object.processes.insert(pid);
                object.idle = None;
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
    }

    /// Records that a process maps no objects but these.
    pub(super) fn set_mapped(&mut self, pid: u32, ids: &BTreeSet<ObjectId>, now: Instant) {
        let expected = self.expected.get(&pid);
        let is_used =
            |id: &ObjectId| ids.contains(id) || expected.is_some_and(|expected| expected.contains(id));
        for (id, object) in &mut self.objects {
            if !is_used(id) && object.processes.remove(&pid) && object.processes.is_empty() {
                object.idle = Some(now);
            }
        }
    }

    /// The processes that map any object.
    pub(super) fn processes(&self) -> BTreeSet<u32> {
        self.objects.values().flat_map(|object| object.processes.iter().copied()).collect()
    }

    /// When the next object can be released.
    pub(super) fn due(&self) -> Option<Instant> {
        self.objects.values().filter_map(|object| object.idle).min().map(|idle| idle + DETACH_AFTER)
    }

    /// Removes and returns the objects that no process has mapped for a while, with the ids of their hooks.
    pub(super) fn take_unused(&mut self, now: Instant) -> Vec<(ObjectId, Range<u32>)> {
        let is_over =
            |object: &RefCounted| object.idle.is_some_and(|idle| now.duration_since(idle) >= DETACH_AFTER);
        self.objects
            .extract_if(.., |_, object| is_over(object))
            .map(|(id, object)| (id, object.sites))
            .collect()
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

    #[test]
    fn an_object_is_released_some_time_after_its_last_process() {
        let mut users = ObjectRefs::default();
        let start = Instant::now();
        let object = users.add(file(), 0..3, 10);
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
    fn what_a_program_may_map_is_kept_until_its_process_has_ended() {
        let mut users = ObjectRefs::default();
        let start = Instant::now();
        let (first, second) = (users.add(file(), 0..1, 10), users.add(file(), 1..2, 10));
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
        let first = users.add(file(), 0..1, 1);
        users.remove(first);
        assert_ne!(users.add(file(), 1..2, 1), first);
    }
}
