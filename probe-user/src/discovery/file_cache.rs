//! Caches the outcome of each real file, so that none is parsed twice.
//!
//! Shared with the threads that inspect files, because a file's key is available only after it was opened.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::REMEMBERED;
use super::code_copy::HookedCode;
use super::outcome::FileOutcome;
use crate::plan::ObjectId;
use crate::proc::maps::Mapping;
use crate::rootfs::{ForeignFile, RealInode};

/// The cached outcome of a file.
#[derive(Clone, Debug)]
pub(super) struct FileVerdict {
    pub(super) outcome: Arc<FileOutcome>,
    /// The hooked objects: that of the file, and that of the one from which it was copied up. Empty for any
    /// outcome other than [`FileOutcome::Watched`].
    pub(super) objects: Vec<ObjectId>,
    /// The hooked code, to find it in other processes.
    pub(super) code: Option<Arc<HookedCode>>,
    /// When the file was last changed (seconds, nanoseconds).
    pub(super) changed: (i64, u32),
    /// Which file it is. None if it was not opened.
    pub(super) inode: Option<RealInode>,
}

impl FileVerdict {
    /// The verdict on a file that is not hooked.
    pub(super) fn unhooked(outcome: FileOutcome, changed: (i64, u32)) -> Self {
        Self { outcome: Arc::new(outcome), objects: Vec::new(), code: None, changed, inode: None }
    }

    /// The verdict on this file.
    #[must_use]
    pub(super) fn on(self, inode: RealInode) -> Self {
        Self { inode: Some(inode), ..self }
    }

    pub(super) fn is_hooked(&self) -> bool {
        !self.objects.is_empty()
    }

    /// Whether it may be another one in another process that maps the same file.
    pub(super) fn depends_on_process(&self, mapping: &Mapping) -> bool {
        self.code.as_ref().is_some_and(|code| code.depends_on_process(mapping))
    }
}

/// All cached files.
#[derive(Clone, Default)]
pub(super) struct FileCache(Arc<Mutex<Files>>);

struct Files {
    /// These are never evicted: otherwise such a file would be attached to twice.
    hooked: HashMap<RealInode, FileVerdict>,
    /// All other verdicts. The oldest one makes room for a new one.
    others: LruCache<RealInode, FileVerdict>,
}

impl Default for Files {
    fn default() -> Self {
        Self { hooked: HashMap::new(), others: LruCache::sparse(REMEMBERED) }
    }
}

impl FileCache {
    /// The verdict on an open file.
    pub(super) fn get(&self, inode: RealInode, file: &ForeignFile) -> Option<FileVerdict> {
        let mut files = self.lock();
        if let Some(seen) = files.hooked.get(&inode) {
            return Some(seen.clone());
        }
        // Without the change time, a new file that reuses an inode number would be mistaken for the old one.
        files.others.get(&inode).filter(|seen| seen.changed == file.changed()).cloned()
    }

    /// The objects of a hooked file.
    pub(super) fn hooked(&self, inode: RealInode) -> Option<Vec<ObjectId>> {
        self.lock().hooked.get(&inode).map(|seen| seen.objects.clone())
    }

    /// Stores the verdict on a file in place of an earlier one.
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

    /// Replaces the verdicts on the files of an object.
    pub(super) fn refuse(&self, object: ObjectId, outcome: &Arc<FileOutcome>) {
        let mut files = self.lock();
        let refused: Vec<_> = files.hooked.extract_if(|_, seen| seen.objects.contains(&object)).collect();
        for (inode, FileVerdict { changed, .. }) in refused {
            let (outcome, objects) = (Arc::clone(outcome), Vec::new());
            let verdict = FileVerdict { outcome, objects, code: None, changed, inode: Some(inode) };
            files.others.put(inode, verdict);
        }
    }

    /// Drops the files of objects that are no longer hooked.
    pub(super) fn forget(&self, objects: &[ObjectId]) {
        self.lock().hooked.retain(|_, seen| !seen.objects.iter().any(|id| objects.contains(id)));
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
