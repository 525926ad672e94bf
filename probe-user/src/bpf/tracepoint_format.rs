//! Reads the kernel's descriptions of its tracepoints. Nothing is ever written there.

use std::fs;
use std::path::{Path, PathBuf};

use probe_common::NO_FIELD;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::{SessionError, error};

/// Where tracefs is mounted by convention, and where aya looks for it.
pub(super) const TRACEFS: &str = "/sys/kernel/tracing";

/// Makes tracefs visible to this process.
///
/// If it is not mounted (as on a minimal machine without systemd), it is mounted in a mount namespace of our
/// own, which ends with this process, so that the machine's mounts stay as they are. Must be called before
/// other threads are started: see [`super::prepare`].
pub(super) fn ensure_mounted() -> Result<(), SessionError> {
    // A directory that we may not read is mounted already, so mounting it again would not help.
    let events = Path::new(TRACEFS).join("events");
    if events.try_exists().map_err(SessionError::tracefs)? {
        return Ok(());
    }
    let failed = |source: Errno| SessionError::Tracefs { source: source.into() };
    #[expect(unsafe_code, reason = "rustix marks unshare as unsafe for flags that this is not")]
    // SAFETY: only CLONE_FILES can break I/O safety; a mount namespace of our own concerns nobody else.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.map_err(failed)?;
    // Mounts that others make later stay visible to us. Ours are visible to nobody else.
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(failed)?;
    match rustix::mount::mount("tracefs", TRACEFS, "tracefs", MountFlags::empty(), None) {
        // The kernel does not have tracefs.
        Err(Errno::NODEV) => {
            return Err(error::missing("tracefs", "CONFIG_FTRACE=y and CONFIG_EVENT_TRACING=y"));
        }
        mounted => mounted.map_err(failed)?,
    }
    // A mounted tracefs may still not be readable.
    events.try_exists().map(drop).map_err(SessionError::tracefs)
}

/// The kernel's description of a tracepoint's record, which differs between kernels.
pub(super) struct TracepointFormat {
    path: PathBuf,
    text: String,
}

impl TracepointFormat {
    pub(super) fn read(group: &str, event: &str) -> Result<Self, SessionError> {
        let path = Path::new(TRACEFS).join("events").join(group).join(event).join("format");
        let text = fs::read_to_string(&path).map_err(SessionError::tracefs)?;
        Ok(Self { path, text })
    }

    /// The offset of a field that every kernel has.
    pub(super) fn offset(&self, field: &str) -> Result<u32, SessionError> {
        parse_offset(&self.text, field)
            .ok_or_else(|| SessionError::Tracepoint { path: self.path.clone(), field: field.to_owned() })
    }

    /// The offset of a field that only some kernels have, or [`NO_FIELD`].
    pub(super) fn offset_if_any(&self, field: &str) -> u32 {
        parse_offset(&self.text, field).unwrap_or(NO_FIELD)
    }
}

/// Lines look like `\tfield:pid_t child_pid;\toffset:20;\tsize:4;\tsigned:1;`.
fn parse_offset(format: &str, field: &str) -> Option<u32> {
    format.lines().find_map(|line| {
        let mut parts = line.trim().split(';').map(str::trim);
        let declaration = parts.next()?.strip_prefix("field:")?;
        let offset = parts.next()?.strip_prefix("offset:")?;
        (declaration.rsplit(' ').next()? == field).then(|| offset.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::parse_offset;

    const OLD: &str = "format:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
        \tfield:char parent_comm[16];\toffset:8;\tsize:16;\tsigned:0;\n\
        \tfield:pid_t parent_pid;\toffset:24;\tsize:4;\tsigned:1;\n\
        \tfield:char child_comm[16];\toffset:28;\tsize:16;\tsigned:0;\n\
        \tfield:pid_t child_pid;\toffset:44;\tsize:4;\tsigned:1;\n\nprint fmt: \"child_pid=%d\"\n";
    const NEW: &str = "\tfield:__data_loc char[] parent_comm;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:pid_t child_pid;\toffset:20;\tsize:4;\tsigned:1;\n";

    const CGROUP: &str = "\tfield:int root;\toffset:8;\tsize:4;\tsigned:1;\n\
        \tfield:u64 id;\toffset:16;\tsize:8;\tsigned:0;\n\
        \tfield:__data_loc char[] path;\toffset:24;\tsize:4;\tsigned:0;\n";

    #[test]
    fn finds_the_offset_that_this_kernel_has() {
        assert_eq!(parse_offset(OLD, "child_pid"), Some(44));
        assert_eq!(parse_offset(NEW, "child_pid"), Some(20));
        assert_eq!(parse_offset(NEW, "old_pid"), None);
        assert_eq!(parse_offset(CGROUP, "path"), Some(24));
        assert_eq!(parse_offset(CGROUP, "root"), Some(8));
        assert_eq!(parse_offset("field:pid_t child_pid;", "child_pid"), None);
        assert_eq!(parse_offset("field:pid_t child_pid;offset:x;", "child_pid"), None);
    }
}
