//! Cgroups that engines create above those of their containers, and leave behind.

use std::fs;
use std::path::Path;

/// Removes a cgroup, and each parent that is empty afterwards, in every hierarchy. The kernel refuses to
/// remove one that is in use, so nothing of others is lost.
pub(super) fn remove(path: &str) {
    let Ok(hierarchies) = fs::read_dir("/sys/fs/cgroup") else { return };
    let roots = hierarchies.flatten().map(|entry| entry.path()).filter(|root| root.is_dir());
    // With cgroup v2 alone the mount itself is the hierarchy.
    for root in roots.chain([Path::new("/sys/fs/cgroup").to_owned()]) {
        let relative = Path::new(path.trim_start_matches('/'));
        for cgroup in relative.ancestors().filter(|cgroup| !cgroup.as_os_str().is_empty()) {
            let _ = fs::remove_dir(root.join(cgroup));
        }
    }
}
