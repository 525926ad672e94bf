//! Writing to a reader that may stop reading, without being held by it after the end.
//!
//! While it does not read, nothing is drained and the kernel's ring fills: that is counted loss. Owns only
//! the waiting.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Bytes that a pipe which is ready takes without blocking (`PIPE_BUF` of pipe(7)).
const ATOMIC: usize = 4096;
/// How often it is looked whether the end has come.
const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// How long a reader is waited for after the end.
const GRACE: Duration = Duration::from_secs(2);

/// When writing should not wait any more.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Set by a signal.
    pub requested: Arc<AtomicBool>,
    /// When the trace is to end.
    pub deadline: Option<Instant>,
}

impl Stop {
    fn has_come(&self) -> bool {
        let passed = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        passed || self.requested.load(Ordering::Relaxed)
    }
}

/// A pipe, socket or terminal.
#[derive(Debug)]
pub(super) struct Patient {
    file: File,
    stop: Stop,
}

impl Patient {
    pub(super) fn new(file: File, stop: Stop) -> Self {
        Self { file, stop }
    }

    /// Waits until some bytes can be written. After the end, a reader that does not read has gone.
    fn wait(&self) -> io::Result<()> {
        let mut given_up = None;
        loop {
            let mut polled = [PollFd::new(&self.file, PollFlags::OUT)];
            match poll(&mut polled, Some(&GLANCE)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            if self.stop.has_come() {
                let until = *given_up.get_or_insert_with(|| Instant::now() + GRACE);
                if Instant::now() >= until {
                    return Err(io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads the records"));
                }
            }
        }
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait()?;
        let (piece, _) = bytes.split_at(bytes.len().min(ATOMIC));
        self.file.write(piece)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn a_slow_reader_gets_everything_and_one_that_does_not_read_is_left() {
        let (mut reader, writer) = io::pipe().unwrap();
        let stop = Stop::default();
        let mut patient = Patient::new(File::from(OwnedFd::from(writer)), stop.clone());
        let sent = vec![7_u8; 300_000];
        let slow = std::thread::spawn(move || {
            let mut got = vec![0; 300_000];
            reader.read_exact(&mut got).unwrap();
            (got, reader)
        });
        patient.write_all(&sent).unwrap();
        let (got, _reader) = slow.join().unwrap();
        assert_eq!(got, sent);
        stop.requested.store(true, Ordering::Relaxed);
        assert_eq!(patient.write_all(&sent).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
