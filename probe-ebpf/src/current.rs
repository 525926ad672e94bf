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
    /// Process id (upper half) and thread id, as the kernel packs them. This is the key of the map `CALLS`.
    pub id: u64,
}

impl Current {
    /// The current thread, whether in scope or not.
    #[inline(always)]
    pub fn any() -> Self {
        Self { id: bpf_get_current_pid_tgid() }
    }

    /// The process id.
    #[inline(always)]
    pub fn pid(self) -> u32 {
        (self.id >> 32) as u32
    }

    /// The thread id.
    #[inline(always)]
    pub fn tid(self) -> u32 {
        self.id as u32
    }

    /// Whether this is a thread of ctrace's own process, or of the one that will become its command.
    #[inline(always)]
    pub fn is_own(self) -> bool {
        let pid = self.pid();
        pid == mem::constant(&OWN_PID)
            || pid == mem::constant(&COMMAND) && COMMAND_STARTED.get(0).is_some_and(|begun| *begun == 0)
    }

    /// Records that the command has started, if this process is the command's. Called when the process
    /// executes a program.
    #[inline(always)]
    pub fn mark_command_started(self) {
        if self.pid() == mem::constant(&COMMAND)
            && let Some(begun) = COMMAND_STARTED.get_ptr_mut(0)
        {
            mem::set(begun, 1);
        }
    }

    /// The key of a goroutine of this process.
    #[inline(always)]
    pub fn goroutine(self, address: u64) -> Goroutine {
        Goroutine { address, pid: self.pid().into() }
    }
}

/// The number of bytes between a stack pointer and the end of the goroutine's stack. It stays the same when
/// the stack is moved in order to grow.
#[inline(always)]
pub fn goroutine_stack_depth(goroutine: u64, stack: u64) -> Option<u64> {
    Some(goroutine_stack_end(goroutine)?.wrapping_sub(stack))
}

/// The stack pointer at a depth of the goroutine's stack, wherever that is now.
#[inline(always)]
pub fn goroutine_stack_address(goroutine: u64, depth: u64) -> Option<u64> {
    Some(goroutine_stack_end(goroutine)?.wrapping_sub(depth))
}

#[inline(always)]
fn goroutine_stack_end(goroutine: u64) -> Option<u64> {
    // A goroutine begins with the bounds of its stack. The compiler relies on this in the prologue of each
    // function, which compares the stack pointer with the field after the bounds.
    mem::user(goroutine.wrapping_add(8))
}
