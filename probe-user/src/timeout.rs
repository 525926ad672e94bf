//! Waiting for file systems that may never respond, but only for a limited time.
//!
//! Owns both ways to do this: [`with_timeout`] for the event loop, and [`BlockingReaders`] for code below it
//! that cannot await.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

/// How long a file system that is served from userspace (FUSE, a dead NFS server) may take to respond.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs `work` on another thread, which is abandoned if it does not return in time.
pub(crate) async fn with_timeout<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::time::timeout(TIMEOUT, tokio::task::spawn_blocking(work)).await.ok()?.ok()
}

/// The most reads at the same time, because a thread whose file system does not respond stays forever.
const READERS: usize = 8;

/// Threads that read files while their caller waits. Each of them holds a clone as long as it reads.
#[derive(Debug, Default)]
pub(crate) struct BlockingReaders(Arc<()>);

/// Why there is no result.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// All threads are waiting for their files, or no other one could be started.
    Busy,
    /// The file system did not respond in time.
    TimedOut,
}

impl BlockingReaders {
    /// Returns the result of `read`, which runs on a thread that is abandoned if it takes longer than
    /// `timeout`.
    pub(crate) fn read<T: Send + 'static>(
        &self,
        timeout: Duration,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        if Arc::strong_count(&self.0) > READERS {
            return Err(ReadError::Busy);
        }
        let (done, result) = mpsc::channel();
        let reading = Arc::clone(&self.0);
        let work = move || {
            let result = read();
            drop(reading);
            // If it cannot be sent, the caller has stopped waiting.
            drop(done.send(result));
        };
        let reader = thread::Builder::new().name("reader".to_owned());
        reader.spawn(work).map_err(|_| ReadError::Busy)?;
        result.recv_timeout(timeout).map_err(|_| ReadError::TimedOut)
    }
}

/// The message for a file that could not be inspected in time.
pub(crate) fn timed_out_message() -> String {
    format!("its file system did not answer within {} s", TIMEOUT.as_secs())
}

/// The message for a file that was opened, but not read in time.
pub(crate) fn timed_out_reading_message(size: u64) -> String {
    format!(
        "it was opened, but reading and analysing its {} KiB took longer than {} s: its file system is slow, \
         or the machine is busy",
        size.div_ceil(1024),
        TIMEOUT.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_that_get_no_answer_are_few() {
        let readers = BlockingReaders::default();
        let (answer, wait) = mpsc::channel::<()>();
        let wait = Arc::new(std::sync::Mutex::new(wait));
        for _ in 0..READERS {
            let wait = Arc::clone(&wait);
            let read = readers.read(Duration::ZERO, move || wait.lock().map(|wait| wait.recv()).is_ok());
            assert_eq!(read, Err(ReadError::TimedOut));
        }
        assert_eq!(readers.read(Duration::MAX, || ()), Err(ReadError::Busy));
        drop(answer);
        while Arc::strong_count(&readers.0) > 1 {
            thread::yield_now();
        }
        assert_eq!(readers.read(Duration::MAX, || 7), Ok(7));
    }
}
