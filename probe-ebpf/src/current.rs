//! The current thread, and the goroutine that it runs.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;

use crate::{
    constants::{COMMAND, OWN_PID},
    maps::{COMMAND_STARTED, Goroutine},
    mem,
};

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
    pub fn mark_command_started(self) {
        if self.pid() == mem::constant(&COMMAND)
            && let Some(begun) = COMMAND_STARTED.get_ptr_mut(0)
        {
            mem::set(begun, 1);
        }
    }

    /// The key of a goroutine that this process runs.
    #[inline(always)]
    pub fn goroutine(self, address: u64) -> Goroutine {
        Goroutine { address, pid: self.pid().into() }
    }
}

/// Bytes between a stack pointer and the end of a goroutine's stack: they stay the same when the stack is
/// moved because it has to grow.
#[inline(always)]
pub fn goroutine_stack_depth(goroutine: u64, stack: u64) -> Option<u64> {
    // A goroutine begins with the bounds of its stack: the compiler has that in the prologue of each
    // function, which compares the stack pointer with what follows them.
    let end: u64 = mem::user(goroutine.wrapping_add(8))?;
    Some(end.wrapping_sub(stack))
}
