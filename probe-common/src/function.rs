//! Functions of `ctrace uprobe`: what to read of a call and where, and what was read.
//!
//! A [`FunctionSpec`] is written by userspace before anything is attached; the low half of a hook's cookie is
//! its number. One description serves C's registers, Go's registers and the operands of USDT notes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Header;

/// [`Header::kind`] of a [`Function`]: a call has begun. Captured bytes follow.
pub const KIND_FUNCTION_ENTER: u32 = 20;
/// [`Header::kind`] of a [`Function`]: a call has returned; its one value is what it returned.
pub const KIND_FUNCTION_RETURN: u32 = 21;
/// [`Header::kind`] of a [`FunctionStack`]: where the call came from whose [`KIND_FUNCTION_ENTER`] follows,
/// with the same time.
pub const KIND_FUNCTION_STACK: u32 = 22;

/// Values that are read of one call at the most.
pub const FUNCTION_VALUES: usize = 6;
/// Entries of the map `SPECS`.
pub const FUNCTION_SPECS: u32 = 4096;
/// Calls between entry and return that are followed at the same time.
pub const FUNCTION_FRAMES: u32 = 65_536;
/// Keys of the maps that count calls: functions times cgroups.
pub const FUNCTION_COUNTS: u32 = 16_384;
/// Registers that an [`Operand`] can name: on x86-64 the sixteen general ones by their DWARF numbers, then
/// the instruction pointer, which is the address of the probe.
pub const REGISTERS: usize = 17;
/// Return addresses of one [`FunctionStack`] at the most: `kernel.perf_event_max_stack`'s usual value.
pub const STACK_FRAMES: usize = 127;

/// Room for captured bytes of one call: how many values, and bytes of each, with two more for a text; index
/// [`FunctionSpec::room`].
pub const SIZE_CLASSES: [(u32, u32); 10] =
    [(0, 0), (1, 264), (1, 1032), (1, 4104), (2, 264), (2, 1032), (2, 4104), (6, 264), (6, 1032), (6, 4104)];

/// The smallest of the [`SIZE_CLASSES`] for so many values of so many bytes; none if there is no such large
/// one.
pub fn size_class(values: u32, bytes: u32) -> Option<u32> {
    let found = SIZE_CLASSES.iter().position(|room| room.0 >= values && room.1 >= bytes);
    found.and_then(|index| u32::try_from(index).ok())
}

/// [`Operand::source`]: there is none.
pub const SOURCE_NONE: u8 = 0;
/// [`Operand::source`]: [`Operand::offset`] is the value.
pub const SOURCE_CONSTANT: u8 = 1;
/// [`Operand::source`]: a register.
pub const SOURCE_REGISTER: u8 = 2;
/// [`Operand::source`]: memory at `register + (index << scale) + offset`.
pub const SOURCE_MEMORY: u8 = 3;
/// [`Operand::index`]: there is none.
pub const NO_REGISTER: u8 = u8::MAX;

/// Where a value is when a probe is hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Operand {
    /// `SOURCE_`.
    pub source: u8,
    /// DWARF number of a register.
    pub register: u8,
    /// DWARF number of a register that is added, or [`NO_REGISTER`].
    pub index: u8,
    /// Bits that the index is shifted by, up to 3.
    pub scale: u8,
    /// Bytes of the value: 1, 2, 4 or 8.
    pub size: u8,
    /// Not zero: the value is sign-extended.
    pub signed: u8,
    /// Zero.
    pub reserved: u16,
    /// See `SOURCE_`.
    pub offset: i64,
}

/// [`Argument::capture`]: the value alone.
pub const CAPTURE_NONE: u16 = 0;
/// [`Argument::capture`]: the value is the address of a text that is ended by NUL.
pub const CAPTURE_STRING: u16 = 1;
/// [`Argument::capture`]: the value is the address of [`Argument::length`] bytes.
pub const CAPTURE_BYTES: u16 = 2;

/// One value of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Argument {
    /// Where it is.
    pub value: Operand,
    /// Where its length is, for [`CAPTURE_BYTES`].
    pub length: Operand,
    /// `CAPTURE_`.
    pub capture: u16,
    /// The slot that is captured into: how many arguments before this one capture.
    pub slot: u16,
    /// Bytes that are captured at the most; of a text that are ended by NUL, two more.
    pub limit: u32,
}

/// [`FunctionSpec::flags`]: a call gives a record when it begins.
pub const SPEC_ENTER: u32 = 1 << 0;
/// [`FunctionSpec::flags`]: returns are joined to entries.
pub const SPEC_RETURN: u32 = 1 << 1;
/// [`FunctionSpec::flags`]: calls are only counted.
pub const SPEC_COUNT: u32 = 1 << 2;
/// [`FunctionSpec::flags`]: times from entry to return are only counted.
pub const SPEC_LATENCY: u32 = 1 << 3;
/// [`FunctionSpec::flags`]: where the call came from is told.
pub const SPEC_STACK: u32 = 1 << 4;
/// [`FunctionSpec::flags`]: a function of Go, whose stack may be moved while it runs.
pub const SPEC_GO: u32 = 1 << 5;

