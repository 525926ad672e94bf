//! Everything that needs `unsafe`: reading memory, registers and constants, and the kernel's helpers.
//!
//! Every function here is safe to call with any argument, because the helpers check the addresses they get.

use core::{
    hint,
    intrinsics::{AtomicOrdering, atomic_xadd},
    mem::MaybeUninit,
    ptr,
};

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_USER_STACK, bpf_pidns_info, pt_regs},
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_ktime_get_boot_ns,
        bpf_probe_read_kernel, bpf_probe_read_user,
        generated::{
            bpf_get_attach_cookie, bpf_get_current_comm, bpf_get_current_task, bpf_get_current_task_btf,
            bpf_get_func_ip, bpf_get_ns_current_pid_tgid, bpf_get_stack,
            bpf_probe_read_kernel as read_kernel, bpf_probe_read_kernel_str as read_kernel_text,
            bpf_probe_read_user as read_user, bpf_probe_read_user_str as read_user_text, bpf_task_pt_regs,
        },
    },
    programs::{ProbeContext, TracePointContext},
};
use probe_common::{NamespaceId, REGISTERS, SocketFields};
use zerocopy::FromBytes;

/// The value of a constant as userspace set it before loading.
#[inline(always)]
pub fn constant<T: Copy>(of: &'static T) -> T {
    // SAFETY: a reference is valid and aligned; volatile, because userspace writes it behind the compiler's
    // back.
    unsafe { ptr::read_volatile(of) }
}

/// Reads a value at an address of the current process. None if it cannot be read.
#[inline(always)]
pub fn user<T: FromBytes>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address, and any bytes are a T.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}

/// Copies `length` bytes at `address` of the current process into `to`. Returns false if `to` is too small or
/// the bytes cannot be read.
#[inline(always)]
pub fn copy_user<const N: usize>(to: &mut MaybeUninit<[u8; N]>, address: u64, length: u32) -> bool {
    // The value is hidden from the compiler, which may otherwise know that this holds and omit the check,
    // which the verifiers of older kernels then miss. It is eight bytes wide because those of Linux 6.1
    // forget that a four-byte value that was kept on the stack has zeros above it.
    let length = hint::black_box(u64::from(length));
    if length > N as u64 {
        return false;
    }
    // SAFETY: `to` has room for N bytes and `length` is at most N; the helper checks the address.
    unsafe { read_user(to.as_mut_ptr().cast(), length as u32, address as *const _) == 0 }
}

/// What a global function gets from its caller, who has a reference. The verifier wants this check, because
/// it does not consider the caller.
#[inline(always)]
pub fn argument<'a, T>(pointer: *const T) -> Option<&'a T> {
    // SAFETY: only references are passed, of which none outlives the call.
    unsafe { pointer.as_ref() }
}

/// The name of the current thread. Nothing is cleared before: that would be a loop, which the verifier
/// follows for each byte.
#[inline(always)]
pub fn comm() -> [u8; 16] {
    let mut name = MaybeUninit::<[u64; 2]>::uninit();
    // SAFETY: `name` has room for sixteen bytes.
    unsafe { bpf_get_current_comm(name.as_mut_ptr().cast(), 16) };
    // SAFETY: the helper has written all of them, zeros if there is no name.
    zerocopy::transmute!(unsafe { name.assume_init() })
}

/// The user registers at a probe.
#[inline(always)]
pub fn registers(of: *mut pt_regs) -> &'static pt_regs {
    // SAFETY: the context of a uprobe program is a valid pt_regs for as long as the program runs.
    unsafe { &*of }
}

/// Returns the same value, hidden from the compiler. Otherwise the compiler omits a bounds check that it can
/// prove, but the verifier cannot.
#[inline(always)]
pub fn opaque(value: usize) -> usize {
    // SAFETY: a reference is valid and aligned.
    unsafe { ptr::read_volatile(&raw const value) }
}

/// Sets a number to zero, one at a time: several in a row would become a call of memset, which goes byte by
/// byte.
#[inline(always)]
pub fn clear<T: Default>(number: &mut T) {
    // SAFETY: a reference is valid and aligned; callers pass numbers, which own nothing.
    unsafe { ptr::write_volatile(number, T::default()) }
}

/// The registers by their DWARF numbers, and the instruction pointer. This copy allows an index that comes
/// from elsewhere, which the verifier does not allow into the context.
#[inline(always)]
pub fn register_file(regs: &pt_regs) -> [u64; REGISTERS] {
    [
        regs.rax, regs.rdx, regs.rcx, regs.rbx, regs.rsi, regs.rdi, regs.rbp, regs.rsp, regs.r8, regs.r9,
        regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15, regs.rip,
    ]
}

