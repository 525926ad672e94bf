//! The only writer of the ring buffer, of the loss counters, and of the log.

mod call;
mod connection;
mod exec;
mod hello;
mod task;
mod uprobe;

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_CONS_POS, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_PROD_POS},
    maps::ring_buf::RingBufEntry,
};
use aya_log_ebpf::debug;
use probe_common::{Header, Loss};

use crate::{
    constants::WAKE_SHIFT,
    current::Current,
    maps::{EVENTS, LOST, WAKEUP_POS},
    mem,
};

pub use call::call_chunk;
pub use connection::{connection_close, connection_open, socket};
pub use exec::{environment_page, exec, exec_arguments, exec_failure, exec_path, full_exec_arguments};
pub use hello::hello;
pub use task::{Notice, cgroup, task};
pub use uprobe::{Values, function_call, function_stack};

/// The header of a record about the current thread.
#[inline(always)]
pub fn header(kind: u32, current: Current) -> Header {
    Header {
        kind,
        pid: current.pid(),
        tid: current.tid(),
        reserved: 0,
        time: mem::now(),
        cgroup: mem::cgroup(),
        comm: mem::comm(),
    }
}

/// Logs that a connection is opened. The names of target, module and file are copied in a loop, which the
/// verifier follows for each byte, so they are kept short here.
#[inline(always)]
pub fn log_open(ctx: &impl EbpfContext, pid: u32, connection: u64) {
    debug!(ctx, target: "probe_ebpf", "process {} opens connection {}", pid, connection);
}

/// Counts a loss.
#[inline(always)]
pub fn lost(loss: Loss, bytes: u64) {
    if let Some(count) = LOST.get_ptr_mut(loss as u32) {
        let count = mem::own(count);
        // Atomic although the map is per CPU: the program can be preempted by another one like it.
        mem::add(&raw mut count.events, 1);
        mem::add(&raw mut count.bytes, bytes);
    }
}

/// Counts the loss of calls of which nothing else is known.
#[inline(always)]
pub fn lost_calls(loss: Loss, calls: u64) {
    if let Some(count) = LOST.get_ptr_mut(loss as u32) {
        mem::add(&raw mut mem::own(count).events, calls);
    }
}

/// Submits without waking the reader, unless the fill of the ring passes another mark: a wakeup costs the
/// traced thread more than everything else. The reader also drains the ring at intervals.
#[inline(always)]
pub fn submit<T: 'static>(entry: RingBufEntry<T>) {
    let fill = EVENTS.query(BPF_RB_AVAIL_DATA.into());
    let before = fill.saturating_sub(size_of::<T>() as u64);
    let shift = mem::constant(&WAKE_SHIFT) & 63;
    let passed = (fill >> shift) != (before >> shift);
    entry.submit(if passed { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }.into());
}

/// The flags to submit a record that the reader should see at once. It is woken, unless it was already woken
/// for a record that it has not reached yet: then it will continue from there. A wakeup costs both sides more
/// than the record itself. A reader that goes to sleep at just this moment finds the record when it checks
/// again a few milliseconds later.
#[inline(always)]
fn wakeup_flags() -> u64 {
    let Some(place) = WAKEUP_POS.get_ptr_mut(0) else { return BPF_RB_FORCE_WAKEUP.into() };
    if mem::copied(place) > EVENTS.query(BPF_RB_CONS_POS.into()) {
        return BPF_RB_NO_WAKEUP.into();
    }
    mem::set(place, EVENTS.query(BPF_RB_PROD_POS.into()));
    BPF_RB_FORCE_WAKEUP.into()
}

/// Emits a record of a constant size.
#[inline(always)]
pub fn record<T: Copy + 'static>(record: T) {
    let Some(mut entry) = EVENTS.reserve::<T>(0) else { return lost(Loss::RingFull, 0) };
    entry.write(record);
    submit(entry);
}
