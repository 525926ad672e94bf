//! Links: what the programs are attached to, by object, and how they are removed.
//!
//! Removing a link to a perf event takes the kernel about a tenth of a second. For most of that time it holds
//! a lock while it waits for every processor, so that nobody else can attach. So such links are removed on a
//! separate thread, one after the other, when nothing has been attached for a moment: new objects are more
//! urgent than old ones. At the end of the session all links are removed at the same time, while the last
//! records are read.
//!
//! Removing a link to many places takes as long as one, whatever their number, and without that lock. Such
//! links are removed at once and all at the same time: the waits are shared.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::attach_warmup::AttachWarmup;
use crate::plan::ObjectId;

/// A link. Dropping it detaches the program.
pub(super) type Link = Box<dyn Send>;

/// How many links are removed at the same time, each on its own thread.
const AT_ONCE: usize = 256;

/// The stack of such a thread, which does nothing but close a file.
const STACK_BYTES: usize = 64 * 1024;

/// A link is removed when nothing has been attached for this long. The programs of a container, and the
/// libraries of a program, are attached within this time of each other.
const QUIET: Duration = Duration::from_millis(250);

/// After this time a link is removed even without such a pause, so that they do not accumulate forever.
const PATIENCE: Duration = Duration::from_secs(2);

/// If this many links wait, they are removed without a pause.
const BACKLOG: usize = 64;

/// When links are removed while the session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// One by one, when nothing has been attached for a moment.
    WhenQuiet,
    /// All that are discarded, at the same time.
    AtOnce,
}

pub(super) struct Links {
    objects: HashMap<ObjectId, Vec<Link>>,
    /// Links that last as long as the session.
    lasting: Vec<Link>,
    ahead: AttachWarmup,
    discarded: Arc<Discarded>,
    remover: Option<JoinHandle<()>>,
}

/// The state that both threads share.
struct Discarded {
    removal: Removal,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    links: VecDeque<Link>,
    /// When something was last attached.
    attached: Option<Instant>,
    ended: bool,
}

impl Links {
    pub(super) fn new(removal: Removal, ahead: AttachWarmup) -> Self {
        let (queue, changed) = (Mutex::default(), Condvar::new());
        Self {
            objects: HashMap::new(),
            lasting: Vec::new(),
            ahead,
            discarded: Arc::new(Discarded { removal, queue, changed }),
            remover: None,
        }
    }

    /// To be called right before and right after something is attached.
    pub(super) fn attaching(&self) {
        self.ahead.attaching();
        self.discarded.lock().attached = Some(Instant::now());
    }

    /// For a caller that may have to attach something soon.
    pub(super) fn ahead(&self) -> AttachWarmup {
        self.ahead.clone()
    }

    /// Keeps links until their object is removed.
    pub(super) fn keep(&mut self, object: ObjectId, links: Vec<Link>) {
        self.objects.entry(object).or_default().extend(links);
    }

    /// Keeps a link until the session ends.
    pub(super) fn keep_lasting(&mut self, link: impl Send + 'static) {
        self.lasting.push(Box::new(link));
    }

    /// Removes the links of an object, not necessarily at once.
    pub(super) fn remove(&mut self, object: ObjectId) {
        if let Some(links) = self.objects.remove(&object) {
            self.discard(links);
        }
    }

    /// Removes the links of an object, and waits until they are removed.
    pub(super) fn remove_now(&mut self, object: ObjectId) {
        remove(self.objects.remove(&object).unwrap_or_default());
    }

    /// Removes links, not necessarily at once.
    pub(super) fn discard(&mut self, links: Vec<Link>) {
        if links.is_empty() {
            return;
        }
        self.discarded.lock().links.extend(links);
        self.discarded.changed.notify_one();
        if self.remover.is_none() {
            let discarded = Arc::clone(&self.discarded);
            // If there is no thread, the links wait for the next attempt, or for the end.
            self.remover =
                thread::Builder::new().name("detach".to_owned()).spawn(move || discarded.work()).ok();
        }
    }
}

impl Links {
    /// Begins to remove all links, at the same time. No others may be added.
    pub(super) fn end(&mut self) {
        let mut links = std::mem::take(&mut self.lasting);
        links.extend(self.objects.drain().flat_map(|(_, links)| links));
        {
            let mut queue = self.discarded.lock();
            if std::mem::replace(&mut queue.ended, true) {
                return;
            }
            links.extend(queue.links.drain(..));
        }
        self.discarded.changed.notify_one();
        let (ahead, remover) = (self.ahead.clone(), self.remover.take());
        let work = move || {
            links.extend(ahead.end());
            remove(links);
            if let Some(remover) = remover {
                // A panic of the thread was reported where it happened.
                let _ = remover.join();
            }
        };
        // If no thread can be started, the links are removed here, with the closure that owns them.
        self.remover = thread::Builder::new().name("detach".to_owned()).spawn(work).ok();
    }

