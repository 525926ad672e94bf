//! What of the kernel a session needs, asked one by one: for a person who wants to know what is missing.

use std::path::Path;

use aya::maps::MapType;

use super::tracepoint_format::TRACEFS;

/// Whether the kernel has a ring buffer for BPF programs (5.8); none when that could not be asked.
pub fn ring_buffer() -> Option<bool> {
    aya::sys::is_map_supported(MapType::RingBuf).ok()
}

/// Whether a probe can be told what it is attached to (5.15). Without the right to load programs the answer
/// is no.
pub fn attach_cookies() -> bool {
    aya::features().bpf_cookie()
}

/// Whether the kernel describes its own structures.
pub fn has_btf() -> bool {
    super::btf::Btf::is_there()
}

/// `SYSFS_MAGIC` of linux/magic.h.
const SYSFS: i64 = 0x6265_6572;

/// Whether sysfs is mounted, where the kernel tells what it has.
pub fn has_sysfs() -> bool {
    #[expect(clippy::unnecessary_cast, reason = "the field's type differs between architectures")]
    rustix::fs::statfs("/sys").is_ok_and(|found| found.f_type as i64 == SYSFS)
}

/// Where the descriptions of tracepoints are to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracefs {
    /// It is mounted where everybody looks for it.
    Mounted,
    /// It is not, but the kernel has it: ctrace mounts it for itself alone.
    Mountable,
    /// The kernel does not have it.
    Absent,
}

/// Where the descriptions of tracepoints are; to be asked before [`super::prepare`] changes it.
pub fn tracefs() -> Tracefs {
    // One that may not be looked into is there.
    if !matches!(Path::new(TRACEFS).join("events").try_exists(), Ok(false)) {
        return Tracefs::Mounted;
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.ends_with("\ttracefs")) { Tracefs::Mountable } else { Tracefs::Absent }
}

/// Whether a tracepoint is there; after [`super::prepare`].
pub fn has_tracepoint(group: &str, name: &str) -> bool {
    Path::new(TRACEFS).join("events").join(group).join(name).exists()
}
