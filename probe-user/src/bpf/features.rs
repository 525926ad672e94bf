//! Which features of the kernel are present, one function per feature, so that a user can see what is
//! missing.

use std::path::Path;

use aya::maps::MapType;

use super::tracepoint_format::TRACEFS;

/// Whether the kernel has a ring buffer for BPF programs (5.8). None if this could not be determined.
pub fn ring_buffer() -> Option<bool> {
    aya::sys::is_map_supported(MapType::RingBuf).ok()
}

/// Whether a value can be attached to each probe, so that the program knows where it runs (5.15). Without the
/// right to load programs, the answer is false.
pub fn attach_cookies() -> bool {
    aya::features().bpf_cookie()
}

/// Whether the kernel describes its own structures.
pub fn has_btf() -> bool {
    super::btf::Btf::is_there()
}

/// `SYSFS_MAGIC` of linux/magic.h.
const SYSFS: i64 = 0x6265_6572;

/// Whether sysfs is mounted, which shows the features of the kernel.
pub fn has_sysfs() -> bool {
    #[expect(clippy::unnecessary_cast, reason = "the field's type differs between architectures")]
    rustix::fs::statfs("/sys").is_ok_and(|found| found.f_type as i64 == SYSFS)
}

/// Whether the descriptions of tracepoints are available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracefs {
    /// tracefs is mounted at its usual place.
    Mounted,
    /// tracefs is not mounted, but the kernel has it, so ctrace mounts it in its own mount namespace.
    Mountable,
    /// The kernel has no tracefs.
    Absent,
}

/// Whether tracefs is available. To be called before [`super::prepare`], which may mount it.
pub fn tracefs() -> Tracefs {
    // If it may not be read, it is mounted.
    if !matches!(Path::new(TRACEFS).join("events").try_exists(), Ok(false)) {
        return Tracefs::Mounted;
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.ends_with("\ttracefs")) { Tracefs::Mountable } else { Tracefs::Absent }
}

/// Whether the kernel has a tracepoint. To be called after [`super::prepare`].
pub fn has_tracepoint(group: &str, name: &str) -> bool {
    Path::new(TRACEFS).join("events").join(group).join(name).exists()
}
