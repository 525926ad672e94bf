//! Processes that had mapped what is traced before it was attached to.
//!
//! Owns when each object was attached to, and which processes have ended lately. Pure: times are passed in,
//! in nanoseconds of `CLOCK_BOOTTIME`.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use probe_common::{Header, TaskExit};

use crate::discovery::{ObjectUse, Uninspected};
use crate::event::{Library, Missed};
use crate::plan::{ObjectHooks, ObjectId};

/// Limit of the ends of processes that are remembered. An end matters only for some milliseconds.
const ENDED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Limit of the processes whose files are remembered, so that none is reported twice.
const REPORTED: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

/// The time of an attach that did not come before the end of the trace.
const NEVER: u64 = u64::MAX;

/// What was missed since the last record about it.
#[derive(Debug)]
pub(super) struct MissedWatch {
    /// When the trace began. What was mapped before is no one's fault, and was reported as state.
    began: u64,
    objects: HashMap<ObjectId, AttachedObject>,
    /// The files by process that were reported.
    reported: LruCache<u32, BTreeSet<String>>,
    /// The records of the ends of processes.
    ended: LruCache<u32, TaskExit>,
    waiting: Vec<MappedBefore>,
}

#[derive(Debug)]
struct AttachedObject {
    library: Arc<Library>,
    at: u64,
}

/// A process had mapped a file before it was attached to.
#[derive(Debug)]
struct MappedBefore {
    pid: u32,
    library: Option<Arc<Library>>,
    since: u64,
    until: u64,
}

/// What a process has missed.
#[derive(Debug)]
pub(super) struct MissedProcess {
    pub(super) pid: u32,
    /// The kernel's record of its end, if there was one.
    pub(super) end: Option<Header>,
    /// When its file was attached to, or when it ended.
    pub(super) time: u64,
    pub(super) missed: Missed,
}

