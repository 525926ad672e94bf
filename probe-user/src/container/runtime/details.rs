//! What a runtime reports about one container: where its files come from, and its mounts.

/// What runtimes report about one container. It need not be true: `ctrace inspect` compares it with what the
/// kernel shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The runtimes that reported it.
    pub runtimes: Vec<&'static str>,
    /// Its first process, if it runs and the runtime shares ctrace's PID namespace.
    pub init: Option<u32>,
    /// The driver of its root file system: `overlay2`, `overlay`, `btrfs`, `overlayfs`, …
    pub driver: Option<String>,
    /// The directories of its overlay. Docker does not report them with containerd's image store.
    pub overlay: Option<Overlay>,
    /// Its snapshot, if it is a container of containerd.
    pub snapshot: Option<Snapshot>,
    /// The mounts from the host or from volumes.
    pub mounts: Vec<MountPoint>,
}

/// The directories of an overlay, as paths on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// The lower layers, topmost first.
    pub lower: Vec<String>,
    /// The directory that receives changes. None for a read-only overlay.
    pub upper: Option<String>,
    /// The kernel's work directory.
    pub work: Option<String>,
    /// Where it is mounted on the host.
    pub merged: Option<String>,
}

/// A snapshot of containerd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The name of the snapshotter: `overlayfs`, …
    pub snapshotter: String,
    /// The key of the snapshot in it.
    pub key: String,
    /// The namespace of containerd.
    pub namespace: String,
}

/// A mount in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// `bind`, `volume`, `tmpfs`, …
    pub kind: String,
    /// The name of the volume, if it is one.
    pub name: Option<String>,
    /// The path on the host. Empty if there is none (tmpfs).
    pub source: String,
    /// The path in the container.
    pub destination: String,
    /// Whether the container may write to it.
    pub is_writable: bool,
}

impl Details {
    /// Adds what another runtime reports about the same container, without replacing anything. The mounts of
    /// the first runtime stay: a runtime below it also lists what the first one mounts for itself.
    pub(super) fn add(&mut self, other: Self) {
        self.runtimes.extend(other.runtimes);
        self.init = self.init.or(other.init);
        self.driver = self.driver.take().or(other.driver);
        self.overlay = self.overlay.take().or(other.overlay);
        self.snapshot = self.snapshot.take().or(other.snapshot);
    }
}

impl Overlay {
    /// Parses the options of an overlay mount.
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

/// Splits paths at colons.
pub(super) fn layers(paths: &str) -> Vec<String> {
    paths.split(':').filter(|path| !path.is_empty()).map(str::to_owned).collect()
}
