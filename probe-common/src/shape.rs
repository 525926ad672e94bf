//! The attach cookie, and the shape of a function that moves bytes: where its handle, buffer and length are.

/// The cookie of a hook: its site in the upper half, how to read its arguments in the lower half.
pub const fn cookie(site: u32, arguments: u32) -> u64 {
    (site as u64) << 32 | arguments as u64
}

/// Limit of the words that a function may have pushed before its hook.
pub const MAX_PUSHED: u8 = u8::MAX;
const PUSHED_SHIFT: u32 = 24;
const PUSHED: u32 = (MAX_PUSHED as u32) << PUSHED_SHIFT;
const WORD_BYTES: u64 = 8;

/// Adds to `arguments` the number of words that the function has pushed before the hook.
pub const fn behind_pushes(arguments: u32, words: u8) -> u32 {
    arguments & !PUSHED | (words as u32) << PUSHED_SHIFT & PUSHED
}

/// The distance from the top of the stack at the hook with this cookie to the return address of its function.
pub const fn pushed_bytes(cookie: u64) -> u64 {
    ((arguments(cookie) & PUSHED) >> PUSHED_SHIFT) as u64 * WORD_BYTES
}

/// The part of a cookie's arguments that describes the call, independent of the hook's position in the
/// function.
pub const fn kind_of_call(cookie: u64) -> u32 {
    arguments(cookie) & !PUSHED
}

/// The site of the hook with this cookie.
pub const fn site(cookie: u64) -> u32 {
    (cookie >> 32) as u32
}

/// How to read the arguments of the hook with this cookie.
#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
pub const fn arguments(cookie: u64) -> u32 {
    cookie as u32
}

/// The direction of the data of a call, as seen from the traced process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IoDirection {
    /// The call receives: its buffer holds data from the peer.
    Receive,
    /// The call sends: its buffer holds data for the peer.
    Transmit,
}

/// Where the number of moved bytes is when the function has returned.
///
/// In both cases, a returned value that is not positive (as a C `int`) means that nothing was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LengthSource {
    /// The returned value itself (a C `int`).
    Returned,
    /// A `size_t` at the address in argument `n`.
    OutArgument(u8),
}

/// A flag of NSPR's PR_Recv (prio.h).
const PR_MSG_PEEK: u64 = 2;

/// Which calls of a function belong to TLS connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Calls {
    /// All calls.
    #[default]
    All,
    /// Calls whose handle is a tracked connection. Others are for files and pipes.
    OfTls,
    /// The same, except that the fourth argument has flags, of which `PR_MSG_PEEK` (2) means that the call
    /// only peeks.
    OfTlsUnlessPeeking,
    /// All calls, except for those whose fourth argument is true (an `int`), which only peek.
    AllUnlessPeeking,
}

impl Calls {
    /// Whether every handle is a TLS connection.
    pub const fn is_for_all(self) -> bool {
        matches!(self, Self::All | Self::AllUnlessPeeking)
    }

    /// Whether a call with this fourth argument only peeks, so that the next call returns the same bytes
    /// again.
    #[expect(clippy::cast_possible_truncation, reason = "an `int` has the lower half of its register")]
    pub const fn only_looks(self, fourth: u64) -> bool {
        match self {
            Self::All | Self::OfTls => false,
            Self::OfTlsUnlessPeeking => fourth & PR_MSG_PEEK != 0,
            Self::AllUnlessPeeking => fourth as u32 != 0,
        }
    }
}

/// The shape of a hooked function, packed into the lower half of its cookie.
///
/// Argument numbers count from 0 and are below [`CallShape::ARGUMENTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallShape {
    /// The number of the argument that identifies the connection.
    pub handle: u8,
    /// The number of the argument that points to the buffer.
    pub buffer: u8,
    /// Where the number of moved bytes is.
    pub length: LengthSource,
    /// The direction of the data.
    pub direction: IoDirection,
    /// Which calls belong to TLS connections.
    pub calls: Calls,
}

const OUT_ARGUMENT: u32 = 1 << 9;
const TRANSMIT: u32 = 1 << 10;
const OF_TLS: u32 = 1 << 11;
const UNLESS_PEEKING: u32 = 1 << 12;

impl CallShape {
    /// How many arguments are passed in registers and saved at the entry (System V AMD64: six).
    pub const ARGUMENTS: u8 = 6;

