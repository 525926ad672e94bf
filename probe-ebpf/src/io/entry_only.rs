//! Functions for which everything is known at their entry: the bytes, and that all of them will be
//! transferred. Their returns are not hooked, because a return probe would break C++ exceptions and Rust
//! panics.

use aya_ebpf::{bindings::pt_regs, programs::ProbeContext};
use probe_common::{BufferLayout, CallShape, Frame, LentKey};

use super::{call, frame};
use crate::{connection::identity, current::Current, maps::LENT, mem};

/// At the entry of a function: reports the bytes.
#[inline(always)]
pub fn enter(ctx: &ProbeContext) -> Option<()> {
    let current = Current::in_scope()?;
    let regs = mem::registers(ctx.regs);
    let cookie = mem::cookie(ctx);
    let form = BufferLayout::unpack(probe_common::arguments(cookie))?;
    let handle = match form {
        BufferLayout::Message(mark) if word(regs.rcx, 0)? != probe_common::message_mark(mark) => return None,
        BufferLayout::Message(_) => mem::user(regs.rdx)?,
        _ => regs.rdi,
    };
    let (buffer, length) = bytes(current, regs, form, cookie)?;
    if length == 0 {
        return None;
    }
    let sends = frame::frames_of(current)?.sends;
    let entered = mem::now();
    let frame = Frame { stack: 0, cookie, handle, buffer, length: 0, sends, entered };
    frame::note_pending_send(current, &frame, length);
    let caller = mem::user(frame::return_address(regs, cookie)).unwrap_or(0);
    call::report(current, &frame, identity::program(current), length, caller);
    Some(())
}

/// The address and the number of the bytes.
#[inline(always)]
fn bytes(current: Current, regs: &pt_regs, form: BufferLayout, cookie: u64) -> Option<(u64, u64)> {
    match form {
        BufferLayout::PtrLen => Some((regs.rsi, regs.rdx)),
        BufferLayout::BeginEnd => {
            let begin = word(regs.rdx, 0)?;
            Some((begin, word(regs.rdx, 1)?.saturating_sub(begin)))
        }
        BufferLayout::Payload | BufferLayout::Message(_) => {
            let place = if let BufferLayout::Payload = form { regs.rsi } else { regs.rcx.wrapping_add(8) };
            let address = probe_common::payload_address(word(place, 0)?, word(place, 1)?);
            Some((address, word(place, 2)?))
        }
        BufferLayout::AckBuffer => {
            let direction = CallShape::unpack(probe_common::arguments(cookie)).direction;
            let key = LentKey::bytes(regs.rdi, current.pid(), direction);
            let address = mem::copied(LENT.get_ptr(key)?);
            // A buffer that was lent once may be acknowledged in two calls.
            LENT.insert(key, address.wrapping_add(regs.rsi), 0).ok();
            Some((address, regs.rsi))
        }
        _ => None,
    }
}

#[inline(always)]
fn word(base: u64, number: u64) -> Option<u64> {
    mem::user(base.wrapping_add(8 * number))
}
