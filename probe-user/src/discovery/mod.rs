//! Process → Object → Hook: inspects every file that the target maps as executable, once per real inode.
//!
//! Owns the cache of files, and which processes map the hooked ones. Reads only. What was inspected but not
//! hooked is kept with its reason, to answer "why is nothing there?".

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::mem;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::event::Library;
use crate::plan::return_probe::ReturnProbe;
use crate::plan::{Hook, ObjectHooks, ObjectId, Plan, ProcessCode, SkipKind, Skipped, SkippedFile};
use crate::probe::{Probe, ProbeMatch, tls};
use crate::proc::Device;
use crate::proc::maps::Mapping;
use crate::proc::process::Proc;
use crate::rootfs::{ForeignFile, MountView, Mounts, RealInode};
use crate::scope::Target;

mod code_copy;
mod definitions;
mod early;
mod file_cache;
mod file_changes;
mod inspect_file;
mod left_behind;
pub mod loader;
mod object_refs;
mod once_reported;
mod outcome;
mod program;
mod skip_report;
mod verify_code;
mod versions;

use code_copy::{CodeState, HookedCode};
use early::EarlyQueue;
use file_cache::{FileCache, FileVerdict};
pub use file_changes::FileChanges;
use file_changes::WatchState;
use inspect_file::{CopyUpSource, FileInProcess, FileInspection, InspectError, InspectedFile, Verdict};
use left_behind::LeftBehind;
pub use left_behind::{ObjectUse, Uninspected};
use loader::LoaderCache;
use object_refs::{ObjectRefs, Retention};
use once_reported::ReportedOnce;
pub use outcome::{FileOutcome, MappedFile, MappingsError, OpenFailure, ProcessOutcome, WatchedFile};
pub use program::{ProgramStart, StartedProgram};
pub use skip_report::{SkipDetail, reasons};
pub use verify_code::is_probed_code;
use versions::Unversioned;
pub use versions::Versioned;

/// How long a mapping is trusted to show the same file as before. If this were longer, a mount that reuses
/// the device number of one that is gone could be mistaken for it.
const MAPPING_CACHE_TTL: Duration = Duration::from_secs(5);

/// How long files of a device that did not answer are skipped. If this were longer, a file system that was
/// slow for a moment, or a mount that reuses the device number of one that is gone, would be skipped for no
/// reason.
const TIMED_OUT_DEVICE_TTL: Duration = Duration::from_mins(1);

/// How long ids of hooks are not reused, because links are removed, and records read, some time later.
const SITE_REUSE_DELAY: Duration = Duration::from_mins(10);

/// Why a file is not hooked that somebody writes to.
const CHANGED: &str =
    "it was written to while it was inspected; it is inspected again when it is mapped again";

/// Limit of the files that are cached. Without it, anybody who may map files could fill the memory.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