/// Reads the lower `size` bytes, at most eight, of a value at an address of the current process. None if it
/// cannot be read.
#[inline(always)]
pub fn user_sized(address: u64, size: u32) -> Option<u64> {
    let mut value = 0_u64;
    if size > 8 {
        return None;
    }
    // SAFETY: `value` has room for eight bytes; the helper checks the address.
    let failed = unsafe { read_user((&raw mut value).cast(), size, address as *const _) };
    (failed == 0).then_some(value)
}

/// Copies a text at `address` of the current process, including its NUL if that is within `length` bytes.
/// Returns the number of bytes copied. None if `to` is too small or the text cannot be read.
#[inline(always)]
pub fn copy_user_text<const N: usize>(
    to: &mut MaybeUninit<[u8; N]>,
    address: u64,
    length: u32,
) -> Option<u32> {
    if length as usize > N {
        return None;
    }
    // SAFETY: `to` has room for N bytes and `length` is at most N; the helper checks the address.
    let copied = unsafe { read_user_text(to.as_mut_ptr().cast(), length, address as *const _) };
    // Kernels before 6.16 do not count the NUL of an empty text (`strncpy_from_user_nofault` in
    // mm/maccess.c).
    (copied >= 0).then_some((copied as u32).max(1))
}

/// Writes the return addresses of the current thread, innermost first, by following its frame pointers.
/// Returns how many there are.
#[inline(always)]
pub fn user_stack<const N: usize>(ctx: &impl EbpfContext, to: &mut [u64; N]) -> Option<u32> {
    const USER: u64 = BPF_F_USER_STACK as u64;
    // SAFETY: `ctx` is the context that the kernel gave to this program, and `to` has room for its own size.
    let bytes = unsafe { bpf_get_stack(ctx.as_ptr(), to.as_mut_ptr().cast(), size_of_val(to) as u32, USER) };
    (bytes > 0).then_some(bytes as u32 / 8)
}

/// The cookie that the probe was attached with.
#[inline(always)]
pub fn cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: `ctx` is the context that the kernel gave to this program.
    unsafe { bpf_get_attach_cookie(ctx.as_ptr()) }
}

/// Whether a program that runs at the entry and at the return of a function runs at the entry: the kernel has
/// set the instruction pointer to the return address otherwise.
#[inline(always)]
pub fn is_at_entry(ctx: &ProbeContext) -> bool {
    // SAFETY: `ctx` is the context that the kernel gave to this program.
    let probed = unsafe { bpf_get_func_ip(ctx.as_ptr()) };
    registers(ctx.regs).rip == probed
}

/// The offset of a word in the record of a system call's tracepoint on a 64-bit kernel. The 8 common bytes
/// and the number of the call in 8 bytes are followed by its six arguments or its result, of 8 bytes each.
pub const fn syscall_word(index: u32) -> u32 {
    16 + 8 * index
}

/// Reads an integer field of a tracepoint's record.
#[inline(always)]
pub fn field<T: FromBytes>(ctx: &TracePointContext, offset: u32) -> Option<T> {
    // SAFETY: the helper behind `read_at` checks the address, and any bytes are a T.
    unsafe { ctx.read_at(offset as usize) }.ok()
}

/// Copies a text that ends with NUL from a tracepoint's record, cutting what exceeds `to`. Returns false if
/// it cannot be read.
#[inline(always)]
pub fn text<const N: usize>(to: &mut [u8; N], ctx: &TracePointContext, offset: usize) -> bool {
    let from = ctx.as_ptr().wrapping_byte_add(offset);
    // SAFETY: `to` has room for N bytes; the helper checks the address that it reads.
    unsafe { read_kernel_text(to.as_mut_ptr().cast(), N as u32, from) > 0 }
}

/// Like [`text`], for a text that may fill all of `to`.
#[inline(always)]
pub fn long_text<const N: usize>(
    to: &mut MaybeUninit<[u8; N]>,
    ctx: &TracePointContext,
    offset: usize,
) -> bool {
    let from = ctx.as_ptr().wrapping_byte_add(offset);
    // SAFETY: `to` has room for N bytes; the helper checks the address that it reads.
    unsafe { read_kernel_text(to.as_mut_ptr().cast(), N as u32, from) > 0 }
}

