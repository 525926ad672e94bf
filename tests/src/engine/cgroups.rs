//! The cgroups that engines make above those of their containers, and leave.

use std::fs;
use std::path::Path;

/// Removes a cgroup and those above it that are empty then, in every hierarchy. One in use cannot be removed,
/// so that nothing of others is lost.
pub(super) fn remove(path: &str) {
    let Ok(hierarchies) = fs::read_dir("/sys/fs/cgroup") else { return };
    let roots = hierarchies.flatten().map(|entry| entry.path()).filter(|root| root.is_dir());
    // In a machine of version 2 alone the mount is itself the hierarchy.
    for root in roots.chain([Path::new("/sys/fs/cgroup").to_owned()]) {
        let relative = Path::new(path.trim_start_matches('/'));
        for cgroup in relative.ancestors().filter(|cgroup| !cgroup.as_os_str().is_empty()) {
            let _ = fs::remove_dir(root.join(cgroup));
        }
    }
}
