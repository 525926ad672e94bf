//! The root directory of a process, and the files below it that nobody need have mapped yet.
//!
//! Owns one descriptor of that directory. Paths are resolved below it as [`super::open`] does it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};

use super::open::{descriptor_path, open_beneath, open_root};
use super::{ForeignFile, Mounts, OpenError, RealInode};

/// The root directory of a process.
#[derive(Debug)]
pub struct TargetRoot {
    pid: u32,
    root: OwnedFd,
    /// Where it is below ctrace's root. `/`, unless the process has changed its root.
    place: PathBuf,
}

impl TargetRoot {
    /// The root of a process that runs.
    pub fn of(pid: u32) -> Result<Self, OpenError> {
        let root = open_root(pid).map_err(|source| OpenError::Root { pid, source: source.into() })?;
        let place = std::fs::read_link(descriptor_path(root.as_fd())).unwrap_or_else(|_| "/".into());
        Ok(Self { pid, root, place })
    }

    /// A directory, as if it were the root of this process.
    #[cfg(test)]
    pub(crate) fn at(directory: &Path) -> Self {
        let root = super::open::open_directory(directory);
        Self {
            root: root.unwrap_or_else(|error| panic!("{error}")),
            place: directory.to_owned(),
            pid: std::process::id(),
        }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Opens an absolute path as the process itself would see it.
    pub fn open(&self, path: &Path, mounts: &Mounts) -> Result<(ForeignFile, RealInode), OpenError> {
        let pid = self.pid;
        let handle = open_beneath(self.root.as_fd(), path, ResolveFlags::empty())
            .map_err(|source| OpenError::Open { pid, path: path.to_owned(), source: source.into() })?;
        Ok(self.identify(ForeignFile::from_handle(pid, path, handle.as_fd())?, mounts))
    }

    /// The same, with links resolved in the name, so that the file has the name that mappings of it show.
    pub fn open_resolved(&self, path: &Path, mounts: &Mounts) -> Result<(ForeignFile, RealInode), OpenError> {
        let pid = self.pid;
        let fail = |source: io::Error| OpenError::Open { pid, path: path.to_owned(), source };
        let handle = open_beneath(self.root.as_fd(), path, ResolveFlags::empty())
            .map_err(|source| fail(source.into()))?;
        let resolved = std::fs::read_link(descriptor_path(handle.as_fd())).map_err(fail)?;
        let file = ForeignFile::from_handle(pid, &self.inside(&resolved), handle.as_fd())?;
        Ok(self.identify(file, mounts))
    }

    /// Opens a file anew that the kernel has opened for ctrace on behalf of the process.
    pub fn reopen(&self, handle: &OwnedFd, mounts: &Mounts) -> Result<(ForeignFile, RealInode), OpenError> {
        let link = descriptor_path(handle.as_fd());
        let path = std::fs::read_link(&link).map_err(|source| OpenError::Open {
            pid: self.pid,
            path: link.clone(),
            source,
        })?;
        let file = ForeignFile::from_handle(self.pid, &self.inside(&path), handle.as_fd())?;
        Ok(self.identify(file, mounts))
    }

    /// The path below this root of a path that the kernel gave for ctrace's root.
    pub fn inside(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.place) {
            Ok(rest) => Path::new("/").join(rest),
            Err(_) => path.to_owned(),
        }
    }

    /// The names of the entries of a directory, at most `limit` of those for which `wanted` holds.
    pub fn names(
        &self,
        directory: &Path,
        limit: usize,
        wanted: impl Fn(&OsStr) -> bool,
    ) -> io::Result<Vec<OsString>> {
        let names = self.entries(directory)?.map(|(name, _)| name);
        Ok(names.filter(|name| wanted(name)).take(limit).collect())
    }

    /// The entries of a directory, with what kind of file each is, if the file system says so there.
    pub fn entries(&self, directory: &Path) -> io::Result<impl Iterator<Item = (OsString, FileType)>> {
        /// Limit of the entries that are read. `/usr/lib` has a few thousand.
        const ENTRIES: usize = 1 << 16;
        let handle = open_beneath(self.root.as_fd(), directory, ResolveFlags::empty())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::open(descriptor_path(handle.as_fd()), flags, Mode::empty())?;
        let entries = Dir::new(opened)?.take(ENTRIES).filter_map(Result::ok);
        Ok(entries
            .map(|entry| (OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(), entry.file_type())))
    }

    fn identify(&self, file: ForeignFile, mounts: &Mounts) -> (ForeignFile, RealInode) {
        let inode = RealInode::of(self.pid, &file, mounts);
        (file, inode)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_file_is_the_same_by_its_path_and_by_a_descriptor() {
        let root = TargetRoot::of(std::process::id()).unwrap();
        let mounts = Mounts::default();
        let path = std::fs::canonicalize("/proc/self/exe").unwrap();
        let (named, first) = root.open(&path, &mounts).unwrap();
        let handle = OwnedFd::from(std::fs::File::open(&path).unwrap());
        let (opened, second) = root.reopen(&handle, &mounts).unwrap();
        assert_eq!((first, named.name()), (second, opened.name()));
        assert_eq!(opened.name(), path);
        let name = path.file_name().unwrap();
        let found = root.names(path.parent().unwrap(), 4, |entry| entry == name).unwrap();
        assert_eq!(found, [name]);
        assert!(root.names(&path, 4, |_| true).is_err());
    }

    #[test]
    fn a_name_is_resolved_inside_of_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let place = |path: &str| directory.path().join(path);
        std::fs::create_dir_all(place("usr/lib")).unwrap();
        std::fs::write(place("usr/lib/libx.so.1.2"), "code").unwrap();
        std::os::unix::fs::symlink("usr/lib", place("lib")).unwrap();
        std::os::unix::fs::symlink("libx.so.1.2", place("usr/lib/libx.so.1")).unwrap();
        std::os::unix::fs::symlink("/loop", place("loop")).unwrap();
        let (root, mounts) = (TargetRoot::at(directory.path()), Mounts::default());
        let (file, inode) = root.open_resolved(Path::new("/lib/libx.so.1"), &mounts).unwrap();
        assert_eq!(file.name(), Path::new("/usr/lib/libx.so.1.2"));
        assert_eq!(inode, root.open(file.name(), &mounts).unwrap().1);
        assert!(root.open_resolved(Path::new("/loop"), &mounts).is_err());
        let entries: Vec<_> = root.entries(Path::new("/lib")).unwrap().collect();
        assert!(entries.contains(&("libx.so.1".into(), FileType::Symlink)), "{entries:?}");
    }

    #[test]
    fn a_path_below_another_root_is_seen_from_there() {
        let root =
            |place: &str| TargetRoot { place: place.into(), ..TargetRoot::of(std::process::id()).unwrap() };
        assert_eq!(root("/srv/jail").inside(Path::new("/srv/jail/bin/sh")), Path::new("/bin/sh"));
        assert_eq!(root("/srv/jail").inside(Path::new("/bin/sh")), Path::new("/bin/sh"));
        assert_eq!(root("/").inside(Path::new("/bin/sh")), Path::new("/bin/sh"));
    }
}
