//! Versions of libraries that do not contain their own: for libssl of OpenSSL 3, it is in the libcrypto
//! beside it.

use std::mem;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Discovery, inspect_file};
use crate::event::Library;
use crate::plan::ObjectId;
use crate::proc::maps::Mapping;

/// A library whose version has not been found yet.
pub(super) struct Unversioned {
    pub(super) pid: u32,
    pub(super) object: ObjectId,
    /// The name of the file that contains the version.
    pub(super) version_in: String,
    /// Where that file is, and in the root of which process, if the library was found before it was mapped.
    pub(super) place: Option<(u32, PathBuf)>,
    pub(super) library: Arc<Library>,
    pub(super) sites: Range<u32>,
}

/// A library whose version was found after it was attached to.
#[derive(Debug)]
pub struct Versioned {
    /// The ids of its hooks.
    pub sites: Range<u32>,
    /// The library, with its version.
    pub library: Arc<Library>,
}

impl Discovery {
    /// Searches for the versions of the libraries that were found in a process. The files that contain them
    /// are mapped after the libraries, and attaching does not wait for a version.
    pub async fn versions(&mut self, pid: u32) -> Vec<Versioned> {
        if self.unversioned.iter().all(|waiting| waiting.pid != pid) {
            return Vec::new();
        }
        let Ok(all) = inspect_file::mappings(pid).await else { return Vec::new() };
        let mut found = Vec::new();
        for waiting in mem::take(&mut self.unversioned) {
            let is_of = waiting.pid == pid;
            let version = if is_of { self.version_of(&waiting, &all).await } else { None };
            match version {
                Some(version) => {
                    let library = Library { version: Some(version), ..(*waiting.library).clone() };
                    found.push(Versioned { sites: waiting.sites, library: Arc::new(library) });
                }
                None => self.unversioned.push(waiting),
            }
        }
        found
    }

    /// The version in the libcrypto that is mapped beside libssl, or will be.
    async fn version_of(&mut self, waiting: &Unversioned, all: &[Mapping]) -> Option<String> {
        let (file, inode) = if let Some((root, path)) = &waiting.place {
            inspect_file::open_path(*root, path, &self.mounts).await?
        } else {
            let is_it = |mapping: &&Mapping| {
                mapping.path.file_name().is_some_and(|name| name == waiting.version_in.as_str())
            };
            inspect_file::open(waiting.pid, all.iter().find(is_it)?, &self.mounts).await?
        };
        let file_as_it_is = (inode, file.changed());
        if let Some(cached) = self.libcrypto.get(&file_as_it_is) {
            return cached.clone();
        }
        let version = inspect_file::version_in(file).await;
        self.libcrypto.put(file_as_it_is, version.clone());
        version
    }
}
