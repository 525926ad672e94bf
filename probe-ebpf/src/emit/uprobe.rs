//! Records for `ctrace uprobe`: the values of a function's calls, and their call stacks.

use core::mem::MaybeUninit;

use probe_common::{
    ArgumentSpec, CAPTURE_BYTES, CAPTURE_LIBCXX_STRING, CAPTURE_STRING, FUNCTION_VALUES, FunctionEvent,
    FunctionStack, Loss, Operand, REGISTERS, SOURCE_CONSTANT, SOURCE_MEMORY, SOURCE_REGISTER,
};

use super::{lost, submit};
use crate::{maps::EVENTS, mem};

/// The values to read for a call.
pub struct Values<'a> {
    /// The specs of the values.
    pub list: &'a [ArgumentSpec],
    /// The number of valid entries in `list`.
    pub count: u32,
    /// Index into `ROOMS`.
    pub room: u32,
}

/// A function's record with room for the bytes of `C` values.
#[repr(C)]
struct Room<const C: usize, const S: usize> {
    function: FunctionEvent,
    slots: [MaybeUninit<[u8; S]>; C],
}

/// Emits the record of a call's entry or return. `head` writes everything except the values. None if the ring
/// has no room.
#[inline(always)]
pub fn function_call(
    values: &Values<'_>,
    registers: &[u64; REGISTERS],
    head: impl FnOnce(&mut FunctionEvent),
) -> Option<()> {
    // The sizes of `ROOMS`.
    match values.room {
        0 => room::<0, 0>(values, registers, head),
        1 => room::<1, 264>(values, registers, head),
        2 => room::<1, 1032>(values, registers, head),
        3 => room::<1, 4104>(values, registers, head),
        4 => room::<2, 264>(values, registers, head),
        5 => room::<2, 1032>(values, registers, head),
        6 => room::<2, 4104>(values, registers, head),
        7 => room::<6, 264>(values, registers, head),
        8 => room::<6, 1032>(values, registers, head),
        _ => room::<6, 4104>(values, registers, head),
    }
}

#[inline(always)]
fn room<const C: usize, const S: usize>(
    values: &Values<'_>,
    registers: &[u64; REGISTERS],
    head: impl FnOnce(&mut FunctionEvent),
) -> Option<()> {
    let Some(mut entry) = EVENTS.reserve::<Room<C, S>>(0) else {
        lost(Loss::RingFull, 0);
        return None;
    };
    let room = mem::slot(&mut entry);
    head(&mut room.function);
    room.function.room = values.room;
    (room.function.faults, room.function.cut) = (0, 0);
    room.function.values.iter_mut().for_each(mem::clear);
    room.function.lengths.iter_mut().for_each(mem::clear);
    let mut index = 0;
    while index < FUNCTION_VALUES && index < values.count as usize {
        let Some(argument) = values.list.get(index) else { break };
        read(argument, index, room, registers);
        index += 1;
    }
    submit(entry);
    Some(())
}

/// Reads one value, and the data that it points to into its slot.
#[inline(always)]
fn read<const C: usize, const S: usize>(
    argument: &ArgumentSpec,
    index: usize,
    room: &mut Room<C, S>,
    registers: &[u64; REGISTERS],
) {
    let function = &mut room.function;
    let bit = 1 << index;
    let Some(value) = operand(&argument.value, registers) else {
        function.faults |= bit;
        return;
    };
    if let Some(to) = function.values.get_mut(index) {
        *to = value;
    }
    let wanted = argument.limit.min(S as u32);
    // The slot is not counted here, because the verifier would follow each possible count separately.
    let slot = usize::from(argument.slot);
    let captured = match argument.capture {
        CAPTURE_STRING => {
            let Some(to) = room.slots.get_mut(slot) else { return };
            let copied = mem::copy_user_text(to, value, wanted);
            // There is room for one byte more than is reported. If it is used, the string is longer than
            // that.
            copied.map(|length| {
                let is_cut = length == wanted;
                (length - 1 - u32::from(is_cut), is_cut)
            })
        }
        CAPTURE_BYTES | CAPTURE_LIBCXX_STRING => {
            let Some(to) = room.slots.get_mut(slot) else { return };
            let place = match argument.capture {
                CAPTURE_BYTES => operand(&argument.length, registers).map(|length| (value, length)),
                _ => libcxx_string(value),
            };
            place.and_then(|(address, length)| {
                let part = if length > wanted.into() { wanted } else { length as u32 };
                let copied = part == 0 || mem::copy_user(to, address, part);
                if !copied && let Some(to) = function.lengths.get_mut(index) {
                    *to = part;
                    if length > part.into() {
                        function.cut |= bit;
                    }
                }
                copied.then_some((part, length > part.into()))
            })
        }
        _ => return,
    };
    match captured {
        Some((length, cut)) => {
            if let Some(to) = function.lengths.get_mut(index) {
                *to = length;
            }
            if cut {
                function.cut |= bit;
            }
        }
        None => function.faults |= bit,
    }
}

/// The address and the length of the text of libc++'s `std::string`.
#[inline(always)]
fn libcxx_string(object: u64) -> Option<(u64, u64)> {
    let first: u64 = mem::user(object)?;
    if first & 1 == 0 {
        return Some((object + 1, (first & 0xff) >> 1));
    }
    Some((mem::user(object + 16)?, mem::user(object + 8)?))
}

/// The value of an operand. None if it is in memory that cannot be read.
#[inline(always)]
fn operand(of: &Operand, registers: &[u64; REGISTERS]) -> Option<u64> {
    let register = |number: u8| registers.get(usize::from(number)).copied().unwrap_or(0);
    let value = match of.source {
        SOURCE_CONSTANT => return Some(of.offset as u64),
        SOURCE_REGISTER => register(of.register),
        SOURCE_MEMORY => {
            // The number that stands for "no register" is not in the file, so it reads as 0.
            let address = register(of.register)
                .wrapping_add(register(of.index) << (of.scale & 3))
                .wrapping_add(of.offset as u64);
            mem::user_sized(address, of.size.into())?
        }
        _ => return None,
    };
    let unused = 64_u32.saturating_sub(u32::from(of.size) * 8) & 63;
    let value = value << unused;
    Some(if of.signed == 0 { value >> unused } else { (value as i64 >> unused) as u64 })
}

/// Emits the stack of a call.
#[inline(always)]
pub fn function_stack(write: impl FnOnce(&mut FunctionStack)) {
    let Some(mut entry) = EVENTS.reserve::<FunctionStack>(0) else { return lost(Loss::RingFull, 0) };
    write(mem::slot(&mut entry));
    submit(entry);
}
