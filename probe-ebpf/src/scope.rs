//! The filter: whether the current thread is in scope. It runs before anything is copied.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;

use crate::{
    maps::{CGROUPS, COMMAND, COMMAND_STARTED, OWN_PID, PID_NAMESPACES, SCOPE, THREADS},
    mem,
};
use probe_common::{CGROUP_OUT, Scope, THREAD_IN};

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

    /// Whether this is a thread of ctrace's own process, or of the one that will be its command.
    #[inline(always)]
    pub fn is_own(self) -> bool {
        let pid = self.pid();
        pid == mem::constant(&OWN_PID)
            || pid == mem::constant(&COMMAND) && COMMAND_STARTED.get(0).is_some_and(|begun| *begun == 0)
    }

    /// The process executes a program: if it is the command's, that is the command.
    #[inline(always)]
    pub fn begins(self) {
        if self.pid() == mem::constant(&COMMAND)
            && let Some(begun) = COMMAND_STARTED.get_ptr_mut(0)
        {
            mem::set(begun, 1);
        }
    }

    #[inline(always)]
    fn is_in_scope(self) -> bool {
        if self.is_own() {
            return false;
        }
        let Some(scope) = filter() else { return false };
        // The usual `--all`: nothing is looked up.
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

/// The flags of a thread in the set of threads (`THREAD_`); none if it is not a member.
#[inline(always)]
pub fn flags_of(thread: u32) -> Option<u8> {
    THREADS.get_ptr(thread).map(mem::copied)
}

/// Which of the filters are in use.
#[inline(always)]
pub fn filter() -> Option<&'static Scope> {
    SCOPE.get(0)
}

/// What the cgroups of a thread say of it.
enum Verdict {
    /// One is in scope, none is kept out.
    In,
    /// One is kept out, whatever the others are.
    Out,
    /// None is known.
    Unknown,
}

#[inline(always)]
fn by_cgroups(levels: u32) -> Verdict {
    let mut verdict = Verdict::Unknown;
    let mut level = 0;
    while level < LEVELS {
        // No level below is in use.
        if levels >> level == 0 {
            break;
        }
        if levels & (1 << level) != 0 {
            let id = mem::ancestor_cgroup(level);
            if id != 0
                && let Some(value) = CGROUPS.get_ptr(id)
            {
                if *mem::value(value) == CGROUP_OUT {
                    return Verdict::Out;
                }
                verdict = Verdict::In;
            }
        }
        level += 1;
    }
    verdict
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
