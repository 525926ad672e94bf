//! The filter: whether the current thread is in scope. It is applied before anything is copied.

use crate::{
    current::Current,
    maps::{CGROUPS, PID_NAMESPACES, SCOPE, THREADS},
    mem,
};
use probe_common::{CGROUP_OUT, KernelScope, THREAD_IN};

/// The levels of the cgroup hierarchy that are checked. Docker in Docker in Kubernetes is at level 8.
const LEVELS: u32 = 16;

impl Current {
    /// The current thread if it is in scope.
    #[inline(always)]
    pub fn in_scope() -> Option<Self> {
        let current = Self::any();
        (thread_is_in_scope() != 0).then_some(current)
    }

    #[inline(always)]
    fn is_in_scope(self) -> bool {
        if self.is_own() {
            return false;
        }
        let Some(scope) = filter() else { return false };
        // The usual `--all`, for which nothing is looked up.
        if scope.all != 0 && scope.cgroup_levels == 0 {
            return true;
        }
        if scope.cgroup_levels != 0 {
            match by_cgroups(scope.cgroup_levels) {
                Verdict::Out => return false,
                Verdict::In => return true,
                Verdict::Unknown if scope.all != 0 => return true,
                Verdict::Unknown => {}
            }
        }
        if scope.threads != 0 && flags_of(self.tid()).is_some_and(|flags| flags & THREAD_IN != 0) {
            return true;
        }
        in_pid_namespaces(scope.pid_namespaces)
    }
}

/// Whether the current thread is in scope: 1 or 0.
///
/// It is a global function, which the verifier follows once for a program. What is inlined is followed again
/// on each way that leads to it, and this has loops.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn thread_is_in_scope() -> u32 {
    u32::from(Current::any().is_in_scope())
}

/// The flags of a thread in the set of threads (`THREAD_`). None if it is not a member.
#[inline(always)]
pub fn flags_of(thread: u32) -> Option<u8> {
    THREADS.get_ptr(thread).map(mem::copied)
}

/// The filters that are in use.
#[inline(always)]
pub fn filter() -> Option<&'static KernelScope> {
    SCOPE.get(0)
}

/// The decision based on the cgroups of a thread.
enum Verdict {
    /// One cgroup is included, and none is excluded.
    In,
    /// A cgroup is excluded, whatever the others are.
    Out,
    /// No cgroup of the thread is in the table.
    Unknown,
}

#[inline(always)]
fn by_cgroups(levels: u32) -> Verdict {
    // The values of all cgroups together. The verifier follows what is decided within the loop as many times
    // as there are ways through it.
    let mut values = 0;
    let mut level = 0;
    while level < LEVELS {
        // Neither this level nor a deeper one is in use.
        if levels >> level == 0 {
            break;
        }
        if levels & (1 << level) != 0 {
            let id = mem::ancestor_cgroup(level);
            if id != 0
                && let Some(value) = CGROUPS.get_ptr(id)
            {
                values |= *mem::value(value);
            }
        }
        level += 1;
    }
    if values & CGROUP_OUT != 0 {
        Verdict::Out
    } else if values != 0 {
        Verdict::In
    } else {
        Verdict::Unknown
    }
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
