//! Where the bytes of a sink go: one large buffer in front of a file or pipe.
//!
//! Owns the rule when bytes leave the buffer: when it is full, or when the caller says that the stream
//! pauses. Records are formatted in the buffer itself, so that nothing is copied twice.

use std::fmt;
use std::io::{self, Write};

use super::destination::{Destination, may_wait};
use super::interruptible::{InterruptibleWriter, StopFlag};

/// The buffer is written out once it holds so much: the size of a pipe.
const FULL: usize = 64 * 1024;
/// Room that is kept after a large record.
const KEPT: usize = 4 * 1024 * 1024;

/// A buffered writer of whole records.
pub struct RecordWriter {
    inner: Box<dyn Write + Send>,
    buffer: Vec<u8>,
}

impl fmt::Debug for RecordWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordWriter({} bytes waiting)", self.buffer.len())
    }
}

impl RecordWriter {
    /// Over any writer. It should not have a buffer of its own.
    pub fn new(inner: Box<dyn Write + Send>) -> Self {
        Self { inner, buffer: Vec::with_capacity(2 * FULL) }
    }

    /// Over a destination that was claimed. A reader that does not read is waited for until `stop`.
    pub fn to(destination: Destination, stop: StopFlag) -> Self {
        let file = destination.into_file();
        // What cannot be told is taken for a pipe, which is slower, and never wrong.
        if may_wait(&file).unwrap_or(true) {
            Self::new(Box::new(InterruptibleWriter::new(file, stop)))
        } else {
            Self::new(Box::new(file))
        }
    }

    /// Where the next record is to be appended, whole.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// To be called after each record.
    pub(super) fn end_record(&mut self) -> io::Result<()> {
        if self.buffer.len() < FULL { Ok(()) } else { self.flush() }
    }

    /// Writes out what is in the buffer.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let result = self.inner.write_all(&self.buffer);
        // After an error too: what was written already must not be written again.
        self.buffer.clear();
        self.buffer.shrink_to(KEPT);
        result
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn small_records_wait_for_a_pause() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, "what was there before").unwrap();
        let destination = Destination::open(&path).unwrap().unwrap();
        destination.claim().unwrap();
        let mut output = RecordWriter::to(destination, StopFlag::default());
        output.buffer().extend_from_slice(b"new record\n");
        output.end_record().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        output.flush().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new record\n");
    }

    #[test]
    fn a_closed_pipe_is_said() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut output = RecordWriter::new(Box::new(writer));
        output.buffer().resize(FULL, b'x');
        assert_eq!(output.end_record().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(output.flush().is_ok(), "the lost bytes are not tried again");
    }
}
