//! Where the bytes of a sink go: one large buffer in front of a file or pipe.
//!
//! Owns the rule when bytes leave the buffer: when it is full, or when the caller says that the stream
//! pauses. Records are formatted in the buffer itself, so that nothing is copied twice.

use std::fmt;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::patient::{Patient, Stop};

/// The buffer is written out once it holds so much: the size of a pipe.
const FULL: usize = 64 * 1024;
/// Room that is kept after a large record.
const KEPT: usize = 4 * 1024 * 1024;

/// `--output` could not be opened.
#[derive(Debug, Error)]
#[error("cannot open {} for the records; name a file that can be written, or leave out --output", path.display())]
pub struct CreateError {
    path: PathBuf,
    #[source]
    cause: io::Error,
}

/// A buffered writer of whole records.
pub struct Output {
    inner: Box<dyn Write + Send>,
    buffer: Vec<u8>,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({} bytes waiting)", self.buffer.len())
    }
}

impl Output {
    /// Over any writer. It should not have a buffer of its own.
    pub fn new(inner: Box<dyn Write + Send>) -> Self {
        Self { inner, buffer: Vec::with_capacity(2 * FULL) }
    }

    /// Over standard output, without the line buffer of [`io::stdout`]. Waits for its reader until `stop`.
    pub fn stdout(stop: Stop) -> io::Result<Self> {
        Self::stream(File::from(io::stdout().as_fd().try_clone_to_owned()?), stop)
    }

    /// The same over standard error.
    pub fn stderr(stop: Stop) -> io::Result<Self> {
        Self::stream(File::from(io::stderr().as_fd().try_clone_to_owned()?), stop)
    }

    fn stream(file: File, stop: Stop) -> io::Result<Self> {
        if file.metadata()?.is_file() {
            return Ok(Self::new(Box::new(file)));
        }
        Ok(Self::new(Box::new(Patient::new(file, stop))))
    }

    /// Over a file that only its owner may read, as the records are secrets. A device or FIFO is taken
    /// as it is.
    pub fn create(path: &Path) -> Result<Self, CreateError> {
        let open = || {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
            if file.metadata()?.is_file() {
                file.set_permissions(Permissions::from_mode(0o600))?;
            }
            Ok(file)
        };
        match open() {
            Ok(file) => Ok(Self::new(Box::new(file))),
            Err(cause) => Err(CreateError { path: path.to_path_buf(), cause }),
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
    fn a_file_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let mut output = Output::create(&path).unwrap();
        output.buffer().extend_from_slice(b"new record\n");
        output.end_record().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"", "small records wait for a pause");
        output.flush().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new record\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = Output::create(dir.path()).unwrap_err();
        assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_closed_pipe_is_said() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut output = Output::new(Box::new(writer));
        output.buffer().resize(FULL, b'x');
        assert_eq!(output.end_record().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(output.flush().is_ok(), "the lost bytes are not tried again");
    }
}
