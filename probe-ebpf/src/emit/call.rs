//! Records of calls: emits the bytes of a call in chunks.

use core::mem::MaybeUninit;

use probe_common::{CHUNK_BYTES, Call, FLAG_FAULT, Loss};

use super::{lost, submit};
use crate::{constants::SUPPRESS_CALLS, maps::EVENTS, mem};

/// A call's record with room for `N` bytes of payload.
///
/// The verifier requires constant sizes, so a payload is emitted in the smallest of a few sizes. The actual
/// length is in [`Call::chunk`]. The rest of the room contains old data, which is not read.
#[repr(C)]
struct Slot<const N: usize> {
    call: Call,
    payload: MaybeUninit<[u8; N]>,
}

/// Emits a chunk of a call: `call.chunk` bytes at `address`.
#[inline(always)]
pub fn call_chunk(call: &Call, address: u64) {
    match call.chunk {
        0 => slot::<0>(call, address),
        1..=128 => slot::<128>(call, address),
        129..=256 => slot::<256>(call, address),
        257..=512 => slot::<512>(call, address),
        513..=1024 => slot::<1024>(call, address),
        1025..=2048 => slot::<2048>(call, address),
        2049..=4096 => slot::<4096>(call, address),
        4097..=8192 => slot::<8192>(call, address),
        _ => slot::<CHUNK_BYTES>(call, address),
    }
}

/// Emits a chunk of [`CHUNK_BYTES`].
#[inline(always)]
pub fn full_call_chunk(call: &Call, address: u64) {
    slot::<CHUNK_BYTES>(call, address);
}

/// Emits a chunk that is one of many small ones. Like [`call_chunk`], but with fewer sizes, because the
/// verifier follows each size in each iteration of a loop.
#[inline(always)]
pub fn small_call_chunk(call: &Call, address: u64) {
    match call.chunk {
        0..=1024 => slot::<1024>(call, address),
        _ => slot::<CHUNK_BYTES>(call, address),
    }
}

/// The bytes that are lost with a chunk. The first chunk of a call stands for what a limit has cut, too:
/// without any chunk, nothing else says that the call moved these bytes.
#[inline(always)]
fn moved_bytes(call: &Call) -> u64 {
    let cut = if call.offset == 0 { call.length.saturating_sub(call.captured.into()) } else { 0 };
    cut + u64::from(call.chunk)
}

#[inline(always)]
fn slot<const N: usize>(call: &Call, address: u64) {
    if mem::constant(&SUPPRESS_CALLS) != 0 {
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<Slot<N>>(0) else {
        return lost(Loss::RingFull, moved_bytes(call));
    };
    let slot = mem::slot(&mut entry);
    slot.call = *call;
    if call.chunk != 0 && !mem::copy_user(&mut slot.payload, address, call.chunk) {
        slot.call.flags |= FLAG_FAULT;
        slot.call.chunk = 0;
        lost(Loss::ReadFault, call.chunk.into());
    }
    submit(entry);
}
