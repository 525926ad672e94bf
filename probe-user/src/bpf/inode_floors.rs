//! Which sockets were created before the trace: the numbers of their inodes show it.
//!
//! The kernel gives each CPU 1024 numbers at a time, in ascending order (`get_next_ino` in fs/inode.c). So a
//! socket that is created on each CPU at the start is the boundary there. Nothing else shows whether a unix
//! socket has transferred anything before.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::thread;

use aya::Ebpf;
use aya::maps::MapData;
use probe_common::{INODE_BATCH, NEWEST_BATCH};
use rustix::fs::fstat;
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::{SessionError, pod};

/// Records the boundaries for the BPF programs. On a CPU that ctrace may not use, sockets count as older.
pub(super) fn record(ebpf: &mut Ebpf) -> Result<(), SessionError> {
    let mut map: aya::maps::HashMap<MapData, u64, u64> = pod::take(ebpf, "INODE_FLOORS")?;
    // On a thread of its own, because it moves from CPU to CPU.
    let floors = thread::spawn(floors).join().unwrap_or_default();
    let newest = floors.last_key_value().map(|(&batch, _)| (NEWEST_BATCH, batch));
    for (key, value) in floors.iter().map(|(&batch, &inode)| (batch, inode)).chain(newest) {
        if let Err(error) = map.insert(key, value, 0) {
            tracing::debug!("unix sockets count as older than the trace: {error}");
        }
    }
    Ok(())
}

/// The latest inode number of each batch of numbers.
fn floors() -> BTreeMap<u64, u64> {
    let mut floors = BTreeMap::new();
    let Ok(allowed) = sched_getaffinity(None) else { return floors };
    for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)) {
        let mut only = CpuSet::new();
        only.set(cpu);
        if sched_setaffinity(None, &only).is_err() {
            continue;
        }
        if let Ok(socket) = socket(AddressFamily::UNIX, SocketType::STREAM, None)
            && let Ok(status) = fstat(socket.as_fd())
        {
            floors.insert(status.st_ino.saturating_sub(1) / INODE_BATCH, status.st_ino);
        }
    }
    floors
}
