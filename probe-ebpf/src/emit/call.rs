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
    emit_call_chunk(call, address);
}

/// Does it in a global function, which the verifier follows once for a program, instead of for each of the
/// calls that lead to it, and in each iteration of a loop.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emit_call_chunk(call: *const Call, address: u64) -> u32 {
    let Some(call) = mem::argument(call) else { return 0 };
    let chunk = call.chunk;
    match chunk {
        0 => slot::<0>(call, address, chunk),
        1..=128 => slot::<128>(call, address, chunk),
        129..=256 => slot::<256>(call, address, chunk),
        257..=512 => slot::<512>(call, address, chunk),
        513..=1024 => slot::<1024>(call, address, chunk),
        1025..=2048 => slot::<2048>(call, address, chunk),
        2049..=4096 => slot::<4096>(call, address, chunk),
        4097..=8192 => slot::<8192>(call, address, chunk),
        _ => slot::<CHUNK_BYTES>(call, address, chunk),
    }
    0
}

/// The bytes that are lost with a chunk. The first chunk of a call stands for what a limit has cut, too:
/// without any chunk, nothing else says that the call moved these bytes.
#[inline(always)]
fn moved_bytes(call: &Call) -> u64 {
    let cut = if call.offset == 0 { call.length.saturating_sub(call.captured.into()) } else { 0 };
    cut + u64::from(call.chunk)
}

#[inline(always)]
fn slot<const N: usize>(call: &Call, address: u64, chunk: u32) {
    if mem::constant(&SUPPRESS_CALLS) != 0 {
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<Slot<N>>(0) else {
        return lost(Loss::RingFull, moved_bytes(call));
    };
    let slot = mem::slot(&mut entry);
    slot.call = *call;
    if chunk != 0 && !mem::copy_user(&mut slot.payload, address, chunk) {
        slot.call.flags |= FLAG_FAULT;
        slot.call.chunk = 0;
        lost(Loss::ReadFault, chunk.into());
    }
    submit(entry);
}