/// Copies a text of the current process to offset `at` of `to`, terminated by NUL and cut to `LONGEST` bytes.
/// Returns its length with the NUL. None if it cannot be read, or if there is no room for `LONGEST` bytes.
#[inline(always)]
pub fn user_text<const N: usize, const LONGEST: usize>(
    to: &mut [u8; N],
    at: usize,
    address: u64,
) -> Option<usize> {
    if at > N - LONGEST {
        return None;
    }
    // SAFETY: at most N - LONGEST is within `to`.
    let place = unsafe { to.as_mut_ptr().add(at) };
    // SAFETY: LONGEST bytes from there on are within `to`; the helper checks the address that it reads.
    let length = unsafe { read_user_text(place.cast(), LONGEST as u32, address as *const _) };
    if !(0..=LONGEST as i64).contains(&length) {
        return None;
    }
    // For an empty text: see `copy_user_text`. No comparison is used, because the verifier would follow both
    // branches for each text.
    let length = hint::black_box(length as u64);
    Some((length + (length.wrapping_sub(1) >> 63)) as usize)
}

/// Reads a value in the kernel's memory. None if it cannot be read.
#[inline(always)]
pub fn kernel<T: FromBytes>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address, and any bytes are a T.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

/// Copies `length` bytes of the kernel's memory. Returns false if `to` is too small or the bytes cannot be
/// read.
#[inline(always)]
pub fn copy_kernel<const N: usize>(to: &mut [u8; N], address: u64, length: u32) -> bool {
    // As in `copy_user`.
    let length = hint::black_box(length);
    if length as usize > N {
        return false;
    }
    // SAFETY: `to` has room for N bytes and `length` is at most N; the helper checks the address.
    unsafe { read_kernel(to.as_mut_ptr().cast(), length, address as *const _) == 0 }
}

/// The offsets of socket fields, which userspace has set before loading.
#[inline(always)]
pub fn socket_fields(of: &'static SocketFields) -> &'static SocketFields {
    // SAFETY: this is the address of a constant of the program. It is hidden from the compiler, which would
    // otherwise replace the fields by zeros.
    unsafe { &*hint::black_box(ptr::from_ref(of)) }
}

/// The system call that the current thread is in.
pub struct SystemCall {
    /// Its number.
    pub number: u64,
    /// The second argument.
    argument: u64,
    /// The third argument.
    third: u64,
    /// The stack pointer of the process.
    pub stack: u64,
    /// The calling goroutine if this is a thread of Go, whose internal ABI keeps it in R14.
    pub goroutine: u64,
}

/// Reads the current system call from the thread's user registers.
#[inline(always)]
pub fn system_call() -> Option<SystemCall> {
    let registers = user_registers() as *const pt_regs;
    // SAFETY: the helper checks the address, and any bytes are registers.
    let registers = unsafe { bpf_probe_read_kernel(registers) }.ok()?;
    let pt_regs { orig_rax: number, rsi: argument, rdx: third, rsp: stack, r14: goroutine, .. } = registers;
    Some(SystemCall { number, argument, third, stack, goroutine })
}

impl SystemCall {
    /// Where the bytes are that the call transfers. The place is unknown ([`Place::is_known`]) if the call is
    /// not one of those listed.
    #[inline(always)]
    pub fn place(&self) -> Place {
        // The numbers are those of arch/x86/entry/syscalls/syscall_64.tbl.
        let (address, pieces) = match self.number {
            // read, write, sendto, recvfrom
            0 | 1 | 44 | 45 => (self.argument, 0),
            // readv, writev, preadv2, pwritev2: an array of struct iovec, and its length
            19 | 20 | 327 | 328 => (self.argument, self.third),
            // sendmsg, recvmsg: struct msghdr, whose fields msg_iov and msg_iovlen are that
            46 | 47 => self.message(),
            // recvmmsg, sendmmsg: an array of struct mmsghdr, which begin with a struct msghdr
            299 | 307 if self.third == 1 => self.message(),
            _ => (0, 0),
        };
        Place { address, pieces }
    }

    #[inline(always)]
    fn message(&self) -> (u64, u64) {
        let [list, pieces]: [u64; 2] = user(self.argument.wrapping_add(16)).unwrap_or([0, 0]);
        // Without pieces, there is no list either.
        if pieces == 0 { (0, 0) } else { (list, pieces) }
    }
}

/// Where the bytes are that a system call transfers.
#[derive(Clone, Copy)]
pub struct Place {
    /// The address of the bytes, or of an array of `struct iovec`.
    pub address: u64,
    /// The length of that array. 0 if the bytes are in one piece.
    pub pieces: u64,
}

impl Place {
    /// Whether it is known.
    #[inline(always)]
    pub fn is_known(&self) -> bool {
        self.address != 0
    }

    /// The address of the first bytes, and how many may be there. None if the place is unknown.
    #[inline(always)]
    pub fn first(&self) -> Option<(u64, u64)> {
        if self.pieces == 0 {
            return self.is_known().then_some((self.address, u64::MAX));
        }
        let [address, length]: [u64; 2] = user(self.address)?;
        Some((address, length))
    }
}

/// Where the current thread continues in user mode.
#[inline(always)]
pub fn instruction_pointer() -> Option<u64> {
    let registers = user_registers() as *const pt_regs;
    // SAFETY: the helper checks the address, and any bytes are registers.
    let registers = unsafe { bpf_probe_read_kernel(registers) }.ok()?;
    Some(registers.rip)
}

/// The address of the current thread's `task_struct`.
#[inline(always)]
pub fn task() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_get_current_task() }
}

