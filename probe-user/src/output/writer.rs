//! The buffer between an output and its file or pipe.
//!
//! Owns the rule when the buffer is written: when it is full, or when the caller says that the stream pauses.
//! Records are formatted in the buffer itself, so that nothing is copied twice.

use std::fmt;
use std::io::{self, Write};

use super::destination::{Destination, may_wait};
use super::interruptible::{InterruptibleWriter, StopFlag};

/// The buffer is written once it holds this many bytes, the size of a pipe.
const FULL: usize = 64 * 1024;
/// The capacity that is kept after a large record.
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
    /// Writes to any writer, which should have no buffer of its own.
    pub fn new(inner: Box<dyn Write + Send>) -> Self {
        Self { inner, buffer: Vec::with_capacity(2 * FULL) }
    }

    /// Writes to a claimed destination. A write waits for a reader that does not read until `stop` is set.
    pub fn to(destination: Destination, stop: StopFlag) -> Self {
        let file = destination.into_file();
        // A file whose kind is unknown is treated like a pipe, which is slower, and never wrong.
        if may_wait(&file).unwrap_or(true) {
            Self::new(Box::new(InterruptibleWriter::new(file, stop)))
        } else {
            Self::new(Box::new(file))
        }
    }

    /// The buffer to which the next record is to be appended as a whole.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// To be called after each record.
    pub(super) fn end_record(&mut self) -> io::Result<()> {
        if self.buffer.len() < FULL { Ok(()) } else { self.flush() }
    }

    /// Writes the content of the buffer.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let result = self.inner.write_all(&self.buffer);
        // After an error too, because a part of it may have been written and must not be written again.
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
