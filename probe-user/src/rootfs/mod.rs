//! A container's files, accessed from the host: mappings, safe opening, and the real inode of a file.
//!
//! Every file that belongs to a traced process is opened here. A path never leads out of the process's root,
//! only regular files are opened, nothing is written, and there is no fallback to the same path on the host.
//!
//! A traced process may itself serve the file system that contains its files (FUSE). A call here that touches
//! such a file may then block for as long as that process likes, which nothing here can prevent. So callers
//! run [`inspect`], [`before_copy_up`], the methods of [`TargetRoot`], the functions of [`access_paths`],
//! [`ForeignFile::open_mapping`] and [`ForeignFile::open_in_root`] on a blocking thread, and stop waiting
//! after a time limit. [`executable_mappings`] and [`crate::proc::mountinfo`] read only data that the kernel
//! itself provides.

pub mod access_paths;
mod debug_files;
mod error;
pub mod inode;
mod mounts;
pub mod open;
mod target_root;

pub use crate::proc::maps::{Mapping, MapsError, Range, executable_mappings};
pub use debug_files::with_debug_file;
pub use error::OpenError;
pub use inode::{RealInode, before_copy_up};
pub use mounts::{MountView, Mounts};
pub use open::ForeignFile;
pub use target_root::TargetRoot;

/// Opens the file behind a mapping and determines its real inode.
///
/// May block without limit on a hostile file system: see the description of the module.
pub fn inspect(pid: u32, mapping: &Mapping, mounts: &Mounts) -> Result<(ForeignFile, RealInode), OpenError> {
    let file = ForeignFile::open_mapping(pid, mapping)?;
    let inode = RealInode::of(pid, &file, mounts);
    Ok((file, inode))
}
