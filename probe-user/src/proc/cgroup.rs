//! Cgroups: which container a process is in, and the id of its cgroup for the kernel's filter.
//!
//! Owns the parsing of /proc/PID/cgroup, the forms in which runtimes write a container's id there (`path`),
//! and the lookup of directories in the v2 hierarchy. It reads cgroups and never changes one.
//!
//! # Which container
//!
//! A process cannot choose where its container's cgroup is. It can create cgroups below that one, and name
//! them as it likes, for example by the id of another container. So the **outermost** container of a path is
//! the one that the host created; ids below it are only claims of that container:
//!
//! - Without a runtime's help a process belongs to the outermost container, and what is nested in it (Docker
//!   in Docker, the nodes of kind) is part of it.
//! - A nested container counts by itself if it is reported by a runtime that itself runs in the outer
//!   container. Such a runtime is trusted for what is below its own cgroup, and for nothing else
//!   ([`ContainerKey::Id`], `within`).
//! - The part that systemd leaves to a user (`user@1000.service`) is treated like an outer container: a user
//!   may create a cgroup there with any name. Rootless containers are found in it, and none of them is
//!   mistaken for a container of the system.
//! - An id that somebody chose (`ctr run … web`) is not unique. Such a container is identified by the whole
//!   path of its cgroup ([`ContainerKey::Path`]), and everything below it is part of it.

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

/// The levels of the hierarchy that the kernel's filter checks.
pub const CGROUP_LEVELS: u32 = 16;
/// The inode number of the initial cgroup namespace (`PROC_CGROUP_INIT_INO` of linux/proc_ns.h).
const INITIAL_NAMESPACE: u64 = 0xEFFF_FFFB;
/// Limit of the bytes of cgroup.events that are read.
const EVENTS: u64 = 4096;
/// Limit of the bytes of a cgroup.procs that are read, and of the cgroups below another that are.
const PROCESSES: u64 = 1 << 20;
const NESTED: usize = 1 << 12;

/// A cgroup of the v2 hierarchy, as the kernel's filter needs it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Cgroup {
    /// The inode number of its directory.
    pub id: u64,
    /// The depth below the root of the hierarchy, which is at level 0.
    pub level: u32,
    /// The path in the hierarchy.
    pub path: String,
}

/// The cgroups of a process in all hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcCgroups {
    /// The path in the v2 hierarchy, if there is one.
    pub unified: Option<Vec<u8>>,
    /// The paths in the v1 hierarchies.
    pub legacy: Vec<Vec<u8>>,
    /// The containers and users in one of the paths, outermost first: in the first path with a container, or
    /// else in the first one with a user.
    links: Vec<PathComponent>,
    /// Whether that is the v2 path.
    links_are_unified: bool,
}

/// How the processes of a container are recognised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ContainerKey {
    /// By an id in one of the forms that runtimes use.
    Id {
        /// The containers and users around it, in the form of [`ProcCgroups::container_path`].
        within: Option<String>,
        /// The id.
        id: String,
    },
    /// By the path of its cgroup, in any hierarchy.
    Path(Vec<u8>),
}

impl ProcCgroups {
    /// Parses /proc/PID/cgroup, where each line is `number:controllers:path`. The v2 hierarchy has number 0
    /// and no controllers. A path cannot contain a newline, because the kernel refuses to create such a
    /// cgroup.
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

    /// The cgroups of a process in this cgroup of the v2 hierarchy.
    pub fn of_path(path: &[u8]) -> Self {
        let mut found = Self { unified: Some(path.to_vec()), ..Self::default() };
        found.read_links();
        found
    }

    /// Prefers the v2 path, because the kernel's filter uses that.
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

    /// The id of the process's container: the outermost one, which is the one that the host created.
    pub fn container(&self) -> Option<&str> {
        Some(self.outermost()?.id.as_str())
    }

