//! Records of executions: checks the rules that they must keep.

use probe_common::{
    ARGUMENT_BYTES, ATTEMPT_ARGUMENT_BYTES, ATTEMPT_BYTES, CHUNK_BYTES, CHUNK_OF_ARGUMENTS,
    CHUNK_OF_ENVIRONMENT, CHUNK_OF_PATH, ENVIRONMENT_BYTES, ExecFailure, ExecRecord, ExecStringChunk,
    FLAG_LONG_PATH, INLINE_BYTES, LONG_PATH_BYTES,
};

use super::{DataRecord, DecodeError, prefix};
use crate::event::Plaintext;

/// A program, with the last part of its arguments.
pub(super) fn program(bytes: &[u8]) -> Result<DataRecord<'_>, DecodeError> {
    let (head, room) = prefix::<ExecRecord>(bytes)?;
    let &ExecRecord { captured, offset, chunk, length, flags, .. } = head;
    at_most("captured bytes of arguments", captured.into(), ARGUMENT_BYTES.into())?;
    at_most("captured bytes of arguments", captured.into(), length)?;
    at_most("bytes beside it", chunk.into(), INLINE_BYTES as u64)?;
    at_most("bytes of arguments", u64::from(offset) + u64::from(chunk), captured.into())?;
    if flags & FLAG_LONG_PATH == 0 && memchr::memchr(0, &head.path).is_none() {
        return Err(DecodeError::PathWithoutEnd);
    }
    Ok(DataRecord::Program { head, data: take(room, chunk)? })
}

/// A part of a program's strings.
pub(super) fn part(bytes: &[u8]) -> Result<DataRecord<'_>, DecodeError> {
    let (head, room) = prefix::<ExecStringChunk>(bytes)?;
    let &ExecStringChunk { part, offset, chunk, .. } = head;
    let most = match part {
        CHUNK_OF_ARGUMENTS => ARGUMENT_BYTES.into(),
        CHUNK_OF_ENVIRONMENT => ENVIRONMENT_BYTES.into(),
        CHUNK_OF_PATH => LONG_PATH_BYTES as u64,
        _ => 0,
    };
    at_most("bytes of a string", u64::from(offset) + u64::from(chunk), most)?;
    at_most("bytes beside it", chunk.into(), CHUNK_BYTES as u64)?;
    Ok(DataRecord::Part { head, data: take(room, chunk)? })
}

/// A failed execution.
pub(super) fn attempt(bytes: &[u8]) -> Result<DataRecord<'_>, DecodeError> {
    let (head, room) = prefix::<ExecFailure>(bytes)?;
    at_most("bytes beside it", head.chunk.into(), (ATTEMPT_BYTES + ATTEMPT_ARGUMENT_BYTES) as u64)?;
    Ok(DataRecord::Attempt { head, data: take(room, head.chunk)? })
}

fn at_most(what: &'static str, have: u64, most: u64) -> Result<(), DecodeError> {
    if have <= most { Ok(()) } else { Err(DecodeError::Beyond { what, have, most }) }
}

fn take(room: &[u8], chunk: u32) -> Result<Plaintext<'_>, DecodeError> {
    let beyond = DecodeError::ChunkBeyondRecord { chunk, room: room.len() };
    room.get(..chunk as usize).map(Plaintext::of).ok_or(beyond)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "a test may panic")]

    use probe_common::{KIND_EXEC_FAILURE, KIND_EXEC_RECORD, KIND_EXEC_STRING_CHUNK};
    use zerocopy::{FromZeros, Immutable, IntoBytes};

    use super::*;
    use crate::decode::{RingRecord, decode};

    /// The number of bytes beside a record, or what is wrong with it.
    fn check(head: &(impl IntoBytes + Immutable), room: usize, expected: Result<usize, &str>) {
        let bytes = [head.as_bytes(), &vec![7; room]].concat();
        let mut words = vec![0_u64; bytes.len().div_ceil(8)];
        words.as_mut_bytes()[..bytes.len()].copy_from_slice(&bytes);
        let got = decode(&words.as_bytes()[..bytes.len()]).map(|wire| match wire {
            RingRecord::Data(
                DataRecord::Program { data, .. }
                | DataRecord::Part { data, .. }
                | DataRecord::Attempt { data, .. },
            ) => data.0.len(),
            other => panic!("{other:?}"),
        });
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        }
    }

    fn program(length: u64, captured: u32, offset: u32, chunk: u32) -> ExecRecord {
        let mut program = ExecRecord::new_zeroed();
        program.header.kind = KIND_EXEC_RECORD;
        (program.length, program.captured, program.offset, program.chunk) = (length, captured, offset, chunk);
        program
    }

    #[test]
    fn programs_are_checked() {
        check(&program(5, 5, 0, 5), 5, Ok(5));
        check(&program(5, 5, 0, 5), 1024, Ok(5));
        check(&program(1 << 40, ARGUMENT_BYTES, ARGUMENT_BYTES, 0), 1024, Ok(0));
        check(&program(5, 5, 0, 5), 4, Err("room for 4"));
        check(&program(4, 5, 0, 5), 5, Err("captured bytes of arguments 5, more than 4"));
        check(&program(5, 5, 1, 5), 5, Err("bytes of arguments 6, more than 5"));
        check(&program(5, 5, u32::MAX, 5), 5, Err("bytes of arguments 4294967300"));
        check(&program(1 << 40, ARGUMENT_BYTES + 1, 0, 5), 5, Err("more than 131072"));
        check(&program(2000, 2000, 0, 1025), 2000, Err("bytes beside it 1025"));
        let endless = ExecRecord { path: [b'/'; probe_common::PATH_BYTES], ..program(0, 0, 0, 0) };
        check(&endless, 0, Err("has no end"));
        check(&ExecRecord { flags: FLAG_LONG_PATH, ..endless }, 0, Ok(0));
    }

    #[test]
    fn parts_and_attempts_are_checked() {
        let mut part = ExecStringChunk::new_zeroed();
        (part.header.kind, part.part, part.offset, part.chunk) =
            (KIND_EXEC_STRING_CHUNK, CHUNK_OF_ARGUMENTS, 10, 16384);
        check(&part, 16384, Ok(16384));
        check(&ExecStringChunk { offset: ARGUMENT_BYTES, ..part }, 16384, Err("bytes of a string"));
        check(&ExecStringChunk { chunk: 16385, ..part }, 16385, Err("bytes beside it"));
        check(&ExecStringChunk { part: CHUNK_OF_PATH, ..part }, 16384, Err("more than 4096"));
        check(&ExecStringChunk { part: 3, ..part }, 16384, Err("more than 0"));
        check(&part, 16383, Err("room for 16383"));
        let mut attempt = ExecFailure::new_zeroed();
        (attempt.header.kind, attempt.chunk) = (KIND_EXEC_FAILURE, 9);
        check(&attempt, 9, Ok(9));
        check(&attempt, 8, Err("room for 8"));
        check(&ExecFailure { chunk: 99_999, ..attempt }, 8, Err("bytes beside it 99999"));
    }
}
