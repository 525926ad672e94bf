//! The byte streams of each connection and direction, reassembled from records by their offsets.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::trace::JsonRecord;
use crate::transfer::{Tally, Transfer};

/// The direction of bytes, from the view of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Written by the process.
    Transmit,
    /// Read by the process.
    Receive,
}

/// One direction of one connection.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// The host's process id.
    pub pid: u32,
    /// Whether all records report that the connection was seen from its first byte.
    pub from_start: bool,
    pieces: BTreeMap<u64, Vec<u8>>,
}

impl Stream {
    /// The captured bytes, in order.
    pub fn bytes(&self) -> Vec<u8> {
        self.pieces.values().flatten().copied().collect()
    }

    /// The count and hash of the bytes, as a target program would report them.
    pub fn tally(&self) -> Tally {
        let mut hash = Sha256::new();
        self.pieces.values().for_each(|piece| hash.update(piece));
        let bytes = self.pieces.values().map(|piece| piece.len() as u64).sum();
        Tally { bytes, sha256: format!("{:x}", hash.finalize()) }
    }

    /// Ranges that are missing between the first byte of the connection and the last captured one.
    pub fn gaps(&self) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut expected = 0;
        for (offset, piece) in &self.pieces {
            if *offset > expected {
                gaps.push((expected, *offset));
            }
            expected = offset + piece.len() as u64;
        }
        gaps
    }

    fn place(&mut self, offset: u64, data: Vec<u8>) -> Result<()> {
        let end = offset + data.len() as u64;
        let before = self.pieces.range(..end).next_back();
        if let Some((other, piece)) = before {
            ensure!(
                other + piece.len() as u64 <= offset,
                "bytes {offset}..{end} are reported twice: {other}..{} is there already",
                other + piece.len() as u64
            );
        }
        self.pieces.insert(offset, data);
        Ok(())
    }
}

/// All streams of a trace.
#[derive(Debug, Clone, Default)]
pub struct Streams {
    by_key: BTreeMap<(u64, Direction), Stream>,
}

impl Streams {
    /// Reassembles records. Bytes that are reported twice are an error.
    pub fn of(records: &[JsonRecord]) -> Result<Self> {
        let mut streams = Self::default();
        for record in records {
            let direction = record.network.io.direction;
            let connection = record.connection.as_ref().context("a record has no connection")?;
            let data = record.payload()?;
            let (length, captured) = (record.call.length, record.call.captured);
            ensure!(length > 0, "a call that moved nothing is reported: {record:?}");
            ensure!(
                record.call.truncated == (captured < length),
                "truncated is {} with {captured} of {length} bytes",
                record.call.truncated
            );
            // An entry whose time was not taken would be when the machine was started.
            ensure!(record.call.duration < 60_000_000_000, "a call of {} ns", record.call.duration);
            let stream = streams.by_key.entry((connection.id, direction)).or_insert_with(|| Stream {
                pid: record.process.pid,
                from_start: true,
                ..Stream::default()
            });
            ensure!(
                stream.pid == record.process.pid,
                "connection {} has processes {} and {}",
                connection.id,
                stream.pid,
                record.process.pid
            );
            stream.from_start &= connection.from_start;
            stream.place(connection.offset, data).with_context(|| {
                format!("connection {}, {direction:?}, {}", connection.id, record.function)
            })?;
        }
        Ok(streams)
    }

    /// The number of streams.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there are no streams.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Every stream with its direction.
    pub fn iter(&self) -> impl Iterator<Item = (Direction, &Stream)> {
        self.by_key.iter().map(|((_, direction), stream)| (*direction, stream))
    }

    /// The bytes of all streams of a direction, concatenated in the order of connections.
    pub fn bytes(&self, direction: Direction) -> Vec<u8> {
        self.iter().filter(|(found, _)| *found == direction).flat_map(|(_, stream)| stream.bytes()).collect()
    }

    /// Checks that each direction of each transfer is exactly one complete stream, and that there is no other
    /// stream.
    pub fn check(&self, transfers: &[Transfer]) -> Result<()> {
        let mut found: Vec<(Direction, Tally)> = Vec::new();
        for (direction, stream) in self.iter() {
            let gaps = stream.gaps();
            ensure!(gaps.is_empty(), "process {}, {direction:?}: missing {gaps:?}", stream.pid);
            found.push((direction, stream.tally()));
        }
        for transfer in transfers {
            let ways = [(Direction::Receive, &transfer.received), (Direction::Transmit, &transfer.sent)];
            for (direction, tally) in ways.into_iter().filter(|(_, tally)| tally.bytes > 0) {
                let at = found.iter().position(|(way, other)| *way == direction && other == tally);
                let Some(at) = at else {
                    bail!("no stream is what {transfer:?} says of {direction:?}; left are {found:?}");
                };
                found.swap_remove(at);
            }
        }
        ensure!(found.is_empty(), "streams that no program reports: {found:?}");
        Ok(())
    }
}
