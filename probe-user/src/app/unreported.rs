//! Programs in scope of which the kernel has reported no mapping, because its ring was full.
//!
//! Each program that is executed maps its file. If no mapping of it came, and it has ended, nobody can know
//! any more what it has used: it was not inspected.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::discovery::Uninspected;

/// How long the mappings of a process are waited for after its end, which is reported by another way.
const WAIT: Duration = Duration::from_secs(2);
/// How long before its execution is recorded a program may have mapped its file.
const BEFORE: Duration = Duration::from_secs(1);
/// Limit of the processes that are remembered in each table.
const PROCESSES: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

#[derive(Debug)]
pub(super) struct UnreportedPrograms {
    /// Whether mappings were lost.
    has_lost: bool,
    /// When a mapping of a process was last made, in nanoseconds of `CLOCK_BOOTTIME`.
    mapped: LruCache<u32, u64>,
    /// When a process has executed its program, in the same time.
    executed: LruCache<u32, u64>,
    ended: VecDeque<(Instant, Uninspected)>,
}

impl Default for UnreportedPrograms {
    fn default() -> Self {
        let [mapped, executed] = [PROCESSES; 2].map(LruCache::sparse);
        Self { has_lost: false, mapped, executed, ended: VecDeque::new() }
    }
}

impl UnreportedPrograms {
    /// Records that mappings were lost.
    pub(super) fn lost(&mut self) {
        self.has_lost = true;
    }

    /// Records that a process has mapped a file.
    pub(super) fn mapped(&mut self, pid: u32, time: u64) {
        self.mapped.push(pid, time);
    }

    /// Records that a process executes a program.
    pub(super) fn executed(&mut self, pid: u32, time: u64) {
        self.executed.push(pid, time);
    }

    /// Records that a process in scope has ended.
    pub(super) fn ended(&mut self, pid: u32, now: Instant) {
        if let Some(since) = self.executed.pop(&pid) {
            if self.ended.len() == PROCESSES.get() {
                self.ended.pop_front();
            }
            self.ended.push_back((now, Uninspected { pid, since }));
        }
    }

    /// The processes that have ended by this time, and of which no mapping came since.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Uninspected> {
        let is_due = |at: &Instant| now.saturating_duration_since(*at) >= WAIT;
        let due = self.ended.iter().take_while(|(at, _)| is_due(at)).count();
        let due: Vec<Uninspected> = self.ended.drain(..due).map(|(_, process)| process).collect();
        due.into_iter().filter(|process| self.is_unreported(process)).collect()
    }

    /// The same for all that have ended, at the end of a trace.
    pub(super) fn take_all(&mut self) -> Vec<Uninspected> {
        let ended = std::mem::take(&mut self.ended);
        ended.into_iter().map(|(_, process)| process).filter(|process| self.is_unreported(process)).collect()
    }

    fn is_unreported(&self, Uninspected { pid, since }: &Uninspected) -> bool {
        let from = since.saturating_sub(u64::try_from(BEFORE.as_nanos()).unwrap_or(u64::MAX));
        self.has_lost && self.mapped.peek(pid).is_none_or(|mapped| *mapped < from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_program_without_a_mapping_is_unreported_once_mappings_were_lost() {
        let (mut programs, begin) = (UnreportedPrograms::default(), Instant::now());
        let run = |programs: &mut UnreportedPrograms, pid| {
            programs.executed(pid, 9 * SECOND);
            programs.ended(pid, begin);
        };
        run(&mut programs, 1);
        assert_eq!(programs.take(begin + WAIT), []);
        (2..=5).for_each(|pid| run(&mut programs, pid));
        // The program's own mapping may be older than the record, and may come after the end.
        programs.mapped(3, 9 * SECOND - SECOND / 2);
        // That was another program.
        programs.mapped(4, 2 * SECOND);
        programs.lost();
        assert_eq!(programs.take(begin + WAIT / 2), []);
        let uninspected = [2, 4, 5].map(|pid| Uninspected { pid, since: 9 * SECOND });
        assert_eq!(programs.take(begin + WAIT), uninspected);
        assert_eq!(programs.take(begin + WAIT), []);
        run(&mut programs, 6);
        // It has executed nothing since it was forked.
        programs.ended(7, begin);
        assert_eq!(programs.take_all(), [Uninspected { pid: 6, since: 9 * SECOND }]);
    }

    #[test]
    fn what_is_remembered_is_limited() {
        let mut programs = UnreportedPrograms::default();
        for pid in 0..40_000 {
            programs.mapped(pid, 1);
            programs.executed(pid, 1);
            programs.ended(pid, Instant::now());
        }
        assert_eq!((programs.mapped.len(), programs.ended.len()), (PROCESSES.get(), PROCESSES.get()));
    }
}
