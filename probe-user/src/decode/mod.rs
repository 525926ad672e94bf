//! Bytes of the ring buffer → [`RingRecord`]: borrowed, checked, never copied.
//!
//! Owns the rules that a record of the ring must keep. It never panics on any bytes. Its errors contain only
//! numbers, so that no payload gets into a log through them.

use probe_common::{
    ADDRESS_BYTES, CALL_BYTES, CHUNK_BYTES, Call, CgroupEvent, FLAG_FAULT, HELLO_BYTES, Header, KIND_CALL,
    KIND_CGROUP_CREATED, KIND_CGROUP_REMOVED, KIND_CONNECTION_CLOSE, KIND_CONNECTION_OPEN, KIND_EXEC_FAILURE,
    KIND_EXEC_RECORD, KIND_EXEC_STRING_CHUNK, KIND_FUNCTION_ENTER, KIND_FUNCTION_RETURN, KIND_FUNCTION_STACK,
    KIND_HELLO, KIND_PROCESS_EXIT, KIND_PROCESS_FORK, KIND_SIGNAL, KIND_SOCKET, KIND_TASK_EXEC,
    KIND_TASK_EXIT, KIND_UNATTRIBUTED, ProcessExit, ProcessFork, SignalRecord, TaskExit, UnattributedRecord,
};
use thiserror::Error;
use zerocopy::error::CastError;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::event::Plaintext;

mod connection;
mod exec;
mod mmap;
mod record;
mod socket;
mod uprobe;

pub use mmap::{ExecMmap, MmapEvent};
pub use record::{CgroupRecord, ControlRecord, DataRecord, RingRecord, TaskRecord};
pub use uprobe::{FunctionRecord, Stack};

/// Why a record of the ring was refused. If this happens, the BPF programs and this reader disagree: this is
/// a bug, or a mix of two versions of ctrace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The record is shorter than the fixed part of its kind.
    #[error("a ring record has {have} bytes, its fixed part needs {need}")]
    Short {
        /// The length of the record in bytes.
        have: usize,
        /// The length of the fixed part in bytes.
        need: usize,
    },
    /// The record is not at a multiple of 8 in memory. Records of a ring buffer always are.
    #[error("a ring record is not 8-byte aligned in memory")]
    Misaligned,
    /// The kind is not one of the `KIND_` constants.
    #[error("a ring record is of the unknown kind {0}")]
    Kind(u32),
    /// The chunk has more payload than the limit.
    #[error("a chunk of {chunk} bytes is larger than {CHUNK_BYTES}")]
    ChunkTooLarge {
        /// [`Call::chunk`].
        chunk: u32,
    },
    /// The chunk has more payload than the record has room for.
    #[error("a chunk of {chunk} bytes is in a ring record with room for {room}")]
    ChunkBeyondRecord {
        /// [`Call::chunk`].
        chunk: u32,
        /// The number of bytes after the fixed part.
        room: usize,
    },
    /// The chunk ends after the call's captured bytes.
    #[error("a chunk of {chunk} bytes at {offset} is beyond the {captured} captured bytes of its call")]
    ChunkBeyondCall {
        /// [`Call::offset`].
        offset: u32,
        /// [`Call::chunk`].
        chunk: u32,
        /// [`Call::captured`].
        captured: u32,
    },
    /// The call has more captured bytes than the limit.
    #[error("a call has {captured} captured bytes, more than {CALL_BYTES}")]
    CapturedTooLarge {
        /// [`Call::captured`].
        captured: u32,
    },
    /// The hello has more bytes than are ever emitted.
    #[error("{bytes} bytes of a hello at {offset} are more than {HELLO_BYTES}")]
    HelloTooLarge {
        /// [`probe_common::HelloChunk::bytes`].
        bytes: u32,
        /// [`probe_common::HelloChunk::offset`].
        offset: u32,
    },
    /// The address is longer than the field for it.
    #[error("an address of {bytes} bytes is longer than {ADDRESS_BYTES}")]
    AddressTooLong {
        /// [`probe_common::SocketRecord::local_bytes`] or [`probe_common::SocketRecord::peer_bytes`].
        bytes: u16,
    },
    /// The call has more captured bytes than it transferred.
    #[error("a call has {captured} captured bytes of only {length}")]
    CapturedBeyondLength {
        /// [`Call::captured`].
        captured: u32,
        /// [`Call::length`].
        length: u64,
    },
    /// A number exceeds its limit.
    #[error("a ring record has {what} {have}, more than {most}")]
    Beyond {
        /// What the number counts.
        what: &'static str,
        /// The number.
        have: u64,
        /// The limit.
        most: u64,
    },
    /// A path is not terminated by NUL.
    #[error("a path has no end")]
    PathWithoutEnd,
    /// The captured bytes of an argument are not all in the record.
    #[error("{length} bytes of an argument are not in a ring record of room {room}")]
    ArgumentBeyondRoom {
        /// [`probe_common::FunctionEvent::lengths`].
        length: u32,
        /// [`probe_common::FunctionEvent::room`].
        room: u32,
    },
    /// The stack has more return addresses than the limit.
    #[error("a stack has {0} frames")]
    Frames(u32),
    /// A chunk that is marked as unreadable has payload.
    #[error("an unreadable chunk has {chunk} bytes")]
    FaultWithData {
        /// [`Call::chunk`].
        chunk: u32,
    },
}

