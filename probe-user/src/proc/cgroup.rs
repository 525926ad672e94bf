//! Cgroups: which container a process is in, and what the kernel's filter calls its cgroup.
//!
//! Owns the parsing of /proc/PID/cgroup, the shapes in which runtimes write a container's id there (`shape`),
//! and the lookup of directories in the v2 hierarchy. It reads control groups and never changes one.
//!
//! # Which container
//!
//! A process cannot choose where its container's cgroup is; it can make cgroups below that one, and call them
//! what it likes, such as by the id of another container. So the **outermost** container of a path is the one
//! that the host made, and the ids below it are that container's own words:
//!
//! - Without a runtime's help a process belongs to the outermost container, and what is nested in it (Docker
//!   in Docker, the nodes of kind) is part of it.
//! - A nested container is one of its own if a runtime tells of it that itself runs in the outer container:
//!   such a runtime may speak of what is below its own cgroup, and of nothing else ([`ContainerKey::Id`],
//!   `within`).
//! - What systemd leaves to a user (`user@1000.service`) is an outer place of the same kind: a user may make
//!   a cgroup there with any name. Rootless containers are found in it, and none of them is a container of
//!   the system.
//! - An id that somebody chose (`ctr run … web`) means nothing in itself: such a container is known by the
//!   whole path of its cgroup ([`ContainerKey::Path`]), and what is below it is part of it.

mod key_index;
mod path;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::mountinfo::{self, Mount};
use super::process::read_bounded;
pub use key_index::KeyIndex;
use path::{PathComponent, PathKind};
pub(crate) use path::{is_id, is_id_prefix};
use serde::Serialize;

/// Levels of the hierarchy that the kernel's filter looks at.
pub const CGROUP_LEVELS: u32 = 16;
/// Inode number of the initial cgroup namespace (`PROC_CGROUP_INIT_INO` of linux/proc_ns.h).
const INITIAL_NAMESPACE: u64 = 0xEFFF_FFFB;
/// Bytes of cgroup.events that are read.
const EVENTS: u64 = 4096;

/// A cgroup of the v2 hierarchy, as the kernel's filter needs it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Cgroup {
    /// Inode number of its directory.
    pub id: u64,
    /// Depth below the root of the hierarchy, whose level is 0.
    pub level: u32,
    /// Path in the hierarchy.
    pub path: String,
}

/// A process's place in the hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcCgroups {
    /// Path in the v2 hierarchy, if there is one.
    pub unified: Option<Vec<u8>>,
    /// Paths in the v1 hierarchies.
    pub legacy: Vec<Vec<u8>>,
    /// What the path tells that tells most, outermost first.
    links: Vec<PathComponent>,
    /// Whether that is the v2 path.
    links_are_unified: bool,
}

/// How the processes of a container are recognised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ContainerKey {
    /// By an id in the shapes of the runtimes.
    Id {
        /// The containers and users that it is in, as [`ProcCgroups::container_path`] has them.
        within: Option<String>,
        /// The id.
        id: String,
    },
    /// By the path of its cgroup, in any hierarchy.
    Path(Vec<u8>),
}

impl ProcCgroups {
    /// Parses /proc/PID/cgroup: `number:controllers:path` a line, where the v2 hierarchy is number 0 and has
    /// no controllers. A path cannot hold a newline (the kernel refuses to make one).
    pub fn parse(text: &[u8]) -> Self {
        let mut found = Self::default();
        for line in text.split(|byte| *byte == b'\n') {
            let mut fields = line.splitn(3, |byte| *byte == b':');
            let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let path = path.strip_suffix(b" (deleted)").unwrap_or(path).to_vec();
            if number == b"0" && controllers.is_empty() {
                found.unified = Some(path);
            } else {
                found.legacy.push(path);
            }
        }
        found.read_links();
        found
    }

    /// The place of a process in a cgroup of the v2 hierarchy.
    pub fn of_path(path: &[u8]) -> Self {
        let mut found = Self { unified: Some(path.to_vec()), ..Self::default() };
        found.read_links();
        found
    }

    /// The v2 path first: it is what the kernel's filter goes by.
    fn read_links(&mut self) {
        let mut found = (Vec::new(), false);
        for (index, path) in self.paths().enumerate() {
            let links = path::components(path);
            let is_unified = index == 0 && self.unified.is_some();
            if links.iter().any(|link| link.kind != PathKind::User) {
                found = (links, is_unified);
                break;
            }
            if found.0.is_empty() {
                found = (links, is_unified);
            }
        }
        (self.links, self.links_are_unified) = found;
    }

    /// Id of the container that the process is in: the outermost, which is the one that the host made.
    pub fn container(&self) -> Option<&str> {
        Some(self.outermost()?.id.as_str())
    }

