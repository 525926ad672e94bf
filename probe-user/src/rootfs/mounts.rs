//! A cache for mount tables, so that each is read once while many files are inspected.
//!
//! A host with hundreds of containers has a mount table of a megabyte, which is needed for every file on an
//! overlay. A table is cached for a moment, or until a mount is not found in it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::proc::mountinfo::{self, Mount};

/// How long a table is cached.
const MOMENT: Duration = Duration::from_secs(1);

/// A mount table.
pub(super) type MountTable = Arc<Vec<Mount>>;

/// Cached mount tables. Clones share one cache.
#[derive(Clone, Debug, Default)]
pub struct Mounts(Arc<Mutex<Tables>>);

#[derive(Debug, Default)]
struct Tables {
    /// When the first of the tables was read.
    since: Option<Instant>,
    own: Option<MountTable>,
    others: HashMap<MountView, MountTable>,
    /// Mounts that were not found even after the tables were read again.
    missed: HashSet<u64>,
}

/// The root file system of a process, as it sees it: its mount namespace and its root directory. They
/// determine the contents of its mount table, and which file a path leads to. All processes of a container
/// usually share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountView {
    namespace: (u32, u32, u64),
    root_mount: u64,
    root: (u32, u32, u64),
}

impl MountView {
    /// That of a process that runs.
    pub fn of(pid: u32) -> Option<Self> {
        let attributes = |name: &str| {
            let mask = StatxFlags::INO | StatxFlags::MNT_ID;
            // For a FUSE root: use the attributes that the kernel has, instead of asking the server.
            let flags = AtFlags::STATX_DONT_SYNC;
            rustix::fs::statx(CWD, format!("/proc/{pid}/{name}"), flags, mask).ok()
        };
        let (namespace, root) = (attributes("ns/mnt")?, attributes("root")?);
        Some(Self {
            namespace: (namespace.stx_dev_major, namespace.stx_dev_minor, namespace.stx_ino),
            root_mount: root.stx_mnt_id,
            root: (root.stx_dev_major, root.stx_dev_minor, root.stx_ino),
        })
    }

    /// Whether it has the root directory of ctrace or of the machine's first process, in any mount namespace.
    pub fn is_host(&self) -> bool {
        let hosts = [std::process::id(), 1].into_iter().filter_map(Self::of);
        hosts.into_iter().any(|host| host.root == self.root)
    }

    /// One that no process has.
    #[cfg(test)]
    pub(crate) fn fixture(number: u64) -> Self {
        Self { namespace: (0, 0, number), root_mount: number, root: (0, 0, number) }
    }
}

impl Mounts {
    /// The mounts that ctrace sees. Empty if they cannot be read.
    pub(super) fn own(&self) -> MountTable {
        let mut tables = self.lock();
        let Tables { own, .. } = tables.of_now();
        Arc::clone(own.get_or_insert_with(|| Arc::new(mountinfo::own().unwrap_or_default())))
    }

    /// The mounts that a process sees. Empty if they cannot be read.
    pub(super) fn of(&self, pid: u32) -> MountTable {
        let read = || Arc::new(mountinfo::of(pid).unwrap_or_default());
        let Some(view) = MountView::of(pid) else { return read() };
        let mut tables = self.lock();
        Arc::clone(tables.of_now().others.entry(view).or_insert_with(read))
    }

    /// Discards the tables if a file's mount was not found in them, because it may be newer. Returns whether
    /// a new search is worthwhile, which it is once per mount.
    pub(super) fn renew(&self, mount: u64) -> bool {
        let mut tables = self.lock();
        if !tables.missed.insert(mount) {
            return false;
        }
        let missed = std::mem::take(&mut tables.missed);
        *tables = Tables { since: tables.since, missed, ..Tables::default() };
        true
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Nothing panics while it holds the lock, and the only thing it waits for is the kernel.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    /// The tables, emptied first if they are too old.
    fn of_now(&mut self) -> &mut Self {
        if self.since.is_some_and(|since| since.elapsed() >= MOMENT) {
            *self = Self::default();
        }
        self.since.get_or_insert_with(Instant::now);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_once_in_a_moment() {
        let (mounts, own) = (Mounts::default(), std::process::id());
        assert!(Arc::ptr_eq(&mounts.own(), &mounts.clone().own()));
        assert!(Arc::ptr_eq(&mounts.of(own), &mounts.of(own)));
        assert_eq!(mounts.own(), mounts.of(own));
        assert!(mounts.of(u32::MAX).is_empty());
    }

    #[test]
    fn a_mount_that_is_not_there_is_searched_again_once() {
        let mounts = Mounts::default();
        let before = mounts.own();
        assert!(mounts.renew(7));
        assert!(!Arc::ptr_eq(&before, &mounts.own()), "it was read anew");
        let before = mounts.own();
        assert!(!mounts.renew(7));
        assert!(Arc::ptr_eq(&before, &mounts.own()));
        assert!(mounts.renew(8));
    }

    #[test]
    fn a_table_is_not_believed_for_long() {
        let mounts = Mounts::default();
        let before = mounts.own();
        assert!(mounts.renew(7));
        mounts.lock().since = Instant::now().checked_sub(MOMENT);
        assert!(!Arc::ptr_eq(&before, &mounts.own()));
        assert!(mounts.renew(7), "what was missed is forgotten with it");
    }
}
