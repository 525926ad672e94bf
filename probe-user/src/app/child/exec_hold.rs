//! Holds each program of the command at its exec, until ctrace has attached to the program's files.
//!
//! The command has a mount namespace of its own: a copy of ctrace's mounts. The kernel asks before it opens a
//! file for execution through one of these copies (fanotify(7), `FAN_OPEN_EXEC_PERM`), and the process waits
//! inside of execve(2) for the answer. Nobody else has these mounts, so nobody else waits. No signal is sent,
//! and nothing is used that the command may need itself.
//!
//! Owns the answers. The answer is always yes: when the program's files are attached to, when its time is
//! over, or when ctrace ends. If ctrace is killed, the kernel gives all answers itself.
//!
//! The thread that answers is the one in the command's mount namespace. It opens no file for execution, never
//! waits for the event loop, and marks only file systems that ctrace can always open files of: the kernel
//! hands over the file together with the question, and refuses the exec if it cannot.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::process::{Resource, getrlimit};
use thiserror::Error;
use tokio::sync::mpsc;

use crate::proc::mountinfo::{self, Mount};

/// The most programs that wait to be inspected. A further one is not held.
const WAITING: usize = 256;

/// The descriptors that must be free. The kernel refuses an exec if it cannot open the program's file for
/// ctrace, and one read returns up to 170 of them.
const FREE_DESCRIPTORS: u64 = 512;

/// The mount table of the thread that reads it.
const MOUNT_TABLE: &str = "/proc/thread-self/mountinfo";

/// File systems whose files ctrace can always open, without waiting for another process or another machine:
/// no FUSE, no NFS. Those of virtual machines' hosts count as local.
const LOCAL: [&[u8]; 24] = [
    b"ext2",
    b"ext3",
    b"ext4",
    b"xfs",
    b"btrfs",
    b"f2fs",
    b"bcachefs",
    b"zfs",
    b"jfs",
    b"reiserfs",
    b"nilfs2",
    b"overlay",
    b"tmpfs",
    b"ramfs",
    b"rootfs",
    b"devtmpfs",
    b"squashfs",
    b"erofs",
    b"vfat",
    b"exfat",
    b"iso9660",
    b"udf",
    b"9p",
    b"virtiofs",
];

