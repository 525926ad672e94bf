//! /proc about processes: which there are, their names and parents.
//!
//! Owns the reading of these files, as bytes and with limits, because processes choose the names in them. A
//! process may exit between two reads, so missing data is None, and not an error.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use probe_common::NamespaceId;
use procfs::FromRead;

use super::cgroup::ProcCgroups;

/// Limit of the bytes that are read of a file of /proc. `status` has about 1500, `cgroup` less than 16 KiB.
pub(crate) const FILE: u64 = 64 * 1024;
/// The size that is enough for most files of /proc about a process.
const USUAL: u64 = 4096;
/// `PF_EXITING` of linux/sched.h. The kernel sets it before it reports the exit (`sched_process_exit`).
const EXITING: u32 = 0x0000_0004;
/// `PF_KTHREAD` of linux/sched.h.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// The first process, and the parent of the kernel's threads.
const HOST: [u32; 2] = [1, 2];

/// A process, identified by pid and start time. A pid alone may be reused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessId {
    /// The id in the PID namespace of ctrace (the host's).
    pub pid: u32,
    /// Clock ticks after boot (field 22 of /proc/PID/stat).
    pub start_time: u64,
    /// The name of its main thread, as the kernel has it. Bytes that are not UTF-8 are replaced.
    pub comm: String,
}

/// The directory from which processes are read: /proc, or a fixture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proc {
    root: PathBuf,
    own: u32,
}

impl Default for Proc {
    fn default() -> Self {
        Self::new("/proc", std::process::id())
    }
}

/// The fields of /proc/PID/stat that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    start_time: u64,
    is_kernel_thread: bool,
    /// This thread is exiting: the kernel is reporting its exit, or has done so.
    is_exiting: bool,
    /// All of its threads have exited, and it waits to be reaped.
    is_dead: bool,
}

/// A process with its place in the process tree and in the hierarchies of cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessEntry {
    /// The identity and name of the process.
    pub process: ProcessId,
    /// The pid of its parent.
    pub parent: u32,
    /// Its cgroups.
    pub cgroups: ProcCgroups,
    /// Its PID namespace. None if ctrace may not see it.
    pub namespace: Option<NamespaceId>,
}

impl Proc {
    /// Reads from a directory that looks like /proc, in which ctrace has this pid.
    pub fn new(root: impl Into<PathBuf>, own: u32) -> Self {
        Self { root: root.into(), own }
    }

    /// The pid of ctrace.
    pub fn own(&self) -> u32 {
        self.own
    }

