//! Safe opening of files that belong to other processes.
//!
//! The order is always the same: open with O_PATH, check that it is a regular file, reopen for reading. A
//! path of a process is resolved inside its root only. Nothing here reads the contents of a file.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::OpenError;
use crate::proc::Device;
use crate::proc::maps::Mapping;

/// How often an open is retried that races with renames in the container (`EAGAIN` of openat2).
const ATTEMPTS: u32 = 16;

/// A regular file of a traced process, opened safely. It stays usable after the process has exited.
#[derive(Debug)]
pub struct ForeignFile {
    /// The file, opened read-only.
    fd: OwnedFd,
    /// The size in bytes at the time of opening.
    pub size: u64,
    attributes: Attributes,
    name: PathBuf,
    is_deleted: bool,
}

/// The attributes that identify a file, from one `statx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) device: Device,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) links: u32,
    /// Seconds and nanoseconds.
    pub(super) modified: (i64, u32),
    /// Seconds and nanoseconds. No call can set the change time, so no copy of a file has that of its
    /// original.
    pub(super) changed: (i64, u32),
    /// The id of the mount through which the file was reached (first field of mountinfo).
    pub(super) mount: u64,
    pub(super) kind: FileType,
    /// Whether executing it may change the user or group (set-user-ID, set-group-ID).
    pub(super) is_set_id: bool,
}

impl ForeignFile {
    /// Opens the file behind a mapping, even if it has no name any more.
    ///
    /// Uses /proc/PID/map_files, which requires `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN`. Without these,
    /// the file is opened by its name in the process's root, if the name still leads to the mapped file.
    pub fn open_mapping(pid: u32, mapping: &Mapping) -> Result<Self, OpenError> {
        let fail = |source: Errno| OpenError::Open { pid, path: mapping.path.clone(), source: source.into() };
        let mut error = Errno::NOENT;
        // A range may have been unmapped since; any other range of the same file will do.
        for range in mapping.openable().take(8) {
            let link = format!("/proc/{pid}/map_files/{:x}-{:x}", range.start, range.end);
            match rustix::fs::open(link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
                Ok(handle) => {
                    let mut file = Self::from_handle(pid, &mapping.path, handle.as_fd())?;
                    file.settle_name(pid, mapping);
                    return Ok(file);
                }
                Err(Errno::PERM | Errno::ACCESS) => return Self::open_by_name(pid, mapping),
                Err(other) => error = other,
            }
        }
        Err(fail(error))
    }

    /// Distinguishes the kernel's mark for a deleted file from a name that really ends with it. The link
    /// count cannot: a file that was deleted on an overlay still has a link in its layer.
    fn settle_name(&mut self, pid: u32, mapping: &Mapping) {
        let unmarked = mapping.unmarked_path();
        if unmarked != mapping.path && !self.is_at(pid, &mapping.path) {
            unmarked.clone_into(&mut self.name);
            self.is_deleted = true;
        }
    }

    fn is_at(&self, pid: u32, path: &Path) -> bool {
        let found = open_root(pid).and_then(|root| open_beneath(root.as_fd(), path, ResolveFlags::empty()));
        found
            .and_then(|handle| Attributes::of(handle.as_fd()))
            .is_ok_and(|found| (found.device, found.inode) == (self.attributes.device, self.attributes.inode))
    }

    fn open_by_name(pid: u32, mapping: &Mapping) -> Result<Self, OpenError> {
        match Self::open_in_root(pid, &mapping.path) {
            Ok(file) if file.attributes.inode == mapping.inode => Ok(file),
            // The name leads to another file, or to none any more.
            Err(OpenError::Open { source, .. }) if source.kind() != io::ErrorKind::NotFound => {
                Err(OpenError::Open { pid, path: mapping.path.clone(), source })
            }
            Ok(_) | Err(OpenError::Open { .. }) => {
                Err(OpenError::Changed { pid, path: mapping.path.clone() })
            }
            Err(other) => Err(other),
        }
    }

