//! What its runtime says of a container, held against what is there.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::layers::Place;
use crate::patience::in_time;
use crate::rootfs::ways::{self, SameFile};
use crate::target::RuntimeSocket;
use crate::target::runtime::{self, Details, MountPoint};

/// The runtime's word.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    /// Who told.
    pub(super) runtimes: Vec<&'static str>,
    /// The container's first process.
    pub(super) init: Option<u32>,
    /// What makes its root file system (Docker: the graph driver).
    pub(super) driver: Option<String>,
    /// The directories of its overlay, each opened on the host.
    pub(super) overlay: Option<ToldOverlay>,
    /// Its snapshot, of a container of containerd.
    pub(super) snapshot: Option<Snapshot>,
    /// Its bind mounts and volumes.
    pub(super) mounts: Vec<ToldMount>,
}

/// The directories of an overlay.
#[derive(Debug, Serialize)]
pub(super) struct ToldOverlay {
    pub(super) merged: Option<Place>,
    pub(super) upper: Option<Place>,
    pub(super) work: Option<Place>,
    pub(super) lower: Vec<Place>,
}

/// A snapshot of containerd.
#[derive(Debug, Serialize)]
pub(super) struct Snapshot {
    /// `overlayfs`, …
    pub(super) snapshotter: String,
    pub(super) key: String,
    /// containerd's namespace.
    pub(super) namespace: String,
}

/// A bind mount or volume.
#[derive(Debug, Serialize)]
pub(super) struct ToldMount {
    /// `bind`, `volume`, …
    pub(super) kind: String,
    /// The volume's.
    pub(super) name: Option<String>,
    /// On the host; empty when it has no place there.
    pub(super) source: String,
    /// In the container.
    pub(super) destination: String,
    pub(super) writable: bool,
    /// Whether both are one file; null when that could not be told.
    pub(super) same: Option<SameFile>,
    /// Why it could not be told.
    pub(super) why: Option<String>,
}

/// Asks for the container with this id; `pid` is a process of it.
pub(super) async fn of(id: &str, pid: u32, sockets: &[RuntimeSocket]) -> Option<Told> {
    let listing = runtime::list(sockets).await.ok()?;
    let listed = listing.containers.iter().find(|listed| listed.id == id)?;
    let details = runtime::describe(listed).await?;
    in_time(move || Told::new(details, pid)).await
}

impl Told {
    /// May wait for the file systems of the host.
    fn new(details: Details, pid: u32) -> Self {
        let place = |path: String| Place::at(PathBuf::from(path));
        let overlay = details.overlay.map(|overlay| ToldOverlay {
            merged: overlay.merged.map(place),
            upper: overlay.upper.map(place),
            work: overlay.work.map(place),
            lower: overlay.lower.into_iter().map(place).collect(),
        });
        let snapshot = details.snapshot.map(|snapshot| Snapshot {
            snapshotter: snapshot.snapshotter,
            key: snapshot.key,
            namespace: snapshot.namespace,
        });
        Self {
            runtimes: details.runtimes,
            init: details.init,
            driver: details.driver,
            overlay,
            snapshot,
            mounts: details.mounts.into_iter().map(|mount| ToldMount::new(mount, pid)).collect(),
        }
    }
}

impl ToldMount {
    fn new(mount: MountPoint, pid: u32) -> Self {
        let has_place = mount.source.starts_with('/');
        let same =
            has_place.then(|| ways::is_same(pid, Path::new(&mount.destination), Path::new(&mount.source)));
        let (same, why) = match same {
            Some(Ok(same)) => (Some(same), None),
            Some(Err(error)) => (None, Some(error.to_string())),
            None => (None, None),
        };
        Self {
            kind: mount.kind,
            name: mount.name,
            source: mount.source,
            destination: mount.destination,
            writable: mount.is_writable,
            same,
            why,
        }
    }
}
