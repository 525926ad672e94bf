//! Probes with a semaphore: a counter in the traced file that the kernel increments in every process that
//! maps the file, as long as the probe is attached. The program checks the counter before it reaches the
//! probe.
//!
//! aya creates the perf event and links it to a BPF program in one step, without a semaphore. Here the two
//! steps are separate. Nothing here writes to a process or a file: the kernel does, and reverts it when the
//! event is closed.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use perf_event::Counter;

use super::perf_uprobe;
use crate::elf::FileOffset;

/// The position of the semaphore's offset in the event's configuration, above the bit for return probes
/// (`PERF_UPROBE_REF_CTR_OFFSET_SHIFT` in kernel/events/core.c).
const SEMAPHORE_SHIFT: u32 = 32;
/// `BPF_LINK_CREATE` of bpf(2).
const LINK_CREATE: libc::c_long = 28;
/// `BPF_PERF_EVENT`, an attach type.
const PERF_EVENT: u32 = 41;

/// An attached probe. Dropping it detaches it.
pub(super) struct Attached {
    // The link is dropped before the event that it links to.
    _link: OwnedFd,
    _event: Counter,
}

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` reads for perf events (Linux 5.15).
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    cookie: u64,
}

/// Attaches a program at an offset of a file.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    path: &Path,
    offset: FileOffset,
    semaphore: FileOffset,
    cookie: u64,
) -> io::Result<Attached> {
    let semaphore = u32::try_from(semaphore.0)
        .map_err(|_| io::Error::other("its semaphore is beyond the first 4 GiB of the file"))?;
    let mut event = perf_uprobe::uprobe(path, offset, u64::from(semaphore) << SEMAPHORE_SHIFT)?;
    let number = |fd: i32| u32::try_from(fd).map_err(io::Error::other);
    let link = LinkCreate {
        program: number(program.as_raw_fd())?,
        target: number(event.as_raw_fd())?,
        attach_type: PERF_EVENT,
        flags: 0,
        cookie,
    };
    let link = create(&link)?;
    event.enable()?;
    Ok(Attached { _link: link, _event: event })
}

fn create(link: &LinkCreate) -> io::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "aya links only events that it has opened itself")]
    // SAFETY: `link` is as large as the size says, and the kernel only reads it.
    let made = unsafe {
        libc::syscall(libc::SYS_bpf, LINK_CREATE, std::ptr::from_ref(link), size_of::<LinkCreate>())
    };
    let fd = i32::try_from(made).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    #[expect(unsafe_code, reason = "the kernel gives a number")]
    // SAFETY: the kernel has just opened the descriptor for us, and nobody else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
