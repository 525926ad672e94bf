//! Files that nobody could open before the process that had mapped them ended.
//!
//! Another process may show later what such a file is. Pure: what is found out elsewhere is passed in.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::Path;

use lru::LruCache;

use crate::plan::ObjectId;

/// Limit of the processes that are remembered. The oldest ones make room, and count as not inspected.
const PROCESSES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// A process had mapped an object, since this time of the kernel in nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectUse {
    /// The process.
    pub pid: u32,
    /// The object.
    pub object: ObjectId,
    /// When it was mapped.
    pub since: u64,
}

/// A process has ended before its files were inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uninspected {
    /// The process.
    pub pid: u32,
    /// When it mapped the first of these files, in nanoseconds of `CLOCK_BOOTTIME`.
    pub since: u64,
}

/// A file as mappings show it in all containers of an image: its inode number and its name.
type ShownFile = (u64, Option<OsString>);

/// The processes whose files were not inspected, and these files.
#[derive(Debug)]
pub(super) struct LeftBehind {
    processes: LruCache<u32, (u64, BTreeSet<ShownFile>)>,
    evicted: Vec<Uninspected>,
}

impl Default for LeftBehind {
    fn default() -> Self {
        Self { processes: LruCache::sparse(PROCESSES), evicted: Vec::new() }
    }
}

impl LeftBehind {
    /// Adds a file that a process had mapped.
    pub(super) fn add(&mut self, pid: u32, file: (u64, &Path), since: u64) {
        if let Some((_, files)) = self.processes.get_mut(&pid) {
            files.insert(shown(file));
            return;
        }
        let entry = (since, BTreeSet::from([shown(file)]));
        if let Some((pid, (since, _))) = self.processes.push(pid, entry) {
            self.evicted.push(Uninspected { pid, since });
        }
    }

    /// Removes a file that was inspected after all. Returns its uses, if it is hooked.
    pub(super) fn resolve(&mut self, file: (u64, &Path), object: Option<ObjectId>) -> Vec<ObjectUse> {
        let file = shown(file);
        let mut uses = Vec::new();
        let mut resolved = Vec::new();
        for (pid, (since, files)) in &mut self.processes {
            if files.remove(&file) {
                uses.extend(object.map(|object| ObjectUse { pid: *pid, object, since: *since }));
                resolved.extend(files.is_empty().then_some(*pid));
            }
        }
        for pid in resolved {
            self.processes.pop(&pid);
        }
        uses
    }

    /// Removes and returns what was never resolved.
    pub(super) fn take(&mut self) -> Vec<Uninspected> {
        let mut rest = std::mem::take(&mut self.evicted);
        while let Some((pid, (since, _))) = self.processes.pop_lru() {
            rest.push(Uninspected { pid, since });
        }
        rest
    }
}

fn shown((inode, path): (u64, &Path)) -> ShownFile {
    (inode, path.file_name().map(OsString::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_another_process_shows_later_is_resolved() {
        let mut left = LeftBehind::default();
        let (plain, hooked) = ((7, Path::new("/bin/true")), (8, Path::new("/bin/curl")));
        left.add(1, plain, 100);
        left.add(2, plain, 200);
        left.add(2, hooked, 201);
        left.add(3, (8, Path::new("/bin/other")), 300);
        assert_eq!(left.resolve(plain, None), []);
        let object = ObjectId(5);
        assert_eq!(left.resolve(hooked, Some(object)), [ObjectUse { pid: 2, object, since: 200 }]);
        assert_eq!(left.take(), [Uninspected { pid: 3, since: 300 }]);
        assert_eq!(left.take(), []);
    }

    #[test]
    fn what_has_no_room_is_not_inspected() {
        let mut left = LeftBehind::default();
        let most = u32::try_from(PROCESSES.get()).unwrap_or(u32::MAX);
        (0..=most).for_each(|pid| left.add(pid, (7, Path::new("/x")), pid.into()));
        assert_eq!(left.take().first(), Some(&Uninspected { pid: 0, since: 0 }));
    }
}
