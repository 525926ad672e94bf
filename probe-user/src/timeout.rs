//! Waiting for file systems that may never answer, but not for ever.

use std::time::Duration;

/// A file system that answers from userspace (FUSE, a dead NFS server) gets this long.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs on another thread, which is left behind if it does not come back.
pub(crate) async fn with_timeout<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::time::timeout(TIMEOUT, tokio::task::spawn_blocking(work)).await.ok()?.ok()
}

/// Why nothing is known of a file.
pub(crate) fn timed_out_message() -> String {
    format!("its file system did not answer within {} s", TIMEOUT.as_secs())
}

/// Why nothing is known of a file that could be opened.
pub(crate) fn timed_out_reading_message(size: u64) -> String {
    format!(
        "it was opened, but its {} KiB were not read and looked through within {} s: its file system is \
         slow, or \
         the machine busy",
        size.div_ceil(1024),
        TIMEOUT.as_secs()
    )
}