/// Reads one record of the ring.
pub fn decode(bytes: &[u8]) -> Result<RingRecord<'_>, DecodeError> {
    let (header, _) = prefix::<Header>(bytes)?;
    match header.kind {
        KIND_TASK_EXIT => prefix::<TaskExit>(bytes).map(|(exit, _)| RingRecord::Task(TaskRecord::Exit(exit))),
        KIND_TASK_EXEC => Ok(RingRecord::Task(TaskRecord::Exec(header))),
        KIND_CGROUP_CREATED => cgroup(bytes).map(ControlRecord::CgroupCreated).map(RingRecord::Control),
        KIND_CGROUP_REMOVED => cgroup(bytes).map(ControlRecord::CgroupRemoved).map(RingRecord::Control),
        KIND_SIGNAL => {
            let (signal, _) = prefix::<SignalRecord>(bytes)?;
            Ok(RingRecord::Control(ControlRecord::Signal(signal)))
        }
        kind => data(kind, bytes).map(RingRecord::Data),
    }
}

fn data(kind: u32, bytes: &[u8]) -> Result<DataRecord<'_>, DecodeError> {
    match kind {
        KIND_CALL => call(bytes),
        KIND_FUNCTION_ENTER => uprobe::call(bytes).map(DataRecord::FunctionEnter),
        KIND_FUNCTION_RETURN => uprobe::call(bytes).map(DataRecord::FunctionReturn),
        KIND_FUNCTION_STACK => uprobe::stack(bytes).map(DataRecord::FunctionStack),
        KIND_EXEC_RECORD => exec::program(bytes),
        KIND_EXEC_STRING_CHUNK => exec::part(bytes),
        KIND_EXEC_FAILURE => exec::attempt(bytes),
        KIND_PROCESS_EXIT => prefix::<ProcessExit>(bytes).map(|(head, _)| DataRecord::Ended(head)),
        KIND_PROCESS_FORK => prefix::<ProcessFork>(bytes).map(|(head, _)| DataRecord::Forked(head)),
        KIND_SOCKET => socket::socket(bytes),
        KIND_HELLO => socket::hello(bytes),
        KIND_UNATTRIBUTED => {
            prefix::<UnattributedRecord>(bytes).map(|(head, _)| DataRecord::Unattributed(head))
        }
        KIND_CONNECTION_OPEN => connection::opened(bytes),
        KIND_CONNECTION_CLOSE => connection::closed(bytes),
        unknown => Err(DecodeError::Kind(unknown)),
    }
}

