//! A container's files from the host: mappings, safe opening, and which real inode a file is.
//!
//! Owns every open of a file that belongs to a target. It never follows a path out of the target's
//! root, never opens anything but regular files, never falls back to a host path, never writes.
//!
//! A target's file may lie on a file system that the target itself serves (FUSE): any call here that touches
//! such a file can then block for as long as the target likes. Nothing in this module can prevent that, so
//! callers run [`inspect`], [`before_copy_up`], what is in [`access_paths`], [`ForeignFile::open_mapping`]
//! and [`ForeignFile::open_in_root`] on a blocking thread and stop waiting for it after a time.
//! [`executable_mappings`] and [`crate::proc::mountinfo`] read only what the kernel itself answers.

pub mod access_paths;
mod error;
pub mod inode;
mod mounts;
pub mod open;

pub use crate::proc::maps::{Mapping, MapsError, Range, executable_mappings};
pub use error::OpenError;
pub use inode::{RealInode, before_copy_up};
pub use mounts::Mounts;
pub use open::ForeignFile;

/// Opens the file behind a mapping and finds out which real inode it is.
///
/// May block without limit on a hostile file system: see the module's description.
pub fn inspect(pid: u32, mapping: &Mapping, mounts: &Mounts) -> Result<(ForeignFile, RealInode), OpenError> {
    let file = ForeignFile::open_mapping(pid, mapping)?;
    let inode = RealInode::of(pid, &file, mounts);
    Ok((file, inode))
}
