//! Cgroups: which container a process is in, and what the kernel's filter calls its cgroup.
//!
//! Owns the parsing of /proc/PID/cgroup, the shapes in which runtimes write a container's id there, and
//! the lookup of directories in the v2 hierarchy. It reads control groups and never changes one.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::rootfs::mountinfo::{self, Mount};
use crate::target::Cgroup;
use crate::target::proc::read_bounded;

/// Length of a container id in hexadecimal digits.
const ID: usize = 64;
/// Inode number of the initial cgroup namespace (`PROC_CGROUP_INIT_INO` of linux/proc_ns.h).
const INITIAL_NAMESPACE: u64 = 0xEFFF_FFFB;
/// Bytes of cgroup.events that are read.
const EVENTS: u64 = 4096;

/// A process's place in the hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Path in the v2 hierarchy, if there is one.
    pub unified: Option<Vec<u8>>,
    /// Paths in the v1 hierarchies.
    pub legacy: Vec<Vec<u8>>,
}

impl Membership {
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
        found
    }

    /// The place of a process in a cgroup of the v2 hierarchy.
    pub fn of_path(path: &[u8]) -> Self {
        Self { unified: Some(path.to_vec()), legacy: Vec::new() }
    }

    /// Ids of the containers that the process is in, outermost first: an inner one may be a container in a
    /// container, or a name that the outer one chose for a cgroup of its own.
    pub fn containers(&self) -> Vec<&str> {
        self.paths().map(|path| ids(path).collect::<Vec<_>>()).find(|ids| !ids.is_empty()).unwrap_or_default()
    }

    /// Id of the innermost container that the process is in.
    pub fn container(&self) -> Option<&str> {
        self.paths().find_map(|path| ids(path).last())
    }

    /// Whether the process is in the container with this id, or in one that is nested in it.
    pub fn is_in(&self, id: &str) -> bool {
        self.paths().any(|path| ids(path).any(|found| found == id))
    }

    /// Path in the v2 hierarchy of the container's cgroup itself, below which its processes may have made
    /// others.
    pub fn unified_root_of(&self, id: &str) -> Option<&[u8]> {
        let path = self.unified.as_deref()?;
        let mut end = 0;
        for component in path.split(|byte| *byte == b'/') {
            end += component.len();
            if id_of_component(component) == Some(id) {
                return path.get(..end);
            }
            end += 1;
        }
        None
    }

    /// The v2 path first: it is what the kernel's filter goes by.
    fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.unified.iter().chain(&self.legacy).map(Vec::as_slice)
    }
}

/// Ids of the containers in a path, outermost first.
fn ids(path: &[u8]) -> impl Iterator<Item = &str> {
    path.split(|byte| *byte == b'/').filter_map(id_of_component)
}

/// `ID`, `docker-ID.scope`, `libpod-ID.scope`, `cri-containerd-ID.scope`, `SLICE:cri-containerd:ID`, …: what
/// stands before an id ends in a dash or a colon. A runtime's monitor process (conmon) runs on the host,
/// beside the container, and is none of its processes.
fn id_of_component(component: &[u8]) -> Option<&str> {
    let name = component.strip_suffix(b".scope").unwrap_or(component);
    let (prefix, id) = name.split_at_checked(name.len().checked_sub(ID)?)?;
    let is_prefix = prefix.is_empty() || prefix.ends_with(b"-") || prefix.ends_with(b":");
    if !is_prefix || prefix.ends_with(b"conmon-") || !id.iter().all(|byte| is_digit(*byte)) {
        return None;
    }
    std::str::from_utf8(id).ok()
}

