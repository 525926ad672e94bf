//! The paths by which a container's files may be reached from the host. Each is tried, for a user who wants
//! to know which of them work.
//!
//! A file is opened in the same way as for tracing. A layer, or the source of a bind mount, is opened as a
//! directory or file of the host that the kernel named, but not read.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::Serialize;

use super::inode::{bases, layer_paths};
use super::open::{Attributes, open_beneath, open_directory, open_root};
use super::{ForeignFile, Mounts, OpenError, RealInode};
use crate::proc::Device;
use crate::proc::maps::Mapping;
use crate::proc::mountinfo::{self, Mount};

/// The file or directory that a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FoundPath {
    /// The device of the file system, as seen through this path.
    pub device: Device,
    /// The inode number, as seen through this path.
    pub inode: u64,
}

/// The overlay that contains the root directory of a process.
#[derive(Debug)]
pub struct OverlayPaths {
    /// Where the overlay is mounted on the host. None if it is not, so that only /proc leads to it.
    pub merged: Option<(PathBuf, io::Result<FoundPath>)>,
    /// The upper directory, which receives all writes.
    pub upper: Option<Layer>,
    /// The kernel's work directory.
    pub work: Option<Layer>,
    /// The lower directories, topmost first.
    pub lower: Vec<Layer>,
}

/// A directory that an overlay is composed of.
#[derive(Debug)]
pub struct Layer {
    /// The path as it was given to mount(2), which may be relative.
    pub named: PathBuf,
    /// The directories of the host that were tried, each with the result.
    pub at: Vec<(PathBuf, io::Result<FoundPath>)>,
}

/// A file system that is mounted below the root of a process.
#[derive(Debug)]
pub struct Inner {
    /// The mount, as the process sees it.
    pub mount: Mount,
    /// Where the host has the same directory or file, and whether it is in fact the same.
    pub source: Option<(PathBuf, io::Result<SameFile>)>,
}

/// Whether two paths lead to the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SameFile {
    /// Both lead to the same file.
    Same,
    /// They lead to different files: something is mounted over one of them, or replaced it.
    Other,
}

/// Opens the root directory of a process, through /proc/PID/root.
pub fn root(pid: u32) -> io::Result<FoundPath> {
    found(&open_root(pid)?)
}

/// Opens the executable of a process, through /proc/PID/exe.
pub fn executable(pid: u32) -> Result<ForeignFile, OpenError> {
    through(pid, &format!("/proc/{pid}/exe"), Path::new("/proc/PID/exe"))
}

/// Opens a mapped file through one of its links in /proc/PID/map_files.
pub fn map_file(pid: u32, mapping: &Mapping) -> Result<ForeignFile, OpenError> {
    let mut result = None;
    for range in mapping.openable().take(8) {
        let link = format!("/proc/{pid}/map_files/{:x}-{:x}", range.start, range.end);
        result = Some(through(pid, &link, &mapping.path));
        if matches!(result, Some(Ok(_))) {
            break;
        }
    }
    let source = io::Error::from(Errno::NOENT);
    result.unwrap_or_else(|| Err(OpenError::Open { pid, path: mapping.path.clone(), source }))
}

/// The identity of an opened file; see [`RealInode`].
pub fn real_inode(pid: u32, file: &ForeignFile) -> RealInode {
    RealInode::of(pid, file, &Mounts::default())
}

