//! What /proc shows of a process beyond what selecting needs: namespaces, ids, users, cgroups.
//!
//! For people to read; no decision depends on it. What is missing, or hidden from ctrace, is None.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use serde::Serialize;

use super::process::{FILE, number, read_bounded, status_field};

/// The kinds of namespaces, as /proc/PID/ns names them.
pub const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

/// Limit of the lines of /proc/PID/cgroup that are kept. There are about 15 hierarchies.
const HIERARCHIES: usize = 64;

/// The ids of a process in its PID namespaces, and that of its user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// The ids in all PID namespaces, from ctrace's to its own.
    pub pids: Vec<u32>,
    /// The effective user id, as ctrace's user namespace sees it.
    pub uid: Option<u32>,
}

/// The cgroup of a process in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CgroupPath {
    /// 2 for the unified hierarchy, else 1.
    pub version: u8,
    /// The controllers of a v1 hierarchy (`cpu,cpuacct`, `name=systemd`). Empty for the unified one.
    pub controllers: String,
    /// The path in it, as ctrace's cgroup namespace sees it.
    pub path: String,
}

/// The inode number of a namespace of a process, as `readlink /proc/PID/ns/KIND` shows it.
pub fn namespace(pid: u32, kind: &str) -> io::Result<u64> {
    fs::metadata(format!("/proc/{pid}/ns/{kind}")).map(|found| found.ino())
}

/// The ids of a process.
pub fn ids(pid: u32) -> Ids {
    let status = read_bounded(format!("/proc/{pid}/status").as_ref(), FILE).unwrap_or_default();
    let numbers = |name: &[u8]| -> Vec<u32> {
        let field = status_field(&status, name).unwrap_or_default();
        field.split(u8::is_ascii_whitespace).filter_map(number).collect()
    };
    // The fields are the real, effective, saved and file system ids.
    Ids { pids: numbers(b"NSpid:"), uid: numbers(b"Uid:").get(1).copied() }
}

/// The cgroups of a process, that of the unified hierarchy first.
pub fn cgroups(pid: u32) -> Vec<CgroupPath> {
    let text = read_bounded(format!("/proc/{pid}/cgroup").as_ref(), FILE).unwrap_or_default();
    parse_cgroups(&text)
}

fn parse_cgroups(text: &[u8]) -> Vec<CgroupPath> {
    let lines = text.split(|byte| *byte == b'\n').take(HIERARCHIES);
    let mut found: Vec<CgroupPath> = lines
        .filter_map(|line| {
            let mut fields = line.splitn(3, |byte| *byte == b':');
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let version = if number == b"0" && controllers.is_empty() { 2 } else { 1 };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Some(CgroupPath { version, controllers: text(controllers), path: text(path) })
        })
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(path.version));
    found
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn cgroups_of_both_versions() {
        let found =
            parse_cgroups(b"9:name=systemd:/docker/a\n3:cpu,cpuacct:/docker/a\n0::/docker/a:b\nnoise\n");
        let first = found.first().unwrap();
        assert_eq!((first.version, first.controllers.as_str(), first.path.as_str()), (2, "", "/docker/a:b"));
        let legacy: Vec<&str> = found.iter().skip(1).map(|path| path.controllers.as_str()).collect();
        assert_eq!(legacy, ["name=systemd", "cpu,cpuacct"]);
    }

    #[test]
    fn own_facts() {
        let own = std::process::id();
        let found = ids(own);
        assert_eq!(found.pids.first(), Some(&own));
        assert_eq!(found.uid, Some(rustix::process::geteuid().as_raw()));
        for kind in NAMESPACES {
            let link = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            let id = namespace(own, kind).unwrap();
            assert_eq!(link.to_string_lossy(), format!("{kind}:[{id}]"));
        }
        assert_eq!(ids(u32::MAX), Ids::default());
        assert!(cgroups(u32::MAX).is_empty() && namespace(u32::MAX, "mnt").is_err());
    }
}
