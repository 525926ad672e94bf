//! Notices that a hooked file is written to.
//!
//! Its hooks are places in the code that was parsed. In other code, the kernel would write a breakpoint into
//! the middle of an instruction. Most updates replace a file and leave the old one as it is, but a compiler
//! or `cp` may write into a file that no process executes at the moment. So a file is watched from before it
//! is attached to, and what cannot be watched is hooked only while a process maps it.
//!
//! Owns the inotify instance. It detaches from nothing itself.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use crate::plan::ObjectId;
use crate::rootfs::ForeignFile;

/// File systems whose files others may change without this kernel's knowledge: NFS, SMB, CIFS, FUSE, 9p, Ceph
/// (linux/magic.h).
const REMOTE: [i64; 6] = [0x6969, 0xfe53_4d42, 0xff53_4d42, 0x6573_5546, 0x0102_1997, 0x00c3_6400];

/// The watched files. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct FileChanges(Arc<WatchedFiles>);

#[derive(Debug, Default)]
struct WatchedFiles {
    /// None if the kernel gives none.
    inotify: Option<OwnedFd>,
    objects: Mutex<HashMap<i32, ObjectId>>,
}

/// Whether a file is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WatchState {
    Watched,
    /// It cannot be watched.
    Unwatched,
    /// It has changed since it was opened.
    Changed,
}

impl FileChanges {
    /// Starts with no file.
    pub(super) fn new() -> Self {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        let inotify = inotify.inspect_err(|error| tracing::debug!("no inotify instance: {error}")).ok();
        Self(Arc::new(WatchedFiles { inotify, objects: Mutex::default() }))
    }

    /// Watches the file of an object from now on.
    pub(super) fn watch(&self, id: ObjectId, file: &ForeignFile) -> WatchState {
        #[expect(clippy::unnecessary_cast, reason = "the field's type differs between architectures")]
        let is_remote = |found: rustix::fs::StatFs| REMOTE.contains(&(found.f_type as i64));
        let Some(inotify) = &self.0.inotify else { return WatchState::Unwatched };
        let path = file.path();
        if rustix::fs::statfs(&path).map_or(true, is_remote) {
            return WatchState::Unwatched;
        }
        let mut objects = self.lock();
        match inotify::add_watch(inotify, &path, WatchFlags::MODIFY) {
            Ok(watch) => objects.insert(watch, id),
            Err(error) => {
                tracing::debug!("{:?} is not watched: {error}", file.name());
                return WatchState::Unwatched;
            }
        };
        drop(objects);
        if file.is_unchanged() {
            return WatchState::Watched;
        }
        self.unwatch(&[id]);
        WatchState::Changed
    }

    /// Watches the files of these objects no longer.
    pub(super) fn unwatch(&self, ids: &[ObjectId]) {
        let Some(inotify) = &self.0.inotify else { return };
        for (watch, _) in self.lock().extract_if(|_, id| ids.contains(id)) {
            // If the file is gone, so is the watch.
            let _ = inotify::remove_watch(inotify, watch);
        }
    }

    /// What becomes readable when a file is written to. None if no file can be watched.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.inotify.as_ref().map(OwnedFd::as_fd)
    }

    /// The objects whose files were written to since the last call. They are not watched any more. If the
    /// kernel has dropped events, these are all.
    pub fn take(&self) -> Vec<ObjectId> {
        let Some(inotify) = &self.0.inotify else { return Vec::new() };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        let mut written = Vec::new();
        while let Ok(event) = events.next() {
            let objects = self.lock();
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                written.extend(objects.values());
            } else if event.events().contains(ReadFlags::MODIFY) {
                written.extend(objects.get(&event.wd()));
            }
        }
        self.unwatch(&written);
        written.sort_unstable();
        written.dedup();
        written
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, ObjectId>> {
        // Nothing panics while it holds the lock.
        self.0.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_written_to_is_reported_once() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        let open = |name: &str| {
            fs::write(place(name), "code").unwrap();
            ForeignFile::open_in_root(std::process::id(), &place(name)).unwrap()
        };
        let changes = FileChanges::new();
        let (first, second, third) = (open("first"), open("second"), open("third"));
        for (number, file) in [(1, &first), (2, &second), (3, &third)] {
            assert_eq!(changes.watch(ObjectId(number), file), WatchState::Watched);
        }
        // Neither is a write to the file that was opened.
        fs::remove_file(place("second")).unwrap();
        fs::write(place("other"), "code").unwrap();
        fs::rename(place("other"), place("third")).unwrap();
        assert_eq!(changes.take(), []);
        fs::write(place("first"), "other code").unwrap();
        assert_eq!(changes.take(), [ObjectId(1)]);
        fs::write(place("first"), "code again").unwrap();
        assert_eq!(changes.take(), [], "it is not watched any more");
        assert_eq!(changes.watch(ObjectId(4), &first), WatchState::Changed, "it was opened before");
        fs::write(place("first"), "more code").unwrap();
        assert_eq!(changes.take(), []);
    }
}
