//! Mappings of executable files, as the kernel reports them.

use std::path::PathBuf;

/// A file that a process has mapped as executable. It may be a memfd, or have no name any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecMmap {
    /// The process id in the PID namespace of ctrace.
    pub pid: u32,
    /// The thread id in the PID namespace of ctrace.
    pub tid: u32,
    /// The address of the mapping.
    pub address: u64,
    /// The length of the mapping in bytes.
    pub length: u64,
    /// The offset of its first byte in the file.
    pub offset: u64,
    /// The inode number of the mapping's file.
    pub inode: u64,
    /// The major and minor number of the device of the mapping's file (on overlayfs, not that of the real
    /// file).
    pub device: (u32, u32),
    /// The path in the mount namespace of the process, of any bytes. It ends with ` (deleted)` if the file
    /// was deleted.
    pub path: PathBuf,
    /// The time in nanoseconds of `CLOCK_BOOTTIME`.
    pub time: u64,
}

/// An event from the kernel's perf records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MmapEvent {
    /// A mapping.
    Mapped(ExecMmap),
    /// A process has executable memory without a file, new or changed: a compiler's code, or a copy of code.
    Anonymous {
        /// The process.
        pid: u32,
    },
    /// A process executes a program, and is about to map it.
    Executes {
        /// The process.
        pid: u32,
        /// The time in nanoseconds of `CLOCK_BOOTTIME`.
        time: u64,
    },
    /// This many records had no room or could not be parsed, so any process may have mapped anything.
    Lost(u64),
}