    /// Opens a path as the process itself would see it: symbolic links stay inside its root.
    pub fn open_in_root(pid: u32, path: &Path) -> Result<Self, OpenError> {
        let root = open_root(pid).map_err(|source| OpenError::Root { pid, source: source.into() })?;
        let handle = open_beneath(root.as_fd(), path, ResolveFlags::empty())
            .map_err(|source| OpenError::Open { pid, path: path.to_owned(), source: source.into() })?;
        Self::from_handle(pid, path, handle.as_fd())
    }

    /// Reopens an O_PATH descriptor for reading, if it is a regular file. Nothing else is ever opened.
    pub(super) fn from_handle(pid: u32, path: &Path, handle: BorrowedFd<'_>) -> Result<Self, OpenError> {
        let fail = |source: Errno| OpenError::Open { pid, path: path.to_owned(), source: source.into() };
        let attributes = Attributes::of(handle).map_err(fail)?;
        if attributes.kind != FileType::RegularFile {
            return Err(OpenError::NotRegular { pid, path: path.to_owned(), kind: attributes.kind });
        }
        let fd = reopen(handle).map_err(fail)?;
        Ok(Self {
            fd,
            size: attributes.size,
            attributes,
            name: path.to_owned(),
            is_deleted: attributes.links == 0,
        })
    }

    /// A path that leads to exactly this file in this process, which the kernel can attach to.
    pub fn path(&self) -> PathBuf {
        descriptor_path(self.fd.as_fd())
    }

    /// A handle for reading, with its own position.
    pub fn file(&self) -> io::Result<File> {
        Ok(File::from(reopen(self.fd.as_fd())?))
    }

    /// The path as the process sees it. It is for display and must not be opened.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The device as the process sees it; on overlayfs this is not the device of the real file.
    pub fn device(&self) -> Device {
        self.attributes.device
    }

    /// The inode number as the process sees it; see [`super::RealInode`].
    pub fn inode(&self) -> u64 {
        self.attributes.inode
    }

    /// Whether the file was unlinked after it was mapped, so that its name is a former one.
    pub fn is_deleted(&self) -> bool {
        self.is_deleted
    }

    /// Whether executing it may change the user or group. The loader then ignores most of its environment.
    pub fn is_set_id(&self) -> bool {
        self.attributes.is_set_id
    }

    /// The change time at the time of opening: seconds and nanoseconds that no call can set.
    pub fn changed(&self) -> (i64, u32) {
        self.attributes.changed
    }

    /// Whether the file's bytes are still those of the time of opening.
    pub fn is_unchanged(&self) -> bool {
        Attributes::of(self.fd.as_fd()).is_ok_and(|now| now.same_content_history(&self.attributes))
    }

    pub(super) fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Attributes {
    pub(super) fn of(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        let found = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, mask)?;
        Ok(Self {
            device: Device { major: found.stx_dev_major, minor: found.stx_dev_minor },
            inode: found.stx_ino,
            size: found.stx_size,
            links: found.stx_nlink,
            modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
            changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
            mount: found.stx_mnt_id,
            kind: FileType::from_raw_mode(found.stx_mode.into()),
            is_set_id: Mode::from_raw_mode(found.stx_mode.into()).intersects(Mode::SUID | Mode::SGID),
        })
    }

    /// Whether both describe the same version of one file. Device and inode number may differ, as on
    /// overlayfs.
    pub(super) fn same_content_history(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.size == other.size
            && self.modified == other.modified
            && self.changed == other.changed
    }
}

/// Opens a path below `root` with O_PATH. Neither `..` nor a symbolic link leads out of it.
pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &Path, more: ResolveFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..ATTEMPTS {
        result = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve);
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    result
}

pub(super) fn open_root(pid: u32) -> Result<OwnedFd, Errno> {
    open_directory(Path::new(&format!("/proc/{pid}/root")))
}

/// Opens a directory of ctrace's own mount namespace with O_PATH.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

