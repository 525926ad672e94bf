//! When a process is inspected again that makes executable memory: it may have copied its code there.
//!
//! Compilers in processes (JavaScript, Java) make such memory all the time. So the first time is looked into
//! soon, and each further one after twice as long. Pure: times are passed in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long after the first event a process is inspected: it may map the memory first, then fill it, and then
/// move it to where its code was.
const FIRST: Duration = Duration::from_millis(20);
/// The longest time between an event and the inspection.
const LONGEST: Duration = Duration::from_secs(10);
/// Limit of the processes. Without room for another one, its copy is noticed when it is next inspected.
const PROCESSES: usize = 1 << 16;

/// The processes that have made executable memory.
#[derive(Debug, Default)]
pub(super) struct CodeWatch(BTreeMap<u32, Watched>);

#[derive(Clone, Copy, Debug)]
struct Watched {
    delay: Duration,
    /// When it is to be inspected. None if it has made no memory since it was.
    due: Option<Instant>,
}

impl CodeWatch {
    /// Records that a process has made executable memory.
    pub(super) fn changed(&mut self, pid: u32, now: Instant) {
        if self.0.len() >= PROCESSES && !self.0.contains_key(&pid) {
            return;
        }
        let watched = self.0.entry(pid).or_insert(Watched { delay: FIRST, due: None });
        if watched.due.is_none() {
            watched.due = Some(now + watched.delay);
            watched.delay = (watched.delay * 2).min(LONGEST);
        }
    }

    /// Records that a process has ended or executes another program.
    pub(super) fn ended(&mut self, pid: u32) {
        self.0.remove(&pid);
    }

    /// The processes that are to be inspected now.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<u32> {
        let is_due = |watched: &Watched| watched.due.is_some_and(|due| due <= now);
        let due = self.0.iter_mut().filter(|(_, watched)| is_due(watched));
        due.map(|(pid, watched)| {
            watched.due = None;
            *pid
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_inspected_soon_and_then_ever_more_rarely() {
        let (mut watch, start) = (CodeWatch::default(), Instant::now());
        watch.changed(7, start);
        watch.changed(7, start + FIRST / 2);
        assert!(watch.take_due(start + FIRST / 2).is_empty());
        assert_eq!(watch.take_due(start + FIRST), [7]);
        assert!(watch.take_due(start + LONGEST).is_empty(), "nothing has changed since");
        let mut now = start + FIRST;
        let mut inspections = 0;
        // Memory is made every millisecond for a minute.
        for _ in 0..60_000 {
            now += Duration::from_millis(1);
            watch.changed(7, now);
            inspections += watch.take_due(now).len();
        }
        assert!((10..20).contains(&inspections), "{inspections}");
        watch.changed(8, now);
        assert_eq!(watch.take_due(now + FIRST), [8], "others do not wait for it");
        watch.ended(7);
        watch.changed(7, now);
        assert_eq!(watch.take_due(now + FIRST), [7], "it is another program");
    }
}
