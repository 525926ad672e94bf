//! The filter: whether the current thread is in scope. It runs before anything is copied.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;

use crate::{
    maps::{CGROUPS, OWN_PID, PID_NAMESPACES, SCOPE, THREADS},
    mem,
};

/// Levels of the cgroup hierarchy that are looked at: docker in docker in Kubernetes is at level 8.
const LEVELS: u32 = 16;

/// The current thread.
#[derive(Clone, Copy)]
pub struct Current {
    /// Process id (upper half) and thread id, as the kernel packs them: the key of the map `CALLS`.
    pub id: u64,
}

impl Current {
    /// The current thread, whether in scope or not.
    #[inline(always)]
    pub fn any() -> Self {
        Self { id: bpf_get_current_pid_tgid() }
    }

    /// The current thread if it is in scope.
    #[inline(always)]
    pub fn in_scope() -> Option<Self> {
        let current = Self::any();
        current.is_in_scope().then_some(current)
    }

    /// Process id.
    #[inline(always)]
    pub fn pid(self) -> u32 {
        (self.id >> 32) as u32
    }

    /// Thread id.
    #[inline(always)]
    pub fn tid(self) -> u32 {
        self.id as u32
    }

    #[inline(always)]
    fn is_in_scope(self) -> bool {
        if self.pid() == mem::constant(&OWN_PID) {
            return false;
        }
        let Some(scope) = SCOPE.get(0) else { return false };
        if scope.all != 0 {
            return true;
        }
        if scope.cgroup_levels != 0 && in_cgroups(scope.cgroup_levels) {
            return true;
        }
        if scope.threads != 0 && THREADS.get_ptr(self.tid()).is_some() {
            return true;
        }
        in_pid_namespaces(scope.pid_namespaces)
    }
}

/// The flags of a thread in the set of threads (`THREAD_`); none if it is not a member.
#[inline(always)]
pub fn flags_of(thread: u32) -> Option<u8> {
    THREADS.get_ptr(thread).map(mem::copied)
}

#[inline(always)]
fn in_cgroups(levels: u32) -> bool {
    let mut level = 0;
    while level < LEVELS {
        if levels & (1 << level) != 0 {
            let id = mem::ancestor_cgroup(level);
            if id != 0 && CGROUPS.get_ptr(id).is_some() {
                return true;
            }
        }
        level += 1;
    }
    false
}

#[inline(always)]
fn in_pid_namespaces(count: u32) -> bool {
    let mut index = 0;
    while index < probe_common::PID_NAMESPACES {
        if index >= count {
            return false;
        }
        if let Some(id) = PID_NAMESPACES.get(index)
            && mem::in_pid_namespace(id)
        {
            return true;
        }
        index += 1;
    }
    false
}