/// The address of the `pt_regs` with which the current thread returns to user mode.
#[inline(always)]
pub fn user_registers() -> u64 {
    // SAFETY: takes nothing, returns the current task, which is there while the program runs.
    let task = unsafe { bpf_get_current_task_btf() };
    // SAFETY: the task is valid.
    unsafe { bpf_task_pt_regs(task) as u64 }
}

/// The real user and group ids of the current thread.
#[inline(always)]
pub fn user_and_group() -> (u32, u32) {
    let both = aya_ebpf::helpers::bpf_get_current_uid_gid();
    (both as u32, (both >> 32) as u32)
}

/// Nanoseconds since boot.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// The id of the current thread's cgroup (v2).
#[inline(always)]
pub fn cgroup() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The id of the ancestor of the current thread's cgroup at a level, or 0 if there is none.
#[inline(always)]
pub fn ancestor_cgroup(level: u32) -> u64 {
    // SAFETY: the helper checks the level.
    unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) }
}

/// Whether the current thread's PID namespace is this one.
#[inline(always)]
pub fn in_pid_namespace(id: &NamespaceId) -> bool {
    let mut pids = bpf_pidns_info { pid: 0, tgid: 0 };
    let size = size_of::<bpf_pidns_info>() as u32;
    // SAFETY: `pids` is as large as `size` says.
    unsafe { bpf_get_ns_current_pid_tgid(id.device, id.inode, &raw mut pids, size) == 0 }
}

/// A value of a map that others replace only as a whole.
#[inline(always)]
pub fn value<T>(value: *const T) -> &'static T {
    // SAFETY: the pointer comes from a successful lookup, and the map's memory stays until the program
    // has ended.
    unsafe { &*value }
}

/// A value of a map that only the current thread uses.
#[inline(always)]
pub fn own<T>(value: *mut T) -> &'static mut T {
    // SAFETY: the pointer comes from a successful lookup, its entry belongs to the current thread,
    // and the map's memory stays until the program has ended.
    unsafe { &mut *value }
}

/// Reads the current value of a map entry that others may write.
#[inline(always)]
pub fn copied<T: Copy>(value: *const T) -> T {
    // SAFETY: the pointer comes from a successful lookup, and the map's memory stays until the program has
    // ended.
    unsafe { ptr::read_volatile(value) }
}

/// Sets a value of a map that others may read or set at the same time.
#[inline(always)]
pub fn set<T: Copy>(value: *mut T, to: T) {
    // SAFETY: the pointer comes from a successful lookup, and the map's memory stays until the program has
    // ended.
    unsafe { ptr::write_volatile(value, to) }
}

/// Adds to a number that others may add to at the same time. Returns the previous value.
#[inline(always)]
pub fn fetch_add(number: *mut u64, by: u64) -> u64 {
    // Not relaxed, because LLVM lowers a relaxed addition to the BPF instruction without a result, even if
    // the result is used.
    // SAFETY: callers pass a field of a map's value, which is aligned and stays valid.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(number, by) }
}

/// Adds to a number that others may add to at the same time.
#[inline(always)]
pub fn add(number: *mut u64, by: u64) {
    // SAFETY: callers pass a field of a map's value, which is aligned and stays valid.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(number, by) };
}

/// A record in the ring that was not submitted yet.
#[inline(always)]
pub fn slot<T>(entry: &mut MaybeUninit<T>) -> &mut T {
    // SAFETY: callers instantiate it with integers and `MaybeUninit` only, which any bytes are.
    unsafe { entry.assume_init_mut() }
}