fn call(bytes: &[u8]) -> Result<DataRecord<'_>, DecodeError> {
    let (head, room) = prefix::<Call>(bytes)?;
    let &Call { length, captured, offset, chunk, flags, .. } = head;
    if captured > CALL_BYTES {
        return Err(DecodeError::CapturedTooLarge { captured });
    }
    if u64::from(captured) > length {
        return Err(DecodeError::CapturedBeyondLength { captured, length });
    }
    if chunk as usize > CHUNK_BYTES {
        return Err(DecodeError::ChunkTooLarge { chunk });
    }
    if chunk != 0 && flags & FLAG_FAULT != 0 {
        return Err(DecodeError::FaultWithData { chunk });
    }
    if offset.checked_add(chunk).is_none_or(|end| end > captured) {
        return Err(DecodeError::ChunkBeyondCall { offset, chunk, captured });
    }
    match room.get(..chunk as usize) {
        Some(data) => Ok(DataRecord::Call { head, data: Plaintext::of(data) }),
        None => Err(DecodeError::ChunkBeyondRecord { chunk, room: room.len() }),
    }
}

fn cgroup(bytes: &[u8]) -> Result<CgroupRecord<'_>, DecodeError> {
    let (CgroupEvent { id, level, path, .. }, _) = prefix::<CgroupEvent>(bytes)?;
    let end = memchr::memchr(0, path).ok_or(DecodeError::PathWithoutEnd)?;
    let path = path.get(..end).ok_or(DecodeError::PathWithoutEnd)?;
    Ok(CgroupRecord { id: *id, level: *level, path })
}

