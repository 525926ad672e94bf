//! A container's files from the host: mappings, safe opening, and which real inode a file is.
//!
//! Owns every open of a file that belongs to a target. It never follows a path out of the target's
//! root, never opens anything but regular files, never falls back to a host path.

use std::os::fd::OwnedFd;

/// A regular file of a target, opened safely; it stays usable after the target has gone.
#[derive(Debug)]
pub struct ForeignFile {
    /// Opened read-only.
    pub(crate) fd: OwnedFd,
    /// Bytes, when it was opened.
    pub size: u64,
}
impl ForeignFile { /// t
 pub fn path(&self) -> std::path::PathBuf { use std::os::fd::AsRawFd; format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into() } }
