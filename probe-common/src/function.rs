//! Functions of `ctrace uprobe`: what to read of a call and where, and what was read.
//!
//! Userspace writes a [`FunctionSpec`] before anything is attached; the lower half of a hook's cookie is its
//! index. The same description serves C's registers, Go's registers and the operands of USDT notes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Header;

/// [`Header::kind`] of a [`FunctionEvent`]: a function was entered. Captured bytes follow.
pub const KIND_FUNCTION_ENTER: u32 = 20;
/// [`Header::kind`] of a [`FunctionEvent`]: a function returned. Its only value is the returned one.
pub const KIND_FUNCTION_RETURN: u32 = 21;
/// [`Header::kind`] of a [`FunctionStack`]: the call stack of the [`KIND_FUNCTION_ENTER`] that follows with
/// the same time.
pub const KIND_FUNCTION_STACK: u32 = 22;

/// Limit of the values that are read of one call.
pub const FUNCTION_VALUES: usize = 6;
/// Entries of the map `SPECS`.
pub const FUNCTION_SPECS: u32 = 4096;
/// Limit of the calls between entry and return that are tracked at the same time.
pub const FUNCTION_FRAMES: u32 = 65_536;
/// Entries of the maps that count calls, which is functions times cgroups.
pub const FUNCTION_COUNTS: u32 = 16_384;
/// The registers that an [`Operand`] can refer to: on x86-64 the sixteen general ones by their DWARF numbers,
/// then the instruction pointer, which is the address of the probe.
pub const REGISTERS: usize = 17;
/// Limit of the return addresses in one [`FunctionStack`]: the default of `kernel.perf_event_max_stack`.
pub const STACK_FRAMES: usize = 127;

/// The sizes of the space for captured bytes of one call: number of values, and bytes of each, including two
/// more for a string. [`FunctionSpec::room`] is an index into it.
pub const SIZE_CLASSES: [(u32, u32); 10] =
    [(0, 0), (1, 264), (1, 1032), (1, 4104), (2, 264), (2, 1032), (2, 4104), (6, 264), (6, 1032), (6, 4104)];

/// The smallest of the [`SIZE_CLASSES`] for this many values of this many bytes. None if all are too small.
pub fn size_class(values: u32, bytes: u32) -> Option<u32> {
    let found = SIZE_CLASSES.iter().position(|room| room.0 >= values && room.1 >= bytes);
    found.and_then(|index| u32::try_from(index).ok())
}

/// [`Operand::source`]: there is no value.
pub const SOURCE_NONE: u8 = 0;
/// [`Operand::source`]: [`Operand::offset`] is the value.
pub const SOURCE_CONSTANT: u8 = 1;
/// [`Operand::source`]: a register.
pub const SOURCE_REGISTER: u8 = 2;
/// [`Operand::source`]: memory at `register + (index << scale) + offset`.
pub const SOURCE_MEMORY: u8 = 3;
/// [`Operand::register`] and [`Operand::index`]: no register.
pub const NO_REGISTER: u8 = u8::MAX;

/// Where a value is when a probe is hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Operand {
    /// A `SOURCE_` constant.
    pub source: u8,
    /// The DWARF number of the register, or [`NO_REGISTER`].
    pub register: u8,
    /// The DWARF number of the register that is added, or [`NO_REGISTER`].
    pub index: u8,
    /// By how many bits the index is shifted, up to 3.
    pub scale: u8,
    /// The size of the value in bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// Not zero if the value is sign-extended.
    pub signed: u8,
    /// Zero.
    pub reserved: u16,
    /// The constant, or the offset of the address; see the `SOURCE_` constants.
    pub offset: i64,
}

/// [`ArgumentSpec::capture`]: only the value itself.
pub const CAPTURE_NONE: u16 = 0;
/// [`ArgumentSpec::capture`]: the value points to text that ends with a NUL.
pub const CAPTURE_STRING: u16 = 1;
/// [`ArgumentSpec::capture`]: the value points to [`ArgumentSpec::length`] bytes.
pub const CAPTURE_BYTES: u16 = 2;

/// [`ArgumentSpec::capture`]: the value points to a `std::string` of libc++. If the lowest bit of its first
/// byte is 0, the other bits are the length, and the text follows; else its length is at 8 and its address at
/// 16.
pub const CAPTURE_LIBCXX_STRING: u16 = 3;