fn prefix<T: FromBytes + KnownLayout + Immutable>(bytes: &[u8]) -> Result<(&T, &[u8]), DecodeError> {
    T::ref_from_prefix(bytes).map_err(|error| match error {
        CastError::Alignment(_) => DecodeError::Misaligned,
        _ => DecodeError::Short { have: bytes.len(), need: size_of::<T>() },
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

    use zerocopy::{FromZeros, IntoBytes};

    use super::*;
    use crate::test_rng::TestRng;

    /// Bytes at a multiple of 8, as in the ring.
    struct Aligned(Vec<u64>, usize);

    impl Aligned {
        fn new(parts: &[&[u8]]) -> Self {
            let bytes = parts.concat();
            let mut words = vec![0_u64; bytes.len().div_ceil(8)];
            words.as_mut_bytes()[..bytes.len()].copy_from_slice(&bytes);
            Self(words, bytes.len())
        }

        fn bytes(&self) -> &[u8] {
            &self.0.as_bytes()[..self.1]
        }
    }

    fn head(length: u64, captured: u32, offset: u32, chunk: u32) -> Call {
        let mut call = Call::new_zeroed();
        call.header.kind = KIND_CALL;
        (call.length, call.captured, call.offset, call.chunk) = (length, captured, offset, chunk);
        call
    }

    fn check(head: &Call, room: usize, expected: Result<usize, DecodeError>) {
        let bytes = Aligned::new(&[head.as_bytes(), &vec![7; room]]);
        let got = decode(bytes.bytes()).map(|wire| match wire {
            RingRecord::Data(DataRecord::Call { data, .. }) => data.0.len(),
            other => panic!("{other:?}"),
        });
        assert_eq!(got, expected);
    }

    #[test]
    fn calls_are_checked() {
        check(&head(5, 5, 0, 5), 5, Ok(5));
        check(&head(5, 5, 0, 5), 64, Ok(5));
        check(&head(5, 0, 0, 0), 0, Ok(0));
        check(&head(1 << 20, 1 << 20, 0, 16384), 16384, Ok(16384));
        check(&head(9, 9, 0, 9), 8, Err(DecodeError::ChunkBeyondRecord { chunk: 9, room: 8 }));
        check(&head(20000, 20000, 0, 16385), 20000, Err(DecodeError::ChunkTooLarge { chunk: 16385 }));
        check(&head(9, 9, 5, 5), 9, Err(DecodeError::ChunkBeyondCall { offset: 5, chunk: 5, captured: 9 }));
        check(
            &head(9, 9, u32::MAX, 5),
            9,
            Err(DecodeError::ChunkBeyondCall { offset: u32::MAX, chunk: 5, captured: 9 }),
        );
        let captured = CALL_BYTES + 1;
        check(&head(1 << 40, captured, 0, 5), 9, Err(DecodeError::CapturedTooLarge { captured }));
        check(&head(4, 5, 0, 5), 9, Err(DecodeError::CapturedBeyondLength { captured: 5, length: 4 }));
        let fault = Call { flags: FLAG_FAULT, ..head(5, 5, 0, 5) };
        check(&fault, 9, Err(DecodeError::FaultWithData { chunk: 5 }));
    }

    #[test]
    fn headers_are_checked() {
        let mut header = Header::new_zeroed();
        (header.kind, header.pid) = (KIND_TASK_EXIT, 7);
        let exit = TaskExit { header, forked: 9, parent: 6, reserved: 0 };
        let bytes = Aligned::new(&[exit.as_bytes()]);
        assert!(matches!(
            decode(bytes.bytes()),
            Ok(RingRecord::Task(TaskRecord::Exit(TaskExit { header: Header { pid: 7, .. }, parent: 6, .. })))
        ));
        assert_eq!(decode(&bytes.bytes()[..47]).unwrap_err(), DecodeError::Short { have: 47, need: 48 });
        assert_eq!(decode(&bytes.bytes()[..56]).unwrap_err(), DecodeError::Short { have: 56, need: 64 });
        header.kind = KIND_TASK_EXEC;
        let bytes = Aligned::new(&[header.as_bytes()]);
        assert!(matches!(decode(bytes.bytes()), Ok(RingRecord::Task(TaskRecord::Exec(_)))));
        header.kind = KIND_CALL;
        let bytes = Aligned::new(&[header.as_bytes()]);
        assert_eq!(decode(bytes.bytes()).unwrap_err(), DecodeError::Short { have: 48, need: 120 });
        header.kind = 99;
        let bytes = Aligned::new(&[header.as_bytes()]);
        assert_eq!(decode(bytes.bytes()).unwrap_err(), DecodeError::Kind(99));
        let shifted = Aligned::new(&[&[0], header.as_bytes()]);
        assert_eq!(decode(&shifted.bytes()[1..]).unwrap_err(), DecodeError::Misaligned);
    }

    #[test]
    fn cgroups_are_checked() {
        let mut event = CgroupEvent::new_zeroed();
        (event.header.kind, event.id, event.level) = (KIND_CGROUP_CREATED, 42, 3);
        // The bytes after the NUL are what was in the ring before.
        event.path[..11].copy_from_slice(b"/a/b\n\xffc\0XYZ");
        let expected = CgroupRecord { id: 42, level: 3, path: b"/a/b\n\xffc" };
        let bytes = Aligned::new(&[event.as_bytes()]);
        assert!(
            matches!(decode(bytes.bytes()), Ok(RingRecord::Control(ControlRecord::CgroupCreated(made))) if made == expected)
        );
        let short = decode(&bytes.bytes()[..568]).unwrap_err();
        assert_eq!(short, DecodeError::Short { have: 568, need: 576 });
        event.header.kind = KIND_CGROUP_REMOVED;
        event.path.fill(0);
        let bytes = Aligned::new(&[event.as_bytes()]);
        let expected = CgroupRecord { path: b"", ..expected };
        assert!(
            matches!(decode(bytes.bytes()), Ok(RingRecord::Control(ControlRecord::CgroupRemoved(gone))) if gone == expected)
        );
        event.path.fill(b'/');
        let bytes = Aligned::new(&[event.as_bytes()]);
        assert_eq!(decode(bytes.bytes()).unwrap_err(), DecodeError::PathWithoutEnd);
    }

    #[test]
    fn no_bytes_panic() {
        let mut noise = TestRng(0x9E37_79B9_7F4A_7C15);
        for round in 0..20_000_usize {
            // Up to a little more than the longest fixed part.
            let mut words: Vec<u64> = (0..round % 80).map(|_| noise.next()).collect();
            if let Some(first) = words.first_mut() {
                // Mostly a known kind, because otherwise the check of the header would hide the others.
                *first = (*first & !0xffff_ffff) | (noise.next() % 25);
            }
            if round % 3 == 0 {
                for word in words.iter_mut().skip(9) {
                    *word &= 0x0000_003f_0000_003f;
                }
            }
            if round % 5 == 0 {
                // A path without NUL.
                words.iter_mut().skip(8).for_each(|word| *word |= 0x0101_0101_0101_0101);
            }
            let bytes = words.as_bytes();
            let _ = decode(bytes);
            let _ = decode(bytes.get(round % 8..).unwrap_or_default());
        }
    }
}