    /// The pids of all processes, ascending.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        numbers(&self.root)
    }

    /// The ids of all threads of a process, ascending. Empty if it has exited.
    pub fn threads(&self, pid: u32) -> Vec<u32> {
        numbers(&self.path(pid, "task")).unwrap_or_default()
    }

    /// The threads whose exit the kernel has not reported yet.
    pub fn living_threads(&self, pid: u32) -> Vec<u32> {
        let mut threads = self.threads(pid);
        threads.retain(|tid| {
            self.read(pid, &format!("task/{tid}/stat"))
                .and_then(|text| parse_stat(&text))
                .is_some_and(|stat| !stat.is_exiting)
        });
        threads
    }

    /// A process that has not exited.
    pub fn process(&self, pid: u32) -> Option<ProcessId> {
        let stat = self.stat(pid).filter(|stat| !stat.is_dead)?;
        Some(ProcessId { pid, start_time: stat.start_time, comm: self.comm(pid)? })
    }

    /// The facts about a process that a selection needs. None for a process that has exited, and for kernel
    /// threads, which have no code of their own to probe.
    pub fn entry(&self, pid: u32) -> Option<ProcessEntry> {
        let stat = self.stat(pid).filter(|stat| !stat.is_dead && !stat.is_kernel_thread)?;
        let process = ProcessId { pid, start_time: stat.start_time, comm: self.comm(pid)? };
        Some(ProcessEntry {
            process,
            parent: stat.parent,
            cgroups: self.cgroups(pid),
            namespace: self.pid_namespace(pid),
        })
    }

    /// The facts about all processes, ascending by pid. Leaves out ctrace itself, which is never a target.
    pub fn entries(&self) -> io::Result<Vec<ProcessEntry>> {
        let others = self.pids()?.into_iter().filter(|pid| *pid != self.own);
        Ok(others.filter_map(|pid| self.entry(pid)).collect())
    }

    /// The children of all processes, by pid. Like [`children`] of [`Proc::entries`], from one file for each
    /// process.
    pub fn children(&self) -> io::Result<HashMap<u32, Vec<u32>>> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for pid in self.pids()?.into_iter().filter(|pid| *pid != self.own) {
            if let Some(stat) = self.stat(pid).filter(|stat| !stat.is_dead && !stat.is_kernel_thread) {
                children.entry(stat.parent).or_default().push(pid);
            }
        }
        Ok(children)
    }

    /// Whether the process with this pid and start time still runs.
    pub fn is_alive(&self, pid: u32, start_time: u64) -> bool {
        self.stat(pid).is_some_and(|stat| !stat.is_dead && stat.start_time == start_time)
    }

    /// The pid of its parent.
    pub fn parent(&self, pid: u32) -> Option<u32> {
        Some(self.stat(pid)?.parent)
    }

    /// Whether the kernel encrypts or decrypts TLS for any process in its network namespace. False if the
    /// kernel has no TLS.
    pub fn has_kernel_tls(&self, pid: u32) -> bool {
        // A line such as `TlsCurrTxSw  1` counts the present connections, per direction, in software or on
        // the network device.
        let is_current = |line: &[u8]| {
            let count =
                line.strip_prefix(b"TlsCurr").and_then(|rest| rest.rsplit(u8::is_ascii_whitespace).next());
            count.and_then(number::<u64>).is_some_and(|count| count > 0)
        };
        let counters = self.read(pid, "net/tls_stat").unwrap_or_default();
        counters.split(|byte| *byte == b'\n').any(is_current)
    }

    /// Its id in its own PID namespace.
    pub fn vpid(&self, pid: u32) -> Option<u32> {
        self.namespace_pids(pid).last().copied()
    }

    /// Whether it is the first process of a PID namespace below ctrace's.
    pub fn is_namespace_init(&self, pid: u32) -> bool {
        matches!(self.namespace_pids(pid).as_slice(), [_, .., 1])
    }

    /// The process of a thread. For a process, that is its own id.
    pub fn thread_group(&self, id: u32) -> Option<u32> {
        let status = self.read(id, "status")?;
        number(status_field(&status, b"Tgid:")?.trim_ascii())
    }

    /// The effective user id, as ctrace's user namespace sees it.
    pub fn effective_uid(&self, pid: u32) -> Option<u32> {
        let status = self.read(pid, "status")?;
        let ids = status_field(&status, b"Uid:")?;
        // The fields are the real, effective, saved and file system ids.
        number(ids.split(u8::is_ascii_whitespace).filter(|id| !id.is_empty()).nth(1)?)
    }

    /// Its PID namespace.
    pub fn pid_namespace(&self, pid: u32) -> Option<NamespaceId> {
        self.namespace(pid, "ns/pid")
    }

    /// Its mount namespace.
    pub fn mount_namespace(&self, pid: u32) -> Option<NamespaceId> {
        self.namespace(pid, "ns/mnt")
    }

    /// The mount namespaces that are the host's: that of its first process, that of the kernel's threads, and
    /// ctrace's own. None if it is not known, because neither of the first two can be read.
    pub fn host_mount_namespaces(&self) -> Option<Vec<NamespaceId>> {
        let mut found: Vec<_> = HOST.into_iter().filter_map(|pid| self.mount_namespace(pid)).collect();
        if found.is_empty() {
            return None;
        }
        found.extend(self.mount_namespace(self.own));
        Some(found)
    }

    fn namespace(&self, pid: u32, name: &str) -> Option<NamespaceId> {
        let found = fs::metadata(self.path(pid, name)).ok()?;
        let device = found.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        Some(NamespaceId { device: u64::from(major) << 20 | u64::from(minor), inode: found.ino() })
    }

    /// Its cgroups. Empty if it has exited.
    pub fn cgroups(&self, pid: u32) -> ProcCgroups {
        ProcCgroups::parse(&self.read(pid, "cgroup").unwrap_or_default())
    }

    /// The path of its executable, inside the mount namespace of the executable.
    ///
    /// The kernel marks a deleted executable with ` (deleted)`, which is removed here. A name that itself
    /// ends in these characters loses them too: to distinguish the two, ctrace would have to open a file in a
    /// file system that the target may serve itself, and might have to wait for it.
    pub fn executable(&self, pid: u32) -> Option<PathBuf> {
        let path = fs::read_link(self.path(pid, "exe")).ok()?;
        let bytes = path.as_os_str().as_bytes();
        Some(PathBuf::from(OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes))))
    }

    /// The name of its main thread. The process chooses the bytes; those that are not UTF-8 are replaced.
    fn comm(&self, pid: u32) -> Option<String> {
        let bytes = self.read(pid, "comm")?;
        Some(String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes)).into_owned())
    }

    fn stat(&self, pid: u32) -> Option<Stat> {
        parse_stat(&self.read(pid, "stat")?)
    }

    /// Its ids in all PID namespaces, from ctrace's to its own.
    fn namespace_pids(&self, pid: u32) -> Vec<u32> {
        let status = self.read(pid, "status").unwrap_or_default();
        let ids = status_field(&status, b"NSpid:").unwrap_or_default();
        ids.split(u8::is_ascii_whitespace).filter_map(number).collect()
    }

    fn read(&self, pid: u32, name: &str) -> Option<Vec<u8>> {
        read_bounded(&self.path(pid, name), FILE).ok()
    }

    pub(super) fn path(&self, pid: u32, name: &str) -> PathBuf {
        let mut path = self.root.join(pid.to_string());
        path.push(name);
        path
    }
}