    /// Packs the shape: bits 0 to 2 are the argument of the handle, 3 to 5 that of the buffer, 6 to 8 that of
    /// the length; 9 is set if the length is behind an argument; 10 is the direction; 11 and 12 are `calls`.
    /// [`BufferLayout`](crate::BufferLayout) uses bits 13 to 23, [`behind_pushes`] those from 24 on.
    pub const fn pack(self) -> u32 {
        let length = match self.length {
            LengthSource::Returned => 0,
            LengthSource::OutArgument(n) => OUT_ARGUMENT | ((n & 7) as u32) << 6,
        };
        let direction = match self.direction {
            IoDirection::Receive => 0,
            IoDirection::Transmit => TRANSMIT,
        };
        let calls = match self.calls {
            Calls::All => 0,
            Calls::OfTls => OF_TLS,
            Calls::OfTlsUnlessPeeking => OF_TLS | UNLESS_PEEKING,
            Calls::AllUnlessPeeking => UNLESS_PEEKING,
        };
        (self.handle & 7) as u32 | ((self.buffer & 7) as u32) << 3 | length | direction | calls
    }

    /// The shape that [`CallShape::pack`] packed into `arguments`.
    pub const fn unpack(arguments: u32) -> Self {
        Self {
            handle: (arguments & 7) as u8,
            buffer: (arguments >> 3 & 7) as u8,
            length: if arguments & OUT_ARGUMENT == 0 {
                LengthSource::Returned
            } else {
                LengthSource::OutArgument((arguments >> 6 & 7) as u8)
            },
            direction: if arguments & TRANSMIT == 0 { IoDirection::Receive } else { IoDirection::Transmit },
            calls: match (arguments & OF_TLS, arguments & UNLESS_PEEKING) {
                (0, 0) => Calls::All,
                (0, _) => Calls::AllUnlessPeeking,
                (_, 0) => Calls::OfTls,
                _ => Calls::OfTlsUnlessPeeking,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        CallShape, Calls, IoDirection, LengthSource, MAX_PUSHED, arguments, behind_pushes, cookie,
        kind_of_call, pushed_bytes, site,
    };
    use crate::BufferLayout;

    #[test]
    fn every_shape_survives_packing() {
        let all = [Calls::All, Calls::OfTls, Calls::OfTlsUnlessPeeking, Calls::AllUnlessPeeking];
        for handle in 0..CallShape::ARGUMENTS {
            for buffer in 0..CallShape::ARGUMENTS {
                for length in
                    [LengthSource::Returned, LengthSource::OutArgument(3), LengthSource::OutArgument(5)]
                {
                    for direction in [IoDirection::Receive, IoDirection::Transmit] {
                        for calls in all {
                            let shape = CallShape { handle, buffer, length, direction, calls };
                            assert_eq!(CallShape::unpack(shape.pack()), shape);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn calls_that_only_look() {
        let looking = [Calls::All, Calls::OfTls, Calls::OfTlsUnlessPeeking, Calls::AllUnlessPeeking];
        let of = |fourth| looking.map(|calls| calls.only_looks(fourth));
        assert_eq!(of(0), [false; 4]);
        assert_eq!(of(1), [false, false, false, true]);
        assert_eq!(of(2), [false, false, true, true]);
        assert_eq!(of(1 << 32), [false; 4]);
    }

    #[test]
    fn what_was_pushed_changes_nothing_else() {
        let shape = CallShape {
            handle: 0,
            buffer: 1,
            length: LengthSource::OutArgument(3),
            direction: IoDirection::Transmit,
            calls: Calls::OfTlsUnlessPeeking,
        };
        let both = shape.pack() | BufferLayout::PacketGet.pack();
        for words in 0..=MAX_PUSHED {
            let cookie = cookie(u32::MAX, behind_pushes(both, words));
            assert_eq!(pushed_bytes(cookie), u64::from(words) * 8);
            assert_eq!((site(cookie), kind_of_call(cookie)), (u32::MAX, both));
            assert_eq!(CallShape::unpack(arguments(cookie)), shape);
            assert_eq!(BufferLayout::unpack(arguments(cookie)), Some(BufferLayout::PacketGet));
        }
    }

    #[test]
    fn the_cookie_of_ssl_write_is_stable() {
        let shape = CallShape {
            handle: 0,
            buffer: 1,
            length: LengthSource::Returned,
            direction: IoDirection::Transmit,
            calls: Calls::All,
        };
        assert_eq!(cookie(7, shape.pack()), 7 << 32 | 1 << 10 | 1 << 3);
        for number in [0, 1, u32::MAX] {
            let both = cookie(number, u32::MAX - 1);
            assert_eq!((site(both), arguments(both)), (number, u32::MAX - 1));
        }
    }
}
