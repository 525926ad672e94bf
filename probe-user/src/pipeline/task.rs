//! What the kernel tells of processes and cgroups: not for the sink, but for who follows them.

use crate::decode::Cgroup;

/// Something happened to a process or a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// A process executes another program; where the scope watches, any process of the machine. Not of a
    /// program that was reported.
    Executed {
        /// The process.
        pid: u32,
        /// When, in nanoseconds of `CLOCK_BOOTTIME`.
        time: u64,
    },
    /// A process in scope has ended.
    Ended {
        /// The process.
        pid: u32,
    },
    /// A cgroup of the v2 hierarchy was made.
    CgroupMade {
        /// Inode number of its directory.
        id: u64,
        /// Depth below the root of the hierarchy, whose level is 0.
        level: u32,
        /// Path in the hierarchy. Bytes that are not UTF-8 are replaced: no runtime makes such names.
        path: String,
    },
    /// A cgroup of the v2 hierarchy was removed.
    CgroupGone {
        /// Inode number of its directory.
        id: u64,
    },
    /// A process is stopped until what it has mapped was looked at.
    Held {
        /// The process.
        pid: u32,
    },
}

impl TaskEvent {
    pub(super) fn made(Cgroup { id, level, path }: Cgroup<'_>) -> Self {
        Self::CgroupMade { id, level, path: String::from_utf8_lossy(path).into_owned() }
    }
}