/// Why programs cannot be held.
#[derive(Debug, Error)]
pub(in crate::app) enum HoldError {
    /// The command has no mount namespace of its own.
    #[error("the command could not get a mount namespace of its own, which needs CAP_SYS_ADMIN")]
    Namespace(#[source] io::Error),
    /// The kernel does not ask.
    #[error("fanotify_init failed, which needs CAP_SYS_ADMIN and a kernel with CONFIG_FANOTIFY")]
    Init(#[source] io::Error),
    /// The kernel does not wait for answers.
    #[error(
        "no mount can be watched, which needs Linux 5.0 and a kernel with CONFIG_FANOTIFY_ACCESS_PERMISSIONS"
    )]
    Mark(#[source] io::Error),
    /// No program is on a file system that can be watched.
    #[error("no mount is of a file system that answers without another process or machine")]
    NotLocal,
    /// The mounts are not known, or there are no descriptors for a pipe.
    #[error("the mounts of the command ({MOUNT_TABLE}) cannot be read")]
    Mounts(#[source] io::Error),
    /// The thread in the command's mount namespace has ended.
    #[error("the thread that would answer has ended")]
    Thread,
}

/// A program that is about to be executed. It goes on when this is dropped.
#[derive(Debug)]
pub(in crate::app) struct HeldExec {
    question: u64,
    answers: Arc<Answers>,
    /// The thread that executes it. 0 if ctrace cannot see the thread.
    pub(in crate::app) tid: u32,
    file: Option<OwnedFd>,
}

impl HeldExec {
    /// The program's file. None if it was taken before.
    pub(in crate::app) fn take_file(&mut self) -> Option<OwnedFd> {
        self.file.take()
    }
}

impl Drop for HeldExec {
    fn drop(&mut self) {
        self.answers.allow(self.question);
    }
}

/// What is asked and not answered yet.
#[derive(Debug)]
struct Answers {
    /// None after the end. When the kernel closes a group, all programs go on.
    group: RwLock<Option<Fanotify>>,
    /// The programs that wait. At most as many as wait to be inspected.
    waiting: Mutex<BTreeMap<u64, Question>>,
}

/// A program that waits.
#[derive(Debug)]
struct Question {
    event: FanotifyEvent,
    until: Instant,
}

impl Answers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Question>> {
        // Nothing panics while it holds the lock, and no change of the table is left half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a program go on, unless that was done before.
    fn allow(&self, question: u64) {
        let waiting = self.lock().remove(&question);
        if let Some(Question { event, .. }) = waiting {
            self.answer(&event);
        }
    }

    /// The questions that have been asked since.
    fn questions(&self) -> Vec<FanotifyEvent> {
        let group = self.group.read().unwrap_or_else(PoisonError::into_inner);
        group.as_ref().and_then(|group| group.read_events().ok()).unwrap_or_default()
    }

    /// Marks a mount, by a path that leads to it.
    fn mark(&self, path: &Path) -> Result<(), Errno> {
        let group = self.group.read().unwrap_or_else(PoisonError::into_inner);
        let Some(group) = &*group else { return Ok(()) };
        let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT;
        group.mark(flags, MaskFlags::FAN_OPEN_EXEC_PERM, CWD, Some(path))
    }

    fn answer(&self, event: &FanotifyEvent) {
        let group = self.group.read().unwrap_or_else(PoisonError::into_inner);
        if let (Some(group), Some(file)) = (&*group, event.fd()) {
            // The process may have been killed, and then nobody waits for the answer.
            let _ = group.write_response(FanotifyResponse::new(file, Response::FAN_ALLOW));
        }
    }

    /// Lets the programs go on whose time is over. Returns when the next one's is.
    fn allow_overdue(&self, now: Instant) -> Option<Instant> {
        let mut waiting = self.lock();
        while let Some(first) = waiting.first_entry() {
            if first.get().until > now {
                return Some(first.get().until);
            }
            let Question { event, .. } = first.remove();
            self.answer(&event);
        }
        None
    }

    /// Holds no more programs, and lets those go on that wait.
    fn end(&self) {
        self.group.write().unwrap_or_else(PoisonError::into_inner).take();
        self.lock().clear();
    }
}

/// Holds the command's programs. When it is dropped, all go on, and no more are held.
#[derive(Debug)]
pub(in crate::app) struct ExecHold {
    programs: Option<mpsc::Receiver<HeldExec>>,
    /// When it is closed, the thread that answers ends.
    _stop: PipeWriter,
}

impl ExecHold {
    /// The programs as they are held. None if they were taken before.
    pub(in crate::app) fn take_programs(&mut self) -> Option<mpsc::Receiver<HeldExec>> {
        self.programs.take()
    }
}

/// The side that answers. When it is dropped, all programs go on. It belongs to the thread in the command's
/// mount namespace.
#[derive(Debug)]
pub(super) struct Answering {
    answers: Arc<Answers>,
    programs: mpsc::Sender<HeldExec>,
    stop: PipeReader,
    limit: Duration,
    mounts: File,
    /// The ids of the mounts that are watched.
    marked: HashSet<u64>,
    /// How many programs were held.
    asked: u64,
}

/// What a wait has ended for.
struct Readiness {
    stop: bool,
    asked: bool,
    mounts: bool,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.answers.end();
    }
}

impl Answering {
    /// Watches the mounts of the current thread's mount namespace. Programs are held from now on, each for at
    /// most `limit`, so [`Answering::run`] has to be called next.
    pub(super) fn start(limit: Duration) -> Result<(Self, ExecHold), HoldError> {
        let flags = InitFlags::FAN_CLASS_CONTENT
            | InitFlags::FAN_CLOEXEC
            | InitFlags::FAN_NONBLOCK
            | InitFlags::FAN_UNLIMITED_QUEUE
            | InitFlags::FAN_UNLIMITED_MARKS
            | InitFlags::FAN_REPORT_TID;
        let files = EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC | EventFFlags::O_LARGEFILE;
        let group = Fanotify::init(flags, files).map_err(|why| HoldError::Init(why.into()))?;
        let answers = Arc::new(Answers { group: RwLock::new(Some(group)), waiting: Mutex::default() });
        let mounts = File::open(MOUNT_TABLE).map_err(HoldError::Mounts)?;
        let (stop, stopper) = io::pipe().map_err(HoldError::Mounts)?;
        let (programs, received) = mpsc::channel(WAITING);
        let hold = ExecHold { programs: Some(received), _stop: stopper };
        let marked = HashSet::new();
        let mut answering = Self { answers, programs, stop, limit, mounts, marked, asked: 0 };
        answering.mark_mounts()?;
        if answering.marked.is_empty() {
            return Err(HoldError::NotLocal);
        }
        Ok((answering, hold))
    }

    /// Passes on questions, and answers those that nobody answers in time, until the hold is dropped.
    pub(super) fn run(mut self) {
        loop {
            let next = self.answers.allow_overdue(Instant::now());
            let Ok(Readiness { stop, asked, mounts }) = self.wait(next) else { return };
            if stop || (asked && !self.take()) {
                return;
            }
            // The command may have mounted something, or the host, whose mounts propagate.
            if mounts && let Err(error) = self.mark_mounts() {
                tracing::debug!("programs on new mounts are not held: {error}");
            }
        }
    }

    /// Waits for what is next, at most until `next`.
    fn wait(&self, next: Option<Instant>) -> io::Result<Readiness> {
        let timeout = next.map(|next| next.saturating_duration_since(Instant::now()));
        // Rounded up, so that the time is over when the wait is.
        let timeout = timeout.and_then(|wait| Timespec::try_from(wait + Duration::from_millis(1)).ok());
        let group = self.answers.group.read().unwrap_or_else(PoisonError::into_inner);
        let Some(group) = &*group else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut polled = [
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::new(group, PollFlags::IN),
            PollFd::new(&self.mounts, PollFlags::PRI),
        ];
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [stop, asked, mounts] = polled.map(|polled| !polled.revents().is_empty());
        Ok(Readiness { stop, asked, mounts })
    }