impl MissedWatch {
    /// Begins with what was attached to at the start.
    pub(super) fn new<'o>(objects: impl IntoIterator<Item = &'o ObjectHooks>, now: u64) -> Self {
        let mut missed = Self {
            began: now,
            objects: HashMap::new(),
            reported: LruCache::sparse(REPORTED),
            ended: LruCache::sparse(ENDED),
            waiting: Vec::new(),
        };
        objects.into_iter().for_each(|object| missed.attached(object, now));
        missed
    }

    /// Records that an object is attached to.
    pub(super) fn attached(&mut self, object: &ObjectHooks, at: u64) {
        let library = Arc::clone(&object.library);
        self.objects.insert(object.id, AttachedObject { library, at });
    }

    /// Records an object that was found when the trace had ended.
    pub(super) fn not_attached(&mut self, object: &ObjectHooks) {
        self.attached(object, NEVER);
    }

    /// Records that an object is not attached to any more.
    pub(super) fn detached(&mut self, object: ObjectId) {
        self.objects.remove(&object);
    }

    /// Records that a process has mapped an object.
    pub(super) fn mapped(&mut self, ObjectUse { pid, object, since }: ObjectUse) {
        let Some(AttachedObject { library, at }) = self.objects.get(&object) else { return };
        if since < self.began || since >= *at {
            return;
        }
        if self.reported.get(&pid).is_some_and(|files| files.contains(&library.path)) {
            return;
        }
        self.reported.get_or_insert_mut(pid, BTreeSet::new).insert(library.path.clone());
        let library = Some(Arc::clone(library));
        self.waiting.push(MappedBefore { pid, library, since, until: *at });
    }

    /// Records that a process has ended before anybody could inspect what it had mapped.
    pub(super) fn not_inspected(&mut self, Uninspected { pid, since }: Uninspected) {
        if since >= self.began {
            self.waiting.push(MappedBefore { pid, library: None, since, until: NEVER });
        }
    }

    /// Records that a process has ended.
    pub(super) fn ended(&mut self, exit: &TaskExit) {
        self.ended.put(exit.header.pid, *exit);
        self.reported.pop(&exit.header.pid);
    }

    /// What was missed since the last call. To be called when the ring was drained: the end of a process that
    /// ended before an attach was in it.
    pub(super) fn take(&mut self, now: u64) -> Vec<MissedProcess> {
        let mut waiting = std::mem::take(&mut self.waiting);
        let mut next = 0;
        while let Some(mapped) = waiting.get(next) {
            let heirs = self.heirs(mapped, &waiting, now);
            waiting.extend(heirs);
            next += 1;
        }
        waiting.into_iter().map(|mapped| self.missed(mapped, now)).collect()
    }

    /// The children of a process that have inherited what it had mapped, executed nothing, and ended before
    /// it was attached to.
    fn heirs(&mut self, mapped: &MappedBefore, waiting: &[MappedBefore], now: u64) -> Vec<MappedBefore> {
        let MappedBefore { pid: parent, library, since, until } = mapped;
        let until = (*until).min(now);
        let inherits = |exit: &TaskExit| {
            exit.parent == *parent && exit.forked >= *since && exit.header.time <= until && exit.forked != 0
        };
        let ended: Vec<(u32, u64)> = self
            .ended
            .iter()
            .filter(|(_, exit)| inherits(exit))
            .map(|(pid, exit)| (*pid, exit.forked))
            .collect();
        let mut heirs = Vec::new();
        for (pid, since) in ended {
            let path = |library: &Option<Arc<Library>>| library.as_ref().map(|library| library.path.clone());
            let file = path(library);
            let is_counted = waiting.iter().any(|one| one.pid == pid && path(&one.library) == file)
                || !self.reported.get_or_insert_mut(pid, BTreeSet::new).insert(file.unwrap_or_default());
            if !is_counted {
                heirs.push(MappedBefore { pid, library: library.clone(), since, until });
            }
        }
        heirs
    }

    fn missed(&self, MappedBefore { pid, library, since, until }: MappedBefore, now: u64) -> MissedProcess {
        let end = self.ended.peek(&pid).map(|exit| exit.header).filter(|end| end.time > since);
        let until = until.min(now);
        let ended_at = end.map(|end| end.time).filter(|time| *time <= until);
        let time = ended_at.unwrap_or(until);
        let ended = ended_at.is_some() || library.is_none();
        let unattached = Duration::from_nanos(time.saturating_sub(since));
        MissedProcess { pid, end, time, missed: Missed { library, unattached, ended } }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::ops::Range;

    use zerocopy::FromZeros as _;

    use super::*;
    use crate::rootfs::access_paths;

    fn object(id: u32, path: &str) -> ObjectHooks {
        let library =
            Library { name: path.to_owned(), path: path.to_owned(), implementation: None, version: None };
        let sites: Range<u32> = 0..0;
        ObjectHooks {
            id: ObjectId(id),
            library: Arc::new(library),
            file: Arc::new(access_paths::executable(std::process::id()).unwrap()),
            pids: Vec::new(),
            available_to: Vec::new(),
            evidence: Vec::new(),
            sites,
            hooks: Vec::new(),
        }
    }

    fn maps(watch: &mut MissedWatch, pid: u32, id: u32, since: u64) {
        watch.mapped(ObjectUse { pid, object: ObjectId(id), since });
    }

    /// The process ends. If it has executed nothing: its parent, and when it was forked.
    fn ends(watch: &mut MissedWatch, pid: u32, time: u64, (parent, forked): (u32, u64)) {
        let header = Header { pid, time, ..Header::new_zeroed() };
        watch.ended(&TaskExit { header, forked, parent, reserved: 0 });
    }

    /// Process, nanoseconds without an attach, whether it ended before.
    fn taken(watch: &mut MissedWatch) -> Vec<(u32, u128, bool)> {
        let missed = watch.take(10_000).into_iter();
        missed.map(|one| (one.pid, one.missed.unattached.as_nanos(), one.missed.ended)).collect()
    }

    #[test]
    fn what_is_mapped_before_its_attach_is_missed() {
        let mut watch = MissedWatch::new([&object(1, "/at-the-start")], 1000);
        watch.attached(&object(2, "/later"), 2000);
        maps(&mut watch, 10, 1, 1500);
        maps(&mut watch, 11, 2, 999);
        maps(&mut watch, 12, 2, 1900);
        maps(&mut watch, 13, 2, 2000);
        maps(&mut watch, 14, 3, 1100);
        assert_eq!(taken(&mut watch), [(12, 100, false)]);
        assert_eq!(taken(&mut watch), []);
    }

    #[test]
    fn a_file_is_missed_once_by_a_process() {
        let mut watch = MissedWatch::new([], 1000);
        watch.attached(&object(2, "/later"), 2000);
        watch.attached(&object(3, "/later"), 2000);
        for pid in [7, 8] {
            maps(&mut watch, pid, 2, 1500);
            maps(&mut watch, pid, 3, 1600);
        }
        assert_eq!(taken(&mut watch).len(), 2);
    }

    #[test]
    fn a_process_may_end_before_the_attach() {
        let mut watch = MissedWatch::new([], 1000);
        watch.attached(&object(2, "/later"), 2000);
        for pid in [7, 8, 9] {
            maps(&mut watch, pid, 2, 1500);
        }
        for (pid, time) in [(7, 1200), (8, 1600), (9, 2100)] {
            ends(&mut watch, pid, time, (0, 0));
        }
        assert_eq!(taken(&mut watch), [(7, 500, false), (8, 100, true), (9, 500, false)]);
    }

    #[test]
    fn children_inherit_what_is_mapped() {
        let mut watch = MissedWatch::new([], 1000);
        watch.attached(&object(2, "/later"), 2000);
        // A child, its child, one that lives, one that was forked before, one that is another process's.
        ends(&mut watch, 10, 1700, (9, 1600));
        ends(&mut watch, 11, 1800, (10, 1650));
        ends(&mut watch, 12, 2100, (9, 1600));
        ends(&mut watch, 13, 1700, (9, 1400));
        ends(&mut watch, 14, 1700, (8, 1600));
        // It has executed something.
        ends(&mut watch, 15, 1700, (0, 0));
        maps(&mut watch, 9, 2, 1500);
        assert_eq!(taken(&mut watch), [(9, 500, false), (10, 100, true), (11, 150, true)]);
        // Found in another way, too.
        maps(&mut watch, 10, 2, 1600);
        assert_eq!(taken(&mut watch), []);
    }

    #[test]
    fn what_nobody_could_inspect_or_attach_to_is_missed_until_the_end() {
        let mut watch = MissedWatch::new([], 1000);
        watch.not_inspected(Uninspected { pid: 5, since: 900 });
        watch.not_inspected(Uninspected { pid: 6, since: 9000 });
        watch.not_attached(&object(2, "/later"));
        maps(&mut watch, 7, 2, 9600);
        assert_eq!(taken(&mut watch), [(6, 1000, true), (7, 400, false)]);
    }
}