/// Pid → children, for walks down the tree.
pub fn children(entries: &[ProcessEntry]) -> HashMap<u32, Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in entries {
        children.entry(entry.parent).or_default().push(entry.process.pid);
    }
    children
}

/// The roots and all of their present descendants.
pub fn descendants(roots: Vec<u32>, entries: &[ProcessEntry]) -> BTreeSet<u32> {
    descendants_in(roots, &children(entries))
}

/// The same, from the children of all processes.
pub(crate) fn descendants_in(roots: Vec<u32>, children: &HashMap<u32, Vec<u32>>) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut next = roots;
    // Parents are read one after another, so they may form a circle. `found` ends the loop even then.
    while let Some(pid) = next.pop() {
        if found.insert(pid) {
            next.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

/// Reads at most `limit` bytes of a file, whatever size it claims.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // Most files of /proc fit into this and are read at once. Without capacity there would be a small first
    // read.
    let mut bytes = Vec::with_capacity(usize::try_from(limit.min(USUAL)).unwrap_or_default());
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The names in a directory that are numbers, ascending.
fn numbers(directory: &Path) -> io::Result<Vec<u32>> {
    let names = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.file_name()));
    let mut numbers: Vec<u32> = names.filter_map(|name| number(name.as_bytes())).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Parses digits only: neither a sign nor a space.
pub(crate) fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

/// A field of /proc/PID/status. The kernel escapes newlines in `Name:`, so no process can forge a line.
pub(crate) fn status_field<'a>(status: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name))
}

/// Parses /proc/PID/stat. It contains the process's name, in which procfs replaces bytes that are not UTF-8.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    // procfs indexes without checks, so it must not get a line that no kernel writes.
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')').filter(|close| *close > open)?;
    let (pid, numbers) = (text.get(..open)?.strip_suffix(b" ")?, text.get(close + 1..)?.strip_prefix(b" ")?);
    let _: u32 = number(pid)?;
    if !numbers.is_ascii() || numbers.trim_ascii().is_empty() {
        return None;
    }
    let stat = procfs::process::Stat::from_read(text).ok()?;
    // The main thread may have exited while others still run. The process is then a zombie with threads.
    let is_dead = matches!(stat.state, 'X' | 'x') || (stat.state == 'Z' && stat.num_threads <= 1);
    Some(Stat {
        parent: u32::try_from(stat.ppid).ok()?,
        start_time: stat.starttime,
        is_kernel_thread: stat.flags & KERNEL_THREAD != 0,
        is_exiting: stat.flags & EXITING != 0,
        is_dead,
    })
}

#[cfg(test)]
pub(crate) mod fixture;

#[cfg(test)]
mod tests;
