//! Readers of /proc: processes, their cgroups, mappings, mounts and namespaces.
//!
//! Owns every file of /proc and its limits. Never follows a path into a target's files: that is
//! [`crate::rootfs`].

use std::io;

pub mod cgroup;
pub mod execve;
pub mod file_memory;
pub mod inherited;
pub mod maps;
pub mod mountinfo;
pub mod namespaces;
pub mod passwd;
pub mod process;
pub mod process_snapshot;
pub mod script;
pub mod start_arguments;
pub mod view;

pub use maps::Device;

/// The advice if a permission is missing: /proc opens a process of another user only to those who may trace
/// it.
pub(crate) fn without_right(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => ": run ctrace as root, or with CAP_SYS_PTRACE",
        _ => "",
    }
}
