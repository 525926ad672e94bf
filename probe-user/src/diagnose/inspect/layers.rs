//! The layers of a root directory and the mounts in it. Each of them is searched for on the host.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::access::shown;
use crate::rootfs::access_paths::{self, FoundPath, Layer, SameFile};

/// The overlay of a root directory.
#[derive(Debug, Serialize)]
pub(super) struct OverlayRoot {
    /// The mount point on the host; null if there is none, so that only /proc leads to the overlay.
    pub(super) merged: Option<LayerPath>,
    /// The directory that receives all writes; null for a read-only overlay.
    pub(super) upper: Option<LayerPath>,
    /// The kernel's work directory.
    pub(super) work: Option<LayerPath>,
    /// The lower layers, topmost first.
    pub(super) lower: Vec<LayerPath>,
}

/// A directory of the host.
#[derive(Debug, Serialize)]
pub(super) struct LayerPath {
    /// The path on the host that was tried.
    pub(super) path: String,
    /// Whether the path could be opened.
    pub(super) works: bool,
    /// The reason if not.
    pub(super) why: Option<String>,
}

/// A mount in a root directory.
#[derive(Debug, Serialize)]
pub(super) struct MountedPath {
    /// The mount point, as the process sees it.
    pub(super) destination: String,
    /// The type of the file system.
    pub(super) file_system: String,
    /// The part of the file system that is mounted.
    pub(super) root: String,
    /// Whether nothing can be written through it.
    pub(super) read_only: bool,
    /// The same file or directory on the host; null if the host does not have it (it is in memory, or on
    /// another machine).
    pub(super) source: Option<String>,
    /// Whether both are the same file; null if that could not be determined.
    pub(super) same: Option<SameFile>,
    /// Why that could not be determined.
    pub(super) why: Option<String>,
}

impl LayerPath {
    fn new((path, found): (PathBuf, io::Result<FoundPath>)) -> Self {
        let why = found.err().map(|error| error.to_string());
        Self { path: shown(&path), works: why.is_none(), why }
    }

    /// Opens the directory, and records the result.
    pub(super) fn at(path: PathBuf) -> Self {
        let found = access_paths::directory(&path);
        Self::new((path, found))
    }

    fn of(layer: Layer) -> Self {
        let named = shown(&layer.named);
        let missing = || "relative to an unknown directory".to_owned();
        let Some(tried) = layer.at.into_iter().next_back() else {
            return Self { path: named, works: false, why: Some(missing()) };
        };
        Self::new(tried)
    }
}

/// The overlay of the root directory. None also if it cannot be determined.
pub(super) fn overlay(pid: u32) -> Option<OverlayRoot> {
    let overlay = access_paths::overlay(pid).ok()??;
    Some(OverlayRoot {
        merged: overlay.merged.map(LayerPath::new),
        upper: overlay.upper.map(LayerPath::of),
        work: overlay.work.map(LayerPath::of),
        lower: overlay.lower.into_iter().map(LayerPath::of).collect(),
    })
}

/// The mounts in the root directory. Empty also if they cannot be determined.
pub(super) fn mounts(pid: u32) -> Vec<MountedPath> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let point = |inner: access_paths::Inner| {
        let (source, result) =
            inner.source.map_or((None, None), |(path, same)| (Some(shown(&path)), Some(same)));
        let (same, why) = match result {
            Some(Ok(same)) => (Some(same), None),
            Some(Err(error)) => (None, Some(error.to_string())),
            None => (None, None),
        };
        MountedPath {
            destination: text(&inner.mount.point),
            file_system: text(&inner.mount.file_system),
            root: text(&inner.mount.root),
            read_only: inner.mount.is_read_only,
            source,
            same,
            why,
        }
    };
    access_paths::inner(pid).unwrap_or_default().into_iter().map(point).collect()
}
