//! Mappings of executable files, as the kernel tells of them.

use std::path::PathBuf;

/// What a process has mapped executable: a file, also one that has no name any more, or a memfd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecMmap {
    /// Process id, in the PID namespace of ctrace.
    pub pid: u32,
    /// Thread id there.
    pub tid: u32,
    /// Address of the mapping.
    pub address: u64,
    /// Its bytes.
    pub length: u64,
    /// Offset in the file of its first byte.
    pub offset: u64,
    /// Inode number, as the mapping's file has it.
    pub inode: u64,
    /// Major and minor number of the device, as the mapping's file has it (on overlayfs, not that of the real
    /// file).
    pub device: (u32, u32),
    /// Path in the mount namespace of the process, of any bytes; ends with ` (deleted)` where the file is.
    pub path: PathBuf,
    /// When, in nanoseconds of `CLOCK_BOOTTIME`.
    pub time: u64,
}

/// What the kernel tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MmapEvent {
    /// A mapping.
    Mapped(ExecMmap),
    /// A process executes a program, which it is about to map.
    Executes {
        /// The process.
        pid: u32,
        /// When, in nanoseconds of `CLOCK_BOOTTIME`.
        time: u64,
    },
    /// So many records had no room or were not understood: any process may have mapped anything.
    Lost(u64),
}
