//! One file of a target: opened, identified and parsed, each within a time limit.
//!
//! Owns the patience with file systems that do not answer. It remembers nothing.

use std::sync::Arc;

use crate::object::{Object, ObjectError};
use crate::patience::{describe, in_time, no_answer};
use crate::probe::ssl::version;
use crate::probe::{Found, Probe};
use crate::rootfs::{self, ForeignFile, Mapping, OpenError, RealInode};

/// A file was looked into.
pub(super) enum Looked {
    /// It has what is watched.
    Watched(Box<Found>),
    /// It has none, or is no ELF file at all.
    Foreign(String),
    /// It cannot be used, for this reason.
    Broken(String),
}

/// A file could not be opened.
pub(super) enum Unopened {
    /// Its file system did not answer.
    Silent,
    /// For this reason.
    Failed(String),
}

/// The files that a process maps executable, or why that cannot be told.
pub(super) async fn mappings(pid: u32) -> Result<Vec<Mapping>, String> {
    match in_time(move || rootfs::executable_mappings(pid)).await {
        Some(Ok(mappings)) => Ok(mappings),
        Some(Err(error)) => Err(describe(&error)),
        None => Err(no_answer()),
    }
}

/// Opens the file behind a mapping.
pub(super) async fn open(pid: u32, mapping: &Mapping) -> Result<(ForeignFile, RealInode), Unopened> {
    let mapping = mapping.clone();
    match in_time(move || rootfs::inspect(pid, &mapping)).await {
        Some(opened) => opened.map_err(|error: OpenError| Unopened::Failed(describe(&error))),
        None => Err(Unopened::Silent),
    }
}

/// The file from which this one was copied up, if it was.
pub(super) async fn before_copy_up(pid: u32, file: Arc<ForeignFile>) -> Option<(ForeignFile, RealInode)> {
    in_time(move || rootfs::before_copy_up(pid, &file)).await.flatten()
}

/// Looks for what is watched.
pub(super) async fn look_into(file: Arc<ForeignFile>, probe: &Probe) -> Looked {
    let probe = probe.clone();
    let looked = in_time(move || match parse(&file, &probe) {
        Ok(object) => match probe.hooks(&object, file.name()) {
            Ok(found) => Looked::Watched(Box::new(found)),
            Err(nothing) => Looked::Foreign(nothing.to_string()),
        },
        Err(error) if error.is_foreign() => Looked::Foreign(describe(&error)),
        Err(error) => Looked::Broken(describe(&error)),
    });
    looked.await.unwrap_or_else(|| Looked::Broken(no_answer()))
}

/// The version that a file says it is of.
pub(super) async fn version_in(file: ForeignFile) -> Option<String> {
    in_time(move || version::find(&parse(&file, &Probe::Ssl).ok()?)?.version).await.flatten()
}

fn parse(file: &ForeignFile, probe: &Probe) -> Result<Object, ObjectError> {
    let handle = file.file().map_err(|source| ObjectError::Read { what: "the file", offset: 0, source })?;
    Object::parse(handle, file.size, &probe.wanted())
}
