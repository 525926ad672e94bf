//! What files turned out to be, by the real file: no real file is parsed twice.
//!
//! Shared with the threads that look into files: whether one is known shows only when it is open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::REMEMBERED;
use super::outcome::FileOutcome;
use crate::plan::ObjectId;
use crate::rootfs::{ForeignFile, RealInode};

/// What a file turned out to be.
#[derive(Clone, Debug)]
pub(super) struct FileVerdict {
    pub(super) outcome: Arc<FileOutcome>,
    /// The objects that are hooked, of the file and of the one that it was copied up from; of any other
    /// outcome than [`FileOutcome::Watched`] there are none.
    pub(super) objects: Vec<ObjectId>,
    /// When the file was changed last (seconds, nanoseconds).
    pub(super) changed: (i64, u32),
}

impl FileVerdict {
    /// That a file is not hooked.
    pub(super) fn unhooked(outcome: FileOutcome, changed: (i64, u32)) -> Self {
        Self { outcome: Arc::new(outcome), objects: Vec::new(), changed }
    }

    pub(super) fn is_hooked(&self) -> bool {
        !self.objects.is_empty()
    }
}

/// All files that are known.
#[derive(Clone, Default)]
pub(super) struct FileCache(Arc<Mutex<Files>>);

struct Files {
    /// Never evicted: such a file would be attached to twice.
    hooked: HashMap<RealInode, FileVerdict>,
    /// Every other verdict, of which the oldest makes room.
    others: LruCache<RealInode, FileVerdict>,
}

impl Default for Files {
    fn default() -> Self {
        Self { hooked: HashMap::new(), others: LruCache::sparse(REMEMBERED) }
    }
}

impl FileCache {
    /// What an open file turned out to be.
    pub(super) fn of(&self, inode: RealInode, file: &ForeignFile) -> Option<FileVerdict> {
        let mut files = self.lock();
        if let Some(seen) = files.hooked.get(&inode) {
            return Some(seen.clone());
        }
        // Without the stamp, a new file that has got the number of one that has gone would be taken for it.
        files.others.get(&inode).filter(|seen| seen.changed == file.changed()).cloned()
    }

    /// The objects of a file that is hooked.
    pub(super) fn hooked(&self, inode: RealInode) -> Option<Vec<ObjectId>> {
        self.lock().hooked.get(&inode).map(|seen| seen.objects.clone())
    }

    /// Remembers what a file turned out to be, in place of what it was before.
    pub(super) fn insert(&self, inode: RealInode, seen: FileVerdict) {
        let mut files = self.lock();
        if seen.is_hooked() {
            files.others.pop(&inode);
            files.hooked.insert(inode, seen);
        } else {
            files.hooked.remove(&inode);
            files.others.put(inode, seen);
        }
    }

    /// Forgets the files of objects that are not hooked any more.
    pub(super) fn forget(&self, objects: &[ObjectId]) {
        self.lock().hooked.retain(|_, seen| !seen.objects.iter().any(|id| objects.contains(id)));
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
