//! What runtimes report about a container, compared with what is really there.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::layers::LayerPath;
use crate::container::runtime::RuntimeSocket;
use crate::container::runtime::{self, ContainerInfo, Details, MountPoint};
use crate::proc::cgroup::ProcCgroups;
use crate::rootfs::access_paths::{self, SameFile};
use crate::timeout::with_timeout;

/// What the runtimes report about a container.
#[derive(Debug, Serialize)]
pub(super) struct RuntimeView {
    /// The runtimes that reported it.
    pub(super) runtimes: Vec<&'static str>,
    /// The container's first process.
    pub(super) init: Option<u32>,
    /// The driver of its root file system (Docker: the graph driver).
    pub(super) driver: Option<String>,
    /// The directories of its overlay. Each was opened on the host.
    pub(super) overlay: Option<RuntimeOverlay>,
    /// Its snapshot, if it is a container of containerd.
    pub(super) snapshot: Option<SnapshotView>,
    /// Its bind mounts and volumes.
    pub(super) mounts: Vec<RuntimeMount>,
}

/// The directories of an overlay.
#[derive(Debug, Serialize)]
pub(super) struct RuntimeOverlay {
    pub(super) merged: Option<LayerPath>,
    pub(super) upper: Option<LayerPath>,
    pub(super) work: Option<LayerPath>,
    pub(super) lower: Vec<LayerPath>,
}

/// A snapshot of containerd.
#[derive(Debug, Serialize)]
pub(super) struct SnapshotView {
    /// The name of the snapshotter: `overlayfs`, …
    pub(super) snapshotter: String,
    pub(super) key: String,
    /// The namespace of containerd.
    pub(super) namespace: String,
}

/// A bind mount or volume.
#[derive(Debug, Serialize)]
pub(super) struct RuntimeMount {
    /// The kind: `bind`, `volume`, …
    pub(super) kind: String,
    /// The name of the volume, if it is one.
    pub(super) name: Option<String>,
    /// The path on the host; empty if there is none.
    pub(super) source: String,
    /// The path in the container.
    pub(super) destination: String,
    pub(super) writable: bool,
    /// Whether both paths lead to the same file; null if that could not be determined.
    pub(super) same: Option<SameFile>,
    /// Why that could not be determined.
    pub(super) why: Option<String>,
}

/// Asks the runtimes about the container with this id. `pid` is a process of it, in these cgroups.
pub(super) async fn query(
    id: &str,
    (pid, cgroups): (u32, &ProcCgroups),
    sockets: &[RuntimeSocket],
) -> Option<RuntimeView> {
    let listing = runtime::list(sockets).await.ok()?;
    let listed = choose(&listing.containers, id, cgroups)?;
    let details = runtime::describe(listed).await?;
    with_timeout(move || RuntimeView::new(details, pid)).await
}

/// Each of containerd's namespaces may have a container with this id, so the one that contains the process is
/// chosen. A container that has no cgroup of its own can be found only by its id, if that is unique.
fn choose<'a>(containers: &'a [ContainerInfo], id: &str, cgroups: &ProcCgroups) -> Option<&'a ContainerInfo> {
    let of_id: Vec<&ContainerInfo> = containers.iter().filter(|listed| listed.id == id).collect();
    match of_id.as_slice() {
        [one] => Some(one),
        several => several.iter().find(|listed| listed.holds(cgroups)).copied(),
    }
}

impl RuntimeView {
    /// May block on file systems of the host.
    fn new(details: Details, pid: u32) -> Self {
        let place = |path: String| LayerPath::at(PathBuf::from(path));
        let overlay = details.overlay.map(|overlay| RuntimeOverlay {
            merged: overlay.merged.map(place),
            upper: overlay.upper.map(place),
            work: overlay.work.map(place),
            lower: overlay.lower.into_iter().map(place).collect(),
        });
        let snapshot = details.snapshot.map(|snapshot| SnapshotView {
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
            mounts: details.mounts.into_iter().map(|mount| RuntimeMount::new(mount, pid)).collect(),
        }
    }
}

impl RuntimeMount {
    fn new(mount: MountPoint, pid: u32) -> Self {
        let has_place = mount.source.starts_with('/');
        let same = has_place
            .then(|| access_paths::is_same(pid, Path::new(&mount.destination), Path::new(&mount.source)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_id_in_two_namespaces_is_distinguished() {
        let listed = |id: &str, cgroup: Option<&str>| ContainerInfo {
            id: id.to_owned(),
            cgroup: cgroup.map(Into::into),
            ..ContainerInfo::default()
        };
        let all = [
            listed("web", Some("/default/web")),
            listed("web", Some("/k8s.io/web")),
            listed("alone", Some("/default/alone")),
        ];
        let check = |id: &str, cgroup: &str, expected: Option<&str>| {
            let found = choose(&all, id, &ProcCgroups::of_path(cgroup.as_bytes()));
            assert_eq!(found.and_then(|found| found.cgroup.as_deref()), expected, "{id} in {cgroup}");
        };
        check("web", "/default/web", Some("/default/web"));
        check("web", "/k8s.io/web/below", Some("/k8s.io/web"));
        check("web", "/", None);
        check("alone", "/", Some("/default/alone"));
        check("none", "/default/web", None);
    }
}
