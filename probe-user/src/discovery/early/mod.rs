//! Root file system → objects, before any process maps them.
//!
//! A command that runs for some milliseconds has ended before its TLS library is attached to, unless that was
//! done before. So when the first process with another root file system than the host's comes into scope,
//! the libraries that its loaders would find are inspected, and the modules in the usual directories of
//! Python and Node.js ([`search`]). What a process executes or maps stays hooked while its root file system
//! is in scope ([`super::object_refs`]).
//!
//! Owns the queue of root file systems. One file is inspected at a time, on another thread, so that what
//! processes map is inspected meanwhile. Everything has a limit; a file system that does not answer is given
//! up at the first file.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::file_cache::FileVerdict;
use super::inspect_file::{self, FileInspection, InspectedFile, Verdict};
use super::{Discovery, Inspected, has_kernel_returns};
use crate::plan::ObjectHooks;
use crate::rootfs::{MountView, RealInode, TargetRoot};
use crate::timeout::with_timeout;

mod search;
#[cfg(test)]
mod tests;

/// Limit of the root file systems that wait. A process may make new ones faster than they are inspected.
const MAX_WAITING: usize = 1024;
/// Limit of the bytes of the files that are parsed for one root file system. A file counts that is not in the
/// cache.
const MAX_BYTES: u64 = 512 << 20;
/// How long one root file system may take.
const MAX_TIME: Duration = Duration::from_secs(20);

/// The root file systems whose files are inspected before anybody maps them.
#[derive(Default)]
pub(super) struct EarlyQueue {
    waiting: VecDeque<MountView>,
    current: Option<CurrentRoot>,
    running: Option<JoinHandle<Option<StepResult>>>,
}

/// The root file system that is inspected.
struct CurrentRoot {
    root: MountView,
    /// The process through whose root the file is opened that is inspected now.
    pid: u32,
    /// The files that were not inspected yet.
    files: VecDeque<PathBuf>,
    /// How many bytes may still be parsed.
    room: u64,
    until: Instant,
}

/// What one step has found.
enum StepResult {
    /// These files are worth inspecting.
    Files(Vec<PathBuf>),
    /// A file was inspected. None if it cannot be used.
    Inspected(Option<EarlyFile>),
}

/// A file that nobody need have mapped.
struct EarlyFile {
    inode: RealInode,
    /// The inode number as processes see it.
    number: u64,
    /// Its path in the root.
    path: PathBuf,
    inspection: FileInspection,
}

impl EarlyQueue {
    /// Adds a root file system that has come into scope.
    pub(super) fn push(&mut self, root: MountView) {
        if root.is_host() || self.waiting.contains(&root) {
            return;
        }
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(root);
        } else {
            tracing::debug!("more than {MAX_WAITING} root file systems wait: one is not inspected");
        }
    }
}

impl Discovery {
    /// Starts to inspect the next file that a process in scope may map later, if there is one and none is
    /// being inspected. Returns whether one is.
    pub fn start_early(&mut self) -> bool {
        if !self.users.has_room() {
            self.early.waiting.clear();
            self.early.current = None;
        }
        while self.early.running.is_none() {
            if self.early.current.as_ref().is_none_or(|current| current.files.is_empty()) {
                self.early.current = None;
                let Some(root) = self.early.waiting.pop_front() else { return false };
                self.search(root);
            } else {
                self.inspect_next();
            }
        }
        true
    }

    /// Waits for that file. Returns the objects to attach to. Cancel safe.
    pub async fn early(&mut self) -> Vec<ObjectHooks> {
        let Some(running) = &mut self.early.running else { return Vec::new() };
        let result = running.await.ok().flatten();
        self.early.running = None;
        let Some(current) = &mut self.early.current else { return Vec::new() };
        match result {
            Some(StepResult::Files(files)) => current.files = files.into(),
            Some(StepResult::Inspected(Some(file))) => return self.found_early(file),
            Some(StepResult::Inspected(None)) => {}
            // Nobody has that root any more, or its file system does not answer.
            None => self.early.current = None,
        }
        Vec::new()
    }

    /// Inspects such files for so long, unless it is over before, and returns the objects to attach to. What
    /// is left is inspected later.
    pub async fn early_for(&mut self, budget: Duration, is_over: impl Fn() -> bool) -> Vec<ObjectHooks> {
        let until = tokio::time::Instant::now() + budget;
        let mut objects = Vec::new();
        while tokio::time::Instant::now() < until && !is_over() && self.start_early() {
            let Ok(found) = tokio::time::timeout_at(until, self.early()).await else { break };
            objects.extend(found);
        }
        for object in &mut objects {
            object.available_to = self.users.available_to(object.id);
        }
        objects
    }

