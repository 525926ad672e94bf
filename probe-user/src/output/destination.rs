//! The open file that records are written to: a standard stream, or the file of `-o` or `--output`.
//!
//! Records are secrets, so this module owns the rules for the files that may be opened: a file that exists
//! must belong to the user who traces. A link is never followed, and nothing about a file changes before
//! [`Destination::claim`].

use std::fmt;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::event::epoll;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, geteuid, getpid, pidfd_getfd, pidfd_open};
use thiserror::Error;

use super::FormatKind;
use crate::terminal::escaped_word;

/// The mode of files that ctrace creates: only their owner reads and writes them.
const PRIVATE: u32 = 0o600;

/// Records cannot be written to the file of `-o` or `--output`.
#[derive(Debug, Error)]
pub enum DestinationError {
    /// It cannot be opened.
    #[error("cannot open {path} for the records; name another file with -o or --output")]
    Open {
        /// Its name.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It belongs to another user, who could read the records.
    #[error(
        "{path} belongs to user {owner}, who could read the records: nothing was written to it; name another \
         file with -o or --output, or remove this one"
    )]
    Foreign {
        /// Its name.
        path: String,
        /// Its owner.
        owner: u32,
    },
    /// It is a symbolic link.
    #[error(
        "{path} is a link, and records do not follow links; give -o or --output the name of what it leads to"
    )]
    Link {
        /// Its name.
        path: String,
    },
    /// It has several names.
    #[error(
        "{path} is one of {names} names of a file (hard links), and the records would replace what the \
         others name; name another file with -o or --output, or remove this one"
    )]
    ManyNames {
        /// One of its names.
        path: String,
        /// The number of its names.
        names: u64,
    },
    /// Two outputs have the same file.
    #[error("{path} is the same file as that of another output; give each a file of its own")]
    SameFile {
        /// One of its names.
        path: String,
    },
    /// Nobody could read the records there.
    #[error("a terminal does not show this format; name a file: -o FORMAT=FILE, or --output FILE")]
    Terminal,
    /// It is a descriptor that ctrace was not started with.
    #[error(
        "{path} is not open for writing where ctrace was started; open it there (in a shell: `3> FILE`), or \
         name a file with -o or --output"
    )]
    Descriptor {
        /// Its name.
        path: String,
    },
    /// It cannot be emptied, or others can still read it.
    #[error(
        "{path} cannot be emptied and made its owner's alone (mode 600), as records need; name another \
         file with -o or --output"
    )]
    Claim {
        /// Its name.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The place of an output, before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputPath {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, a FIFO, or a descriptor that ctrace was started with.
    Named(PathBuf),
}

impl OutputPath {
    /// Opens it, without waiting. Returns `None` if it is a FIFO that has no reader yet.
    pub fn open(&self) -> Result<Option<Destination>, DestinationError> {
        let stream = match self {
            Self::Stdout => io::stdout().as_fd().try_clone_to_owned(),
            Self::Stderr => io::stderr().as_fd().try_clone_to_owned(),
            Self::Named(path) => return Destination::open(path),
        };
        match stream {
            Ok(stream) => Ok(Some(Destination { file: File::from(stream), name: None })),
            Err(source) => Err(DestinationError::Open { path: self.to_string(), source }),
        }
    }

    /// Whether both names are equal. Different names may still be names of one file.
    pub fn is_same(&self, other: &Self) -> bool {
        let number = |path: &Self| match path {
            Self::Stdout => Some(1),
            Self::Stderr => Some(2),
            Self::Named(path) => descriptor(path),
        };
        self == other || number(self).is_some_and(|of_self| number(other) == Some(of_self))
    }
}

impl From<PathBuf> for OutputPath {
    /// `-` is standard output.
    fn from(path: PathBuf) -> Self {
        if path == Path::new("-") { Self::Stdout } else { Self::Named(path) }
    }
}

impl fmt::Display for OutputPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::Stderr => f.write_str("standard error"),
            Self::Named(path) => f.write_str(&escaped_word(path.as_os_str())),
        }
    }
}

