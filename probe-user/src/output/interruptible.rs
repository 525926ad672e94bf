//! Writes to a reader that may stop reading, and does not wait for such a reader after the trace has ended.
//!
//! While the reader does not read, nothing is drained and the kernel's ring fills, which is counted loss.
//! This module owns only the waiting.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The number of bytes that a pipe takes without blocking when it is ready (`PIPE_BUF` of pipe(7)).
const ATOMIC: usize = 4096;
/// How often the stop flag is checked while a write waits.
const POLL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// The pause before a writer that was reported as ready, and was not, is tried again.
const FULL: Duration = Duration::from_millis(10);
/// How long a write waits for the reader after the trace has ended.
const GRACE_PERIOD: Duration = Duration::from_secs(2);

/// Says that writes should not wait any more.
#[derive(Clone)]
pub struct StopFlag(Arc<dyn Fn() -> bool + Send + Sync>);

impl StopFlag {
    /// Once this holds.
    pub fn when(has_come: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(has_come))
    }

    fn has_come(&self) -> bool {
        (self.0)()
    }
}

impl Default for StopFlag {
    /// Never.
    fn default() -> Self {
        Self::when(|| false)
    }
}

impl fmt::Debug for StopFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stop({})", self.has_come())
    }
}

/// A pipe, socket or terminal.
#[derive(Debug)]
pub(super) struct InterruptibleWriter {
    file: File,
    stop: StopFlag,
}

impl InterruptibleWriter {
    pub(super) fn new(file: File, stop: StopFlag) -> Self {
        Self { file, stop }
    }

    /// Whether a write would return at once, with success or an error. Waits for a moment.
    fn is_ready(&self) -> io::Result<bool> {
        let mut polled = [PollFd::new(&self.file, PollFlags::OUT)];
        match poll(&mut polled, Some(&POLL_INTERVAL)) {
            Ok(0) | Err(Errno::INTR) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

impl Write for InterruptibleWriter {
    /// After the trace has ended, a reader that does not read is treated as gone.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (piece, _) = bytes.split_at(bytes.len().min(ATOMIC));
        let mut given_up = None;
        loop {
            if self.is_ready()? {
                match self.file.write(piece) {
                    // The pipe had too little room after all, or another writer has filled it.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(FULL),
                    result => return result,
                }
            }
            if self.stop.has_come() {
                let until = *given_up.get_or_insert_with(|| Instant::now() + GRACE_PERIOD);
                if Instant::now() >= until {
                    return Err(io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads the records"));
                }
            }
        }
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
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_slow_reader_gets_everything_and_one_that_does_not_read_is_left() {
        let (mut reader, writer) = io::pipe().unwrap();
        let requested = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&requested);
        let stop = StopFlag::when(move || flag.load(Ordering::Relaxed));
        let mut patient = InterruptibleWriter::new(File::from(OwnedFd::from(writer)), stop);
        let sent = vec![7_u8; 300_000];
        let slow = std::thread::spawn(move || {
            let mut got = vec![0; 300_000];
            reader.read_exact(&mut got).unwrap();
            (got, reader)
        });
        patient.write_all(&sent).unwrap();
        let (got, _reader) = slow.join().unwrap();
        assert_eq!(got, sent);
        requested.store(true, Ordering::Relaxed);
        assert_eq!(patient.write_all(&sent).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
