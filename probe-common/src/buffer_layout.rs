//! Where the bytes of a call are when "handle, buffer, length" does not say it.

use crate::Direction;

/// Bits above those of a [`CallShape`](crate::CallShape), whose direction is at the same place.
const SHIFT: u32 = 16;
const BITS: u32 = 0xff;
/// Bits that a [`CallShape`](crate::CallShape) leaves below those, for the number of a
/// [`BufferLayout::Message`].
const MARK_SHIFT: u32 = 13;
const MARK: u32 = MAX_MARK as u32;
/// The largest number of a [`BufferLayout::Message`].
pub const MAX_MARK: u8 = 7;

/// How a function has its bytes. Its first argument is the handle, unless it is said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BufferLayout {
    /// `(handle, pieces, ...)`: an array of addresses and lengths of 16 bytes each (`struct iovec`,
    /// `PRIOVec`). Returns how many bytes it has moved, from the first piece on.
    IoVec,
    /// `(handle, pieces, count, skipped, ...)`: the same, but for so many bytes at the beginning.
    IoVecFrom,
    /// `(handle, &chunks)`: rustls's `OutboundChunks`, which is `{0, address, length}` or `{pieces, count,
    /// begin, end}`. Returns how many bytes it has taken.
    RustChunks,
    /// `(handle, address, length)` with nothing returned: it moves all, or throws.
    PtrLen,
    /// `(handle, number, &range)`: a C++ vector, `{begin, end}`.
    BeginEnd,
    /// `(handle, &payload)`: rustls's `Payload`, `{capacity or a mark, address, length}`.
    Payload,
    /// `(.., .., &handle, &message)`: rustls's `Message`, which is data if its first word is [`message_mark`]
    /// of this number, at the most [`MAX_MARK`], and has a `Payload` behind that word then.
    Message(u8),
    /// `(handle)`: returns the address of bytes, for a [`BufferLayout::AckBuffer`] after it.
    LendBuffer,
    /// `(handle, length)`: so many of the bytes that [`BufferLayout::LendBuffer`] gave were moved.
    AckBuffer,
    /// `(handle, &packet)`: there is a packet then, if it returns more than 0; [`BufferLayout::PacketGet`]
    /// tells its bytes.
    PacketOut,
    /// `(packet, &{address, length of 4 bytes})`: they are there when it returns.
    PacketGet,
}

impl BufferLayout {
    /// The bits in the lower half of a cookie.
    pub const fn pack(self) -> u32 {
        let (number, mark) = match self {
            Self::IoVec => (1, 0),
            Self::IoVecFrom => (2, 0),
            Self::RustChunks => (3, 0),
            Self::PtrLen => (4, 0),
            Self::BeginEnd => (5, 0),
            Self::Payload => (6, 0),
            Self::LendBuffer => (7, 0),
            Self::AckBuffer => (8, 0),
            Self::PacketOut => (9, 0),
            Self::PacketGet => (10, 0),
            Self::Message(mark) => (11, mark),
        };
        number << SHIFT | (mark as u32 & MARK) << MARK_SHIFT
    }

    /// The form that [`BufferLayout::pack`] made bits of.
    pub const fn unpack(arguments: u32) -> Option<Self> {
        match arguments >> SHIFT & BITS {
            1 => Some(Self::IoVec),
            2 => Some(Self::IoVecFrom),
            3 => Some(Self::RustChunks),
            4 => Some(Self::PtrLen),
            5 => Some(Self::BeginEnd),
            6 => Some(Self::Payload),
            7 => Some(Self::LendBuffer),
            8 => Some(Self::AckBuffer),
            9 => Some(Self::PacketOut),
            10 => Some(Self::PacketGet),
            11 => Some(Self::Message((arguments >> MARK_SHIFT & MARK) as u8)),
            _ => None,
        }
    }
}

/// Where a [`BufferLayout::Payload`] has its bytes, by its first two words.
///
/// What does not own its bytes has a mark in place of the capacity, which the compiler chooses of the numbers
/// that no capacity can be: `1 << 63` in Rust 1.95, `u64::MAX` in 1.100. What owns them has its capacity
/// before the address, or behind it: the compiler decides, too. An address is the larger one.
pub const fn payload_address(first: u64, second: u64) -> u64 {
    let is_borrowed = first >> 63 == 1;
    if is_borrowed || first < second { second } else { first }
}

/// The first word of a [`BufferLayout::Message`] of data: no capacity, which the word is in a message of
/// another kind. Which number has data, the compiler decides.
pub const fn message_mark(number: u8) -> u64 {
    1 << 63 | number as u64
}

/// What bytes were lent for, or a packet was received: key of the map `LENT`, whose values are addresses of
/// the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LentKey {
    /// The handle of the connection, or the packet.
    pub handle: u64,
    /// The process.
    pub pid: u32,
    /// 0: bytes to receive, 1: bytes to send, 2: a packet, whose value is its connection's handle.
    pub purpose: u32,
}

impl LentKey {
    /// Of bytes that will go this way.
    pub const fn bytes(handle: u64, pid: u32, direction: Direction) -> Self {
        Self { handle, pid, purpose: matches!(direction, Direction::Transmit) as u32 }
    }

    /// Of a packet.
    pub const fn packet(handle: u64, pid: u32) -> Self {
        Self { handle, pid, purpose: 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::{BufferLayout, MAX_MARK, message_mark, payload_address};
    use crate::{CallShape, Calls, Direction, Length};

    #[test]
    fn a_form_and_a_shape_share_a_cookie() {
        let all = [
            BufferLayout::IoVec,
            BufferLayout::IoVecFrom,
            BufferLayout::RustChunks,
            BufferLayout::PtrLen,
            BufferLayout::BeginEnd,
            BufferLayout::Payload,
            BufferLayout::LendBuffer,
            BufferLayout::AckBuffer,
            BufferLayout::PacketOut,
            BufferLayout::PacketGet,
            BufferLayout::Message(0),
            BufferLayout::Message(MAX_MARK),
        ];
        for form in all {
            let shape = CallShape {
                handle: 0,
                buffer: 1,
                length: Length::Returned,
                direction: Direction::Transmit,
                calls: Calls::OfTlsUnlessPeeking,
            };
            let both = shape.pack() | form.pack();
            assert_eq!(BufferLayout::unpack(both), Some(form));
            assert_eq!(CallShape::unpack(both), shape);
            assert_eq!(BufferLayout::unpack(shape.pack()), None);
        }
    }

    #[test]
    fn a_mark_is_no_capacity() {
        assert_eq!(message_mark(4), 0x8000_0000_0000_0004);
        assert!(message_mark(0) > isize::MAX as u64);
    }

    #[test]
    fn a_payload_has_its_address_wherever_the_compiler_puts_it() {
        let address = 0x7f12_3456_7890;
        for (first, second) in
            [(1 << 63, address), (u64::MAX, address), (16 << 10, address), (address, 16 << 10)]
        {
            assert_eq!(payload_address(first, second), address, "{first:#x} {second:#x}");
        }
    }
}