    /// Starts to search a root file system for files.
    fn search(&mut self, root: MountView) {
        let Some(pid) = self.users.residents_of(root).next() else { return };
        let (probe, mounts, loader) = (self.probe.clone(), self.mounts.clone(), self.loader.clone());
        let until = Instant::now() + MAX_TIME;
        self.early.current = Some(CurrentRoot { root, pid, files: VecDeque::new(), room: MAX_BYTES, until });
        self.early.run(move || {
            let begin = Instant::now();
            let target = open(pid, root)?;
            let working = std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
            let working = working.map(|path| target.inside(&path));
            let files = search::files(&target, (&mounts, &loader), &probe, working.as_deref());
            tracing::debug!(pid, files = files.len(), took = ?begin.elapsed(), "searched a root file system");
            Some(StepResult::Files(files))
        });
    }

    /// Starts to inspect the next file of the current root file system.
    fn inspect_next(&mut self) {
        let Some(current) = &mut self.early.current else { return };
        let (root, limit) = (current.root, current.room);
        let resident = self.users.residents_of(root).next();
        let path = current.files.pop_front().filter(|_| Instant::now() < current.until);
        let (Some(pid), Some(path)) = (resident, path) else {
            self.early.current = None;
            return;
        };
        current.pid = pid;
        let caches = (self.files.clone(), self.mounts.clone());
        let (probe, on_uncached) = (self.probe.clone(), Arc::clone(&self.on_uncached));
        self.early.run(move || {
            let (files, mounts) = caches;
            let Ok(file) = open(pid, root)?.open_resolved(&path, &mounts) else {
                return Some(StepResult::Inspected(None));
            };
            // If it is not certain which file it is, it could be attached to twice.
            let (file, inode) = file;
            if !inode.is_certain() || file.size > limit {
                return Some(StepResult::Inspected(None));
            }
            let (path, number, file) = (file.name().to_owned(), file.inode(), (Arc::new(file), inode));
            let inspection = inspect_file::unmapped(pid, file, (&files, &mounts), &probe, &on_uncached);
            Some(StepResult::Inspected(Some(EarlyFile { inode, number, path, inspection })))
        });
    }

    /// Takes what was found in a file. Nothing about it is reported: nobody need map it.
    fn found_early(&mut self, EarlyFile { inode, number, path, inspection }: EarlyFile) -> Vec<ObjectHooks> {
        let Some(CurrentRoot { root, pid, room, .. }) = &mut self.early.current else { return Vec::new() };
        let (root, pid) = (*root, *pid);
        let verdict = match inspection {
            FileInspection::Cached(seen) => seen,
            FileInspection::New(new) => {
                *room = room.saturating_sub(new.file.size);
                // A process may have mapped it meanwhile.
                match self.files.get(inode, &new.file) {
                    Some(seen) => seen,
                    None if is_harmless(&new) => self.add_early(pid, &path, *new),
                    None => return Vec::new(),
                }
            }
        };
        self.users.found_in(root, &verdict.objects, Instant::now());
        self.resolve_left_behind((number, &path), &verdict.objects);
        self.inspected.put(number, Inspected::of(&verdict));
        let mut objects = self.found();
        for object in &mut objects {
            object.pids.clear();
            object.available_to = self.users.available_to(object.id);
        }
        // What cannot be watched, or what nobody can use any more.
        for object in objects.extract_if(.., |object| object.available_to.is_empty()) {
            self.failed(object.id);
        }
        objects
    }

    fn add_early(&mut self, pid: u32, path: &Path, new: InspectedFile) -> FileVerdict {
        let reported = (self.skipped.len(), self.foreign.len(), self.over_limit.take());
        let waiting = self.unversioned.len();
        let verdict = self.add(pid, new);
        for waiting in self.unversioned.iter_mut().skip(waiting) {
            waiting.place = Some((pid, path.with_file_name(&waiting.version_in)));
        }
        self.skipped.truncate(reported.0);
        self.foreign.truncate(reported.1);
        self.over_limit = reported.2;
        verdict
    }
}

impl EarlyQueue {
    /// Runs the next step on another thread.
    fn run(&mut self, step: impl FnOnce() -> Option<StepResult> + Send + 'static) {
        self.running = Some(tokio::spawn(async move { with_timeout(step).await.flatten() }));
    }
}

/// Opens the root of a process, if it is still this one.
fn open(pid: u32, root: MountView) -> Option<TargetRoot> {
    let target = TargetRoot::of(pid).ok()?;
    (MountView::of(pid) == Some(root)).then_some(target)
}

/// Whether a file can be hooked without being mapped. The kernel's return probe ends programs that switch
/// stacks, in scope or not, so it is set only where it is needed.
fn is_harmless(new: &InspectedFile) -> bool {
    match &new.verdict {
        Verdict::Watched(found, _) => !has_kernel_returns(&found.hooks) && !new.may_be_copied(),
        Verdict::Unwatched(_) => true,
    }
}
