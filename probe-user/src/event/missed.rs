//! What was in use before ctrace had attached to it.

use std::sync::Arc;
use std::time::Duration;

use super::Library;

/// A process had mapped a file before ctrace had attached to that: its first calls may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The file. None if the process ended before anybody could inspect what it had mapped.
    pub library: Option<Arc<Library>>,
    /// The time from the mapping until ctrace had attached, or until the process ended.
    pub unattached: Duration,
    /// Whether the process ended before ctrace had attached.
    pub ended: bool,
}

/// All that was missed in a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MissedTotal {
    /// The number of processes.
    pub processes: u64,
    /// The number of those that ended before ctrace had attached.
    pub ended: u64,
    /// The longest time for which a file was mapped and not attached to.
    pub longest: Duration,
    /// The sum of these times.
    pub total: Duration,
}

impl MissedTotal {
    /// Adds what a process missed.
    pub fn add(&mut self, missed: &Missed, process: ProcessCount) {
        if process == ProcessCount::First {
            self.processes = self.processes.saturating_add(1);
            self.ended = self.ended.saturating_add(u64::from(missed.ended));
        }
        self.longest = self.longest.max(missed.unattached);
        self.total = self.total.saturating_add(missed.unattached);
    }
}

/// Whether a process was counted before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessCount {
    /// It was not.
    First,
    /// It was, because of another file.
    Again,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_counts_once_and_its_times_are_added() {
        let missed =
            |millis, ended| Missed { library: None, unattached: Duration::from_millis(millis), ended };
        let mut total = MissedTotal::default();
        total.add(&missed(5, true), ProcessCount::First);
        total.add(&missed(9, true), ProcessCount::Again);
        total.add(&missed(2, false), ProcessCount::First);
        let (longest, sum) = (Duration::from_millis(9), Duration::from_millis(16));
        assert_eq!(total, MissedTotal { processes: 2, ended: 1, longest, total: sum });
    }
}
