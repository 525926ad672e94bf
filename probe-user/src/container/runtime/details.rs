//! What a runtime says of one container: where its files come from, what is mounted.

/// What runtimes say of one container. It is their word: `ctrace inspect` holds it against what the kernel
/// shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The runtimes that told.
    pub runtimes: Vec<&'static str>,
    /// Its first process, if it runs and the runtime's pids are those of ctrace.
    pub init: Option<u32>,
    /// What makes its root file system: `overlay2`, `overlay`, `btrfs`, `overlayfs`, …
    pub driver: Option<String>,
    /// Its overlay's directories. Docker does not tell them with containerd's image store.
    pub overlay: Option<Overlay>,
    /// Its snapshot, of a container of containerd.
    pub snapshot: Option<Snapshot>,
    /// What is mounted in it from the host or from volumes.
    pub mounts: Vec<MountPoint>,
}

/// The directories of an overlay, paths on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Lower layers, uppermost first.
    pub lower: Vec<String>,
    /// Where changes go; none for a read-only one.
    pub upper: Option<String>,
    /// Its work directory.
    pub work: Option<String>,
    /// Where it is mounted on the host.
    pub merged: Option<String>,
}

/// A snapshot of containerd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// `overlayfs`, …
    pub snapshotter: String,
    /// Its key there.
    pub key: String,
    /// containerd's namespace.
    pub namespace: String,
}

/// Something that is mounted in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// `bind`, `volume`, `tmpfs`, …
    pub kind: String,
    /// The volume's name, of a volume.
    pub name: Option<String>,
    /// Path on the host; empty when it has none (tmpfs).
    pub source: String,
    /// Path in the container.
    pub destination: String,
    /// Whether the container may write to it.
    pub is_writable: bool,
}

impl Details {
    /// Adds what another runtime says of the same container; what is known already stays. Mounts are what the
    /// first says: those below it also list what the first mounts for itself.
    pub(super) fn add(&mut self, other: Self) {
        self.runtimes.extend(other.runtimes);
        self.init = self.init.or(other.init);
        self.driver = self.driver.take().or(other.driver);
        self.overlay = self.overlay.take().or(other.overlay);
        self.snapshot = self.snapshot.take().or(other.snapshot);
    }
}

impl Overlay {
    /// From the options of an overlay mount.
    pub(super) fn of_options<'a>(options: impl Iterator<Item = &'a str>) -> Self {
        let mut found = Self::default();
        for option in options {
            match option.split_once('=') {
                Some(("lowerdir", paths)) => found.lower = layers(paths),
                Some(("upperdir", path)) => found.upper = Some(path.to_owned()),
                Some(("workdir", path)) => found.work = Some(path.to_owned()),
                _ => {}
            }
        }
        found
    }
}

/// Paths that a colon separates.
pub(super) fn layers(paths: &str) -> Vec<String> {
    paths.split(':').filter(|path| !path.is_empty()).map(str::to_owned).collect()
}
