//! Libraries that lend their own buffers: a later call, or another function, decides what happens to the
//! bytes.

use probe_common::{BufferLayout, CallShape, LentKey};

use super::{
    call,
    frame::{self, ReturnContext},
};
use crate::{current::Current, maps::LENT, mem};

/// At the return of a function that lends a buffer, or returns a packet.
#[inline(always)]
pub fn returned(ctx: &impl ReturnContext) -> Option<()> {
    let current = Current::any();
    let (frame, _) = frame::take_frame(ctx, current)?;
    let returned = ctx.registers().rax;
    let arguments = probe_common::arguments(frame.cookie);
    let (key, value) = if BufferLayout::unpack(arguments) == Some(BufferLayout::PacketOut) {
        if returned as i32 <= 0 {
            return None;
        }
        (LentKey::packet(mem::user(frame.buffer)?, current.pid()), frame.handle)
    } else {
        let direction = CallShape::unpack(arguments).direction;
        (LentKey::bytes(frame.handle, current.pid(), direction), returned)
    };
    LENT.insert(key, value, 0).ok()
}

/// At the return of a function that returns the address of a packet's bytes.
#[inline(always)]
pub fn unpacked(ctx: &impl ReturnContext) -> Option<()> {
    let current = Current::any();
    let (mut frame, program) = frame::take_frame(ctx, current)?;
    let key = LentKey::packet(frame.handle, current.pid());
    frame.handle = mem::copied(LENT.get_ptr(key)?);
    // Only the program that removes the entry reports it: a packet may be asked for its bytes more than once.
    LENT.remove(key).ok()?;
    let address = mem::user(frame.buffer)?;
    let length = mem::user_sized(frame.buffer.wrapping_add(8), 4)?;
    if length > 0 {
        frame.buffer = address;
        call::report(current, &frame, program, length, ctx.caller());
    }
    Some(())
}