/// Runtimes write ids in lower case.
fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// Whether a text can be the beginning of a container id.
pub(crate) fn is_id_prefix(text: &str) -> bool {
    !text.is_empty() && text.len() <= ID && text.bytes().all(is_digit)
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
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::rootfs::noise::Noise;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn ids_in_the_shapes_of_the_runtimes() {
        let cases: &[(&str, Option<&str>, Option<&str>)] = &[
            // path, container, path of the container's own cgroup
            ("/docker/{A}", Some(A), Some("/docker/{A}")),
            ("/docker/{A}/nested/deep", Some(A), Some("/docker/{A}")),
            ("/docker/{B}/docker/{A}", Some(A), Some("/docker/{B}/docker/{A}")),
            ("/system.slice/docker-{A}.scope", Some(A), Some("/system.slice/docker-{A}.scope")),
            ("/machine.slice/libpod-{A}.scope/container", Some(A), Some("/machine.slice/libpod-{A}.scope")),
            ("/machine.slice/libpod-conmon-{A}.scope", None, None),
            ("/crio-conmon-{A}.scope", None, None),
            ("/libpod_parent/libpod-{A}", Some(A), Some("/libpod_parent/libpod-{A}")),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope", Some(A), None),
            ("/k8s.io/{A}", Some(A), Some("/k8s.io/{A}")),
            ("/kubepods/besteffort/podf7a1/{A}", Some(A), Some("/kubepods/besteffort/podf7a1/{A}")),
            ("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{A}.scope", Some(A), None),
            ("/kubepods.slice/kubepods-pod1.slice/crio-{A}.scope/init", Some(A), None),
            ("/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{A}", Some(A), None),
            ("/ecs/1f2e/{A}", Some(A), None),
            ("/", None, None),
            ("", None, None),
            ("/default/web", None, None),
            ("/system.slice/ssh.service", None, None),
            ("/docker/{A}0", None, None),
            ("/docker/x{A}", None, None),
            ("/docker/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", None, None),
            ("/docker/{A}.slice", None, None),
        ];
        for (path, container, root) in cases {
            let fill = |text: &str| text.replace("{A}", A).replace("{B}", B);
            let found = Membership::parse(format!("0::{}\n", fill(path)).as_bytes());
            assert_eq!(found.container(), *container, "{path}");
            if let Some(root) = root {
                assert_eq!(found.unified_root_of(A), Some(fill(root).as_bytes()), "{path}");
            }
        }
        let nested = Membership::parse(format!("0::/docker/{B}/docker/{A}/x").as_bytes());
        assert!(nested.is_in(A) && nested.is_in(B) && !nested.is_in(&A[1..]));
        assert_eq!(nested.unified_root_of(B), Some(format!("/docker/{B}").as_bytes()));
    }

    #[test]
    fn v1_v2_and_both() {
        let hybrid = format!("9:name=systemd:/docker/{A}\n1:cpu,cpuacct:/x:y\n0::/docker/{A} (deleted)\n");
        let found = Membership::parse(hybrid.as_bytes());
        assert_eq!(found.unified.as_deref(), Some(format!("/docker/{A}").as_bytes()));
        assert_eq!(found.legacy.last().unwrap(), b"/x:y");
        let legacy = Membership::parse(format!("2:pids:/docker/{A}\n1:cpu:/\n").as_bytes());
        assert_eq!((legacy.unified.as_ref(), legacy.container()), (None, Some(A)));
        assert_eq!(legacy.unified_root_of(A), None);
        // The id stands in a v1 hierarchy only, although v2 is there.
        let split = Membership::parse(format!("2:pids:/docker/{A}\n0::/\n").as_bytes());
        assert_eq!((split.container(), split.unified_root_of(A)), (Some(A), None));
        assert_eq!(Membership::parse(b"nonsense\n0:\n\n"), Membership::default());
    }

    #[test]
    fn below_goes_by_components() {
        assert!(is_below(b"/a/b", b"/a") && is_below(b"/a", b"/a") && is_below(b"/a", b"/"));
        assert!(!is_below(b"/ab", b"/a") && !is_below(b"/", b"/a"));
    }

    #[test]
    fn a_prefix_of_an_id() {
        assert!(is_id_prefix("0f") && is_id_prefix(A));
        assert!(!is_id_prefix("") && !is_id_prefix("web") && !is_id_prefix(&format!("{A}0")));
    }

    #[test]
    fn the_hierarchy_is_found_and_its_directories_are_cgroups() {
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "40 31 0:37 /part /other rw - cgroup2 x rw\n41 31 0:38 / {} rw - cgroup2 cgroup2 rw",
            directory.path().display()
        );
        let hierarchy = Hierarchy::among(&mountinfo::parse(text.as_bytes())).unwrap();
        fs::create_dir_all(directory.path().join("docker/x")).unwrap();
        let cgroup = hierarchy.cgroup(b"/docker/x").unwrap();
        let inode = fs::metadata(directory.path().join("docker/x")).unwrap().ino();
        assert_eq!(cgroup, Cgroup { id: inode, level: 2, path: "/docker/x".into() });
        assert_eq!(hierarchy.cgroup(b"/").unwrap().level, 0);
        assert_eq!(hierarchy.cgroup(b"/../x"), None);
        assert_eq!(hierarchy.cgroup(b"/absent"), None);
        let events = directory.path().join("docker/x/cgroup.events");
        for (content, expected) in
            [("populated 1\nfrozen 0\n", Some(true)), ("frozen 0\npopulated 0\n", Some(false)), ("", None)]
        {
            fs::write(&events, content).unwrap();
            assert_eq!(hierarchy.is_populated(&cgroup), expected, "{content:?}");
        }
        assert_eq!(hierarchy.is_populated(&Cgroup { id: 0, ..cgroup }), None);
        let legacy = mountinfo::parse(b"32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu");
        assert_eq!(Hierarchy::among(&legacy), None);
    }

    #[test]
    fn junk_does_not_panic() {
        let mut noise = Noise(0x5eed_0003);
        for round in 0..20_000 {
            let alphabet: &[u8] = if round % 2 == 0 { b"" } else { b"0a:/-.\n(" };
            let found = Membership::parse(&noise.bytes(alphabet));
            let _ = (found.container().map(str::to_owned), found.unified_root_of(A).map(<[u8]>::len));
        }
    }
}
