//! One file of a target: opened, identified and parsed, within a time limit.
//!
//! Owns the patience with file systems that do not answer. All that is done to a file is done on one other thread,
//! in one go: each handover costs a wakeup, during which the target makes its first calls. It remembers nothing.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::Strange;
use super::known::{Known, Seen};
use super::sites;
use crate::object::{Object, ObjectError};
use crate::patience::{describe, in_time, no_answer, no_end};
use crate::probe::ssl::version;
use crate::probe::{Found, Nothing, Probe, Ssl};
use crate::rootfs::{self, ForeignFile, Mapping, Mounts, OpenError, RealInode};

/// A file was looked for.
pub(super) enum Look {
    /// It is known.
    Known(Seen),
    /// It was looked into.
    New(Box<New>),
}

/// A file that was not known.
pub(super) struct New {
    pub(super) file: Arc<ForeignFile>,
    pub(super) inode: RealInode,
    pub(super) looked: Looked,
    /// The file that it was copied up from, if it was.
    pub(super) original: Option<Original>,
}

/// A file from which another one was copied up.
pub(super) struct Original {
    pub(super) file: Arc<ForeignFile>,
    pub(super) inode: RealInode,
    /// None: it is hooked.
    pub(super) looked: Option<Looked>,
}

/// A file was looked into.
pub(super) enum Looked {
    /// It has what is watched.
    Watched(Box<Found>),
    /// It has none, or is no ELF file at all.
    Foreign(String),
    /// It cannot be used, for this reason.
    Broken(String),
    /// It has what cannot be traced, in words.
    Untraceable(String),
}

/// A file could not be looked into.
pub(super) enum Unseen {
    /// Its file system did not let it be opened in time.
    Silent,
    /// It could not be opened, for this reason.
    Failed(String),
    /// It was opened, and what follows took too long.
    Endless(RealInode, Seen),
}

/// The files that a process maps executable, or why that cannot be told.
pub(super) async fn mappings(pid: u32) -> Result<Vec<Mapping>, String> {
    match in_time(move || rootfs::executable_mappings(pid)).await {
        Some(Ok(mappings)) => Ok(mappings),
        Some(Err(error)) => Err(error.why()),
        None => Err(no_answer()),
    }
}

/// Looks into the file behind a mapping, unless it is known.
pub(super) async fn file(
    pid: u32,
    mapping: &Mapping,
    (known, mounts): (&Known, &Mounts),
    probe: &Probe,
    strange: &Strange,
) -> Result<Look, Unseen> {
    let (mapping, known, mounts) = (mapping.clone(), known.clone(), mounts.clone());
    let (probe, strange) = (probe.clone(), Arc::clone(strange));
    // How far it came, should it not come back.
    let opened = Arc::new(OnceLock::new());
    let mark = Arc::clone(&opened);
    let look = in_time(move || {
        let begin = Instant::now();
        let (file, inode) = rootfs::inspect(pid, &mapping, &mounts)?;
        if let Some(seen) = known.of(inode, &file) {
            return Ok(Look::Known(seen));
        }
        strange();
        // Nobody else sets it.
        let _ = mark.set((inode, file.changed(), file.size));
        let open = begin.elapsed();
        let mut looked = look_into(&file, &probe);
        if let Looked::Watched(found) = &mut looked {
            sites::check(pid, &mapping, &file, found);
        }
        tracing::debug!(pid, file = ?file.name(), ?open, all = ?begin.elapsed(), "looked into");
        let original = match looked {
            // Both are needed: who mapped the file before it was copied up goes on executing the original.
            Looked::Watched(_) => original(pid, &file, (&known, &mounts), &probe),
            Looked::Foreign(_) | Looked::Broken(_) | Looked::Untraceable(_) => None,
        };
        Ok(Look::New(Box::new(New { file: Arc::new(file), inode, looked, original })))
    });
    match (look.await, opened.get()) {
        (Some(look), _) => look.map_err(|error: OpenError| Unseen::Failed(error.why())),
        (None, Some((inode, changed, size))) => {
            Err(Unseen::Endless(*inode, Seen::Broken(no_end(*size), *changed)))
        }
        (None, None) => Err(Unseen::Silent),
    }
}

fn original(
    pid: u32,
    file: &ForeignFile,
    (known, mounts): (&Known, &Mounts),
    probe: &Probe,
) -> Option<Original> {
    let (file, inode) = rootfs::before_copy_up(pid, file, mounts)?;
    let looked = known.hooked(inode).is_none().then(|| look_into(&file, probe));
    Some(Original { file: Arc::new(file), inode, looked })
}

/// Looks for what is watched.
fn look_into(file: &ForeignFile, probe: &Probe) -> Looked {
    match parse(file, probe) {
        Ok(object) => match probe.hooks(&object, file.name()) {
            Ok(found) => Looked::Watched(Box::new(found)),
            Err(nothing @ Nothing::Untraceable(_)) => Looked::Untraceable(nothing.to_string()),
            Err(nothing) => Looked::Foreign(nothing.to_string()),
        },
        Err(error) if error.is_foreign() => Looked::Foreign(describe(&error)),
        Err(error) => Looked::Broken(describe(&error)),
    }
}

/// Opens the file behind a mapping, to say what version it is of.
pub(super) async fn open(pid: u32, mapping: &Mapping, mounts: &Mounts) -> Option<(ForeignFile, RealInode)> {
    let (mapping, mounts) = (mapping.clone(), mounts.clone());
    in_time(move || rootfs::inspect(pid, &mapping, &mounts).ok()).await.flatten()
}

/// The version that a file says it is of.
pub(super) async fn version_in(file: ForeignFile) -> Option<String> {
    in_time(move || version::find(&parse(&file, &Probe::Ssl(Ssl::default())).ok()?)?.version).await.flatten()
}

fn parse(file: &ForeignFile, probe: &Probe) -> Result<Object, ObjectError> {
    let handle = file.file().map_err(|source| ObjectError::Read { what: "the file", offset: 0, source })?;
    Object::parse(handle, file.size, &probe.wanted())
}