/// An open file that takes records.
#[derive(Debug)]
pub struct Destination {
    file: File,
    /// The path, if it is a regular file that was opened by its name.
    name: Option<PathBuf>,
}

impl Destination {
    /// Opens a path, without waiting, and creates a file if there is none. Returns `None` if it is a FIFO
    /// that has no reader yet.
    pub fn open(path: &Path) -> Result<Option<Self>, DestinationError> {
        match descriptor(path) {
            Some(number) => inherited(number, path).map(Some),
            None => Named { path, owners: &owners() }.open(),
        }
    }

    /// Whether it takes records of a format. Binary formats are not written to a terminal.
    pub fn check_kind(&self, kind: FormatKind) -> Result<(), DestinationError> {
        if kind == FormatKind::Binary && self.file.is_terminal() {
            return Err(DestinationError::Terminal);
        }
        Ok(())
    }

    /// Whether both are the same file, so that one output would overwrite the other.
    pub fn is_same_file(&self, other: &Self) -> io::Result<bool> {
        if self.name.is_none() || other.name.is_none() {
            return Ok(false);
        }
        let (one, other) = (self.file.metadata()?, other.file.metadata()?);
        Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
    }

    /// Whether it is this file.
    pub fn is_file_of(&self, metadata: &Metadata) -> io::Result<bool> {
        let own = self.file.metadata()?;
        Ok(own.is_file() && (own.dev(), own.ino()) == (metadata.dev(), metadata.ino()))
    }

    /// Prepares it for records: a file that was opened by its name is emptied and made private to its owner.
    pub fn claim(&self) -> Result<(), DestinationError> {
        let Some(name) = &self.name else { return Ok(()) };
        let private = self.file.set_permissions(Permissions::from_mode(PRIVATE));
        let claimed = private.and_then(|()| self.file.set_len(0));
        claimed.map_err(|source| DestinationError::Claim { path: escaped_word(name.as_os_str()), source })
    }

    pub(super) fn into_file(self) -> File {
        self.file
    }
}

