//! Where a "move bytes" function has its handle, buffer and length: one word, the attach cookie.

/// Which way the bytes of a call go, seen from the traced process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The call received: its buffer holds what came from the peer.
    Receive,
    /// The call sent: its buffer holds what goes to the peer.
    Transmit,
}

/// Where the number of transferred bytes is when the function has returned.
///
/// In both cases a return value that is not positive (as a C `int`) means that nothing was transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Length {
    /// The return value itself (a C `int`).
    Returned,
    /// A `size_t` at the address in argument `n`.
    OutArgument(u8),
}

/// The shape of one hooked function and the number of the hook, packed into a cookie of 64 bits.
///
/// Argument numbers count from 0 and are below [`CallShape::ARGUMENTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallShape {
    /// Argument that identifies the connection.
    pub handle: u8,
    /// Argument that points to the bytes.
    pub buffer: u8,
    /// Where the length is.
    pub length: Length,
    /// Which way the bytes go.
    pub direction: Direction,
    /// Number of the hook in the plan.
    pub site: u32,
}

const OUT_ARGUMENT: u64 = 1 << 9;
const TRANSMIT: u64 = 1 << 10;

impl CallShape {
    /// Arguments that are passed in registers and saved at entry (SysV AMD64: six).
    pub const ARGUMENTS: u8 = 6;

    /// The cookie: bits 0 to 2 the handle's argument, 3 to 5 the buffer's, 6 to 8 the length's,
    /// 9 whether the length is behind an argument, 10 the direction, 32 to 63 the site.
    pub const fn pack(self) -> u64 {
        let length = match self.length {
            Length::Returned => 0,
            Length::OutArgument(n) => OUT_ARGUMENT | ((n & 7) as u64) << 6,
        };
        let direction = match self.direction {
            Direction::Receive => 0,
            Direction::Transmit => TRANSMIT,
        };
        (self.handle & 7) as u64
            | ((self.buffer & 7) as u64) << 3
            | length
            | direction
            | (self.site as u64) << 32
    }

    /// The shape that [`CallShape::pack`] made `cookie` of.
    pub const fn unpack(cookie: u64) -> Self {
        Self {
            handle: (cookie & 7) as u8,
            buffer: (cookie >> 3 & 7) as u8,
            length: if cookie & OUT_ARGUMENT == 0 {
                Length::Returned
            } else {
                Length::OutArgument((cookie >> 6 & 7) as u8)
            },
            direction: if cookie & TRANSMIT == 0 { Direction::Receive } else { Direction::Transmit },
            site: (cookie >> 32) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CallShape, Direction, Length};

    #[test]
    fn every_shape_survives_packing() {
        for handle in 0..CallShape::ARGUMENTS {
            for buffer in 0..CallShape::ARGUMENTS {
                for length in [Length::Returned, Length::OutArgument(3), Length::OutArgument(5)] {
                    for direction in [Direction::Receive, Direction::Transmit] {
                        for site in [0, 1, u32::MAX] {
                            let shape = CallShape { handle, buffer, length, direction, site };
                            assert_eq!(CallShape::unpack(shape.pack()), shape);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_cookie_of_ssl_write_is_stable() {
        let shape = CallShape {
            handle: 0,
            buffer: 1,
            length: Length::Returned,
            direction: Direction::Transmit,
            site: 7,
        };
        assert_eq!(shape.pack(), 7 << 32 | 1 << 10 | 1 << 3);
    }
}
