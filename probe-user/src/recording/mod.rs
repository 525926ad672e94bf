//! Recorded JSON Lines of `ctrace ssl -o json` → records.
//!
//! Owns what a recording may say. Its lines are foreign bytes, whoever wrote them: they are limited, one that
//! is no record is counted and passed over, and no message shows what a line holds. What this version has no
//! place for (other types of records, fields of a later version) is counted, too. It opens no file.

mod line;
mod record;

use std::io::{self, BufRead, Read};
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::event::Tls;
use line::NotRead;
pub use record::{RecordedCall, RecordedConnection, RecordedRecord};

/// Bytes of a line: a call has at most 1 MiB of payload, each byte of which takes at most six in JSON.
const LINE_BYTES: usize = 8 << 20;
/// Connections and threads of which something is remembered; the least recently used makes room.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// What was in a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadCounts {
    /// Lines.
    pub lines: u64,
    /// Records that were read.
    pub records: u64,
    /// Lines that are no records.
    pub bad: u64,
    /// Number of the first of those, and what is wrong with it.
    pub first_bad: Option<(u64, String)>,
    /// Records of types that are not shown.
    pub others: u64,
    /// Fields that were passed over.
    pub unknown_fields: u64,
}

/// Reads records, in their order.
#[derive(Debug)]
pub struct RecordingReader<R> {
    input: R,
    line: Vec<u8>,
    counts: ReadCounts,
    /// What the last record of a connection had of its handshake, as a hash: it is shown where it is new.
    handshakes: LruCache<u64, u64>,
}

impl<R: BufRead> RecordingReader<R> {
    /// Of a recording that begins here.
    pub fn new(input: R) -> Self {
        let mut handshakes = LruCache::unbounded();
        handshakes.resize(REMEMBERED);
        Self { input, line: Vec::new(), counts: ReadCounts::default(), handshakes }
    }

    /// What was read so far.
    pub fn counts(&self) -> &ReadCounts {
        &self.counts
    }

    /// Whether the next line may have to be waited for.
    pub fn may_wait(&self) -> bool
    where
        R: Buffered,
    {
        self.input.is_drained()
    }

    /// The next record; none at the end. Every error is one of the input.
    pub fn next_record(&mut self) -> io::Result<Option<RecordedRecord>> {
        while let Some(length) = self.read_line()? {
            self.counts.lines += 1;
            let read = match length {
                LineLength::Whole => line::parse(&self.line),
                LineLength::TooLong => Err(NotRead::Bad(format!("it is longer than {LINE_BYTES} bytes"))),
            };
            match read {
                Ok((record, unknown_fields)) => {
                    self.counts.records += 1;
                    self.counts.unknown_fields = self.counts.unknown_fields.saturating_add(unknown_fields);
                    return Ok(Some(self.with_handshake(record)));
                }
                Err(NotRead::Empty) => {}
                Err(NotRead::OtherType) => self.counts.others += 1,
                Err(NotRead::Bad(why)) => {
                    self.counts.bad += 1;
                    let number = self.counts.lines;
                    self.counts.first_bad.get_or_insert((number, why));
                }
            }
        }
        Ok(None)
    }

    /// Reads a line without its end; what is too long is passed over.
    fn read_line(&mut self) -> io::Result<Option<LineLength>> {
        self.line.clear();
        self.line.shrink_to(1 << 20);
        let limit = LINE_BYTES as u64 + 1;
        if self.input.by_ref().take(limit).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        let has_end = self.line.last() == Some(&b'\n');
        if has_end || self.line.len() <= LINE_BYTES {
            return Ok(Some(LineLength::Whole));
        }
        self.line.clear();
        self.input.skip_until(b'\n')?;
        Ok(Some(LineLength::TooLong))
    }

    /// Says of a record's handshake whether the connection's record before had the same.
    fn with_handshake(&mut self, mut record: RecordedRecord) -> RecordedRecord {
        let (connection, tls) = match &mut record {
            RecordedRecord::Call(call) => (call.connection.map(|connection| connection.id), &mut call.tls),
            RecordedRecord::Connection(connection) => (Some(connection.id), &mut connection.tls),
            RecordedRecord::Lost(_) | RecordedRecord::Summary(_) => return record,
        };
        if let (Some(connection), Some(known)) = (connection, tls) {
            let hash = hash(&known.tls);
            known.is_first = self.handshakes.put(connection, hash) != Some(hash);
        }
        record
    }
}

fn hash(tls: &Tls) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    tls.hash(&mut hasher);
    hasher.finish()
}

#[derive(Clone, Copy)]
enum LineLength {
    Whole,
    TooLong,
}

/// What says whether reading goes on without waiting.
pub trait Buffered {
    /// Whether nothing more is in memory.
    fn is_drained(&self) -> bool;
}

impl<R: Read> Buffered for io::BufReader<R> {
    fn is_drained(&self) -> bool {
        self.buffer().is_empty()
    }
}

#[cfg(test)]
mod tests;
