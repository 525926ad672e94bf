//! Probes with a semaphore: a counter in the traced file that the kernel increments in every process that
//! maps the file, as long as the probe is attached. The program checks the counter before it reaches the
//! probe.
//!
//! aya creates the perf event and links it to a BPF program in one step, without a semaphore. Here the two
//! steps are separate. Nothing here writes to a process or a file: the kernel does, and reverts it when the
//! event is closed. Links to many places have semaphores of their own ([`super::uprobe_multi`]).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use perf_event::Counter;

use super::{perf_uprobe, sys};
use crate::elf::FileOffset;

/// The position of the semaphore's offset in the event's configuration, above the bit for return probes
/// (`PERF_UPROBE_REF_CTR_OFFSET_SHIFT` in kernel/events/core.c).
const SEMAPHORE_SHIFT: u32 = 32;

/// An attached probe. Dropping it detaches it.
pub(super) struct Attached {
    // The link is dropped before the event that it links to.
    _link: OwnedFd,
    _event: Counter,
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
    let link = sys::link_perf_event(program, &event, cookie)?;
    event.enable()?;
    Ok(Attached { _link: link, _event: event })
}