pub(super) fn descriptor_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Reopens a descriptor. With O_NONBLOCK, a lease on the file makes the open fail instead of wait.
fn reopen(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::open(descriptor_path(fd), flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::Read;

    use super::*;
    use crate::proc::maps::executable_mappings;
    use crate::rootfs::{Mounts, inspect};

    #[test]
    fn every_own_mapping_opens_and_has_the_bytes_of_an_elf_file() {
        let pid = std::process::id();
        for mapping in executable_mappings(pid).unwrap() {
            let (file, inode) = inspect(pid, &mapping, &Mounts::default()).unwrap();
            let mut magic = [0; 4];
            file.file().unwrap().read_exact(&mut magic).unwrap();
            assert_eq!(&magic, b"\x7fELF", "{mapping:?}");
            assert_eq!(file.name(), mapping.path);
            assert_eq!(File::open(file.path()).unwrap().metadata().unwrap().len(), file.size);
            let (_, again) = inspect(pid, &mapping, &Mounts::default()).unwrap();
            assert_eq!(inode, again);
        }
    }

    #[test]
    fn a_mark_for_a_deleted_file_differs_from_a_name_that_ends_like_it() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("x (deleted)");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program).arg("60").spawn().unwrap();
        // `spawn` returns when the kernel has closed files for the exec, a moment before it maps the program.
        let open = || {
            loop {
                let mappings = executable_mappings(child.id()).unwrap();
                if let Some(found) = mappings.iter().find(|mapping| mapping.unmarked_path() != mapping.path) {
                    return ForeignFile::open_mapping(child.id(), found);
                }
            }
        };
        let named = open().unwrap();
        std::fs::remove_file(&program).unwrap();
        let unlinked = open();
        // The plain name now leads to another file.
        std::fs::write(&program, "other").unwrap();
        let replaced = open();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((named.name(), named.is_deleted()), (program.as_path(), false));
        for found in [unlinked, replaced] {
            match found {
                Ok(file) => assert_eq!((file.name(), file.is_deleted()), (program.as_path(), true)),
                // Without the capabilities for map_files, a file without a name cannot be opened.
                Err(error) => assert!(!rustix::process::geteuid().is_root(), "{error}"),
            }
        }
    }

    #[test]
    fn what_is_no_regular_file_is_never_opened() {
        let pid = std::process::id();
        for path in ["/dev/null", "/proc", "/"] {
            let error = ForeignFile::open_in_root(pid, Path::new(path)).unwrap_err();
            assert!(matches!(error, OpenError::NotRegular { .. }), "{path}: {error}");
        }
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        // An ordinary open would wait for a writer forever.
        let error = ForeignFile::open_in_root(pid, &fifo).unwrap_err();
        assert!(matches!(error, OpenError::NotRegular { kind: FileType::Fifo, .. }), "{error}");
    }

    #[test]
    fn magic_links_are_refused() {
        let pid = std::process::id();
        let error = ForeignFile::open_in_root(pid, Path::new("/proc/self/exe")).unwrap_err();
        assert!(matches!(error, OpenError::Open { .. }), "{error}");
    }

    #[test]
    fn neither_dots_nor_links_lead_out_of_a_root() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("inside"), "inside").unwrap();
        std::fs::create_dir(directory.path().join("root")).unwrap();
        std::fs::write(directory.path().join("root/inside"), "root").unwrap();
        std::os::unix::fs::symlink("/inside", directory.path().join("root/absolute")).unwrap();
        std::os::unix::fs::symlink("../../inside", directory.path().join("root/relative")).unwrap();
        let root = open_directory(&directory.path().join("root")).unwrap();
        for path in ["absolute", "relative", "/inside", "../inside", "x/../inside"] {
            let handle = open_beneath(root.as_fd(), Path::new(path), ResolveFlags::empty());
            match handle {
                Ok(handle) => assert_eq!(Attributes::of(handle.as_fd()).unwrap().size, 4, "{path}"),
                Err(error) => assert_eq!((path, error), ("x/../inside", Errno::NOENT)),
            }
        }
    }

    #[test]
    fn an_error_escapes_what_it_names() {
        let error = ForeignFile::open_in_root(std::process::id(), Path::new("/no\x1b[2J\n")).unwrap_err();
        let text = error.to_string();
        assert!(!text.contains('\x1b') && !text.contains('\n'), "{text:?}");
        let missing = ForeignFile::open_in_root(u32::MAX, Path::new("/x")).unwrap_err();
        assert!(matches!(missing, OpenError::Root { .. }));
    }
}
