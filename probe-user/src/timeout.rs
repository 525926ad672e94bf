//! Waiting for file systems that may never answer, but not for ever.
//!
//! Owns both ways of it: [`with_timeout`] for the event loop, [`BlockingReaders`] for code in its middle that
//! cannot wait as a task does.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

/// A file system that answers from userspace (FUSE, a dead NFS server) gets this long.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs on another thread, which is left behind if it does not come back.
pub(crate) async fn with_timeout<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::time::timeout(TIMEOUT, tokio::task::spawn_blocking(work)).await.ok()?.ok()
}

/// Reads at the same time, at the most: a thread that gets no answer stays for ever.
const READERS: usize = 8;

/// Threads that read files while their caller waits. Each holds a clone while it does.
#[derive(Debug, Default)]
pub(crate) struct BlockingReaders(Arc<()>);

/// Why there is no result.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// All threads are waiting for their files, or there cannot be another one.
    Busy,
    /// The file system did not answer in time.
    TimedOut,
}

impl BlockingReaders {
    /// What `read` returns, on a thread that is left behind if it takes longer than `timeout`.
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
            // Nobody waits any more when it cannot be sent.
            drop(done.send(result));
        };
        let reader = thread::Builder::new().name("reader".to_owned());
        reader.spawn(work).map_err(|_| ReadError::Busy)?;
        result.recv_timeout(timeout).map_err(|_| ReadError::TimedOut)
    }
}

/// Why nothing is known of a file.
pub(crate) fn timed_out_message() -> String {
    format!("its file system did not answer within {} s", TIMEOUT.as_secs())
}

/// Why nothing is known of a file that could be opened.
pub(crate) fn timed_out_reading_message(size: u64) -> String {
    format!(
        "it was opened, but its {} KiB were not read and looked through within {} s: its file system is \
         slow, or the machine busy",
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