/// One value of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArgumentSpec {
    /// Where the value is.
    pub value: Operand,
    /// Where the length is, for [`CAPTURE_BYTES`].
    pub length: Operand,
    /// A `CAPTURE_` constant.
    pub capture: u16,
    /// The slot for the captured bytes: the number of capturing arguments before this one.
    pub slot: u16,
    /// Limit of the captured bytes; for text that ends with a NUL, this includes two more.
    pub limit: u32,
}

/// [`FunctionSpec::flags`]: emit a record at the entry.
pub const SPEC_ENTER: u32 = 1 << 0;
/// [`FunctionSpec::flags`]: join returns to entries.
pub const SPEC_RETURN: u32 = 1 << 1;
/// [`FunctionSpec::flags`]: only count calls.
pub const SPEC_COUNT: u32 = 1 << 2;
/// [`FunctionSpec::flags`]: only count durations.
pub const SPEC_LATENCY: u32 = 1 << 3;
/// [`FunctionSpec::flags`]: emit the call stack.
pub const SPEC_STACK: u32 = 1 << 4;
/// [`FunctionSpec::flags`]: a Go function, whose stack may move while it runs.
pub const SPEC_GO: u32 = 1 << 5;

/// Value of the map `SPECS`: what to do when a function is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FunctionSpec {
    /// `SPEC_` bits.
    pub flags: u32,
    /// How many entries of `list` are valid.
    pub arguments: u32,
    /// The size class for the captures of `list`: an index into [`SIZE_CLASSES`].
    pub room: u32,
    /// The size class for the capture of `returned`.
    pub returned_room: u32,
    /// The arguments.
    pub list: [ArgumentSpec; FUNCTION_VALUES],
    /// The returned value.
    pub returned: ArgumentSpec,
}

const _: () = assert!(size_of::<FunctionSpec>() == 16 + 7 * 40);

/// A function was entered or returned. `SIZE_CLASSES[room]` slots of captured bytes follow; see
/// [`ArgumentSpec::slot`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FunctionEvent {
    /// Kind [`KIND_FUNCTION_ENTER`] or [`KIND_FUNCTION_RETURN`].
    pub header: Header,
    /// Distinguishes the calls of one process: the stack pointer at the entry. In Go, its distance from the
    /// end of the stack, which does not change when the stack moves.
    pub frame: u64,
    /// In Go, the goroutine; otherwise 0.
    pub goroutine: u64,
    /// The time of the entry, in nanoseconds of `CLOCK_BOOTTIME`.
    pub entered: u64,
    /// The address of the probe; of the kernel's return probe, the return address.
    pub instruction: u64,
    /// The hook that was hit: the upper half of its cookie.
    pub site: u32,
    /// Bit n is set if argument n, or what it points to, could not be read. Userspace counts these.
    pub faults: u32,
    /// Bit n is set if argument n was captured only in part.
    pub cut: u32,
    /// An index into [`SIZE_CLASSES`].
    pub room: u32,
    /// The values. At a return, the first is the returned one.
    pub values: [u64; FUNCTION_VALUES],
    /// How many bytes were captured of each argument. Of one that could not be read: how many would have
    /// been, or 0 if that is not known.
    pub lengths: [u32; FUNCTION_VALUES],
}

const _: () = assert!(size_of::<FunctionEvent>() == 48 + 32 + 16 + 48 + 24);

/// The call stack of a call.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FunctionStack {
    /// Kind [`KIND_FUNCTION_STACK`].
    pub header: Header,
    /// The return address, or 0 if it could not be read. At an entry, walking frame pointers misses it.
    pub caller: u64,
    /// How many entries of `frames` are valid.
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
    /// In Go, the goroutine; otherwise 0.
    pub owner: u64,
    /// [`FunctionEvent::frame`].
    pub frame: u64,
    /// The process id.
    pub pid: u32,
    /// The hook, because a function and the one that it tail-jumps to have the same stack position.
    pub site: u32,
}

/// Value of the map `FUNCTION_FRAMES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FunctionFrame {
    /// [`FunctionEvent::entered`].
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
    /// The id of the calling thread's cgroup (v2).
    pub cgroup: u64,
    /// The hook.
    pub site: u32,
    /// Zero.
    pub reserved: u32,
}

/// The number of buckets in a [`Histogram`]. The last one is for all longer durations (more than 39 hours).
pub const BUCKETS: usize = 48;

/// Per-CPU value of the map `LATENCIES`: durations of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Histogram {
    /// The sum of the durations in nanoseconds.
    pub total: u64,
    /// Bucket n counts durations of less than 2^n nanoseconds, but at least half of that.
    pub buckets: [u64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { total: 0, buckets: [0; BUCKETS] }
    }
}

/// The bucket of a duration in nanoseconds.
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
