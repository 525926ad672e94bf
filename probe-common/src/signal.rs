//! Signals that the kernel sends to a thread for what it has executed.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Header;

/// [`Header::kind`] of a [`SignalRecord`].
pub const KIND_SIGNAL: u32 = 23;

/// The size of [`SignalRecord::code`].
pub const SIGNAL_CODE: usize = 16;

/// `SIGILL` and `SIGTRAP` of x86-64.
pub const SIGILL: u32 = 4;
/// See [`SIGILL`].
pub const SIGTRAP: u32 = 5;

/// A thread gets a `SIGTRAP` or `SIGILL` from the kernel.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SignalRecord {
    /// Kind [`KIND_SIGNAL`]; of the thread that gets the signal, which need not be in scope.
    pub header: Header,
    /// The instruction pointer.
    pub instruction: u64,
    /// The code before it: for `SIGTRAP` the breakpoint and what follows it, for `SIGILL` the beginning of
    /// the page. Zeros if it cannot be read.
    pub code: [u8; SIGNAL_CODE],
    /// The number of the signal.
    pub signal: u32,
    /// `SIGNAL_` bits.
    pub flags: u32,
}

const _: () = assert!(size_of::<SignalRecord>() == 80);

/// [`SignalRecord::flags`]: the process has no handler, so that the signal ends it.
pub const SIGNAL_ENDS: u32 = 1 << 0;