/// Value of the map `SPECS`: what to do when a function is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FunctionSpec {
    /// `SPEC_`.
    pub flags: u32,
    /// Valid entries of `list`.
    pub arguments: u32,
    /// Index into [`SIZE_CLASSES`]: what the captures of `list` need.
    pub room: u32,
    /// The same for `returned`.
    pub returned_room: u32,
    /// The arguments.
    pub list: [Argument; FUNCTION_VALUES],
    /// What is returned.
    pub returned: Argument,
}

const _: () = assert!(size_of::<FunctionSpec>() == 16 + 7 * 40);

/// A call has begun or returned. `ROOMS[room]` slots of captured bytes follow; see [`Argument::slot`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Function {
    /// Kind [`KIND_FUNCTION_ENTER`] or [`KIND_FUNCTION_RETURN`].
    pub header: Header,
    /// Tells the calls of one thread apart: the stack pointer at the entry; in Go the distance from the end
    /// of the stack, which stays when a stack is moved.
    pub frame: u64,
    /// Go: the goroutine. Else 0.
    pub goroutine: u64,
    /// Nanoseconds of `CLOCK_BOOTTIME` when the call began.
    pub entered: u64,
    /// The hook that was hit: the upper half of its cookie.
    pub site: u32,
    /// Bit n: argument n, or what it points to, could not be read.
    pub faults: u32,
    /// Bit n: not all bytes of argument n were captured.
    pub cut: u32,
    /// Index into [`SIZE_CLASSES`].
    pub room: u32,
    /// The values. For a return, the first is what was returned.
    pub values: [u64; FUNCTION_VALUES],
    /// Bytes captured of each.
    pub lengths: [u32; FUNCTION_VALUES],
}

const _: () = assert!(size_of::<Function>() == 48 + 24 + 16 + 48 + 24);

/// Where a call came from.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FunctionStack {
    /// Kind [`KIND_FUNCTION_STACK`].
    pub header: Header,
    /// What the function returns to, 0 if it could not be read: walking frame pointers misses it at an entry.
    pub caller: u64,
    /// Valid entries of `frames`.
    pub count: u32,
    /// Zero.
    pub reserved: u32,
    /// Addresses, innermost first: the function itself, then return addresses.
    pub frames: [u64; STACK_FRAMES],
}

const _: () = assert!(size_of::<FunctionStack>() == 64 + 8 * STACK_FRAMES);

/// Key of the map `FUNCTION_FRAMES`: a call that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FrameKey {
    /// The thread, or in Go the goroutine.
    pub owner: u64,
    /// [`Function::frame`].
    pub frame: u64,
    /// Process id.
    pub pid: u32,
    /// The hook: a function that jumps to another one has the same place on the stack.
    pub site: u32,
}

/// Value of the map `FUNCTION_FRAMES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FunctionFrame {
    /// [`Function::entered`].
    pub entered: u64,
    /// The cookie of the hook at the entry.
    pub cookie: u64,
}

/// Key of the maps that count calls.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct CountKey {
    /// Id of the cgroup (v2) of the thread that called.
    pub cgroup: u64,
    /// The hook.
    pub site: u32,
    /// Zero.
    pub reserved: u32,
}

/// Buckets of a [`Histogram`]: the last one is for everything longer (more than 39 hours).
pub const BUCKETS: usize = 48;

/// Per-CPU value of the map `LATENCIES`: how long calls took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Histogram {
    /// Sum of the times in nanoseconds.
    pub total: u64,
    /// Bucket n: calls that took less than 2 to the power of n nanoseconds, and not less than half of it.
    pub buckets: [u64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { total: 0, buckets: [0; BUCKETS] }
    }
}

/// The bucket for a time in nanoseconds.
pub const fn bucket(nanoseconds: u64) -> usize {
    let bits = (u64::BITS - nanoseconds.leading_zeros()) as usize;
    if bits < BUCKETS { bits } else { BUCKETS - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two() {
        for (nanoseconds, expected) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (1024, 11)] {
            assert_eq!(bucket(nanoseconds), expected, "{nanoseconds}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_smallest_room_is_taken() {
        for (values, bytes, expected) in [
            (0, 0, Some(0)),
            (1, 1, Some(1)),
            (1, 4096, Some(3)),
            (2, 264, Some(4)),
            (2, 265, Some(5)),
            (3, 1, Some(7)),
            (6, 4096, Some(9)),
            (7, 1, None),
            (1, 4104, Some(3)),
            (1, 4105, None),
        ] {
            assert_eq!(size_class(values, bytes), expected, "{values} {bytes}");
        }
    }
}
