//! What files turned out to be, by the real file: no real file is parsed twice.
//!
//! Shared with the threads that look into files: whether one is known shows only when it is open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::REMEMBERED;
use crate::plan::ObjectId;
use crate::rootfs::{ForeignFile, RealInode};

/// What a file turned out to be.
#[derive(Clone, Debug)]
pub(super) enum FileVerdict {
    /// Hooked; also the file that it was copied up from.
    Hooked(Vec<ObjectId>),
    /// Nothing that is watched is in it, or it is no ELF file at all, when the file was changed last
    /// (seconds, nanoseconds).
    Foreign((i64, u32)),
    /// Perhaps something that is watched, but it cannot be used.
    Broken(String, (i64, u32)),
    /// What cannot be traced, in words.
    Untraceable(String, (i64, u32)),
}

/// All files that are known.
#[derive(Clone, Default)]
pub(super) struct FileCache(Arc<Mutex<HashMap<RealInode, FileVerdict>>>);

impl FileCache {
    /// What an open file turned out to be.
    pub(super) fn of(&self, inode: RealInode, file: &ForeignFile) -> Option<FileVerdict> {
        match self.lock().get(&inode)? {
            seen @ FileVerdict::Hooked(_) => Some(seen.clone()),
            // Without the stamp, a new file that has got the number of one that has gone would be taken for
            // it.
            seen @ (FileVerdict::Foreign(then)
            | FileVerdict::Broken(_, then)
            | FileVerdict::Untraceable(_, then)) => (*then == file.changed()).then(|| seen.clone()),
        }
    }

    /// The objects of a file that is hooked.
    pub(super) fn hooked(&self, inode: RealInode) -> Option<Vec<ObjectId>> {
        match self.lock().get(&inode)? {
            FileVerdict::Hooked(ids) => Some(ids.clone()),
            FileVerdict::Foreign(_) | FileVerdict::Broken(..) | FileVerdict::Untraceable(..) => None,
        }
    }

    /// Remembers. What is hooked is never forgotten to make room: it would be attached to twice.
    pub(super) fn insert(&self, inode: RealInode, seen: FileVerdict) {
        let mut files = self.lock();
        if files.len() >= REMEMBERED {
            files.retain(|_, seen| matches!(seen, FileVerdict::Hooked(_)));
        }
        files.insert(inode, seen);
    }

    /// Forgets the files of objects that are not hooked any more.
    pub(super) fn forget(&self, objects: &[ObjectId]) {
        let is_of = |seen: &FileVerdict| matches!(seen, FileVerdict::Hooked(ids) if ids.iter().any(|id| objects.contains(id)));
        self.lock().retain(|_, seen| !is_of(seen));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RealInode, FileVerdict>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
