//! The calls of bpf(2) that aya does not make: programs with an attach type, links to many places of a file,
//! and links to a perf event that aya has not opened. And the allocator's call that gives memory back.
//!
//! Owns the layout of what these calls read and their unsafe code. Which programs are loaded, and where they
//! are attached, is decided elsewhere.

use std::ffi::CStr;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};

use aya_obj::generated::bpf_insn;
use rustix::io::Errno;

use crate::elf::FileOffset;

/// `BPF_PROG_TYPE_KPROBE`, which programs for uprobes are of, too.
const KPROBE: u32 = 2;
/// `BPF_PERF_EVENT`, an attach type.
const PERF_EVENT: u32 = 41;
/// `BPF_F_UPROBE_MULTI_RETURN`: the program runs when the functions at these places return.
const RETURNS: u32 = 1;
/// The level of the verifier's log that has its final message and its statistics (`BPF_LOG_STATS`).
const LOG_STATS: u32 = 4;
/// The length of a program's name, with its terminating zero (`BPF_OBJ_NAME_LEN`).
const NAME_BYTES: usize = 16;
/// How often a program is loaded again that a signal has interrupted.
const INTERRUPTIONS: u32 = 5;

/// How a program for uprobes may be attached, which the kernel must know when it verifies the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AttachType {
    /// At many places of a file, by one link (Linux 6.6).
    UprobeMulti,
    /// The same, and the program runs at the return as well, unless it has said at the entry that it does not
    /// want to (Linux 6.13).
    UprobeSession,
}

impl AttachType {
    /// Its number in `enum bpf_attach_type`.
    const fn number(self) -> u32 {
        match self {
            Self::UprobeMulti => 48,
            Self::UprobeSession => 57,
        }
    }
}

/// When a program runs, relative to the call of a function that begins at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// When a thread reaches the place.
    Reached,
    /// When the function that was entered there returns.
    Returned,
}

/// A place that a program is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UprobePlace {
    pub(super) offset: FileOffset,
    /// What the program reads there with `bpf_get_attach_cookie`.
    pub(super) cookie: u64,
    /// The counter that the kernel increments in each process while the place is probed.
    pub(super) semaphore: Option<FileOffset>,
}

/// A program to be loaded.
pub(super) struct NewProgram<'a> {
    pub(super) name: &'a str,
    pub(super) attach_type: AttachType,
    pub(super) instructions: &'a [bpf_insn],
    pub(super) license: &'a CStr,
    /// Names of functions and lines of the source, for the kernel's messages and for other tools.
    pub(super) debug_info: Option<DebugInfo<'a>>,
}

/// What describes a program's code, by types that were loaded with [`load_types`].
pub(super) struct DebugInfo<'a> {
    pub(super) types: BorrowedFd<'a>,
    pub(super) functions: InfoRecords,
    pub(super) lines: InfoRecords,
}

/// Records of one length.
pub(super) struct InfoRecords {
    pub(super) bytes: Vec<u8>,
    pub(super) record_bytes: usize,
}

impl InfoRecords {
    fn count(&self) -> usize {
        self.bytes.len().checked_div(self.record_bytes).unwrap_or(0)
    }
}

/// Memory that the kernel reads or writes during a call, as it expects an address: in 64 bits.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Address<'a>(u64, PhantomData<&'a [u8]>);

impl<'a> Address<'a> {
    const NONE: Self = Self(0, PhantomData);

    fn of<T>(memory: &'a [T]) -> Self {
        if memory.is_empty() { Self::NONE } else { Self(memory.as_ptr() as u64, PhantomData) }
    }

    fn of_text(text: &'a CStr) -> Self {
        Self::of(text.to_bytes_with_nul())
    }

    fn of_mut(memory: &'a mut [u8]) -> Self {
        if memory.is_empty() { Self::NONE } else { Self(memory.as_mut_ptr() as u64, PhantomData) }
    }
}

/// A part of `union bpf_attr` of linux/bpf.h, whose addresses are valid as long as it exists.
trait Attributes {
    const COMMAND: libc::c_long;
}

