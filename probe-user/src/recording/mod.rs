//! Recorded JSON Lines of `ctrace ssl -o json` → records.
//!
//! Owns what a recording may contain. Its lines are foreign bytes, whoever wrote them: their length is
//! limited, a line that is not a record is counted and skipped, and no message quotes a line. What this
//! version does not support (other types of records, fields of a later version) is counted, too. It opens no
//! file.

use std::io::{self, BufRead, Read};
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::event::Tls;
pub use crate::output::Recorded;
use crate::output::{LineError, read};

/// The longest line in bytes: a call has at most 1 MiB of payload, of which each byte takes at most six in
/// JSON.
const LINE_BYTES: usize = 8 << 20;
/// The most connections whose last handshake is remembered. The least recently used one is evicted.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// What a recording contained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadCounts {
    /// The number of lines.
    pub lines: u64,
    /// Records that were read.
    pub records: u64,
    /// Lines that are not records.
    pub bad: u64,
    /// The number of the first such line, and what is wrong with it.
    pub first_bad: Option<(u64, String)>,
    /// Records of types that are not shown.
    pub others: u64,
    /// Fields that were skipped.
    pub unknown_fields: u64,
}

/// Reads records in order.
#[derive(Debug)]
pub struct RecordingReader<R> {
    input: R,
    line: Vec<u8>,
    counts: ReadCounts,
    /// A hash of the handshake in the last record of a connection. It is shown in a record if it is new.
    handshakes: LruCache<u64, u64>,
}

impl<R: BufRead> RecordingReader<R> {
    /// Reads the recording that begins here.
    pub fn new(input: R) -> Self {
        let mut handshakes = LruCache::unbounded();
        handshakes.resize(REMEMBERED);
        Self { input, line: Vec::new(), counts: ReadCounts::default(), handshakes }
    }

    /// The counts so far.
    pub fn counts(&self) -> &ReadCounts {
        &self.counts
    }

    /// Whether reading the next line may block.
    pub fn may_wait(&self) -> bool
    where
        R: Buffered,
    {
        self.input.is_drained()
    }

    /// The next record. None at the end. Every error comes from the input.
    pub fn next_record(&mut self) -> io::Result<Option<Recorded>> {
        while let Some(length) = self.read_line()? {
            self.counts.lines += 1;
            let read = match length {
                LineLength::Whole => read(&self.line),
                LineLength::TooLong => Err(LineError::Bad(format!("it is longer than {LINE_BYTES} bytes"))),
            };
            match read {
                Ok((record, unknown_fields)) => {
                    self.counts.records += 1;
                    self.counts.unknown_fields = self.counts.unknown_fields.saturating_add(unknown_fields);
                    return Ok(Some(self.with_handshake(record)));
                }
                Err(LineError::Empty) => {}
                Err(LineError::OtherType) => self.counts.others += 1,
                Err(LineError::Bad(why)) => {
                    self.counts.bad += 1;
                    let number = self.counts.lines;
                    self.counts.first_bad.get_or_insert((number, why));
                }
            }
        }
        Ok(None)
    }

    /// Reads a line without its line end. A line that is too long is skipped.
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

    /// Marks the handshake of a record as new unless the connection's previous record had the same one.
    fn with_handshake(&mut self, mut recorded: Recorded) -> Recorded {
        if let Recorded::Record(record) = &mut recorded
            && let Some(connection) = &mut record.context.connection
            && let Some(known) = &mut connection.tls
        {
            let hash = hash(&known.tls);
            known.is_first = self.handshakes.put(connection.id, hash) != Some(hash);
        }
        recorded
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

/// An input that can report whether reading will block.
pub trait Buffered {
    /// Whether no more data is in memory.
    fn is_drained(&self) -> bool;
}

impl<R: Read> Buffered for io::BufReader<R> {
    fn is_drained(&self) -> bool {
        self.buffer().is_empty()
    }
}

#[cfg(test)]
mod tests;