/// Inspects processes, with a cache: no real file is parsed twice.
pub struct Discovery {
    probe: Probe,
    /// Files without anything to hook, by what their mappings show; a file may be shown in several ways.
    /// While a plan is made, all files are in it, because a plan describes one moment.
    shown: LruCache<(Device, u64, PathBuf), (Instant, FileVerdict)>,
    files: FileCache,
    loader: LoaderCache,
    mounts: Mounts,
    users: ObjectRefs,
    early: EarlyQueue,
    changes: FileChanges,
    /// Ids of hooks: those that are free again and since when, and the first one that was never used.
    free: VecDeque<(Instant, Range<u32>)>,
    next: u32,
    objects: Vec<ObjectHooks>,
    skipped: Vec<Skipped>,
    foreign: Vec<Skipped>,
    over_limit: Option<String>,
    /// Devices that did not answer, and when. Waiting for each of their files could take for ever.
    silent: HashMap<Device, Instant>,
    /// Versions, by the real file of the libcrypto and when it was last changed.
    libcrypto: LruCache<(RealInode, (i64, u32)), Option<String>>,
    /// Libraries whose version is in a file that the process has not mapped yet.
    unversioned: Vec<Unversioned>,
    /// What cannot be seen, to be reported once.
    blind_spots: ReportedOnce,
    /// The indices of the patterns that have matched a file.
    matched: BTreeSet<usize>,
    /// What was said of patterns that do not match a file, by pattern and file.
    missing: LruCache<(usize, SkippedFile), String>,
    /// For patterns that name no file: of how many files that was said.
    unmatched: BTreeMap<usize, usize>,
    /// What is known of the code of the processes that were inspected, also when they have ended.
    codes: LruCache<u32, ProcessCode>,
    /// Hooked objects that must be detached from, because a process is about to copy their code.
    withdrawn: Vec<ObjectId>,
    /// The process that will become the command, and the inode number of ctrace's own executable, which it
    /// maps until then.
    launcher: Option<(u32, u64)>,
    /// What is known of files by their inode numbers, as the processes see them. File systems may share some,
    /// and then a file that was not inspected is taken for one that was.
    inspected: LruCache<u64, Inspected>,
    /// The files that were not opened in time by the end of the process that had mapped them.
    left_behind: LeftBehind,
    /// Whether a process has left files behind since [`Discovery::take_left_behind`] was last called.
    has_left_behind: bool,
    /// Which processes have mapped objects that were hooked before.
    uses: Vec<ObjectUse>,
    on_uncached: UncachedFileCallback,
}

/// Called before a file is inspected that is not in the cache.
type UncachedFileCallback = Arc<dyn Fn() + Send + Sync>;