/// For `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgramAttributes<'a> {
    kind: u32,
    instruction_count: u32,
    instructions: Address<'a>,
    license: Address<'a>,
    log_level: u32,
    log_bytes: u32,
    log: Address<'a>,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME_BYTES],
    interface: u32,
    attach_type: u32,
    types: u32,
    function_bytes: u32,
    functions: Address<'a>,
    function_count: u32,
    line_bytes: u32,
    lines: Address<'a>,
    line_count: u32,
    attach_type_id: u32,
}

impl Attributes for ProgramAttributes<'_> {
    const COMMAND: libc::c_long = 5;
}

/// For `BPF_BTF_LOAD`.
#[repr(C)]
struct TypesAttributes<'a> {
    types: Address<'a>,
    log: Address<'a>,
    bytes: u32,
    log_bytes: u32,
    log_level: u32,
    log_needs: u32,
}

impl Attributes for TypesAttributes<'_> {
    const COMMAND: libc::c_long = 18;
}

/// The number of `BPF_LINK_CREATE`.
const LINK_CREATE: libc::c_long = 28;

/// For `BPF_LINK_CREATE` with the attach types of uprobes.
#[repr(C)]
struct UprobesAttributes<'a> {
    program: u32,
    target: u32,
    attach_type: u32,
    link_flags: u32,
    path: Address<'a>,
    offsets: Address<'a>,
    semaphores: Address<'a>,
    cookies: Address<'a>,
    count: u32,
    flags: u32,
    pid: u32,
    reserved: u32,
}

impl Attributes for UprobesAttributes<'_> {
    const COMMAND: libc::c_long = LINK_CREATE;
}

/// For `BPF_LINK_CREATE` with `BPF_PERF_EVENT`.
#[repr(C)]
struct PerfEventAttributes {
    program: u32,
    event: u32,
    attach_type: u32,
    flags: u32,
    cookie: u64,
}

impl Attributes for PerfEventAttributes {
    const COMMAND: libc::c_long = LINK_CREATE;
}

/// Loads a program. What the verifier says is written to `log`, unless that is empty.
pub(super) fn load_program(program: &NewProgram<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut name = [0; NAME_BYTES];
    // The last byte stays zero.
    for (byte, letter) in name.iter_mut().take(NAME_BYTES - 1).zip(program.name.bytes()) {
        *byte = letter;
    }
    let info = program.debug_info.as_ref();
    let (functions, lines) = (info.map(|info| &info.functions), info.map(|info| &info.lines));
    let bytes = |records: Option<&InfoRecords>| records.map_or(0, |records| records.record_bytes);
    let count = |records: Option<&InfoRecords>| records.map_or(0, InfoRecords::count);
    let attributes = ProgramAttributes {
        kind: KPROBE,
        instruction_count: size(program.instructions.len())?,
        instructions: Address::of(program.instructions),
        license: Address::of_text(program.license),
        log_level: if log.is_empty() { 0 } else { LOG_STATS },
        log_bytes: size(log.len())?,
        log: Address::of_mut(log),
        kernel_version: 0,
        flags: 0,
        name,
        interface: 0,
        attach_type: program.attach_type.number(),
        types: info.map_or(Ok(0), |info| number(&info.types))?,
        function_bytes: size(bytes(functions))?,
        functions: functions.map_or(Address::NONE, |records| Address::of(&records.bytes)),
        function_count: size(count(functions))?,
        line_bytes: size(bytes(lines))?,
        lines: lines.map_or(Address::NONE, |records| Address::of(&records.bytes)),
        line_count: size(count(lines))?,
        attach_type_id: 0,
    };
    let mut loaded = call(&attributes);
    for _ in 0..INTERRUPTIONS {
        match &loaded {
            Err(error) if error.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) => {
                loaded = call(&attributes);
            }
            _ => break,
        }
    }
    loaded
}

