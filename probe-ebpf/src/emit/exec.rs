//! Records of executions: emits the strings of a program in parts, the last one together with the record.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::BPF_RB_FORCE_WAKEUP;
use probe_common::{
    CHUNK_BYTES, ExecRecord, ExecStringChunk, FLAG_UNREADABLE, INLINE_BYTES, LONG_PATH_BYTES, Loss,
    PAGE_BYTES,
};
use zerocopy::IntoBytes;

use super::{lost, submit, wakeup_flags};
use crate::{
    maps::{AttemptRoom, EVENTS},
    mem,
};

/// An [`ExecStringChunk`] with room for `N` bytes.
#[repr(C)]
struct PartSlot<const N: usize> {
    part: ExecStringChunk,
    bytes: MaybeUninit<[u8; N]>,
}

/// An [`ExecRecord`] with room for the last part of its arguments.
#[repr(C)]
struct ProgramSlot {
    program: ExecRecord,
    bytes: MaybeUninit<[u8; INLINE_BYTES]>,
}

/// Emits a part of a program's arguments that does not fit into its record.
#[inline(always)]
pub fn exec_arguments(part: &ExecStringChunk, address: u64) {
    match part.chunk {
        0..=2048 => part_slot::<2048>(part, address),
        2049..=4096 => part_slot::<4096>(part, address),
        4097..=8192 => part_slot::<8192>(part, address),
        _ => part_slot::<CHUNK_BYTES>(part, address),
    }
}

/// Emits a part of [`CHUNK_BYTES`].
#[inline(always)]
pub fn full_exec_arguments(part: &ExecStringChunk, address: u64) {
    part_slot::<CHUNK_BYTES>(part, address);
}

#[inline(always)]
fn part_slot<const N: usize>(part: &ExecStringChunk, address: u64) {
    let Some(mut entry) = EVENTS.reserve::<PartSlot<N>>(0) else {
        return lost(Loss::RingFull, part.chunk.into());
    };
    let slot = mem::slot(&mut entry);
    slot.part = *part;
    if mem::copy_user(&mut slot.bytes, address, part.chunk) {
        submit(entry);
    } else {
        lost(Loss::ReadFault, part.chunk.into());
        entry.discard(0);
    }
}

/// Emits one page of a program's environment. Returns false if the page does not exist, because the
/// environment has ended before.
#[inline(always)]
pub fn environment_page(part: &ExecStringChunk, address: u64) -> bool {
    let Some(mut entry) = EVENTS.reserve::<PartSlot<PAGE_BYTES>>(0) else {
        lost(Loss::RingFull, part.chunk.into());
        return true;
    };
    let slot = mem::slot(&mut entry);
    slot.part = *part;
    if mem::copy_user(&mut slot.bytes, address, part.chunk) {
        submit(entry);
        true
    } else {
        entry.discard(0);
        false
    }
}

/// Emits a path. `write` writes it, terminated by NUL, and returns whether it succeeded.
#[inline(always)]
pub fn exec_path(
    part: &ExecStringChunk,
    write: impl FnOnce(&mut MaybeUninit<[u8; LONG_PATH_BYTES]>) -> bool,
) {
    let Some(mut entry) = EVENTS.reserve::<PartSlot<LONG_PATH_BYTES>>(0) else {
        return lost(Loss::RingFull, part.chunk.into());
    };
    let slot = mem::slot(&mut entry);
    slot.part = *part;
    if write(&mut slot.bytes) { submit(entry) } else { entry.discard(0) }
}

/// Emits a program and wakes the reader, with [`ExecRecord::chunk`] bytes at `address`. `fill` sets all
/// fields.
#[inline(always)]
pub fn exec(address: u64, fill: impl FnOnce(&mut ExecRecord)) {
    let Some(mut entry) = EVENTS.reserve::<ProgramSlot>(0) else {
        return lost(Loss::RingFull, 0);
    };
    let slot = mem::slot(&mut entry);
    fill(&mut slot.program);
    let chunk = slot.program.chunk;
    if chunk != 0 && !mem::copy_user(&mut slot.bytes, address, chunk) {
        slot.program.flags |= FLAG_UNREADABLE;
        slot.program.chunk = 0;
        lost(Loss::ReadFault, chunk.into());
    }
    // Userspace reads more about the process from /proc, as long as it runs.
    entry.submit(wakeup_flags());
}

/// Emits a failed execution with its `used` bytes.
#[inline(always)]
pub fn exec_failure(room: &AttemptRoom, used: usize) {
    let Some(bytes) = room.as_bytes().get(..size_of_val(&room.attempt) + used) else { return };
    if EVENTS.output::<[u8]>(bytes, BPF_RB_FORCE_WAKEUP.into()).is_err() {
        lost(Loss::RingFull, used as u64);
    }
}