    /// The runtime, if the path alone shows it: `lxc`, `systemd-nspawn`. The id is then the name, too.
    pub fn runtime(&self) -> Option<&'static str> {
        match self.outermost()?.kind {
            PathKind::Container(runtime) => runtime,
            PathKind::User => None,
        }
    }

    /// All containers and users that the process is in, outermost first: `ID/ID`, `user@1000.service/ID`. A
    /// process can forge all but the first.
    pub fn container_path(&self) -> Option<String> {
        self.path_to(self.links.len())
    }

    /// Whether the process is in the container with this id, or in one that is nested in it. For a container
    /// that a runtime lists, use its [mark](Self::has).
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

    /// The path in the v2 hierarchy of the container's own cgroup, below which its processes may have created
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

    /// The containers and users around the link with this index.
    fn path_to(&self, index: usize) -> Option<String> {
        let around: Vec<&str> = self.links.iter().take(index).map(|link| link.id.as_str()).collect();
        (!around.is_empty()).then(|| around.join("/"))
    }

    fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.unified.iter().chain(&self.legacy).map(Vec::as_slice)
    }
}

/// Whether `path` is `ancestor` or is below it.
pub(crate) fn is_below(path: &[u8], ancestor: &[u8]) -> bool {
    let ancestor = ancestor.strip_suffix(b"/").unwrap_or(ancestor);
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// The cgroup v2 hierarchy, where it is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    mount: PathBuf,
}

impl Hierarchy {
    /// None if cgroup v2 is not mounted, or if ctrace runs in a cgroup namespace of its own: then it cannot
    /// tell how deep in the kernel's hierarchy a cgroup is.
    pub fn find() -> Option<Self> {
        let namespace = fs::metadata("/proc/self/ns/cgroup").ok()?.ino();
        if namespace != INITIAL_NAMESPACE {
            tracing::debug!("in a cgroup namespace: cgroups are not used as a filter");
            return None;
        }
        Self::among(&mountinfo::own().ok()?)
    }

    /// A directory that stands for the hierarchy.
    #[cfg(test)]
    pub(crate) fn at(mount: &Path) -> Self {
        Self { mount: mount.to_owned() }
    }

    fn among(mounts: &[Mount]) -> Option<Self> {
        // Only a mount of the whole hierarchy counts, not a bind mount of a part of it.
        let mount = mounts.iter().find(|mount| mount.file_system == b"cgroup2" && mount.root == b"/")?;
        Some(Self { mount: PathBuf::from(OsStr::from_bytes(&mount.point)) })
    }

    /// The cgroup at a path of the hierarchy, if it exists.
    pub fn cgroup(&self, path: &[u8]) -> Option<Cgroup> {
        let components: Vec<&[u8]> =
            path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()).collect();
        // A path that leads out of the cgroup namespace of the reader starts with `/..`.
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

    /// Whether a process that has not exited is in the cgroup or below it. None if the cgroup is gone, or
    /// another one has its path now.
    pub fn is_populated(&self, cgroup: &Cgroup) -> Option<bool> {
        let directory = self.directory(cgroup.path.as_bytes());
        if fs::metadata(&directory).ok()?.ino() != cgroup.id {
            return None;
        }
        let text = read_bounded(&directory.join("cgroup.events"), EVENTS).ok()?;
        let mut lines = text.split(|byte| *byte == b'\n');
        lines.find_map(|line| line.strip_prefix(b"populated ")).map(|value| value != b"0")
    }

    /// The processes in the cgroup and below it, also those that are exiting. None if not all of them can be
    /// read: the cgroup is gone, or it is a threaded one, or there are too many.
    pub fn processes(&self, cgroup: &Cgroup) -> Option<Vec<u32>> {
        let directory = self.directory(cgroup.path.as_bytes());
        if fs::metadata(&directory).ok()?.ino() != cgroup.id {
            return None;
        }
        let mut found = Vec::new();
        let mut next = vec![directory];
        let mut visited = 0;
        while let Some(directory) = next.pop() {
            visited += 1;
            let text = read_bounded(&directory.join("cgroup.procs"), PROCESSES).ok()?;
            if visited > NESTED || text.len() as u64 == PROCESSES {
                return None;
            }
            let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            found.extend(lines.filter_map(|line| std::str::from_utf8(line).ok()?.parse::<u32>().ok()));
            for entry in fs::read_dir(&directory).ok()? {
                let entry = entry.ok()?;
                if entry.file_type().ok()?.is_dir() {
                    next.push(entry.path());
                }
            }
        }
        Some(found)
    }

    fn directory(&self, path: &[u8]) -> PathBuf {
        let below = path.iter().position(|byte| *byte != b'/').and_then(|start| path.get(start..));
        self.mount.join(Path::new(OsStr::from_bytes(below.unwrap_or_default())))
    }
}

#[cfg(test)]
mod tests;
