//! Records of processes that execute a program or end, and of cgroups.

use aya_ebpf::bindings::BPF_RB_FORCE_WAKEUP;
use probe_common::{CGROUP_PATH, CgroupEvent, Header, Loss};

use super::{header, lost, submit};
use crate::{current::Current, maps::EVENTS, mem};

/// How soon userspace sees a record.
#[derive(Clone, Copy)]
pub enum Notice {
    /// When it next drains the ring.
    Soon,
    /// At once. The reader is woken, which costs the current thread some microseconds.
    Now,
}

/// Emits a record that consists only of a header.
#[inline(always)]
pub fn task(kind: u32, current: Current, notice: Notice) {
    match EVENTS.reserve::<Header>(0) {
        Some(mut entry) => {
            entry.write(header(kind, current));
            match notice {
                Notice::Soon => submit(entry),
                Notice::Now => entry.submit(BPF_RB_FORCE_WAKEUP.into()),
            }
        }
        None => lost(Loss::RingFull, 0),
    }
}

/// Emits a record about a cgroup at once. `path` writes its path, terminated by NUL, and returns whether it
/// succeeded.
#[inline(always)]
pub fn cgroup(kind: u32, id: u64, level: u32, path: impl FnOnce(&mut [u8; CGROUP_PATH]) -> bool) {
    let Some(mut entry) = EVENTS.reserve::<CgroupEvent>(0) else { return lost(Loss::RingFull, 0) };
    let event = mem::slot(&mut entry);
    event.header = header(kind, Current::any());
    event.id = id;
    event.level = level;
    event.reserved = 0;
    if !path(&mut event.path) {
        event.path[0] = 0;
    }
    entry.submit(BPF_RB_FORCE_WAKEUP.into());
}
