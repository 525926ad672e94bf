//! Records of the sockets of connections, and of the hellos that pass through them.

use probe_common::{ADDRESS_BYTES, HELLO_BYTES, HelloChunk, SocketRecord};

use super::{DataRecord, DecodeError, prefix};

pub(super) fn socket(bytes: &[u8]) -> Result<DataRecord<'_>, DecodeError> {
    let (socket, _) = prefix::<SocketRecord>(bytes)?;
    let longest = socket.local_bytes.max(socket.peer_bytes);
    if usize::from(longest) > ADDRESS_BYTES {
        return Err(DecodeError::AddressTooLong { bytes: longest });
    }
    Ok(DataRecord::Socket(socket))
}

pub(super) fn hello(bytes: &[u8]) -> Result<DataRecord<'_>, DecodeError> {
    let (head, room) = prefix::<HelloChunk>(bytes)?;
    if head.bytes > HELLO_BYTES || head.offset > HELLO_BYTES {
        return Err(DecodeError::HelloTooLarge { bytes: head.bytes, offset: head.offset });
    }
    match room.get(..head.bytes as usize) {
        Some(data) => Ok(DataRecord::Hello { head, data }),
        None => Err(DecodeError::ChunkBeyondRecord { chunk: head.bytes, room: room.len() }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    #[test]
    fn hellos_are_checked() {
        let check = |offset, bytes, room: usize| {
            let mut head = HelloChunk::new_zeroed();
            (head.offset, head.bytes) = (offset, bytes);
            let words: Vec<u64> = [head.as_bytes(), &vec![7; room]]
                .concat()
                .chunks(8)
                .map(|chunk| chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
                .collect();
            match hello(words.as_bytes()) {
                Ok(DataRecord::Hello { data, .. }) => Ok(data.len()),
                Ok(other) => panic!("{other:?}"),
                Err(error) => Err(error),
            }
        };
        assert_eq!(check(0, 500, 640), Ok(500));
        assert_eq!(check(4090, 4096, 4096), Ok(4096));
        assert_eq!(check(0, 0, 0), Ok(0));
        assert_eq!(check(0, 4097, 8000), Err(DecodeError::HelloTooLarge { bytes: 4097, offset: 0 }));
        assert_eq!(check(9000, 1, 8), Err(DecodeError::HelloTooLarge { bytes: 1, offset: 9000 }));
        assert_eq!(check(0, 9, 8), Err(DecodeError::ChunkBeyondRecord { chunk: 9, room: 8 }));
        let short = HelloChunk::new_zeroed();
        assert!(hello(short.as_bytes().get(..40).unwrap()).is_err());
    }
}
