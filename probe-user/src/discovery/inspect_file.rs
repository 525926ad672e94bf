//! One file of a target: opened, identified and parsed, within a time limit.
//!
//! Owns the patience with file systems that do not answer. All that is done to a file is done on one other
//! thread, in one go: each handover costs a wakeup, during which the target makes its first calls. It
//! remembers nothing.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::UncachedFileCallback;
use super::file_cache::{FileCache, FileVerdict};
use super::outcome::{FileOutcome, MappingsError};
use super::verify_code;
use crate::elf::{Object, ObjectError};
use crate::error_chain;
use crate::probe::tls::version;
use crate::probe::{NoHooks, Probe, ProbeMatch, SslProbe};
use crate::proc::maps::Mapping;
use crate::rootfs::{self, ForeignFile, Mounts, OpenError, RealInode};
use crate::timeout::{timed_out_reading_message, with_timeout};

/// A file was looked for.
pub(super) enum Inspection {
    /// It is known.
    Known(FileVerdict),
    /// It was looked into.
    New(Box<InspectedFile>),
}

/// A file that was not known.
pub(super) struct InspectedFile {
    pub(super) file: Arc<ForeignFile>,
    pub(super) inode: RealInode,
    pub(super) looked: Verdict,
    /// The file that it was copied up from, if it was.
    pub(super) original: Option<CopyUpSource>,
}

/// A file from which another one was copied up.
pub(super) struct CopyUpSource {
    pub(super) file: Arc<ForeignFile>,
    pub(super) inode: RealInode,
    /// None: it is hooked.
    pub(super) looked: Option<Verdict>,
}

/// A file was looked into.
pub(super) enum Verdict {
    /// It has what is watched.
    Watched(Box<ProbeMatch>),
    /// It has not, or cannot be used.
    Unwatched(FileOutcome),
}

/// A file could not be looked into.
pub(super) enum InspectError {
    /// Its file system did not let it be opened in time.
    OpenTimeout,
    /// It could not be opened.
    Failed(OpenError),
    /// It was opened, and what follows took too long.
    ReadTimeout(RealInode, FileVerdict),
}

/// The files that a process maps executable, or why that cannot be told.
pub(super) async fn mappings(pid: u32) -> Result<Vec<Mapping>, MappingsError> {
    match with_timeout(move || rootfs::executable_mappings(pid)).await {
        Some(read) => read.map_err(MappingsError::Unreadable),
        None => Err(MappingsError::TimedOut),
    }
}

/// Looks into the file behind a mapping, unless it is known.
pub(super) async fn file(
    pid: u32,
    mapping: &Mapping,
    (known, mounts): (&FileCache, &Mounts),
    probe: &Probe,
    strange: &UncachedFileCallback,
) -> Result<Inspection, InspectError> {
    let (mapping, known, mounts) = (mapping.clone(), known.clone(), mounts.clone());
    let (probe, strange) = (probe.clone(), Arc::clone(strange));
    // How far it came, should it not come back.
    let opened = Arc::new(OnceLock::new());
    let mark = Arc::clone(&opened);
    let look = with_timeout(move || {
        let begin = Instant::now();
        let (file, inode) = rootfs::inspect(pid, &mapping, &mounts)?;
        if let Some(seen) = known.of(inode, &file) {
            return Ok(Inspection::Known(seen));
        }
        strange();
        // Nobody else sets it.
        let _ = mark.set((inode, file.changed(), file.size));
        let open = begin.elapsed();
        let mut looked = inspect(&file, &probe);
        if let Verdict::Watched(found) = &mut looked {
            verify_code::retain_unpatched(pid, &mapping, &file, found);
        }
        tracing::debug!(pid, file = ?file.name(), ?open, all = ?begin.elapsed(), "looked into");
        let original = match looked {
            // Both are needed: who mapped the file before it was copied up goes on executing the original.
            Verdict::Watched(_) => original(pid, &file, (&known, &mounts), &probe),
            Verdict::Unwatched(_) => None,
        };
        Ok(Inspection::New(Box::new(InspectedFile { file: Arc::new(file), inode, looked, original })))
    });
    match (look.await, opened.get()) {
        (Some(look), _) => look.map_err(InspectError::Failed),
        (None, Some((inode, changed, size))) => Err(InspectError::ReadTimeout(
            *inode,
            FileVerdict::unhooked(FileOutcome::Unparsed(timed_out_reading_message(*size)), *changed),
        )),
        (None, None) => Err(InspectError::OpenTimeout),
    }
}

fn original(
    pid: u32,
    file: &ForeignFile,
    (known, mounts): (&FileCache, &Mounts),
    probe: &Probe,
) -> Option<CopyUpSource> {
    let (file, inode) = rootfs::before_copy_up(pid, file, mounts)?;
    let looked = known.hooked(inode).is_none().then(|| inspect(&file, probe));
    Some(CopyUpSource { file: Arc::new(file), inode, looked })
}

/// Looks for what is watched.
fn inspect(file: &ForeignFile, probe: &Probe) -> Verdict {
    let outcome = match parse(file, probe) {
        Ok(object) => match probe.hooks(&object, file.name()) {
            Ok(found) => return Verdict::Watched(Box::new(found)),
            Err(NoHooks::Untraceable(untraceable)) => FileOutcome::Untraceable(untraceable),
            Err(nothing) => FileOutcome::NothingWatched(nothing.to_string()),
        },
        Err(error) if error.is_foreign() => FileOutcome::NotElf(error_chain::in_one_line(&error)),
        Err(error) => FileOutcome::Unparsed(error_chain::in_one_line(&error)),
    };
    Verdict::Unwatched(outcome)
}

/// Opens the file behind a mapping, to say what version it is of.
pub(super) async fn open(pid: u32, mapping: &Mapping, mounts: &Mounts) -> Option<(ForeignFile, RealInode)> {
    let (mapping, mounts) = (mapping.clone(), mounts.clone());
    with_timeout(move || rootfs::inspect(pid, &mapping, &mounts).ok()).await.flatten()
}

/// The version that a file says it is of.
pub(super) async fn version_in(file: ForeignFile) -> Option<String> {
    with_timeout(move || version::find(&parse(&file, &Probe::Ssl(SslProbe::default())).ok()?)?.version)
        .await
        .flatten()
}

fn parse(file: &ForeignFile, probe: &Probe) -> Result<Object, ObjectError> {
    let handle = file.file().map_err(|source| ObjectError::Read { what: "the file", offset: 0, source })?;
    Object::parse(handle, file.size, &probe.wanted())
}
