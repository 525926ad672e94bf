//! What a root directory is made of, and what is mounted in it: each place looked for on the host.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::access::shown;
use crate::rootfs::access_paths::{self, FoundPath, Layer, SameFile};

/// An overlay.
#[derive(Debug, Serialize)]
pub(super) struct OverlayRoot {
    /// Where the host has it mounted; null where it has not: then only /proc leads to it.
    pub(super) merged: Option<LayerPath>,
    /// What takes what is written; null for a read-only one.
    pub(super) upper: Option<LayerPath>,
    /// What the kernel works with beside it.
    pub(super) work: Option<LayerPath>,
    /// The layers below, topmost first.
    pub(super) lower: Vec<LayerPath>,
}

/// A directory of the host.
#[derive(Debug, Serialize)]
pub(super) struct LayerPath {
    /// Its path on the host, as it was tried.
    pub(super) path: String,
    /// Whether it was opened there.
    pub(super) works: bool,
    /// Why not.
    pub(super) why: Option<String>,
}

/// Something that is mounted in the root.
#[derive(Debug, Serialize)]
pub(super) struct MountedPath {
    /// Where, as the process sees it.
    pub(super) destination: String,
    /// Its file system.
    pub(super) file_system: String,
    /// Which part of it.
    pub(super) root: String,
    /// Whether nothing can be written through it.
    pub(super) read_only: bool,
    /// The same file or directory on the host; null when the host does not have it (memory, another
    /// machine's).
    pub(super) source: Option<String>,
    /// Whether both are one file; null when that could not be told.
    pub(super) same: Option<SameFile>,
    /// Why it could not be told.
    pub(super) why: Option<String>,
}

impl LayerPath {
    fn new((path, found): (PathBuf, io::Result<FoundPath>)) -> Self {
        let why = found.err().map(|error| error.to_string());
        Self { path: shown(&path), works: why.is_none(), why }
    }

    /// Opens it.
    pub(super) fn at(path: PathBuf) -> Self {
        let found = access_paths::directory(&path);
        Self::new((path, found))
    }

    fn of(layer: Layer) -> Self {
        let named = shown(&layer.named);
        let missing = || "relative to a directory that cannot be told".to_owned();
        let Some(tried) = layer.at.into_iter().next_back() else {
            return Self { path: named, works: false, why: Some(missing()) };
        };
        Self::new(tried)
    }
}

/// The overlay under the root; none also when it cannot be told.
pub(super) fn overlay(pid: u32) -> Option<OverlayRoot> {
    let overlay = access_paths::overlay(pid).ok()??;
    Some(OverlayRoot {
        merged: overlay.merged.map(LayerPath::new),
        upper: overlay.upper.map(LayerPath::of),
        work: overlay.work.map(LayerPath::of),
        lower: overlay.lower.into_iter().map(LayerPath::of).collect(),
    })
}

/// What is mounted in it; empty also when that cannot be told.
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
