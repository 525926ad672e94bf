//! Mappings of processes that had ended before anybody asked whether they are in scope.
//!
//! The kernel's set of threads no longer has such a process. Only the record of its end says that it was in
//! scope, and that comes by another way, before or after the mappings. So mappings of processes out of scope
//! are kept for a moment, and so are the processes in scope that have ended.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::decode::ExecMmap;

/// How long the record of the end and the mappings wait for each other. It is longer than the ring waits for
/// its reader.
const KEPT: Duration = Duration::from_secs(2);
/// Limit of the mappings that are kept. The oldest ones make room.
const MAPPINGS: usize = 4096;
/// Limit of the processes that are kept.
const PROCESSES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

#[derive(Debug)]
pub(super) struct UndecidedMappings {
    mappings: VecDeque<(Instant, ExecMmap)>,
    ended: LruCache<u32, Instant>,
}

impl Default for UndecidedMappings {
    fn default() -> Self {
        Self { mappings: VecDeque::new(), ended: LruCache::sparse(PROCESSES) }
    }
}

impl UndecidedMappings {
    /// Keeps a mapping of a process that is not in scope, as far as is known. Returns it if the process was
    /// in scope and has ended.
    pub(super) fn add(&mut self, mapped: ExecMmap, now: Instant) -> Option<ExecMmap> {
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < KEPT;
        if self.ended.peek(&mapped.pid).is_some_and(is_recent) {
            return Some(mapped);
        }
        while self.mappings.len() >= MAPPINGS || self.mappings.front().is_some_and(|(at, _)| !is_recent(at)) {
            self.mappings.pop_front();
        }
        self.mappings.push_back((now, mapped));
        None
    }

    /// Records that a process in scope has ended. Returns what it had mapped.
    pub(super) fn ended(&mut self, pid: u32, now: Instant) -> Vec<ExecMmap> {
        self.ended.push(pid, now);
        if !self.mappings.iter().any(|(_, mapped)| mapped.pid == pid) {
            return Vec::new();
        }
        let is_its = |(at, mapped): &(Instant, ExecMmap)| {
            mapped.pid == pid && now.saturating_duration_since(*at) < KEPT
        };
        let (its, others) = std::mem::take(&mut self.mappings).into_iter().partition(is_its);
        self.mappings = others;
        let its: VecDeque<(Instant, ExecMmap)> = its;
        its.into_iter().map(|(_, mapped)| mapped).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(pid: u32, inode: u64) -> ExecMmap {
        ExecMmap {
            pid,
            tid: pid,
            address: 0,
            length: 1,
            offset: 0,
            inode,
            device: (8, 1),
            path: "/bin/true".into(),
            time: 1,
        }
    }

    #[test]
    fn the_end_and_the_mappings_of_a_process_find_each_other_in_any_order() {
        let (mut undecided, begin) = (UndecidedMappings::default(), Instant::now());
        assert_eq!(undecided.add(mapped(1, 10), begin), None);
        assert_eq!(undecided.add(mapped(2, 20), begin), None);
        assert_eq!(undecided.add(mapped(1, 11), begin), None);
        assert_eq!(undecided.ended(1, begin + KEPT / 2), [mapped(1, 10), mapped(1, 11)]);
        assert_eq!(undecided.add(mapped(1, 12), begin + KEPT), Some(mapped(1, 12)));
        assert_eq!(undecided.ended(1, begin + KEPT), []);
        // Too late: the id may be another process's by then.
        assert_eq!(undecided.ended(2, begin + KEPT), []);
        assert_eq!(undecided.add(mapped(1, 13), begin + KEPT * 3), None);
    }

    #[test]
    fn what_is_kept_is_limited() {
        let (mut undecided, begin) = (UndecidedMappings::default(), Instant::now());
        for inode in 0..2 * MAPPINGS as u64 {
            assert_eq!(undecided.add(mapped(1, inode), begin), None);
        }
        assert_eq!(undecided.mappings.len(), MAPPINGS);
        undecided.add(mapped(2, 1), begin + KEPT);
        assert_eq!(undecided.mappings.len(), 1);
        for pid in 0..10_000 {
            undecided.ended(pid, begin);
        }
        assert_eq!(undecided.ended.len(), PROCESSES.get());
    }
}