    /// Its runtime, where the path alone tells: `lxc`, `systemd-nspawn`. The id is then the name, too.
    pub fn runtime(&self) -> Option<&'static str> {
        match self.outermost()?.kind {
            PathKind::Container(runtime) => runtime,
            PathKind::User => None,
        }
    }

    /// All containers and users that the process is in, outermost first: `ID/ID`, `user@1000.service/ID`. A
    /// process can make up all but the first.
    pub fn container_path(&self) -> Option<String> {
        self.path_to(self.links.len())
    }

    /// Whether the process is in the container with this id, or in one that is nested in it. One that a
    /// runtime lists is asked for by its [mark](Self::has).
    pub fn is_in(&self, id: &str) -> bool {
        self.container() == Some(id)
    }

    /// Whether the process is in this container, or in one that is nested in it.
    pub fn has(&self, mark: &ContainerKey) -> bool {
        match mark {
            ContainerKey::Path(path) => self.paths().any(|own| is_below(own, path)),
            ContainerKey::Id { .. } => self.link(mark).is_some(),
        }
    }

    /// Path in the v2 hierarchy of the container's cgroup itself, below which its processes may have made
    /// others.
    pub fn unified_root_of(&self, id: &str) -> Option<&[u8]> {
        self.unified_until(self.outermost().filter(|link| link.id == id)?)
    }

    /// The same for a container that a runtime lists.
    pub fn unified_root(&self, mark: &ContainerKey) -> Option<&[u8]> {
        match mark {
            ContainerKey::Id { .. } => self.unified_until(self.link(mark)?),
            ContainerKey::Path(path) => {
                let own = self.unified.as_deref().filter(|own| is_below(own, path))?;
                own.get(..path.strip_suffix(b"/").unwrap_or(path).len())
            }
        }
    }

    fn unified_until(&self, link: &PathComponent) -> Option<&[u8]> {
        self.unified.as_deref().filter(|_| self.links_are_unified)?.get(..link.end)
    }

    fn outermost(&self) -> Option<&PathComponent> {
        self.links.iter().find(|link| link.kind != PathKind::User)
    }

    fn link(&self, mark: &ContainerKey) -> Option<&PathComponent> {
        let ContainerKey::Id { within, id } = mark else { return None };
        let mut found = self.links.iter().enumerate().filter(|(_, link)| link.kind != PathKind::User);
        let is_it =
            |(index, link): &(usize, &PathComponent)| link.id == *id && self.path_to(*index) == *within;
        found.find(is_it).map(|(_, link)| link)
    }

    /// What is around the link of this index.
    fn path_to(&self, index: usize) -> Option<String> {
        let around: Vec<&str> = self.links.iter().take(index).map(|link| link.id.as_str()).collect();
        (!around.is_empty()).then(|| around.join("/"))
    }

    fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.unified.iter().chain(&self.legacy).map(Vec::as_slice)
    }
}

/// Whether `path` is `ancestor` or lies below it.
pub(crate) fn is_below(path: &[u8], ancestor: &[u8]) -> bool {
    let ancestor = ancestor.strip_suffix(b"/").unwrap_or(ancestor);
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// The cgroup v2 hierarchy as it is mounted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    mount: PathBuf,
}

impl Hierarchy {
    /// None where cgroup v2 is not mounted, or where ctrace runs in a cgroup namespace of its own, so that
    /// it cannot know how deep in the kernel's hierarchy a cgroup is.
    pub fn find() -> Option<Self> {
        let namespace = fs::metadata("/proc/self/ns/cgroup").ok()?.ino();
        if namespace != INITIAL_NAMESPACE {
            tracing::debug!("in a cgroup namespace: cgroups are not used as a filter");
            return None;
        }
        Self::among(&mountinfo::own().ok()?)
    }

    /// A directory that looks like one.
    #[cfg(test)]
    pub(crate) fn at(mount: &Path) -> Self {
        Self { mount: mount.to_owned() }
    }

    fn among(mounts: &[Mount]) -> Option<Self> {
        // The whole hierarchy, not a part of it that was bind-mounted somewhere.
        let mount = mounts.iter().find(|mount| mount.file_system == b"cgroup2" && mount.root == b"/")?;
        Some(Self { mount: PathBuf::from(OsStr::from_bytes(&mount.point)) })
    }

    /// The cgroup at a path of the hierarchy, if it exists.
    pub fn cgroup(&self, path: &[u8]) -> Option<Cgroup> {
        let components: Vec<&[u8]> =
            path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()).collect();
        // A path that leads out of the namespace of whoever reads it begins with `/..`.
        if components.iter().any(|component| *component == b".." || *component == b".") {
            return None;
        }
        let found = fs::metadata(self.directory(path)).ok().filter(fs::Metadata::is_dir)?;
        Some(Cgroup {
            id: found.ino(),
            level: u32::try_from(components.len()).ok()?,
            path: String::from_utf8_lossy(path).into_owned(),
        })
    }

    /// Whether a process that has not ended is in the cgroup or below it; none when the cgroup is gone, or is
    /// another one by now.
    pub fn is_populated(&self, cgroup: &Cgroup) -> Option<bool> {
        let directory = self.directory(cgroup.path.as_bytes());
        if fs::metadata(&directory).ok()?.ino() != cgroup.id {
            return None;
        }
        let text = read_bounded(&directory.join("cgroup.events"), EVENTS).ok()?;
        let mut lines = text.split(|byte| *byte == b'\n');
        lines.find_map(|line| line.strip_prefix(b"populated ")).map(|value| value != b"0")
    }

    fn directory(&self, path: &[u8]) -> PathBuf {
        let below = path.iter().position(|byte| *byte != b'/').and_then(|start| path.get(start..));
        self.mount.join(Path::new(OsStr::from_bytes(below.unwrap_or_default())))
    }
}

#[cfg(test)]
mod tests;
