//! TLS hellos, which both ends send in the clear at first, whatever library they use. They are captured where
//! they pass through a socket.

use probe_common::{
    HELLO_SENT, HelloChunk, HelloKey, HelloStart, HelloState, IoDirection, KIND_HELLO, RecordHeader,
    hello_bytes,
};

use crate::{current::Current, emit, maps::HELLOS, mem};

/// The number of bytes that are enough to decide whether a hello begins.
pub const BEGIN: usize = HEADER as usize + size_of::<HelloStart>();

/// The size of a record's header.
const HEADER: u32 = size_of::<RecordHeader>() as u32;

/// The bytes that a system call has transferred.
pub struct SocketTransfer {
    /// The address of the socket.
    pub sock: u64,
    /// [`super::socket_address::identity`].
    pub socket: u64,
    /// The direction of the bytes.
    pub direction: IoDirection,
    /// The number of bytes.
    pub bytes: u64,
    /// The address of the first of them.
    pub address: u64,
    /// The number of bytes that are at this address.
    pub there: u64,
    /// The first bytes, or zeros if they cannot be read.
    pub begin: [u8; BEGIN],
}

impl SocketTransfer {
    /// The first bytes, read as the header of a TLS record.
    #[inline(always)]
    pub fn header(&self) -> RecordHeader {
        let [kind, major, minor, high, low, ..] = self.begin;
        RecordHeader([kind, major, minor, high, low])
    }

    #[inline(always)]
    fn key(&self) -> HelloKey {
        self.sock | u64::from(self.direction == IoDirection::Transmit)
    }
}

/// The result of [`inspect`] for bytes that are not the beginning of a hello. It is not an `Option`, whose
/// unused part verifiers refuse.
pub const NO_HELLO: u8 = 0;

/// Reports the transferred bytes if they are part of a hello. Returns the type of the hello if they are its
/// beginning. The thread must be in scope.
#[inline(always)]
pub fn inspect(current: Current, transfer: &SocketTransfer) -> u8 {
    let known = HELLOS.get_ptr_mut(transfer.key()).map(mem::own);
    let (record, header) = match known {
        Some(state) if state.socket == transfer.socket => {
            if state.wanted != 0 {
                resume(current, transfer, state);
                return NO_HELLO;
            }
            let record = state.record;
            HELLOS.remove(transfer.key()).ok();
            (record, 0)
        }
        _ => {
            let header = transfer.header();
            if !header.is_handshake() || !header.is_valid() || header.is_of_datagrams() {
                return NO_HELLO;
            }
            if transfer.bytes == HEADER.into() {
                remember(transfer, 0, 0, header.length());
                return NO_HELLO;
            }
            (header.length(), HEADER)
        }
    };
    begin(current, transfer, record, header)
}

/// Handles the possible start of a hello after `header` bytes of its record's header. These are 0 if the
/// header was transferred separately before. `record` is the length in that header.
#[inline(always)]
fn begin(current: Current, transfer: &SocketTransfer, record: u32, header: u32) -> u8 {
    if transfer.there < u64::from(header) + size_of::<HelloStart>() as u64 {
        return NO_HELLO;
    }
    let start = match header {
        0 => [0, 1, 2, 3, 4, 5].map(|index| transfer.begin[index]),
        _ => [5, 6, 7, 8, 9, 10].map(|index| transfer.begin[index]),
    };
    let Some(length) = HelloStart(start).length() else { return NO_HELLO };
    let wanted = hello_bytes(length + header, record + header);
    if transfer.bytes < wanted.into() {
        remember(transfer, transfer.bytes as u32, wanted, record);
    }
    emit_part(current, transfer, 0, wanted, if header == 0 { record } else { 0 });
    start[0]
}

/// Handles a continuation of a hello.
#[inline(always)]
fn resume(current: Current, transfer: &SocketTransfer, state: &mut HelloState) {
    let (seen, wanted) = (state.seen, state.wanted);
    let now = u64::from(seen) + transfer.bytes;
    if now < wanted.into() {
        state.seen = now as u32;
    } else {
        HELLOS.remove(transfer.key()).ok();
    }
    emit_part(current, transfer, seen, wanted.saturating_sub(seen), 0);
}

/// Remembers that the rest of a hello is still to come.
#[inline(always)]
fn remember(transfer: &SocketTransfer, seen: u32, wanted: u32, record: u32) {
    let state = HelloState { socket: transfer.socket, seen, wanted, record, reserved: 0 };
    HELLOS.insert(transfer.key(), state, 0).ok();
}

#[inline(always)]
fn emit_part(current: Current, transfer: &SocketTransfer, offset: u32, wanted: u32, record: u32) {
    let there = if transfer.there < transfer.bytes { transfer.there } else { transfer.bytes };
    let bytes = if there < wanted.into() { there as u32 } else { wanted };
    let hello = HelloChunk {
        header: emit::header(KIND_HELLO, current),
        socket: transfer.socket,
        flags: if transfer.direction == IoDirection::Transmit { HELLO_SENT } else { 0 },
        bytes,
        offset,
        record,
    };
    emit::hello(&hello, transfer.address);
}
