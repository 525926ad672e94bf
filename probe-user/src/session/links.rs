//! Links: what the programs are attached to, by object, and how they are removed.
//!
//! Removing one takes the kernel about a tenth of a second, most of which it waits for every processor to have
//! left the old state (docs/performance.md). So it is done on threads beside the caller, and many at a time:
//! those that wait together wait once.

use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use crate::plan::ObjectId;

/// A link; dropping it detaches.
pub(super) type Link = Box<dyn Send>;

/// Links that are removed at the same time, each on a thread of its own.
const AT_ONCE: usize = 32;

/// All links of a session.
#[derive(Default)]
pub(super) struct Links {
    objects: HashMap<ObjectId, Vec<Link>>,
    /// Those that last as long as the session.
    lasting: Vec<Link>,
    remover: Option<Remover>,
}

struct Remover {
    links: Sender<Vec<Link>>,
    thread: JoinHandle<()>,
}

impl Links {
    /// Keeps links as long as their object.
    pub(super) fn keep(&mut self, object: ObjectId, links: Vec<Link>) {
        self.objects.entry(object).or_default().extend(links);
    }

    /// Keeps a link as long as the session.
    pub(super) fn keep_lasting(&mut self, link: impl Send + 'static) {
        self.lasting.push(Box::new(link));
    }

    /// Removes the links of an object, without waiting.
    pub(super) fn remove(&mut self, object: ObjectId) {
        if let Some(links) = self.objects.remove(&object) {
            self.discard(links);
        }
    }

    /// Removes links, without waiting where a thread can be had.
    pub(super) fn discard(&mut self, mut links: Vec<Link>) {
        if self.remover.is_none() {
            self.remover = Remover::start();
        }
        if let Some(remover) = &self.remover {
            match remover.links.send(links) {
                Ok(()) => return,
                Err(mpsc::SendError(back)) => links = back,
            }
        }
        remove(links);
    }
}

impl Remover {
    fn start() -> Option<Self> {
        let (links, discarded) = mpsc::channel();
        let thread = thread::Builder::new().name("detach".to_owned()).spawn(move || work(&discarded)).ok()?;
        Some(Self { links, thread })
    }
}

fn work(discarded: &Receiver<Vec<Link>>) {
    while let Ok(mut links) = discarded.recv() {
        links.extend(discarded.try_iter().flatten());
        remove(links);
    }
}

/// Removes links, and waits for it.
fn remove(mut links: Vec<Link>) {
    while !links.is_empty() {
        let some = links.split_off(links.len().saturating_sub(AT_ONCE));
        thread::scope(|scope| {
            for link in some {
                // Without a thread the link is dropped here, with what the thread would have run.
                let _ = thread::Builder::new().spawn_scoped(scope, move || drop(link));
            }
        });
    }
}

impl Drop for Links {
    /// Waits until nothing is attached any more.
    fn drop(&mut self) {
        let mut links = std::mem::take(&mut self.lasting);
        links.extend(self.objects.drain().flat_map(|(_, links)| links));
        remove(links);
        if let Some(Remover { links, thread }) = self.remover.take() {
            drop(links);
            // Its panic would have been reported where it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier};
    use std::time::{Duration, Instant};

    use super::*;

    /// A link whose removal takes a while.
    struct Slow(Arc<AtomicUsize>, Duration);

    impl Drop for Slow {
        fn drop(&mut self) {
            thread::sleep(self.1);
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn links_go_at_the_same_time_and_all_of_them() {
        let removed = Arc::new(AtomicUsize::new(0));
        let mut links = Links::default();
        let slow = || Slow(Arc::clone(&removed), Duration::from_millis(100));
        for number in 0..50 {
            links.keep(ObjectId(number), vec![Box::new(slow())]);
            links.keep(ObjectId(number), vec![Box::new(slow())]);
        }
        links.keep_lasting(slow());
        let begin = Instant::now();
        for number in 0..10 {
            links.remove(ObjectId(number));
        }
        links.remove(ObjectId(0));
        assert!(begin.elapsed() < Duration::from_millis(80), "removing waits: {:?}", begin.elapsed());
        drop(links);
        assert_eq!(removed.load(Ordering::SeqCst), 101);
        assert!(begin.elapsed() < Duration::from_secs(5), "one after the other: {:?}", begin.elapsed());
    }

    #[test]
    fn the_end_waits_for_what_is_being_removed() {
        /// A link that waits for the test in its removal.
        struct Held(Arc<Barrier>, Arc<AtomicUsize>);
        impl Drop for Held {
            fn drop(&mut self) {
                self.0.wait();
                thread::sleep(Duration::from_millis(50));
                self.1.fetch_add(1, Ordering::SeqCst);
            }
        }
        let (barrier, removed) = (Arc::new(Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
        let mut links = Links::default();
        links.keep(ObjectId(1), vec![Box::new(Held(Arc::clone(&barrier), Arc::clone(&removed)))]);
        links.remove(ObjectId(1));
        barrier.wait();
        drop(links);
        assert_eq!(removed.load(Ordering::SeqCst), 1);
    }
}
