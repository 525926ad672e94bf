//! Opens, identifies and parses one file of a target, within a time limit.
//!
//! Owns the handling of file systems that do not answer. Everything is done on one other thread, without a
//! handover in between: each handover costs a wakeup, during which the target makes its first calls. It
//! caches nothing itself.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::UncachedFileCallback;
use super::code_copy::{CodeState, HookedCode, Started};
use super::file_cache::{FileCache, FileVerdict};
use super::loader::{self, LoaderCache, ProgramFiles, Surroundings};
use super::outcome::{FileOutcome, MappingsError};
use super::program::ProgramStart;
use super::verify_code;
use crate::elf::{Object, ObjectError};
use crate::error_chain;
use crate::probe::tls::version;
use crate::probe::{NoHooks, Probe, ProbeMatch, SslProbe};
use crate::proc::maps::Mapping;
use crate::rootfs::{self, ForeignFile, Mounts, OpenError, RealInode, TargetRoot};
use crate::timeout::{timed_out_reading_message, with_timeout};

/// The result of inspecting a file.
pub(super) enum FileInspection {
    /// The file is in the cache.
    Cached(FileVerdict),
    /// The file was opened and parsed.
    New(Box<InspectedFile>),
}

impl FileInspection {
    /// The code with functions to hook, if it has any.
    fn code(&self) -> Option<Arc<HookedCode>> {
        match self {
            Self::Cached(seen) => seen.code.clone(),
            Self::New(new) => match &new.verdict {
                Verdict::Watched(found, code) if !found.hooks.is_empty() => Some(Arc::clone(code)),
                Verdict::Watched(..) | Verdict::Unwatched(_) => None,
            },
        }
    }
}

/// A file in a process.
pub(super) struct FileInProcess {
    pub(super) inode: RealInode,
    pub(super) inspection: FileInspection,
    pub(super) state: CodeState,
}

/// A file that was not in the cache.
pub(super) struct InspectedFile {
    pub(super) file: Arc<ForeignFile>,
    pub(super) inode: RealInode,
    pub(super) verdict: Verdict,
    /// The file from which it was copied up, if there is one.
    pub(super) original: Option<CopyUpSource>,
}

impl InspectedFile {
    /// Whether it has hooks, and a process that is asked for it copies its code, which only a process shows.
    pub(super) fn may_be_copied(&self) -> bool {
        matches!(&self.verdict, Verdict::Watched(_, code) if code.may_be_copied(&self.file))
    }
}

/// A file from which another one was copied up.
pub(super) struct CopyUpSource {
    pub(super) file: Arc<ForeignFile>,
    pub(super) inode: RealInode,
    /// None if it is hooked already.
    pub(super) verdict: Option<Verdict>,
}

/// What was found in a file.
pub(super) enum Verdict {
    /// It has functions to hook.
    Watched(Box<ProbeMatch>, Arc<HookedCode>),
    /// It has none, or cannot be used.
    Unwatched(FileOutcome),
}

/// A program, and the files that it will map or may map.
pub(super) struct InspectedProgram {
    /// See [`StartedProgram`](super::StartedProgram).
    pub(super) executable: Option<PathBuf>,
    /// Each with its path, and its inode number as the process sees it.
    pub(super) files: Vec<(PathBuf, u64, FileInProcess)>,
}

/// Why a file could not be inspected.
pub(super) enum InspectError {
    /// The file system did not open it in time.
    OpenTimeout,
    /// It could not be opened.
    Failed(OpenError),
    /// It was opened, but reading it took too long.
    ReadTimeout(RealInode, FileVerdict),
}

/// The files that a process maps as executable.
pub(super) async fn mappings(pid: u32) -> Result<Vec<Mapping>, MappingsError> {
    match with_timeout(move || rootfs::executable_mappings(pid)).await {
        Some(read) => read.map_err(MappingsError::Unreadable),
        None => Err(MappingsError::TimedOut),
    }
}