    /// Takes questions. Returns false if no more can be taken.
    fn take(&mut self) -> bool {
        if !has_free_descriptors(&self.stop) {
            tracing::warn!(
                "the command's programs are no longer held while ctrace attaches to them, because there are too \
                 few descriptors: calls at their start may be missed; raise the limit of open files (ulimit -n)"
            );
            return false;
        }
        for event in self.answers.questions() {
            let file = event.fd().and_then(|file| file.try_clone_to_owned().ok());
            let tid = u32::try_from(event.pid()).unwrap_or(0);
            self.asked += 1;
            let (question, answers) = (self.asked, Arc::clone(&self.answers));
            let until = Instant::now() + self.limit;
            self.answers.lock().insert(question, Question { event, until });
            // If there is no room, the program goes on at once. What it maps is inspected, and counted, as if
            // it had not been held.
            drop(self.programs.try_send(HeldExec { question, answers, tid, file }));
        }
        true
    }

    /// Marks the mounts that are not marked yet.
    fn mark_mounts(&mut self) -> Result<(), HoldError> {
        let table = mountinfo::of_file(&mut self.mounts).map_err(HoldError::Mounts)?;
        let mounts: BTreeMap<u64, &Mount> = table.iter().map(|mount| (mount.id, mount)).collect();
        self.marked.retain(|id| mounts.contains_key(id));
        for mount in mounts.values().filter(|mount| is_reached_locally(mount, &mounts)) {
            if self.marked.contains(&mount.id) {
                continue;
            }
            let Some(point) = open_mount(mount) else { continue };
            let path = format!("/proc/self/fd/{}", point.as_raw_fd());
            match self.answers.mark(Path::new(&path)) {
                Ok(()) => drop(self.marked.insert(mount.id)),
                Err(error @ Errno::EINVAL) => return Err(HoldError::Mark(error.into())),
                Err(error) => tracing::debug!("programs on {mount:?} are not held: {error}"),
            }
        }
        Ok(())
    }
}

/// Whether a mount and all those above it are of local file systems. Otherwise opening its mount point may
/// wait for somebody.
fn is_reached_locally(mount: &Mount, mounts: &BTreeMap<u64, &Mount>) -> bool {
    /// Limit of the mounts on top of each other, should the table have a circle.
    const DEPTH: usize = 64;
    let parents = std::iter::successors(Some(mount), |mount| mounts.get(&mount.parent).copied());
    parents.take(DEPTH).all(|mount| LOCAL.contains(&mount.file_system.as_slice()))
}

/// Opens a mount point. None if another mount hides it.
fn open_mount(mount: &Mount) -> Option<OwnedFd> {
    let point = Path::new(OsStr::from_bytes(&mount.point));
    let opened =
        rustix::fs::open(point, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()).ok()?;
    let found = rustix::fs::statx(&opened, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    (found.stx_mnt_id == mount.id).then_some(opened)
}

/// Whether the kernel can open files for ctrace. A new descriptor is the lowest that is free.
fn has_free_descriptors(any: &PipeReader) -> bool {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return true };
    let Ok(lowest) = any.as_fd().try_clone_to_owned() else { return false };
    u64::try_from(lowest.as_raw_fd()).is_ok_and(|lowest| lowest.saturating_add(FREE_DESCRIPTORS) <= limit)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn only_mounts_that_are_reached_locally_are_marked() {
        let table = mountinfo::parse(
            b"1 0 8:1 / / rw - ext4 /dev/a rw\n\
              2 1 0:2 / /srv rw - nfs4 host:/ rw\n\
              3 2 0:3 / /srv/tmp rw - tmpfs t rw\n\
              4 1 0:4 / /home/u/mnt rw - fuse.sshfs s rw\n\
              5 1 0:5 / /tmp rw - tmpfs t rw\n\
              6 5 0:6 / /tmp/merged rw - overlay o rw\n\
              7 7 0:7 / /circle rw - tmpfs t rw\n",
        );
        let mounts: BTreeMap<u64, &Mount> = table.iter().map(|mount| (mount.id, mount)).collect();
        let local = mounts.values().filter(|mount| is_reached_locally(mount, &mounts));
        assert_eq!(local.map(|mount| mount.id).collect::<Vec<_>>(), [1, 5, 6, 7]);
    }

    #[test]
    fn a_hidden_mount_is_not_opened() {
        let own = mountinfo::own().unwrap();
        let root = own.iter().rfind(|mount| mount.point == b"/").unwrap();
        assert!(open_mount(root).is_some());
        let hidden = mountinfo::parse(b"999999999 1 8:1 / / rw - ext4 /dev/a rw");
        assert!(open_mount(hidden.first().unwrap()).is_none());
    }
}
