//! Warms up uprobe registration while it is not yet decided what to probe.
//!
//! To register a uprobe, the kernel takes a lock that waits for every processor (`dup_mmap_sem` in
//! kernel/events/uprobes.c). This takes some ticks for the first registration, and nothing for those right
//! after it. So when a file is about to be inspected for the first time, a uprobe is registered on another
//! thread, in a file of our own that nobody maps, so that nobody can hit it. By the time the file is parsed,
//! much of the wait is over.
//!
//! Owns these idle probes. If they are perf events, the kernel needs a tenth of a second to remove one,
//! during which nothing can be attached. So there are few of them, and they are removed when nothing has been
//! attached for seconds, or at the end.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;

use super::links::Link;
use super::perf_uprobe;
use crate::elf::FileOffset;

/// The most idle probes at a time. A machine whose programs change constantly must not fill the kernel with
/// them.
const MOST: usize = 8;

/// How long after a registration the next one does not have to wait: about as long as the first one waits.
const WARM_FOR: Duration = Duration::from_millis(10);

/// An idle probe is removed when nothing has been attached for this long.
const QUIET_PERIOD: Duration = Duration::from_secs(5);

/// The size of our own file: one page.
const FILE_BYTES: u64 = 4096;

/// Starts the wait. Clones share it.
#[derive(Clone)]
pub struct AttachWarmup(Arc<WarmupShared>);

struct WarmupShared {
    /// Registers a probe that nobody can hit.
    register: Box<dyn Fn() -> io::Result<Link> + Send + Sync>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// A probe is about to be registered, or is being registered.
    begun: bool,
    /// When something was last registered.
    registered: Option<Instant>,
    probes: Vec<Link>,
    thread: Option<JoinHandle<()>>,
    ended: bool,
}

impl AttachWarmup {
    pub(super) fn new(register: impl Fn() -> io::Result<Link> + Send + Sync + 'static) -> Self {
        let register = Box::new(register);
        Self(Arc::new(WarmupShared { register, state: Mutex::default(), changed: Condvar::new() }))
    }

    /// Starts the wait, because something may have to be attached soon. Returns at once.
    pub fn prime(&self) {
        let mut state = self.0.lock();
        let is_warm = state.registered.is_some_and(|at| at.elapsed() < WARM_FOR);
        if state.ended || state.begun || is_warm || state.probes.len() >= MOST {
            return;
        }
        if state.thread.is_none() {
            let shared = Arc::clone(&self.0);
            // If there is no thread, the first probe waits as long as it has to.
            state.thread = thread::Builder::new().name("ahead".to_owned()).spawn(move || shared.work()).ok();
        }
        state.begun = state.thread.is_some();
        self.0.changed.notify_one();
    }

    /// To be called right before and right after something is attached.
    pub(super) fn attaching(&self) {
        self.0.lock().registered = Some(Instant::now());
    }

    /// Starts no further registration, and returns the idle probes, which the caller removes.
    pub(super) fn end(&self) -> Vec<Link> {
        let mut state = self.0.lock();
        state.ended = true;
        let thread = state.thread.take();
        drop(state);
        self.0.changed.notify_one();
        if let Some(thread) = thread {
            // A panic of the thread was reported where it happened.
            let _ = thread.join();
        }
        std::mem::take(&mut self.0.lock().probes)
    }
}

impl WarmupShared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and no change of the state is left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers and removes idle probes until the session ends.
    fn work(&self) {
        let mut state = self.lock();
        while !state.ended {
            if state.begun {
                drop(state);
                let probe = (self.register)();
                state = self.lock();
                state.begun = false;
                state.registered = Some(Instant::now());
                match probe {
                    Ok(probe) => state.probes.push(probe),
                    Err(error) => tracing::debug!("no idle probe: {error}"),
                }
                continue;
            }
            let quiet = state.registered.map_or(QUIET_PERIOD, |at| at.elapsed());
            state = match state.probes.pop_if(|_| quiet >= QUIET_PERIOD) {
                Some(probe) => {
                    drop(state);
                    drop(probe);
                    self.lock()
                }
                None if state.probes.is_empty() => {
                    self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
                }
                None => {
                    let waited = self.changed.wait_timeout(state, QUIET_PERIOD.saturating_sub(quiet));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// Registers a probe that nobody can hit, by a perf event.
pub(super) fn idle_perf_event() -> io::Result<Link> {
    let file = unmapped_file()?;
    // The kernel keeps the file for as long as the probe exists.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(Box::new(perf_uprobe::uprobe(path.as_ref(), FileOffset(0), 0)?))
}

/// A file of our own that nobody maps.
pub(super) fn unmapped_file() -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("ctrace", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, FILE_BYTES)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    impl AttachWarmup {
        /// Waits until the requested registration is done.
        fn settle(&self) {
            while self.0.lock().begun {
                thread::yield_now();
            }
        }

        /// Like [`settle`](Self::settle), and then pretends that this was some time ago.
        fn settle_since(&self, ago: Duration) {
            self.settle();
            self.0.lock().registered = Instant::now().checked_sub(ago);
            self.0.changed.notify_one();
        }

        fn probes(&self) -> usize {
            self.0.lock().probes.len()
        }
    }

    #[test]
    fn a_burst_has_one_probe_and_there_are_few_in_all() {
        let ahead = AttachWarmup::new(|| Ok(Box::new(())));
        for expected in (1..=MOST).chain([MOST; 3]) {
            ahead.prime();
            // During the registration and right after it, however slow this machine is.
            ahead.prime();
            ahead.settle();
            ahead.0.lock().registered = Some(Instant::now() + QUIET_PERIOD);
            ahead.prime();
            ahead.settle_since(WARM_FOR);
            assert_eq!(ahead.probes(), expected);
        }
        assert_eq!(ahead.end().len(), MOST);
        ahead.prime();
        assert_eq!(ahead.probes(), 0, "the session has ended");
    }

    #[test]
    fn probes_go_when_it_is_quiet() {
        /// Counts its removals.
        struct WarmupProbe;
        static REMOVED: AtomicUsize = AtomicUsize::new(0);
        impl Drop for WarmupProbe {
            fn drop(&mut self) {
                REMOVED.fetch_add(1, Ordering::SeqCst);
            }
        }
        let ahead = AttachWarmup::new(|| Ok(Box::new(WarmupProbe)));
        for _ in 0..3 {
            ahead.prime();
            ahead.settle_since(WARM_FOR);
        }
        assert_eq!((ahead.probes(), REMOVED.load(Ordering::SeqCst)), (3, 0));
        ahead.settle_since(QUIET_PERIOD);
        while ahead.probes() > 0 {
            thread::yield_now();
        }
        assert_eq!(ahead.end().len(), 0);
        assert_eq!(REMOVED.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn what_cannot_be_registered_is_tried_again() {
        static TRIED: AtomicUsize = AtomicUsize::new(0);
        let ahead = AttachWarmup::new(|| {
            TRIED.fetch_add(1, Ordering::SeqCst);
            Err(io::Error::other("not permitted"))
        });
        for expected in 1..4 {
            ahead.prime();
            ahead.settle_since(WARM_FOR);
            assert_eq!((ahead.probes(), TRIED.load(Ordering::SeqCst)), (0, expected));
        }
    }
}
