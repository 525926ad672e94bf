//! The only writer of the ring buffer, and of the counters of what did not get there.

mod connection;
mod exec;

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::bpf_get_current_comm,
    maps::ring_buf::RingBufEntry,
};
use probe_common::{
    Argument, CAPTURE_BYTES, CAPTURE_STRING, CGROUP_PATH, CHUNK_BYTES, Call, CgroupEvent, FLAG_FAULT,
    FUNCTION_VALUES, Function, FunctionStack, HELLO_BYTES, Header, Hello, KIND_STOPPED, Loss, Operand,
    REGISTERS, SOURCE_CONSTANT, SOURCE_MEMORY, SOURCE_REGISTER, Socket,
};

use crate::{
    maps::{EVENTS, LOST, STOPPED, SUPPRESS_CALLS, WAKE_SHIFT},
    mem,
    scope::Current,
};

pub use connection::*;
pub use exec::*;

/// A call's record with room for `N` bytes of payload.
///
/// The verifier wants a constant size: payloads go into the smallest of a few. A record has its own
/// length in [`Call::chunk`]; the rest of the room is what was there before and is not read.
#[repr(C)]
struct Slot<const N: usize> {
    call: Call,
    payload: MaybeUninit<[u8; N]>,
}

/// The beginning of a record about the current thread.
#[inline(always)]
pub fn header(kind: u32, current: Current) -> Header {
    Header {
        kind,
        pid: current.pid(),
        tid: current.tid(),
        reserved: 0,
        time: mem::now(),
        cgroup: mem::cgroup(),
        comm: bpf_get_current_comm().unwrap_or_default(),
    }
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

/// How soon userspace sees a record.
#[derive(Clone, Copy)]
pub enum Notice {
    /// When it drains the ring next.
    Soon,
    /// At once: it is woken, which costs the current thread some microseconds.
    Now,
}

/// Emits a record that is only a header.
#[inline(always)]
pub fn bare(kind: u32, current: Current, notice: Notice) {
    match EVENTS.reserve::<Header>(0) {
        Some(mut entry) => {
            entry.write(header(kind, current));
            match notice {
                Notice::Soon => submit(entry),
                Notice::Now => entry.submit(BPF_RB_FORCE_WAKEUP.into()),
            }
        }
        None => lost(Loss::RingFull, 0),
    }
}

/// Stops the current process, and tells userspace at once; neither if one of both cannot be.
///
/// Userspace continues a process when it reads the record: the signal must have been sent by then.
#[inline(always)]
pub fn held(current: Current) {
    let Some(mut entry) = EVENTS.reserve::<Header>(0) else {
        return lost(Loss::RingFull, 0);
    };
    if STOPPED.insert(current.pid(), 1, 0).is_err() {
        return entry.discard(0);
    }
    entry.write(header(KIND_STOPPED, current));
    if mem::stop_current() {
        // Another thread's record may have been handled in between, and the entry removed with it.
        STOPPED.insert(current.pid(), 1, 0).ok();
        entry.submit(BPF_RB_FORCE_WAKEUP.into());
    } else {
        STOPPED.remove(current.pid()).ok();
        entry.discard(0);
    }
}

/// Emits a record about a cgroup at once; `path` writes its path, ended by NUL, and says whether it could.
#[inline(always)]
pub fn cgroup(kind: u32, id: u64, level: u32, path: impl FnOnce(&mut [u8; CGROUP_PATH]) -> bool) {
    let Some(mut entry) = EVENTS.reserve::<CgroupEvent>(0) else { return lost(Loss::RingFull, 0) };
    let event = mem::slot(&mut entry);
    event.header = header(kind, Current::any());
    event.id = id;
    event.level = level;
    event.reserved = 0;
    if !path(&mut event.path) {
        event.path[0] = 0;
    }
    entry.submit(BPF_RB_FORCE_WAKEUP.into());
}

/// Emits a chunk of a call: `call.chunk` bytes at `address`.
#[inline(always)]
pub fn chunk(call: &Call, address: u64) {
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
pub fn full_chunk(call: &Call, address: u64) {
    slot::<CHUNK_BYTES>(call, address);
}

/// Emits a chunk that is one of many small ones, as [`chunk`] does, with fewer sizes: the verifier looks at
/// each of them in each round of a loop.
#[inline(always)]
pub fn piece(call: &Call, address: u64) {
    match call.chunk {
        0..=1024 => slot::<1024>(call, address),
        _ => slot::<CHUNK_BYTES>(call, address),
    }
}

#[inline(always)]
fn slot<const N: usize>(call: &Call, address: u64) {
    if mem::constant(&SUPPRESS_CALLS) != 0 {
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<Slot<N>>(0) else {
        return lost(Loss::RingFull, call.chunk.into());
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

/// The values of a function's call that are to be read.
pub struct Values<'a> {
    /// What to read.
    pub list: &'a [Argument],
    /// Valid entries of it.
    pub count: u32,
    /// Index into `ROOMS`.
    pub room: u32,
}

/// A function's record with room for the bytes of `C` values.
#[repr(C)]
struct Room<const C: usize, const S: usize> {
    function: Function,
    slots: [MaybeUninit<[u8; S]>; C],
}

/// Emits the record of a call that has begun or returned; `head` writes what is not about its values. None if
/// there was no room in the ring.
#[inline(always)]
pub fn function(
    values: &Values<'_>,
    registers: &[u64; REGISTERS],
    head: impl FnOnce(&mut Function),
) -> Option<()> {
    // The rooms of `ROOMS`.
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
    head: impl FnOnce(&mut Function),
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

/// Reads one value, and what it points to into the next slot.
#[inline(always)]
fn read<const C: usize, const S: usize>(
    argument: &Argument,
    index: usize,
    room: &mut Room<C, S>,
    registers: &[u64; REGISTERS],
) {
    let function = &mut room.function;
    let bit = 1 << index;
    let Some(value) = operand(&argument.value, registers) else {
        function.faults |= bit;
        return lost(Loss::ArgumentFault, 0);
    };
    if let Some(to) = function.values.get_mut(index) {
        *to = value;
    }
    let wanted = argument.limit.min(S as u32);
    // Not counted here: the verifier would follow each of the numbers that it can be by itself.
    let slot = usize::from(argument.slot);
    let captured = match argument.capture {
        CAPTURE_STRING => {
            let Some(to) = room.slots.get_mut(slot) else { return };
            let copied = mem::copy_user_text(to, value, wanted);
            // There is room for one byte more than is told: where that is needed, there is more than that.
            copied.map(|length| {
                let is_cut = length == wanted;
                (length - 1 - u32::from(is_cut), is_cut)
            })
        }
        CAPTURE_BYTES => {
            let Some(to) = room.slots.get_mut(slot) else { return };
            operand(&argument.length, registers).and_then(|length| {
                let part = if length > wanted.into() { wanted } else { length as u32 };
                let copied = part == 0 || mem::copy_user(to, value, part);
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
        None => {
            function.faults |= bit;
            lost(Loss::ArgumentFault, 0);
        }
    }
}

/// The value of an operand; none if it is in memory that cannot be read.
#[inline(always)]
fn operand(of: &Operand, registers: &[u64; REGISTERS]) -> Option<u64> {
    let register = |number: u8| registers.get(usize::from(number)).copied().unwrap_or(0);
    let value = match of.source {
        SOURCE_CONSTANT => return Some(of.offset as u64),
        SOURCE_REGISTER => register(of.register),
        SOURCE_MEMORY => {
            // No register has the number that stands for none.
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

/// Emits where a call came from.
#[inline(always)]
pub fn stack(write: impl FnOnce(&mut FunctionStack)) {
    let Some(mut entry) = EVENTS.reserve::<FunctionStack>(0) else { return lost(Loss::RingFull, 0) };
    write(mem::slot(&mut entry));
    submit(entry);
}

/// Room for what a connection's socket is, to be [submitted](submit); none if there is none. No call is
/// missing then: the next one tells it. (A closure that writes it would be a function of its own, for whose
/// stack older verifiers have no room.)
#[inline(always)]
pub fn socket() -> Option<RingBufEntry<Socket>> {
    EVENTS.reserve::<Socket>(0)
}

/// A [`Hello`] with room for `N` bytes.
#[repr(C)]
struct HelloSlot<const N: usize> {
    hello: Hello,
    bytes: MaybeUninit<[u8; N]>,
}

/// Emits a part of a hello: `bytes` bytes at `address`; `head` writes the rest. What cannot be is not known:
/// no data is missing.
#[inline(always)]
pub fn hello(bytes: u32, address: u64, head: impl FnOnce(&mut Hello)) {
    match bytes {
        0..=640 => hello_slot::<640>(bytes, address, head),
        _ => hello_slot::<{ HELLO_BYTES as usize }>(bytes, address, head),
    }
}

#[inline(always)]
fn hello_slot<const N: usize>(bytes: u32, address: u64, head: impl FnOnce(&mut Hello)) {
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

/// Submits without waking the reader, which drains the ring by a timer, unless the ring's fill passes
/// another mark: a wakeup costs the traced thread more than all the rest.
#[inline(always)]
pub fn submit<T: 'static>(entry: RingBufEntry<T>) {
    let fill = EVENTS.query(BPF_RB_AVAIL_DATA.into());
    let before = fill.saturating_sub(size_of::<T>() as u64);
    let shift = mem::constant(&WAKE_SHIFT) & 63;
    let passed = (fill >> shift) != (before >> shift);
    entry.submit(if passed { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }.into());
}