fn through(pid: u32, link: &str, name: &Path) -> Result<ForeignFile, OpenError> {
    let handle = rustix::fs::open(link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let fail = |source: Errno| OpenError::Open { pid, path: name.to_owned(), source: source.into() };
    ForeignFile::from_handle(pid, name, handle.map_err(fail)?.as_fd())
}

/// The overlay that contains the root directory of a process, if there is one.
pub fn overlay(pid: u32) -> io::Result<Option<OverlayPaths>> {
    let theirs = mountinfo::of(pid)?;
    // A later mount hides an earlier one at the same place.
    let Some(mount) = theirs.iter().rfind(|mount| mount.point == b"/").filter(|mount| mount.is_overlay())
    else {
        return Ok(None);
    };
    let own = mountinfo::own()?;
    let bases = bases(&own, mount.device);
    let layer = |named: Vec<u8>| Layer::resolve(&named, &bases);
    let upper = mount.option(b"upperdir");
    let lower = mount.layers().directories.into_iter().skip(usize::from(upper.is_some()));
    let merged = own.iter().find(|other| other.device == mount.device && other.is_overlay());
    Ok(Some(OverlayPaths {
        merged: merged.map(|mount| {
            let path = path(&mount.point);
            let found = directory(&path);
            (path, found)
        }),
        work: mount.option(b"workdir").map(layer),
        lower: lower.map(layer).collect(),
        upper: upper.map(layer),
    }))
}

impl Layer {
    fn resolve(named: &[u8], bases: &[PathBuf]) -> Self {
        let mut at = Vec::new();
        for candidate in layer_paths(named, bases) {
            let found = directory(&candidate);
            let is_there = found.is_ok();
            at.push((candidate, found));
            if is_there {
                // The paths tried before were wrong guesses of what the name is relative to.
                at.drain(..at.len() - 1);
                break;
            }
        }
        Self { named: path(named), at }
    }
}

/// The mounts below the root of a process, except for the kernel's own file systems.
pub fn inner(pid: u32) -> io::Result<Vec<Inner>> {
    let own = mountinfo::own()?;
    let theirs = mountinfo::of(pid)?;
    let shown = theirs.into_iter().filter(|mount| mount.point != b"/" && !is_kernels(mount));
    Ok(shown
        .map(|mount| {
            let source = if is_in_memory(&mount) { None } else { host_path(&mount, &own) };
            let source = source.map(|path| {
                let same = is_source(pid, &mount, &path);
                (path, same)
            });
            Inner { mount, source }
        })
        .collect())
}

/// Whether a mount is a file system that stores no files, or one that a runtime uses to mask parts of these.
fn is_kernels(mount: &Mount) -> bool {
    const KINDS: [&[u8]; 12] = [
        b"proc",
        b"sysfs",
        b"cgroup",
        b"cgroup2",
        b"devpts",
        b"mqueue",
        b"securityfs",
        b"debugfs",
        b"tracefs",
        b"bpf",
        b"pstore",
        b"fusectl",
    ];
    let is_below = |directory: &[u8]| {
        mount.point.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    let masks = [b"/proc".as_slice(), b"/sys", b"/dev"].iter().any(|directory| is_below(directory));
    KINDS.contains(&mount.file_system.as_slice()) || (masks && is_in_memory(mount))
}

fn is_in_memory(mount: &Mount) -> bool {
    matches!(mount.file_system.as_slice(), b"tmpfs" | b"devtmpfs")
}

/// Where the host has the source of a mount, through the mount of the same file system that is closest to it.
fn host_path(mount: &Mount, own: &[Mount]) -> Option<PathBuf> {
    let shows = |other: &&Mount| other.device == mount.device && below(&other.root, &mount.root).is_some();
    let best = own.iter().filter(shows).max_by_key(|other| other.root.len())?;
    let rest = below(&best.root, &mount.root)?;
    Some(path(&best.point).join(path(rest)))
}

/// The rest of `path` below `directory`, without a leading slash.
fn below<'a>(directory: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(directory.strip_suffix(b"/").unwrap_or(directory))?;
    match rest {
        [] => Some(rest),
        [b'/', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// Whether a path in a process's root and a path of the host lead to the same file. Neither is opened for
/// reading.
///
/// Symbolic links on the host are followed, so it must be the host's own path, not one taken from a
/// container.
pub fn is_same(pid: u32, inside: &Path, host: &Path) -> io::Result<SameFile> {
    let host = rustix::fs::open(host, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    compare(pid, inside, &host)
}

fn compare(pid: u32, inside: &Path, host: &OwnedFd) -> io::Result<SameFile> {
    let theirs = open_beneath(open_root(pid)?.as_fd(), inside, ResolveFlags::empty())?;
    Ok(if found(&theirs)? == found(host)? { SameFile::Same } else { SameFile::Other })
}

/// Whether a path of the host is the source of a mount. The kernel gives that path without symbolic links, so
/// one that is there now has been put there since.
fn is_source(pid: u32, mount: &Mount, host: &Path) -> io::Result<SameFile> {
    let host = open_beneath(open_directory(Path::new("/"))?.as_fd(), host, ResolveFlags::NO_SYMLINKS)?;
    compare(pid, &path(&mount.point), &host)
}

/// Opens a directory of the host.
pub fn directory(path: &Path) -> io::Result<FoundPath> {
    found(&open_directory(path)?)
}

fn found(handle: &OwnedFd) -> io::Result<FoundPath> {
    let attributes = Attributes::of(handle.as_fd())?;
    debug_assert!(attributes.kind != FileType::Unknown, "statx reports the type");
    Ok(FoundPath { device: attributes.device, inode: attributes.inode })
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn own_files_are_reached() {
        let pid = std::process::id();
        let mapping = crate::proc::maps::executable_mappings(pid).unwrap().remove(0);
        let exe = executable(pid).unwrap();
        assert_eq!(
            real_inode(pid, &exe),
            crate::rootfs::inspect(pid, &mapping, &Mounts::default()).unwrap().1
        );
        assert!(root(pid).is_ok());
        assert_eq!(root(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(map_file(u32::MAX, &mapping).is_err());
        assert!(inner(pid).unwrap().iter().all(|inner| inner.mount.point != b"/"));
    }

    #[test]
    fn the_source_of_a_bind_mount_is_named_through_the_nearest_mount() {
        let own = mountinfo::parse(
            b"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:1 /data /srv rw - ext4 /dev/a rw\n3 1 8:2 / /x rw - ext4 b rw\n",
        );
        let bind =
            |root: &str| mountinfo::parse(format!("9 8 8:1 {root} /m ro - ext4 /dev/a rw\n").as_bytes());
        let check = |root: &str, expected: &str| {
            let mounts = bind(root);
            let mount = mounts.first().unwrap();
            assert!(mount.is_read_only);
            assert_eq!(host_path(mount, &own), Some(PathBuf::from(expected)), "{root}");
        };
        check("/data/web", "/srv/web");
        check("/data", "/srv/");
        check("/database", "/database");
        check("/var/lib/docker/volumes/v/_data", "/var/lib/docker/volumes/v/_data");
        let elsewhere = mountinfo::parse(b"9 8 9:9 / /m rw - ext4 c rw\n");
        assert_eq!(host_path(elsewhere.first().unwrap(), &own), None);
    }

    #[test]
    fn what_the_kernel_makes_up_is_left_out() {
        let check = |line: &str, expected: bool| {
            let mounts = mountinfo::parse(format!("9 8 0:9 / {line} x rw\n").as_bytes());
            assert_eq!(is_kernels(mounts.first().unwrap()), expected, "{line}");
        };
        check("/proc rw - proc", true);
        check("/proc/kcore rw - tmpfs", true);
        check("/dev rw - tmpfs", true);
        check("/devices rw - tmpfs", false);
        check("/run rw - tmpfs", false);
        check("/dev/log rw - ext4", false);
    }
}
