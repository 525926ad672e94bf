//! Records of processes that execute, end or are stopped, and of cgroups.

use aya_ebpf::bindings::BPF_RB_FORCE_WAKEUP;
use probe_common::{CGROUP_PATH, CgroupEvent, Header, KIND_STOPPED, Loss};

use super::{header, lost, submit};
use crate::{
    current::Current,
    maps::{EVENTS, STOPPED},
    mem,
};

/// How soon userspace sees a record.
#[derive(Clone, Copy)]
pub enum Notice {
    /// When it drains the ring next.
    Soon,
    /// At once: it is woken, which costs the current thread some microseconds.
    Now,
}

/// Emits a record that is only a header.
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

/// Stops the current process, and reports it at once; neither if one of both cannot be.
///
/// Userspace continues a process when it reads the record: the signal must have been sent by then.
#[inline(always)]
pub fn stopped(current: Current) {
    let Some(mut entry) = EVENTS.reserve::<Header>(0) else {
        return lost(Loss::RingFull, 0);
    };
    if STOPPED.insert(current.pid(), 1, 0).is_err() {
        return entry.discard(0);
    }
    entry.write(header(KIND_STOPPED, current));
    if mem::stop_current() {
        // Another thread's record may have been handled in between, and the entry removed with it.
        STOPPED.insert(current.pid(), 1, 0).ok();
        entry.submit(BPF_RB_FORCE_WAKEUP.into());
    } else {
        STOPPED.remove(current.pid()).ok();
        entry.discard(0);
    }
}

/// Emits a record about a cgroup at once; `path` writes its path, ended by NUL, and says whether it could.
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