impl Discovery {
    /// Starts with an empty cache.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            shown: LruCache::sparse(REMEMBERED),
            files: FileCache::default(),
            loader: LoaderCache::default(),
            mounts: Mounts::default(),
            users: ObjectRefs::default(),
            early: EarlyQueue::default(),
            changes: FileChanges::new(),
            free: VecDeque::new(),
            next: 0,
            objects: Vec::new(),
            skipped: Vec::new(),
            foreign: Vec::new(),
            over_limit: None,
            silent: HashMap::new(),
            libcrypto: LruCache::sparse(REMEMBERED),
            unversioned: Vec::new(),
            blind_spots: ReportedOnce::default(),
            matched: BTreeSet::new(),
            missing: LruCache::sparse(REMEMBERED),
            unmatched: BTreeMap::new(),
            codes: LruCache::sparse(REMEMBERED),
            withdrawn: Vec::new(),
            launcher: None,
            inspected: LruCache::sparse(REMEMBERED),
            left_behind: LeftBehind::default(),
            has_left_behind: false,
            uses: Vec::new(),
            on_uncached: Arc::new(|| ()),
        }
    }

    /// Hooks no more files than this that no process maps.
    pub fn limit_unmapped(&mut self, most: usize) {
        self.users.limit_unmapped(most);
    }

    /// Does not inspect ctrace's own executable in a process that runs it until it becomes the command.
    pub fn set_launcher(&mut self, pid: u32) {
        let own = std::fs::metadata("/proc/self/exe").ok();
        self.launcher = own.map(|own| (pid, own.ino()));
    }

    /// Makes inspecting threads call `on_uncached` before they inspect a file that is not in the cache.
    pub fn on_uncached_file(&mut self, on_uncached: impl Fn() + Send + Sync + 'static) {
        self.on_uncached = Arc::new(on_uncached);
    }

    /// The plan for a target.
    pub async fn plan(&mut self, target: &Target) -> Plan {
        self.plan_with_outcomes(target).await.0
    }

    /// The same, with the outcome of each file that a process of the target maps.
    pub async fn plan_with_outcomes(&mut self, target: &Target) -> (Plan, Vec<ProcessOutcome>) {
        let mut outcomes = Vec::with_capacity(target.processes.len());
        for process in &target.processes {
            // If the process has exited, the reason is kept in `skipped`.
            let files = self.inspect_process(process.pid, Keep::Everything).await;
            outcomes.push(ProcessOutcome { pid: process.pid, files });
            for Versioned { sites, library } in self.versions(process.pid).await {
                if let Some(object) = self.objects.iter_mut().find(|object| object.sites == sites) {
                    object.library = library;
                }
            }
        }
        self.shown.retain(|_, (_, seen)| seen.outcome.is_foreign());
        for object in &mut self.objects {
            object.pids = self.users.pids_of(object.id);
        }
        let mut skipped = mem::take(&mut self.skipped);
        self.drop_matched(&mut skipped);
        // What the command will map is reported when it starts.
        let launcher = self.launcher.map(|(pid, _)| pid);
        let reported = skipped.iter().filter(|skipped| skipped.pid.is_none() || skipped.pid != launcher);
        self.blind_spots.mark_reported(reported);
        let plan = Plan {
            scope: target.scope.clone(),
            programs: self.probe.programs(),
            objects: mem::take(&mut self.objects),
            skipped,
            foreign: mem::take(&mut self.foreign),
            over_limit: self.over_limit.take(),
        };
        (plan, outcomes)
    }

    /// Inspects everything that a process maps now, because it has come into scope or executes another
    /// program. Returns the objects to attach to.
    pub async fn process(&mut self, pid: u32) -> Vec<ObjectHooks> {
        if self.inspect_process(pid, Keep::Foreign).await.is_err() {
            // It has exited.
            let code =
                if self.users.is_user(pid) { ProcessCode::Probed } else { ProcessCode::EndedUninspected };
            self.codes.put(pid, code);
        }
        self.found()
    }

    /// What is known of the code of a process that was inspected, also if it has ended.
    pub fn code_of(&mut self, pid: u32) -> ProcessCode {
        self.codes.get(&pid).copied().unwrap_or(ProcessCode::Unknown)
    }

    /// Inspects one file that a process has mapped, at this time of the kernel. Returns the objects to attach
    /// to.
    pub async fn mapped(&mut self, pid: u32, mapping: &Mapping, since: u64) -> Vec<ObjectHooks> {
        if !self.probe.inspects_files() {
            return Vec::new();
        }
        if self.users.root_of(pid).is_none() {
            self.reside(pid);
        }
        let seen = self.mapping(pid, mapping, Keep::Foreign).await;
        self.blind_spots_of(pid, mapping, &seen).await;
        if seen.is_hooked() {
            self.users.maps(pid, &seen.objects);
            self.uses(pid, &seen.objects, since);
            self.codes.put(pid, ProcessCode::Probed);
            return self.found();
        }
        // The range may belong to another file by now. Or the process has exited, while a process that it
        // forked still maps the file.
        if seen.outcome.refusal(&self.probe).is_some() {
            // A zombie has no mappings, which is no error.
            let files = self.inspect_process(pid, Keep::Foreign).await;
            if files.is_ok_and(|files| !files.is_empty()) {
                return self.found();
            }
            self.left_behind(pid, mapping, since).await;
        }
        self.found()
    }

    /// Inspects a file whose process has ended before it was opened. If that is impossible, another process
    /// may show the file later.
    async fn left_behind(&mut self, pid: u32, mapping: &Mapping, since: u64) {
        self.has_left_behind = true;
        if self.uses_inspected(pid, mapping, since).await {
            return;
        }
        let (caches, places) = ((&self.files, &self.mounts), (pid, self.places_of(pid)));
        match inspect_file::left_behind(places, mapping, caches, &self.probe, &self.on_uncached).await {
            Some((resident, FileInspection::Cached(seen))) => {
                let shown = SkippedFile::Shown(mapping.device, mapping.inode);
                self.blind_spots_in((pid, resident), (&mapping.path, shown), &seen).await;
            }
            Some((resident, FileInspection::New(new))) if !new.may_be_copied() => {
                let seen = self.add(pid, *new);
                let shown = SkippedFile::Shown(mapping.device, mapping.inode);
                self.blind_spots_in((pid, resident), (&mapping.path, shown), &seen).await;
                let inspected = Inspected::of(&seen);
                let objects = seen.objects;
                self.resolve_left_behind((mapping.inode, &mapping.path), &objects);
                // The next process of that container may execute it, too.
                self.users.maps(pid, &objects);
                if let Some(root) = self.users.root_of(resident) {
                    self.users.found_in(root, &objects, Instant::now());
                }
                self.inspected.put(mapping.inode, inspected);
                self.ended(pid);
            }
            Some((_, FileInspection::New(_))) | None => {
                self.left_behind.add(pid, (mapping.inode, &mapping.path), since);
            }
        }
    }

    fn resolve_left_behind(&mut self, file: (u64, &Path), objects: &[ObjectId]) {
        self.uses.extend(self.left_behind.resolve(file, objects.first().copied()));
    }

    /// Records that a process has mapped these objects of one file, unless they are new.
    fn uses(&mut self, pid: u32, objects: &[ObjectId], since: u64) {
        let known = objects.first().filter(|id| !self.objects.iter().any(|new| new.id == **id));
        self.uses.extend(known.map(|object| ObjectUse { pid, object: *object, since }));
    }

    /// If the file of a mapping was inspected, in this process, in another, or before anybody mapped it,
    /// records that the process has mapped it at this time, and what cannot be seen of it. Otherwise returns
    /// false.
    pub async fn uses_inspected(&mut self, pid: u32, mapping: &Mapping, since: u64) -> bool {
        let Some(Inspected::Seen(seen)) = self.inspected.get(&mapping.inode) else { return false };
        let seen = seen.verdict();
        self.uses(pid, &seen.objects, since);
        let root = self.places_of(pid).first().copied().unwrap_or(pid);
        let shown = SkippedFile::Shown(mapping.device, mapping.inode);
        self.blind_spots_in((pid, root), (&mapping.path, shown), &seen).await;
        let skipped = mem::take(&mut self.skipped);
        self.blind_spots.add(skipped);
        true
    }

    /// Processes in whose roots a path of an ended process may lead to the same file: first one with the same
    /// root, then some with others, and ctrace itself.
    fn places_of(&self, pid: u32) -> Vec<u32> {
        /// Limit of the roots that are tried.
        const ROOTS: usize = 16;
        let own = self.users.root_of(pid);
        let roots = own.into_iter().chain(self.users.roots().filter(|root| own != Some(*root)));
        let residents = roots.filter_map(|root| self.users.residents_of(root).find(|other| *other != pid));
        residents.take(ROOTS).chain([std::process::id()]).collect()
    }

    /// Records the root file system of a process in scope.
    fn reside(&mut self, pid: u32) {
        let Some(root) = MountView::of(pid) else { return };
        if self.users.resides(pid, root, Instant::now()) {
            self.early.push(root);
        }
    }

    /// The files that were hooked and have been written to since.
    pub fn changes(&self) -> FileChanges {
        self.changes.clone()
    }

    /// Handles the exit of a process.
    pub fn ended(&mut self, pid: u32) {
        self.unversioned.retain(|waiting| waiting.pid != pid);
        self.blind_spots.ended(pid);
        self.users.ended(pid, Instant::now());
    }

    /// Drops the processes that no longer run, because records of their exits may have been lost.
    pub fn forget_dead(&mut self, is_alive: impl Fn(u32) -> bool) {
        for pid in self.users.processes() {
            if !is_alive(pid) {
                self.ended(pid);
            }
        }
    }

    /// Drops an object that could not be attached to. It is tried again when a process that maps it changes.
    pub fn failed(&mut self, id: ObjectId) {
        self.changes.unwatch(&[id]);
        self.unversioned.retain(|waiting| waiting.object != id);
        self.users.remove(id);
        self.files.forget(&[id]);
    }

    /// Whether, since the last call, a process has exited before a file that it had mapped was opened. Other
    /// processes may map it.
    pub fn take_left_behind(&mut self) -> bool {
        mem::take(&mut self.has_left_behind)
    }

    /// Which processes have mapped objects that others had mapped before, since the last call.
    pub fn take_uses(&mut self) -> Vec<ObjectUse> {
        mem::take(&mut self.uses)
    }

    /// The processes whose files nobody could inspect.
    pub fn take_uninspected(&mut self) -> Vec<Uninspected> {
        self.left_behind.take()
    }

    /// What cannot be seen of the processes that were inspected since the last call.
    pub fn take_blind_spots(&mut self) -> Vec<Skipped> {
        self.blind_spots.take()
    }

    /// The objects that must be detached from at once, because a process is about to copy their code.
    pub fn take_withdrawn(&mut self) -> Vec<ObjectId> {
        mem::take(&mut self.withdrawn)
    }

    /// Refuses an object from now on, because a probe in it has harmed a process.
    pub fn harmed(&mut self, id: ObjectId) {
        let outcome = Arc::new(FileOutcome::CopiedCode(code_copy::HARMED.to_owned()));
        self.files.refuse(id, &outcome);
        self.failed(id);
    }

    /// Inspects a process again that has new code in anonymous memory, if that may be a copy of hooked code.
    pub async fn code_changed(&mut self, pid: u32) -> Vec<ObjectHooks> {
        if !self.users.is_user(pid) {
            return Vec::new();
        }
        match inspect_file::mappings(pid).await {
            Ok(mappings) if mappings.iter().any(|mapping| mapping.replaced.is_some()) => {
                self.process(pid).await
            }
            // It has exited, or has a compiler that makes code while it runs.
            _ => Vec::new(),
        }
    }

    /// When [`Discovery::take_unused`] will next return something.
    pub fn due(&self) -> Option<Instant> {
        self.users.due()
    }

    /// The objects that nobody uses any more, which must be detached from. The ids of their hooks will be
    /// reused, so all of their earlier records must have been handled by then.
    pub fn take_unused(&mut self) -> Vec<ObjectId> {
        let unused = self.users.take_unused(Instant::now());
        self.release(unused)
    }

    /// The objects that must be detached from because too many are hooked that no process maps.
    pub fn take_excess(&mut self) -> Vec<ObjectId> {
        let excess = self.users.take_excess();
        self.release(excess)
    }

    fn release(&mut self, objects: Vec<(ObjectId, Range<u32>)>) -> Vec<ObjectId> {
        let (ids, sites): (Vec<_>, Vec<_>) = objects.into_iter().unzip();
        if ids.is_empty() {
            return ids;
        }
        self.changes.unwatch(&ids);
        self.free.extend(sites.into_iter().map(|sites| (Instant::now(), sites)));
        self.unversioned.retain(|waiting| !ids.contains(&waiting.object));
        self.files.forget(&ids);
        for (_, inspected) in &mut self.inspected {
            if matches!(inspected, Inspected::Seen(seen) if seen.objects.iter().any(|id| ids.contains(id))) {
                *inspected = Inspected::Detached;
            }
        }
        ids
    }

    fn found(&mut self) -> Vec<ObjectHooks> {
        let mut skipped = mem::take(&mut self.skipped);
        self.drop_matched(&mut skipped);
        self.blind_spots.add(skipped);
        self.foreign.clear();
        mem::take(&mut self.objects)
    }

    async fn inspect_process(&mut self, pid: u32, keep: Keep) -> Result<Vec<MappedFile>, MappingsError> {
        if !self.probe.inspects_files() {
            return Ok(Vec::new());
        }
        self.reside(pid);
        let mappings = match inspect_file::mappings(pid).await {
            Ok(mappings) => mappings,
            Err(error) => {
                self.skip(SkipKind::Mappings, pid, "its mappings", error.why());
                return Err(error);
            }
        };
        self.codes.put(pid, ProcessCode::Unprobed);
        let mut files = Vec::with_capacity(mappings.len());
        let mut foreign = 0;
        let mut maps = BTreeSet::new();
        for mapping in mappings {
            let seen = self.mapping(pid, &mapping, keep).await;
            self.blind_spots_of(pid, &mapping, &seen).await;
            let FileVerdict { outcome, objects, .. } = seen;
            foreign += usize::from(outcome.is_foreign());
            if objects.is_empty()
                && let Some((kind, why)) = outcome.refusal(&self.probe)
            {
                self.skip(kind, pid, &mapping.path.to_string_lossy(), why);
            }
            maps.extend(objects);
            files.push(MappedFile { path: mapping.path, outcome });
        }
        self.users.maps(pid, &maps.iter().copied().collect::<Vec<_>>());
        self.users.set_mapped(pid, &maps, Instant::now());
        if maps.is_empty() {
            let files = if foreign == 1 { "file" } else { "files" };
            let what = format!("{foreign} mapped {files}");
            self.skip(SkipKind::Process, pid, &what, self.probe.nothing_found().to_owned());
        } else {
            self.codes.put(pid, ProcessCode::Probed);
            if matches!(self.probe, Probe::Ssl(_)) && Proc::default().has_kernel_tls(pid) {
                self.skip(SkipKind::Untraceable, pid, "kernel TLS", tls::KERNEL_TLS.to_owned());
            }
        }
        Ok(files)
    }

    async fn mapping(&mut self, pid: u32, mapping: &Mapping, keep: Keep) -> FileVerdict {
        if self.launcher == Some((pid, mapping.inode)) {
            let why = "it is ctrace itself, before it executes the command".to_owned();
            return FileVerdict::unhooked(FileOutcome::NothingWatched(why), (0, 0));
        }
        let shown = (mapping.device, mapping.inode, mapping.path.clone());
        let now = Instant::now();
        if let Some((at, seen)) = self.shown.get(&shown)
            && !seen.depends_on_process(mapping)
            && (keep == Keep::Everything || now.duration_since(*at) < MAPPING_CACHE_TTL)
        {
            return seen.clone();
        }
        if self.silent.get(&mapping.device).is_some_and(|at| now.duration_since(*at) < TIMED_OUT_DEVICE_TTL) {
            return unopened(OpenFailure::TimedOut);
        }
        let caches = (&self.files, &self.mounts);
        let seen = match inspect_file::file(pid, mapping, caches, &self.probe, &self.on_uncached).await {
            // In another process, the code may be that of the file.
            Ok(found) if found.state == CodeState::Copied => return self.in_process(pid, found),
            Ok(found) => self.in_process(pid, found),
            // This is not cached: the process may have exited meanwhile, and other processes may map the
            // file.
            Err(InspectError::Failed(error)) => return unopened(OpenFailure::Refused(error)),
            Err(InspectError::OpenTimeout) => {
                // The wait took long, and the device is skipped from its end on.
                let now = Instant::now();
                self.silent.retain(|_, at| now.duration_since(*at) < TIMED_OUT_DEVICE_TTL);
                self.silent.insert(mapping.device, now);
                return unopened(OpenFailure::TimedOut);
            }
            Err(InspectError::ReadTimeout(inode, seen)) => {
                let seen = seen.on(inode);
                self.files.insert(inode, seen.clone());
                seen
            }
        };
        self.resolve_left_behind((mapping.inode, &mapping.path), &seen.objects);
        self.inspected.put(mapping.inode, Inspected::of(&seen));
        // A hooked file that is copied up looks the same from outside, but is another file.
        if keep == Keep::Everything || seen.outcome.is_foreign() {
            self.shown.put(shown, (now, seen.clone()));
        }
        seen
    }

    /// The verdict on a file in a process, which may execute its code elsewhere.
    fn in_process(
        &mut self,
        pid: u32,
        FileInProcess { inode, inspection, state }: FileInProcess,
    ) -> FileVerdict {
        let changed = match &inspection {
            FileInspection::Cached(seen) => seen.changed,
            FileInspection::New(new) => new.file.changed(),
        };
        match state {
            CodeState::InFile => {}
            CodeState::Copied => {
                let outcome = FileOutcome::CopiedCode(code_copy::COPIED.to_owned());
                return FileVerdict::unhooked(outcome, changed).on(inode);
            }
            CodeState::PartlyCopied(functions) => {
                let path = self.path_of(&inspection).unwrap_or_default();
                self.skip(SkipKind::CopiedCode, pid, &path, code_copy::partly_copied(&functions));
            }
            CodeState::CopyRequested(request) => {
                let why = code_copy::copy_requested(pid, &request);
                if let FileInspection::Cached(seen) = inspection {
                    self.withdraw(pid, &seen.objects, &why);
                }
                let verdict = FileVerdict::unhooked(FileOutcome::CopiedCode(why), changed).on(inode);
                self.files.insert(inode, verdict.clone());
                return verdict;
            }
        }
        match inspection {
            FileInspection::Cached(seen) => seen,
            FileInspection::New(new) => self.add(pid, *new),
        }
    }

    fn path_of(&self, inspection: &FileInspection) -> Option<String> {
        match inspection {
            FileInspection::Cached(seen) => seen.objects.first().and_then(|id| self.users.path_of(*id)),
            FileInspection::New(new) => Some(file_name(&new.file)),
        }
    }

    /// Drops hooked objects, because process `pid` is about to copy their code.
    fn withdraw(&mut self, pid: u32, ids: &[ObjectId], why: &str) {
        for id in ids {
            let path = self.users.path_of(*id).unwrap_or_default();
            for user in self.users.pids_of(*id).into_iter().filter(|user| *user != pid) {
                self.skip(SkipKind::CopiedCode, user, &path, why.to_owned());
            }
            let attached = self.objects.len();
            self.objects.retain(|object| object.id != *id);
            if self.objects.len() == attached {
                self.withdrawn.push(*id);
            }
            self.failed(*id);
        }
    }

    fn add(
        &mut self,
        pid: u32,
        InspectedFile { file, inode, verdict, original }: InspectedFile,
    ) -> FileVerdict {
        let mut seen = self.apply_verdict(pid, file, verdict).on(inode);
        if let Some(original) = original.filter(|_| seen.is_hooked()) {
            seen.objects.extend(self.add_original(pid, original));
        }
        self.files.insert(inode, seen.clone());
        seen
    }

    fn add_original(
        &mut self,
        pid: u32,
        CopyUpSource { file, inode, verdict }: CopyUpSource,
    ) -> Vec<ObjectId> {
        if let Some(hooked) = self.files.hooked(inode) {
            return hooked;
        }
        let Some(verdict) = verdict else { return Vec::new() };
        let seen = self.apply_verdict(pid, file, verdict).on(inode);
        if !seen.is_hooked() {
            return Vec::new();
        }
        let ids = seen.objects.clone();
        self.files.insert(inode, seen);
        ids
    }

    fn apply_verdict(&mut self, pid: u32, file: Arc<ForeignFile>, verdict: Verdict) -> FileVerdict {
        let outcome = match verdict {
            Verdict::Watched(found, code) => return self.hook(pid, file, (*found, code)),
            Verdict::Unwatched(outcome) => outcome,
        };
        if let FileOutcome::NotElf(why) | FileOutcome::NothingWatched(why) = &outcome {
            self.foreign.push(Skipped {
                kind: SkipKind::File,
                pid: Some(pid),
                file: None,
                subject: file_name(&file),
                reason: why.clone(),
            });
        }
        FileVerdict::unhooked(outcome, file.changed())
    }

    fn hook(
        &mut self,
        pid: u32,
        file: Arc<ForeignFile>,
        (found, code): (ProbeMatch, Arc<HookedCode>),
    ) -> FileVerdict {
        let (outcome, changed) = (FileOutcome::Watched(WatchedFile::of(&found)), file.changed());
        let ProbeMatch { library: facts, hooks, skipped, evidence, matched, over_limit, .. } = found;
        self.matched.extend(matched);
        self.over_limit = self.over_limit.take().or(over_limit);
        let path = file_name(&file);
        for why in skipped {
            self.skip(SkipKind::File, pid, &path, why);
        }
        if hooks.is_empty() {
            return FileVerdict::unhooked(outcome, changed);
        }
        let id = self.users.next_id();
        let retention = match self.changes.watch(id, &file) {
            WatchState::Changed => {
                return FileVerdict::unhooked(FileOutcome::Unparsed(CHANGED.to_owned()), changed);
            }
            WatchState::Watched if !has_kernel_returns(&hooks) => Retention::WithRoot,
            WatchState::Watched | WatchState::Unwatched => Retention::WhileMapped,
        };
        let name = facts.name.unwrap_or_else(|| {
            file.name().file_name().map_or_else(|| path.clone(), |name| name.to_string_lossy().into_owned())
        });
        let library = Library { name, path, implementation: facts.implementation, version: facts.version };
        let sites = self.number(u32::try_from(hooks.len()).unwrap_or(u32::MAX));
        let library = Arc::new(library);
        self.users.add(id, (Arc::clone(&file), sites.clone()), retention);
        if let (None, Some(version_in)) = (&library.version, facts.version_in) {
            let (library, sites) = (Arc::clone(&library), sites.clone());
            self.unversioned.push(Unversioned { pid, object: id, version_in, place: None, library, sites });
        }
        let (pids, available_to) = (vec![pid], Vec::new());
        self.objects.push(ObjectHooks { id, library, file, pids, available_to, evidence, sites, hooks });
        FileVerdict { outcome: Arc::new(outcome), objects: vec![id], code: Some(code), changed, inode: None }
    }

    /// Ids for this many hooks.
    fn number(&mut self, count: u32) -> Range<u32> {
        let can_be = |(since, free): &(Instant, Range<u32>)| {
            since.elapsed() >= SITE_REUSE_DELAY && free.len() == count as usize
        };
        if let Some((_, free)) = self.free.iter().position(can_be).and_then(|index| self.free.remove(index)) {
            return free;
        }
        let first = self.next;
        self.next = first.saturating_add(count);
        first..self.next
    }

    fn skip(&mut self, kind: SkipKind, pid: u32, what: &str, why: String) {
        self.skip_in(None, kind, (pid, what), why);
    }

    fn skip_in(
        &mut self,
        file: Option<SkippedFile>,
        kind: SkipKind,
        (pid, what): (u32, &str),
        reason: String,
    ) {
        // A library that cannot be traced may be mapped long after the process was inspected.
        if kind.is_blind_spot() && self.code_of(pid) != ProcessCode::Probed {
            self.codes.put(pid, ProcessCode::Reported);
        }
        self.skipped.push(Skipped { kind, pid: Some(pid), file, subject: what.to_owned(), reason });
    }
}