    /// Whether all links are removed, after [`end`](Self::end). Then no program runs any more.
    pub(super) fn are_removed(&self) -> bool {
        self.remover.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Discarded {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it holds the lock, and no change of the queue is left half done.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes links until the session ends.
    fn work(&self) {
        let mut removed = Instant::now();
        let mut queue = self.lock();
        loop {
            if queue.ended {
                return;
            }
            if queue.links.is_empty() {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                removed = Instant::now();
                continue;
            }
            if self.removal == Removal::AtOnce {
                let links = queue.links.drain(..).collect();
                drop(queue);
                remove(links);
                queue = self.lock();
                continue;
            }
            let loud = queue.attached.map_or(Duration::ZERO, |at| QUIET.saturating_sub(at.elapsed()));
            let patience = PATIENCE.saturating_sub(removed.elapsed());
            let wait = if queue.links.len() > BACKLOG { Duration::ZERO } else { loud.min(patience) };
            if !wait.is_zero() {
                let waited = self.changed.wait_timeout(queue, wait);
                queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let link = queue.links.pop_front();
            drop(queue);
            drop(link);
            removed = Instant::now();
            queue = self.lock();
        }
    }
}

/// Removes links at the same time, and waits until all are removed.
fn remove(mut links: Vec<Link>) {
    while !links.is_empty() {
        let some = links.split_off(links.len().saturating_sub(AT_ONCE));
        thread::scope(|scope| {
            for link in some {
                // If no thread can be started, the link is dropped here, along with the closure that owns it.
                let thread = thread::Builder::new().stack_size(STACK_BYTES);
                let _ = thread.spawn_scoped(scope, move || drop(link));
            }
        });
    }
}

impl Drop for Links {
    /// Waits until everything is detached.
    fn drop(&mut self) {
        self.end();
        if let Some(remover) = self.remover.take() {
            // A panic of the thread was reported where it happened.
            let _ = remover.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A link whose removal takes a while.
    struct Slow(Arc<AtomicUsize>);

    impl Drop for Slow {
        fn drop(&mut self) {
            thread::sleep(Duration::from_millis(50));
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Links of some objects, two each, and the count of those that were removed.
    fn links(removal: Removal, objects: u32) -> (Links, Arc<AtomicUsize>) {
        let removed = Arc::new(AtomicUsize::new(0));
        let mut links = Links::new(removal, AttachWarmup::new(|| Ok(Box::new(()))));
        for number in 0..objects {
            for _ in 0..2 {
                links.keep(ObjectId(number), vec![Box::new(Slow(Arc::clone(&removed)))]);
            }
        }
        (links, removed)
    }

    fn wait_for(removed: &AtomicUsize, number: usize) {
        let end = Instant::now() + Duration::from_secs(20);
        while removed.load(Ordering::SeqCst) < number {
            assert!(Instant::now() < end, "{removed:?} of {number} links are removed");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn removing_holds_up_nothing_and_the_end_waits_for_all() {
        let (mut links, removed) = links(Removal::WhenQuiet, 100);
        links.keep_lasting(Slow(Arc::clone(&removed)));
        let begin = Instant::now();
        for number in 0..10 {
            links.remove(ObjectId(number));
        }
        links.remove(ObjectId(0));
        assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
        wait_for(&removed, 1);
        let begin = Instant::now();
        drop(links);
        assert_eq!(removed.load(Ordering::SeqCst), 201);
        assert!(begin.elapsed() < Duration::from_secs(5), "one after the other: {:?}", begin.elapsed());
    }

    #[test]
    fn the_end_is_over_when_all_links_are_removed() {
        let (mut links, removed) = links(Removal::AtOnce, 3);
        links.end();
        assert!(!links.are_removed());
        wait_for(&removed, 6);
        let begin = Instant::now();
        while !links.are_removed() {
            assert!(begin.elapsed() < Duration::from_secs(20), "never over");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn links_are_removed_without_an_end() {
        let (mut links, removed) = links(Removal::WhenQuiet, 2);
        links.remove(ObjectId(0));
        wait_for(&removed, 2);
        links.remove(ObjectId(1));
        wait_for(&removed, 4);
    }

    #[test]
    fn links_to_many_places_are_removed_together_and_do_not_wait_for_a_pause() {
        let (mut links, removed) = links(Removal::AtOnce, 100);
        let begin = Instant::now();
        for number in 0..100 {
            links.attaching();
            links.remove(ObjectId(number));
        }
        wait_for(&removed, 200);
        assert!(begin.elapsed() < PATIENCE, "one after the other: {:?}", begin.elapsed());
    }

    #[test]
    fn attaching_comes_first_but_not_for_ever() {
        let (mut links, removed) = links(Removal::WhenQuiet, 1);
        let begin = Instant::now();
        links.attaching();
        links.remove(ObjectId(0));
        while removed.load(Ordering::SeqCst) == 0 {
            links.attaching();
            assert!(begin.elapsed() < Duration::from_secs(20), "never removed");
            thread::sleep(Duration::from_millis(5));
        }
        assert!(begin.elapsed() >= PATIENCE, "removed after {:?}", begin.elapsed());
    }
}
