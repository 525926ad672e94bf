//! Whether this machine has room for the containers.
//!
//! Owns what a container takes, and reads what is there. Never makes room.

use std::fs;

use anyhow::{Context, Result};

use super::{MACHINE_SHARE_MIB, PROCESSES};

/// What a container takes, in MiB: its connections, and what the kernel keeps of processes and namespaces.
const MIB_EACH: usize = 3;
/// Processes that may start on the machine meanwhile.
const SPARE_PROCESSES: usize = 2000;

/// What the machine has left, or allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity {
    memory_mib: usize,
    /// Processes that may be started.
    processes: usize,
    /// The least of the limits of pid, mount, network, UTS and IPC namespaces.
    namespaces: usize,
}

impl Capacity {
    /// Reads it.
    pub(super) fn read() -> Result<Self> {
        let meminfo = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
        let memory = available_kib(&meminfo).context("/proc/meminfo has no MemAvailable")?;
        let loadavg = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
        let threads = running_threads(&loadavg).context("/proc/loadavg has no number of threads")?;
        let most = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
        let namespaces = ["pid", "mnt", "net", "uts", "ipc"];
        let limits = namespaces.map(|kind| number(&format!("/proc/sys/user/max_{kind}_namespaces")));
        let namespaces = limits.into_iter().collect::<Result<Vec<_>>>()?.into_iter().min();
        Ok(Self {
            memory_mib: memory / 1024,
            processes: most.saturating_sub(threads),
            namespaces: namespaces.unwrap_or_default(),
        })
    }

    /// Why so many containers have no room, if they have none.
    pub(super) fn refusal(self, containers: usize) -> Option<String> {
        let memory = containers * MIB_EACH + MACHINE_SHARE_MIB;
        let processes = containers * PROCESSES + SPARE_PROCESSES;
        let (what, wanted, has) = [
            ("MiB of available memory", memory, self.memory_mib),
            ("more processes (kernel.pid_max, kernel.threads-max)", processes, self.processes),
            ("namespaces of a kind (user.max_*_namespaces)", containers, self.namespaces),
        ]
        .into_iter()
        .find(|(_, wanted, has)| wanted > has)?;
        Some(format!("{containers} containers take {wanted} {what}; this machine has {has}"))
    }
}

fn available_kib(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The threads of the whole machine: what is after the slash of "0.20 0.18 0.12 1/80 11206".
fn running_threads(loadavg: &str) -> Option<usize> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

fn number(file: &str) -> Result<usize> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    // The limits of namespaces are signed on some kernels, and as large as an int.
    text.trim().parse().with_context(|| format!("{file} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_named() {
        let enough = Capacity { memory_mib: 8000, processes: 20_000, namespaces: 2000 };
        let check = |capacity: Capacity, expected: Option<&str>| {
            let refusal = capacity.refusal(1000);
            assert_eq!(refusal.is_some(), expected.is_some(), "{refusal:?}");
            assert!(refusal.unwrap_or_default().contains(expected.unwrap_or_default()));
        };
        check(enough, None);
        check(Capacity { memory_mib: 2000, ..enough }, Some("memory; this machine has 2000"));
        check(Capacity { processes: 9000, ..enough }, Some("take 12000 more processes"));
        check(Capacity { namespaces: 999, ..enough }, Some("take 1000 namespaces"));
    }

    #[test]
    fn this_machine_is_read() {
        assert_eq!(available_kib("MemTotal: 9 kB\nMemAvailable:   1234 kB\n"), Some(1234));
        assert_eq!(available_kib("MemTotal: 9 kB"), None);
        assert_eq!(running_threads("0.20 0.18 0.12 1/80 11206"), Some(80));
        assert_eq!(running_threads("0.20 0.18"), None);
        assert!(Capacity::read().is_ok_and(|capacity| capacity.refusal(0).is_none()));
    }
}
