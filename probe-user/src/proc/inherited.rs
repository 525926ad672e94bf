//! Mappings that processes have inherited by a fork, which the kernel reports as nobody's.

use std::path::Path;

use super::maps::{Mapping, executable_mappings};
use super::process::{FILE, Proc, number, read_bounded};
use super::process_snapshot;

/// Limit of the threads of a process whose children are asked for.
const THREADS: usize = 256;
/// Limit of the descendants that are asked for.
const DESCENDANTS: usize = 256;

/// The living descendants of a process that have inherited its mapping of a file with this inode number, and
/// when each was started, in nanoseconds of `CLOCK_BOOTTIME`, to a tick of the kernel (10 ms) before. Needs
/// `CONFIG_PROC_CHILDREN`.
pub fn inheritors(pid: u32, inode: u64) -> Vec<(u32, u64)> {
    let mut descendants = children(pid);
    if descendants.is_empty() {
        return Vec::new();
    }
    let own = executable_mappings(pid).unwrap_or_default();
    let Some(mapping) = own.iter().find(|mapping| mapping.inode == inode) else { return Vec::new() };
    let mut next = 0;
    while let Some(descendant) = descendants.get(next).copied().filter(|_| next < DESCENDANTS) {
        descendants.extend(children(descendant));
        next += 1;
    }
    descendants.truncate(DESCENDANTS);
    let inherits =
        |pid: u32| executable_mappings(pid).is_ok_and(|all| all.iter().any(|one| is_same(one, mapping)));
    let heirs = descendants.into_iter().filter(|pid| inherits(*pid));
    heirs.filter_map(|pid| Some((pid, process_snapshot::started(pid)?))).collect()
}

/// Whether a mapping is a copy of another one, at the same addresses. One that a process has made itself is
/// at others.
fn is_same(one: &Mapping, other: &Mapping) -> bool {
    let same_file = (one.device, one.inode) == (other.device, other.inode);
    same_file && other.ranges.iter().any(|range| one.ranges.iter().any(|own| own.start == range.start))
}

fn children(pid: u32) -> Vec<u32> {
    let of_thread = |tid: u32| {
        let path = format!("/proc/{pid}/task/{tid}/children");
        read_bounded(Path::new(&path), FILE).unwrap_or_default()
    };
    let threads = Proc::default().threads(pid);
    let lists: Vec<Vec<u8>> = threads.into_iter().take(THREADS).map(of_thread).collect();
    lists.iter().flat_map(|list| list.split(|byte| *byte == b' ').filter_map(number)).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_child_has_mapped_itself_is_not_inherited() {
        let own = std::process::id();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children(own).contains(&child.id()));
        let heirs = |inode| inheritors(own, inode).into_iter().map(|(pid, _)| pid).collect::<Vec<u32>>();
        let of_child = executable_mappings(child.id()).unwrap();
        let of_parent = executable_mappings(own).unwrap();
        assert!(of_child.iter().all(|mapping| !heirs(mapping.inode).contains(&child.id())));
        let libc = |mapping: &&Mapping| mapping.path.to_string_lossy().contains("libc.so");
        let libc = of_parent.iter().find(libc).unwrap();
        assert!(!heirs(libc.inode).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