/// Inspects the file behind a mapping, unless it is in the cache.
pub(super) async fn file(
    pid: u32,
    mapping: &Mapping,
    (cache, mounts): (&FileCache, &Mounts),
    probe: &Probe,
    on_uncached: &UncachedFileCallback,
) -> Result<FileInProcess, InspectError> {
    let (mapping, cache, mounts) = (mapping.clone(), cache.clone(), mounts.clone());
    let (probe, on_uncached) = (probe.clone(), Arc::clone(on_uncached));
    // Records how far the thread came, in case it does not return in time.
    let opened = Arc::new(OnceLock::new());
    let mark = Arc::clone(&opened);
    let inspection = with_timeout(move || {
        let (file, inode) = rootfs::inspect(pid, &mapping, &mounts)?;
        let file = Arc::new(file);
        let mut started = None;
        let inspection = if let Some(seen) = cache.get(inode, &file) {
            FileInspection::Cached(seen)
        } else {
            // First, because the process may end before the file is inspected.
            started = Started::of(pid);
            on_uncached();
            // Nothing else sets it.
            let _ = mark.set((inode, file.changed(), file.size));
            inspect_new(pid, (Arc::clone(&file), inode), Some(&mapping), (&cache, &mounts), &probe)
        };
        let started = || started.or_else(|| Started::of(pid));
        let code = inspection.code();
        let state = code.map_or(CodeState::InFile, |code| code.state(&mapping, (&file, &mounts), started));
        Ok(FileInProcess { inode, inspection, state })
    });
    match (inspection.await, opened.get()) {
        (Some(inspection), _) => inspection.map_err(InspectError::Failed),
        (None, Some((inode, changed, size))) => Err(InspectError::ReadTimeout(
            *inode,
            FileVerdict::unhooked(FileOutcome::Unparsed(timed_out_reading_message(*size)), *changed),
        )),
        (None, None) => Err(InspectError::OpenTimeout),
    }
}

/// Inspects the files of a program that has not started. None if that takes too long, or if the process has
/// ended.
pub(super) async fn program(
    start: ProgramStart,
    (cache, mounts, loader): (&FileCache, &Mounts, &LoaderCache),
    probe: &Probe,
    on_uncached: &UncachedFileCallback,
) -> Option<InspectedProgram> {
    let (cache, mounts, loader) = (cache.clone(), mounts.clone(), loader.clone());
    let (probe, on_uncached) = (probe.clone(), Arc::clone(on_uncached));
    let inspection = with_timeout(move || {
        let pid = start.pid();
        let (opened, started) = (start.open(&mounts), start.start_arguments());
        let (root, program, variables) =
            opened.inspect_err(|error| tracing::debug!("a program was not inspected: {error}")).ok()?;
        let mounts = &mounts;
        let surroundings = Surroundings { root: &root, mounts, variables: &variables, cache: &loader };
        let ProgramFiles { executable, files } =
            loader::files(surroundings, program, |name| probe.expects_library(name));
        let inspect = |(file, inode): (ForeignFile, RealInode)| {
            let (path, number) = (file.name().to_owned(), file.inode());
            let file = Arc::new(file);
            let inspection =
                unmapped(pid, (Arc::clone(&file), inode), (&cache, mounts), &probe, &on_uncached);
            let state = match inspection.code() {
                Some(code) => code.state_of_program(&started, &file, (&root, mounts)),
                None => CodeState::InFile,
            };
            (path, number, FileInProcess { inode, inspection, state })
        };
        Some(InspectedProgram { executable, files: files.into_iter().map(inspect).collect() })
    });
    inspection.await.flatten()
}

/// Inspects the file that a process has mapped and that nobody opened before the process ended, if it has the
/// same path in the root of one of these processes. Returns it with that process.
pub(super) async fn left_behind(
    (pid, residents): (u32, Vec<u32>),
    mapping: &Mapping,
    (cache, mounts): (&FileCache, &Mounts),
    probe: &Probe,
    on_uncached: &UncachedFileCallback,
) -> Option<(u32, FileInspection)> {
    let (mapping, cache, mounts) = (mapping.clone(), cache.clone(), mounts.clone());
    let (probe, on_uncached) = (probe.clone(), Arc::clone(on_uncached));
    let inspection = with_timeout(move || {
        let open = |resident: u32| {
            let (file, inode) = TargetRoot::of(resident).ok()?.open_resolved(&mapping.path, &mounts).ok()?;
            (file.inode() == mapping.inode && file.name() == mapping.path).then_some((resident, file, inode))
        };
        let (resident, file, inode) = residents.into_iter().find_map(open)?;
        let file = (Arc::new(file), inode);
        Some((resident, unmapped(pid, file, (&cache, &mounts), &probe, &on_uncached)))
    });
    inspection.await.flatten()
}

