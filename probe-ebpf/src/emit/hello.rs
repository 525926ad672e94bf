//! Records of hellos.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use probe_common::{HELLO_BYTES, HelloChunk};

use super::submit;
use crate::{maps::EVENTS, mem};

/// A [`HelloChunk`] with room for `N` bytes.
#[repr(C)]
struct HelloSlot<const N: usize> {
    hello: HelloChunk,
    bytes: MaybeUninit<[u8; N]>,
}

/// Emits a part of a hello: `bytes` bytes at `address`. `head` writes the other fields. A part that cannot be
/// emitted is not counted as a loss, because no payload is missing.
#[inline(always)]
pub fn hello(bytes: u32, address: u64, head: impl FnOnce(&mut HelloChunk)) {
    match bytes {
        0..=640 => hello_slot::<640>(bytes, address, head),
        _ => hello_slot::<{ HELLO_BYTES as usize }>(bytes, address, head),
    }
}

#[inline(always)]
fn hello_slot<const N: usize>(bytes: u32, address: u64, head: impl FnOnce(&mut HelloChunk)) {
    let Some(mut entry) = EVENTS.reserve::<HelloSlot<N>>(0) else { return };
    let slot = mem::slot(&mut entry);
    head(&mut slot.hello);
    slot.hello.bytes = bytes;
    if mem::copy_user(&mut slot.bytes, address, bytes) {
        submit(entry);
    } else {
        entry.discard(BPF_RB_NO_WAKEUP.into());
    }
}
