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

/// Emits a part of a hello: `hello.bytes` bytes at `address`. A part that cannot be emitted is not counted as
/// a loss, because no payload is missing.
#[inline(always)]
pub fn hello(hello: &HelloChunk, address: u64) {
    emit_hello(hello, address);
}

/// Does it in a global function, which the verifier follows once for a program.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emit_hello(hello: *const HelloChunk, address: u64) -> u32 {
    let Some(hello) = mem::argument(hello) else { return 0 };
    let bytes = hello.bytes;
    match bytes {
        0..=640 => hello_slot::<640>(hello, address, bytes),
        _ => hello_slot::<{ HELLO_BYTES as usize }>(hello, address, bytes),
    }
    0
}

#[inline(always)]
fn hello_slot<const N: usize>(hello: &HelloChunk, address: u64, bytes: u32) {
    let Some(mut entry) = EVENTS.reserve::<HelloSlot<N>>(0) else { return };
    let slot = mem::slot(&mut entry);
    slot.hello = *hello;
    if mem::copy_user(&mut slot.bytes, address, bytes) {
        submit(entry);
    } else {
        entry.discard(BPF_RB_NO_WAKEUP.into());
    }
}