/// Inspects a file that is open, unless it is in the cache. Nothing can have patched it in memory.
pub(super) fn unmapped(
    pid: u32,
    (file, inode): (Arc<ForeignFile>, RealInode),
    (cache, mounts): (&FileCache, &Mounts),
    probe: &Probe,
    on_uncached: &UncachedFileCallback,
) -> FileInspection {
    if let Some(verdict) = cache.get(inode, &file) {
        return FileInspection::Cached(verdict);
    }
    on_uncached();
    inspect_new(pid, (file, inode), None, (cache, mounts), probe)
}

/// Inspects a file that is not in the cache. Without a mapping, nothing can have patched it in memory.
fn inspect_new(
    pid: u32,
    (file, inode): (Arc<ForeignFile>, RealInode),
    mapping: Option<&Mapping>,
    (cache, mounts): (&FileCache, &Mounts),
    probe: &Probe,
) -> FileInspection {
    let begin = Instant::now();
    let mut verdict = inspect(pid, &file, mounts, probe);
    if let (Verdict::Watched(found, _), Some(mapping)) = (&mut verdict, mapping) {
        verify_code::retain_unpatched(pid, mapping, &file, found);
    }
    tracing::debug!(pid, file = ?file.name(), took = ?begin.elapsed(), "inspected");
    let original = match verdict {
        // Both are needed, because a process that mapped the file before the copy-up goes on executing the
        // original.
        Verdict::Watched(..) => original(pid, &file, (cache, mounts), probe),
        Verdict::Unwatched(_) => None,
    };
    FileInspection::New(Box::new(InspectedFile { file, inode, verdict, original }))
}

fn original(
    pid: u32,
    file: &ForeignFile,
    (cache, mounts): (&FileCache, &Mounts),
    probe: &Probe,
) -> Option<CopyUpSource> {
    let (file, inode) = rootfs::before_copy_up(pid, file, mounts)?;
    let verdict = cache.hooked(inode).is_none().then(|| inspect(pid, &file, mounts, probe));
    Some(CopyUpSource { file: Arc::new(file), inode, verdict })
}

/// Searches a file for functions to hook.
fn inspect(pid: u32, file: &ForeignFile, mounts: &Mounts, probe: &Probe) -> Verdict {
    let with_debug_file = |object: Object| {
        if probe.needs_debug_file(&object, file.name()) {
            rootfs::with_debug_file(pid, file.name(), object, mounts)
        } else {
            object
        }
    };
    let outcome = match parse(file, probe).map(with_debug_file) {
        Ok(object) => match probe.hooks(&object, file.name()) {
            Ok(found) => {
                let code = HookedCode::of(&object, file, &found);
                return Verdict::Watched(Box::new(found), Arc::new(code));
            }
            Err(NoHooks::Untraceable(untraceable)) => FileOutcome::Untraceable(untraceable),
            Err(nothing) => FileOutcome::NothingWatched(nothing.to_string()),
        },
        Err(error) if error.is_foreign() => FileOutcome::NotElf(error_chain::in_one_line(&error)),
        Err(error) => FileOutcome::Unparsed(error_chain::in_one_line(&error)),
    };
    Verdict::Unwatched(outcome)
}

/// Opens the file behind a mapping, in order to read its version.
pub(super) async fn open(pid: u32, mapping: &Mapping, mounts: &Mounts) -> Option<(ForeignFile, RealInode)> {
    let (mapping, mounts) = (mapping.clone(), mounts.clone());
    with_timeout(move || rootfs::inspect(pid, &mapping, &mounts).ok()).await.flatten()
}

/// Opens a file in the root of a process, in order to read its version.
pub(super) async fn open_path(root: u32, path: &Path, mounts: &Mounts) -> Option<(ForeignFile, RealInode)> {
    let (path, mounts) = (path.to_owned(), mounts.clone());
    with_timeout(move || TargetRoot::of(root).ok()?.open(&path, &mounts).ok()).await.flatten()
}

/// The version that a file contains.
pub(super) async fn version_in(file: ForeignFile) -> Option<String> {
    with_timeout(move || version::find(&parse(&file, &Probe::Ssl(SslProbe::default())).ok()?)?.version)
        .await
        .flatten()
}

fn parse(file: &ForeignFile, probe: &Probe) -> Result<Object, ObjectError> {
    let handle = file.file().map_err(|source| ObjectError::Read { what: "the file", offset: 0, source })?;
    Object::parse(handle, file.size, &probe.symbol_filter())
}