impl AsFd for Destination {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether a write may have to wait for a reader. epoll(7) refuses files that are always ready, such as
/// regular files and /dev/null.
pub(super) fn may_wait(file: &File) -> io::Result<bool> {
    if file.metadata()?.is_file() {
        return Ok(false);
    }
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    match epoll::add(&set, file, epoll::EventData::new_u64(0), epoll::EventFlags::OUT) {
        Err(Errno::PERM) => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// The number in the path of a descriptor of this process. Such a path is a link, and the file that it leads
/// to may have no name.
fn descriptor(path: &Path) -> Option<i32> {
    let standard = [("/dev/stdin", 0), ("/dev/stdout", 1), ("/dev/stderr", 2)];
    if let Some((_, number)) = standard.iter().find(|(name, _)| Path::new(name) == path) {
        return Some(*number);
    }
    let parent = path.parent()?;
    let digits = path.file_name()?.to_str()?;
    let is_table = ["/dev/fd", "/proc/self/fd"].iter().any(|table| Path::new(table) == parent);
    (is_table && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// Duplicates a descriptor that ctrace was started with. Descriptors that ctrace has opened itself, which are
/// closed on exec, are refused.
fn inherited(number: i32, path: &Path) -> Result<Destination, DestinationError> {
    let refused = || DestinationError::Descriptor { path: escaped_word(path.as_os_str()) };
    let flags = opened_with(number).ok_or_else(refused)?;
    if flags.contains(OFlags::CLOEXEC) || !flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
        return Err(refused());
    }
    // dup(2) with a number would need unsafe code.
    let duplicate = pidfd_open(getpid(), PidfdFlags::empty())
        .and_then(|us| pidfd_getfd(us, number, PidfdGetfdFlags::empty()));
    let duplicate = duplicate.map_err(|error| DestinationError::Open {
        path: escaped_word(path.as_os_str()),
        source: error.into(),
    })?;
    Ok(Destination { file: File::from(duplicate), name: None })
}

/// The flags with which a descriptor of this process was opened (`flags` of proc(5), octal). `None` if it is
/// not open.
fn opened_with(number: i32) -> Option<OFlags> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
    u32::from_str_radix(flags.trim(), 8).ok().map(OFlags::from_bits_retain)
}

/// The users whose files may be written: root, our own user, and the user who called sudo.
fn owners() -> Vec<u32> {
    let ours = geteuid();
    let sudo = std::env::var("SUDO_UID").ok().filter(|_| ours.is_root());
    [Some(0), Some(ours.as_raw()), sudo.and_then(|uid| uid.parse().ok())].into_iter().flatten().collect()
}

/// A name in a directory, and the users to whom the file may belong.
struct Named<'a> {
    path: &'a Path,
    owners: &'a [u32],
}

impl Named<'_> {
    fn open(&self) -> Result<Option<Destination>, DestinationError> {
        // The first attempt has no O_CREAT: with it, the kernel refuses to open files in /tmp that belong to
        // the user who called sudo (fs.protected_regular, fs.protected_fifos).
        match self.open_with(OFlags::empty()) {
            Err(Errno::NOENT) => match self.open_with(OFlags::CREATE | OFlags::EXCL) {
                Ok(file) => Ok(Some(self.regular(file))),
                // It was created in between.
                Err(Errno::EXIST) => self.existing(self.open_with(OFlags::empty())),
                Err(error) => Err(self.refused(error.into())),
            },
            opened => self.existing(opened),
        }
    }

    /// Checks the file, which existed before.
    fn existing(&self, opened: Result<File, Errno>) -> Result<Option<Destination>, DestinationError> {
        let file = match opened {
            Ok(file) => file,
            Err(Errno::LOOP) => {
                return Err(DestinationError::Link { path: escaped_word(self.path.as_os_str()) });
            }
            Err(Errno::NXIO) => return self.check_unread().map(|()| None),
            Err(error) => return Err(self.refused(error.into())),
        };
        let metadata = file.metadata().map_err(|source| self.refused(source))?;
        self.check(&metadata)?;
        Ok(Some(if metadata.is_file() { self.regular(file) } else { Destination { file, name: None } }))
    }

    fn regular(&self, file: File) -> Destination {
        Destination { file, name: Some(self.path.to_path_buf()) }
    }

    /// Opens without waiting for the reader of a FIFO. Writes do not wait either.
    fn open_with(&self, more: OFlags) -> Result<File, Errno> {
        let flags =
            OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | more;
        rustix::fs::open(self.path, flags, Mode::from_raw_mode(PRIVATE)).map(File::from)
    }

    /// Every user can create a file or a FIFO in /tmp before ctrace does, but only root can create a device.
    fn check(&self, metadata: &Metadata) -> Result<(), DestinationError> {
        let (path, kind, owner) = (escaped_word(self.path.as_os_str()), metadata.file_type(), metadata.uid());
        if (kind.is_file() || kind.is_fifo()) && !self.owners.contains(&owner) {
            return Err(DestinationError::Foreign { path, owner });
        }
        if kind.is_file() && metadata.nlink() > 1 {
            return Err(DestinationError::ManyNames { path, names: metadata.nlink() });
        }
        Ok(())
    }

    /// Whether the open failed because nobody is at the other end. A FIFO may get a reader later.
    fn check_unread(&self) -> Result<(), DestinationError> {
        let metadata = self.path.symlink_metadata().map_err(|source| self.refused(source))?;
        if metadata.file_type().is_fifo() {
            return self.check(&metadata);
        }
        let what =
            if metadata.file_type().is_socket() { "it is a socket" } else { "it is no device that is there" };
        Err(self.refused(io::Error::other(what)))
    }

    fn refused(&self, source: io::Error) -> DestinationError {
        DestinationError::Open { path: escaped_word(self.path.as_os_str()), source }
    }
}

#[cfg(test)]
mod tests;
