//! What both ends of a TLS connection say first, in the clear, whatever library they have: hellos are taken
//! where they go through a socket.

use probe_common::{HELLO_SENT, HelloKey, HelloStart, HelloState, KIND_HELLO, RecordHeader, hello_bytes};

use super::socket::Way;
use crate::{emit, maps::HELLOS, mem, scope::Current};

/// Bytes that tell whether a hello begins.
pub const BEGIN: usize = HEADER as usize + size_of::<HelloStart>();

/// Bytes of a record's header.
const HEADER: u32 = size_of::<RecordHeader>() as u32;

/// Bytes that a system call has moved.
pub struct Moved {
    /// Address of the socket.
    pub sock: u64,
    /// What tells it from others.
    pub socket: u64,
    /// Which way they went.
    pub way: Way,
    /// How many.
    pub bytes: u64,
    /// Where the first of them are.
    pub address: u64,
    /// How many of them are there.
    pub there: u64,
    /// They begin so.
    pub begin: [u8; BEGIN],
}

impl Moved {
    /// They begin with a record's header.
    #[inline(always)]
    pub fn header(&self) -> RecordHeader {
        let [kind, major, minor, high, low, ..] = self.begin;
        RecordHeader([kind, major, minor, high, low])
    }

    #[inline(always)]
    fn key(&self) -> HelloKey {
        self.sock | u64::from(self.way == Way::Out)
    }
}

/// Tells what is a part of a hello, of a thread in scope.
#[inline(always)]
pub fn moved(current: Current, moved: &Moved) -> Option<()> {
    let known = HELLOS.get_ptr_mut(moved.key()).map(mem::own);
    let (record, header) = match known {
        Some(state) if state.socket == moved.socket => {
            if state.wanted != 0 {
                return goes_on(current, moved, state);
            }
            let record = state.record;
            HELLOS.remove(moved.key()).ok();
            (record, 0)
        }
        _ => {
            let header = moved.header();
            if !header.is_handshake() || !header.is_valid() || header.is_of_datagrams() {
                return None;
            }
            if moved.bytes == HEADER.into() {
                return remember(moved, 0, 0, header.length());
            }
            (header.length(), HEADER)
        }
    };
    begins(current, moved, record, header)
}

/// A hello begins, if it is one, after a record's header of so many bytes.
#[inline(always)]
fn begins(current: Current, moved: &Moved, record: u32, header: u32) -> Option<()> {
    if moved.there < u64::from(header) + size_of::<HelloStart>() as u64 {
        return None;
    }
    let start = match header {
        0 => [0, 1, 2, 3, 4, 5].map(|index| moved.begin[index]),
        _ => [5, 6, 7, 8, 9, 10].map(|index| moved.begin[index]),
    };
    let wanted = hello_bytes(HelloStart(start).length()? + header, record + header);
    if moved.bytes < wanted.into() {
        remember(moved, moved.bytes as u32, wanted, record);
    }
    tell(current, moved, 0, wanted, if header == 0 { record } else { 0 });
    Some(())
}

/// More of one.
#[inline(always)]
fn goes_on(current: Current, moved: &Moved, state: &mut HelloState) -> Option<()> {
    let (seen, wanted) = (state.seen, state.wanted);
    let now = u64::from(seen) + moved.bytes;
    if now < wanted.into() {
        state.seen = now as u32;
    } else {
        HELLOS.remove(moved.key()).ok();
    }
    tell(current, moved, seen, wanted.saturating_sub(seen), 0);
    Some(())
}

/// The rest is to come.
#[inline(always)]
fn remember(moved: &Moved, seen: u32, wanted: u32, record: u32) -> Option<()> {
    let state = HelloState { socket: moved.socket, seen, wanted, record, reserved: 0 };
    HELLOS.insert(moved.key(), state, 0).ok()
}

#[inline(always)]
fn tell(current: Current, moved: &Moved, offset: u32, wanted: u32, record: u32) {
    let there = if moved.there < moved.bytes { moved.there } else { moved.bytes };
    let bytes = if there < wanted.into() { there as u32 } else { wanted };
    emit::hello(bytes, moved.address, |hello| {
        hello.header = emit::header(KIND_HELLO, current);
        hello.socket = moved.socket;
        hello.flags = if moved.way == Way::Out { HELLO_SENT } else { 0 };
        hello.offset = offset;
        hello.record = record;
    });
}
