//! Which features of the kernel are present, one function per feature, so that a user can see what is
//! missing.

use std::path::Path;
use std::sync::OnceLock;

use aya::maps::MapType;

use super::error;
use super::sys::AttachType;
use super::tracepoint_format::TRACEFS;
use super::uprobe_multi::IdleProgram;

/// Whether the kernel has a ring buffer for BPF programs (5.8). None if this could not be determined.
pub fn ring_buffer() -> Option<bool> {
    aya::sys::is_map_supported(MapType::RingBuf).ok()
}

/// Whether a value can be attached to each probe, so that the program knows where it runs (5.15). Without the
/// right to load programs, the answer is false.
pub fn attach_cookies() -> bool {
    aya::features().bpf_cookie()
}

/// The first kernel that has links to many places.
const MULTI_SINCE: (u32, u32) = (6, 6);

/// Whether one link can attach a program to many places of a file (6.6). None if this process has not the
/// right to try it.
pub fn uprobe_multi() -> Option<bool> {
    static FOUND: OnceLock<Option<bool>> = OnceLock::new();
    *FOUND.get_or_init(|| has_links_of(AttachType::UprobeMulti))
}

/// Whether such a link can have the program run at the return as well, for each call that it chooses (6.13).
/// None if this process has not the right to try it.
pub fn uprobe_session() -> Option<bool> {
    static FOUND: OnceLock<Option<bool>> = OnceLock::new();
    *FOUND.get_or_init(|| has_links_of(AttachType::UprobeSession))
}

fn has_links_of(attach_type: AttachType) -> Option<bool> {
    match IdleProgram::load(attach_type) {
        Ok(program) => Some(program.can_be_linked()),
        Err(source) if error::is_denied(&source) => None,
        Err(_) => Some(false),
    }
}

/// Like [`uprobe_multi`], and without the right to try it by the kernel's version.
pub fn expects_uprobe_multi() -> bool {
    uprobe_multi().unwrap_or_else(|| {
        let uname = rustix::system::uname();
        version(&uname.release().to_string_lossy()).is_some_and(|version| version >= MULTI_SINCE)
    })
}

/// Parses `6.1.0-18-amd64` to (6, 1).
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
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
