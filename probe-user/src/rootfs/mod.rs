//! A container's files from the host: mappings, safe opening, and which real inode a file is.
//!
//! Owns every open of a file that belongs to a target. It never follows a path out of the target's
//! root, never opens anything but regular files, never falls back to a host path, never writes.
//!
//! A target's file may lie on a file system that the target itself serves (FUSE): any call here that
//! touches such a file can then block for as long as the target likes. Nothing in this module can
//! prevent that, so callers run [`inspect`], [`before_copy_up`], what is in [`ways`], [`ForeignFile::open_mapping`] and
//! [`ForeignFile::open_in_root`] on a blocking thread and stop waiting for it after a time.
//! [`executable_mappings`] and [`mountinfo`] read only what the kernel itself answers.

pub mod inode;
pub mod maps;
pub mod mountinfo;
pub mod open;
pub mod ways;

pub use inode::{RealInode, before_copy_up};
pub use maps::{Mapping, MapsError, Range, executable_mappings};
pub use open::{Device, ForeignFile, OpenError};

/// Opens the file behind a mapping and finds out which real inode it is.
///
/// May block without limit on a hostile file system: see the module's description.
pub fn inspect(pid: u32, mapping: &Mapping) -> Result<(ForeignFile, RealInode), OpenError> {
    let file = ForeignFile::open_mapping(pid, mapping)?;
    let inode = RealInode::of(pid, &file);
    Ok((file, inode))
}

#[cfg(test)]
pub(crate) mod noise {
    //! Deterministic junk for parsers of foreign bytes.

    /// A small xorshift; equal seeds give equal bytes on every machine.
    pub(crate) struct Noise(pub(crate) u64);

    impl Noise {
        pub(crate) fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        /// Up to 300 bytes out of `alphabet`, or any bytes at all when it is empty.
        pub(crate) fn bytes(&mut self, alphabet: &[u8]) -> Vec<u8> {
            let length = usize::try_from(self.next() % 300).unwrap_or(0);
            (0..length)
                .map(|_| {
                    let value = self.next();
                    let index = usize::try_from(value % (alphabet.len().max(1) as u64)).unwrap_or(0);
                    alphabet.get(index).copied().unwrap_or(value.to_le_bytes()[4])
                })
                .collect()
        }
    }
}