/// Loads the types that programs are described by (BTF).
pub(super) fn load_types(types: &[u8]) -> io::Result<OwnedFd> {
    call(&TypesAttributes {
        types: Address::of(types),
        log: Address::NONE,
        bytes: size(types.len())?,
        log_bytes: 0,
        log_level: 0,
        log_needs: 0,
    })
}

/// Attaches a program to places of the file at `path`, for all processes. All of them, or none: one place
/// that the kernel refuses fails the whole link. Closing the descriptor detaches the program.
pub(super) fn link_uprobes(
    program: BorrowedFd<'_>,
    attach_type: AttachType,
    (path, moment): (&CStr, Moment),
    places: &[UprobePlace],
) -> io::Result<OwnedFd> {
    let offsets: Vec<u64> = places.iter().map(|place| place.offset.0).collect();
    let cookies: Vec<u64> = places.iter().map(|place| place.cookie).collect();
    let semaphore = |place: &UprobePlace| place.semaphore.map_or(0, |offset| offset.0);
    let semaphores: Vec<u64> = places.iter().map(semaphore).collect();
    call(&UprobesAttributes {
        program: number(&program)?,
        target: 0,
        attach_type: attach_type.number(),
        link_flags: 0,
        path: Address::of_text(path),
        offsets: Address::of(&offsets),
        semaphores: Address::of(&semaphores),
        cookies: Address::of(&cookies),
        count: size(places.len())?,
        flags: match moment {
            Moment::Reached => 0,
            Moment::Returned => RETURNS,
        },
        pid: 0,
        reserved: 0,
    })
}

/// Lets a program run at a perf event (Linux 5.15).
pub(super) fn link_perf_event(
    program: BorrowedFd<'_>,
    event: &impl AsRawFd,
    cookie: u64,
) -> io::Result<OwnedFd> {
    let (program, event) = (number(&program)?, number(event)?);
    call(&PerfEventAttributes { program, event, attach_type: PERF_EVENT, flags: 0, cookie })
}

fn number(fd: &impl AsRawFd) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

fn size(count: usize) -> io::Result<u32> {
    u32::try_from(count).map_err(io::Error::other)
}

/// A call that returns a new descriptor.
fn call<A: Attributes>(attributes: &A) -> io::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "aya makes none of these calls")]
    // SAFETY: `attributes` is as large as the size says. Its addresses are those of memory that it borrows,
    // as long as the lengths beside them say, and mutably where the kernel writes, which is the log alone.
    let made =
        unsafe { libc::syscall(libc::SYS_bpf, A::COMMAND, std::ptr::from_ref(attributes), size_of::<A>()) };
    let fd = i32::try_from(made).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    #[expect(unsafe_code, reason = "the kernel gives a number")]
    // SAFETY: the kernel has just opened the descriptor for us, and nobody else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives back to the system what was freed: the allocator keeps it otherwise.
pub(super) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "a call of C")]
    // SAFETY: it takes a number, and touches nothing but free memory of the allocator.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The offsets and sizes of `union bpf_attr` in linux/bpf.h.
    #[test]
    fn the_layouts_are_the_kernels() {
        assert_eq!(std::mem::offset_of!(ProgramAttributes<'_>, log), 32);
        assert_eq!(std::mem::offset_of!(ProgramAttributes<'_>, name), 48);
        assert_eq!(std::mem::offset_of!(ProgramAttributes<'_>, attach_type), 68);
        assert_eq!(std::mem::offset_of!(ProgramAttributes<'_>, functions), 80);
        assert_eq!(std::mem::offset_of!(ProgramAttributes<'_>, lines), 96);
        assert_eq!(size_of::<ProgramAttributes<'_>>(), 112);
        assert_eq!(size_of::<TypesAttributes<'_>>(), 32);
        assert_eq!(std::mem::offset_of!(UprobesAttributes<'_>, path), 16);
        assert_eq!(std::mem::offset_of!(UprobesAttributes<'_>, count), 48);
        assert_eq!(size_of::<UprobesAttributes<'_>>(), 64);
        assert_eq!(size_of::<PerfEventAttributes>(), 24);
    }
}
