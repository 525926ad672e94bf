//! Pieces of calls in any order, with any numbers: streams stay in order, and take no more than they may.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use anyhow::{Context, Result, ensure};
use ctrace::event::{Direction, Plaintext};
use ctrace::pipeline::stream::{Piece, StreamLimits, StreamPart, Streams};
use jiff::Timestamp;

/// What bytes are made of; where they come from does not matter.
const PAYLOAD: [u8; 64] = [0; 64];

/// Takes pieces as `input` says, each in eight bytes: connection and direction, offset of the call (times a
/// power of two), length, captured bytes, offset and length of the piece. An error is a finding.
pub fn run(input: &[u8]) -> Result<()> {
    let limits = StreamLimits {
        connections: NonZeroUsize::new(3).context("3 is not 0")?,
        direction_bytes: 600,
        direction_pieces: 4,
        bytes: 1500,
    };
    let mut streams = Streams::new(limits);
    let mut next: HashMap<(u64, bool), u64> = HashMap::new();
    let mut wrong = None;
    let mut emit = |connection, direction, part: StreamPart<'_>| {
        let next = next.entry((connection, direction == Direction::Transmit)).or_default();
        let (offset, length) = match part {
            StreamPart::Chunk(chunk) => (chunk.offset, chunk.data.len() as u64),
            StreamPart::Gap(gap) => (gap.offset, gap.length),
        };
        // A connection that was forgotten begins anew.
        if length == 0 || (offset != *next && offset != 0) {
            wrong.get_or_insert_with(|| format!("{part:?} of {connection} after {next}"));
        }
        *next = offset.saturating_add(length);
        Ok(())
    };
    for piece in input.as_chunks::<8>().0 {
        let &[who, place, shift, length, captured, offset, size, call] = piece;
        let data = PAYLOAD.get(..usize::from(size) % PAYLOAD.len()).context("it is shorter")?;
        let piece = Piece {
            connection: u64::from(who & 7),
            direction: if who & 8 == 0 { Direction::Transmit } else { Direction::Receive },
            stream_offset: u64::from(place).rotate_left(u32::from(shift)),
            call: call.into(),
            time: Timestamp::UNIX_EPOCH,
            length: u64::from(length).rotate_left(u32::from(who >> 4) * 4),
            captured: captured.into(),
            offset: offset.into(),
            data: Plaintext::of(data),
        };
        streams.piece(&piece, &mut emit)?;
        ensure!(streams.waiting_bytes() <= limits.bytes, "{streams:?}");
    }
    streams.end_all(&mut emit)?;
    ensure!(streams.waiting_bytes() == 0, "{streams:?}");
    wrong.map_or(Ok(()), |wrong| Err(anyhow::Error::msg(wrong)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_pieces_are_taken() -> Result<()> {
        run(b"")?;
        run(&[1, 0, 0, 9, 9, 0, 9, 0])?;
        run(&[0xff; 256])?;
        run(&(0..=255).cycle().take(4096).collect::<Vec<u8>>())
    }
}