/// Whether the kernel probes the return of any of these.
fn has_kernel_returns(hooks: &[Hook]) -> bool {
    hooks.iter().any(|hook| hook.return_probe == ReturnProbe::Kernel)
}

fn unopened(failure: OpenFailure) -> FileVerdict {
    FileVerdict::unhooked(FileOutcome::Unopened(failure), (0, 0))
}

/// What is known of a file by its inode number.
enum Inspected {
    /// It was inspected.
    Seen(InspectedOnce),
    /// It had objects, and was detached from.
    Detached,
}

/// What a file was found to be when it was inspected.
struct InspectedOnce {
    outcome: Arc<FileOutcome>,
    objects: Vec<ObjectId>,
    inode: Option<RealInode>,
}

impl Inspected {
    fn of(seen: &FileVerdict) -> Self {
        let (outcome, objects) = (Arc::clone(&seen.outcome), seen.objects.clone());
        Self::Seen(InspectedOnce { outcome, objects, inode: seen.inode })
    }
}

impl InspectedOnce {
    fn verdict(&self) -> FileVerdict {
        let Self { outcome, objects, inode } = self;
        let (outcome, objects) = (Arc::clone(outcome), objects.clone());
        FileVerdict { outcome, objects, code: None, changed: (0, 0), inode: *inode }
    }
}

/// What is cached by what mappings show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    /// All files, until the plan is made.
    Everything,
    /// Files without anything to hook.
    Foreign,
}

fn file_name(file: &ForeignFile) -> String {
    file.name().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
