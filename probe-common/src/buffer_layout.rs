//! The layout of a call's data when it is not simply "handle, buffer, length".

use crate::IoDirection;

/// The bits above those of a [`CallShape`](crate::CallShape); both use the same bit for the direction.
const SHIFT: u32 = 16;
const BITS: u32 = 0xff;
/// The bits between the two, for the mark of a [`BufferLayout::Message`].
const MARK_SHIFT: u32 = 13;
const MARK: u32 = MAX_MARK as u32;
/// The largest mark of a [`BufferLayout::Message`].
pub const MAX_MARK: u8 = 7;

/// How a function passes its data. The first argument is the handle unless stated otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BufferLayout {
    /// `(handle, pieces, ...)`: an array of address and length pairs of 16 bytes each (`struct iovec`,
    /// `PRIOVec`). Returns the number of bytes moved, counted from the first piece.
    IoVec,
    /// `(handle, pieces, count, skipped, ...)`: the same, without this many bytes at the start.
    IoVecFrom,
    /// `(handle, &chunks)`: the `OutboundChunks` of rustls, which is `{0, address, length}` or `{pieces,
    /// count, begin, end}`. Returns the number of bytes taken.
    RustChunks,
    /// `(handle, address, length)` without a returned value: it moves all bytes, or throws.
    PtrLen,
    /// `(handle, number, &range)`: a C++ vector, `{begin, end}`.
    BeginEnd,
    /// `(handle, &payload)`: the `Payload` of rustls, `{capacity or a mark, address, length}`.
    Payload,
    /// `(.., .., &handle, &message)`: the `Message` of rustls. It is data if its first word is
    /// [`message_mark`] of this number, which is at most [`MAX_MARK`]; a `Payload` then follows that word.
    Message(u8),
    /// `(handle)`: returns the address of a buffer, which a later [`BufferLayout::AckBuffer`] refers to.
    LendBuffer,
    /// `(handle, length)`: this many bytes of the buffer from [`BufferLayout::LendBuffer`] were moved.
    AckBuffer,
    /// `(handle, &packet)`: stores a packet if it returns more than 0; [`BufferLayout::PacketGet`] gives its
    /// data.
    PacketOut,
    /// `(packet, &{address, length of 4 bytes})`: both are stored when it returns.
    PacketGet,
}

impl BufferLayout {
    /// Packs the layout into bits of the lower half of a cookie.
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

    /// The layout that [`BufferLayout::pack`] packed, if there is one.
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

/// The address in a [`BufferLayout::Payload`], given its first two words.
///
/// A payload that does not own its bytes has a mark in place of the capacity: a number that no capacity can
/// have, which the compiler chooses (`1 << 63` in Rust 1.95, `u64::MAX` in 1.100). A payload that owns its
/// bytes has capacity and address in an order that the compiler chooses too. The address is the larger of the
/// two.
pub const fn payload_address(first: u64, second: u64) -> u64 {
    let is_borrowed = first >> 63 == 1;
    if is_borrowed || first < second { second } else { first }
}

/// The first word of a [`BufferLayout::Message`] of data. In other messages this word is a capacity, which
/// never has this form. The compiler chooses the number for data.
pub const fn message_mark(number: u8) -> u64 {
    1 << 63 | number as u64
}

/// Key of the map `LENT`: a lent buffer or a received packet. The values are addresses in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LentKey {
    /// The handle of the connection, or the packet.
    pub handle: u64,
    /// The process id.
    pub pid: u32,
    /// 0: buffer to receive into, 1: buffer to send from, 2: a packet, with the handle of its connection as
    /// value.
    pub purpose: u32,
}

impl LentKey {
    /// The key of a lent buffer for this direction.
    pub const fn bytes(handle: u64, pid: u32, direction: IoDirection) -> Self {
        Self { handle, pid, purpose: matches!(direction, IoDirection::Transmit) as u32 }
    }

    /// The key of a packet.
    pub const fn packet(handle: u64, pid: u32) -> Self {
        Self { handle, pid, purpose: 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::{BufferLayout, MAX_MARK, message_mark, payload_address};
    use crate::{CallShape, Calls, IoDirection, LengthSource};

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
                length: LengthSource::Returned,
                direction: IoDirection::Transmit,
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
