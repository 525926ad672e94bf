//! Reports what cannot be seen, such as untraceable TLS: once for each file, or once for each process if it
//! is not about a file.

use std::mem;

use lru::LruCache;

use super::REMEMBERED;
use crate::plan::{SkipKind, Skipped, SkippedFile};

/// What is waiting to be reported, and what was reported.
#[derive(Debug)]
pub(super) struct ReportedOnce {
    reported: LruCache<ReportedThing, ()>,
    waiting: Vec<Skipped>,
}

/// What something was reported of, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ReportedThing {
    File(SkippedFile, String),
    /// The process with the name of a file, or of something else of it. A path may be given in several forms.
    Process(u32, String, String),
}

impl Default for ReportedOnce {
    fn default() -> Self {
        Self { reported: LruCache::sparse(REMEMBERED), waiting: Vec::new() }
    }
}

impl ReportedOnce {
    /// Marks what was reported at the start of a trace.
    pub(super) fn mark_reported<'s>(&mut self, skipped: impl IntoIterator<Item = &'s Skipped>) {
        for one in skipped {
            let _ = self.is_new(one);
        }
    }

    /// Adds what was skipped. Only blind spots are kept; nothing else needs to be reported while a trace
    /// runs.
    pub(super) fn add(&mut self, skipped: Vec<Skipped>) {
        for skipped in skipped {
            if self.is_new(&skipped) {
                self.waiting.push(skipped);
            }
        }
    }

    /// Takes what was added since the last call.
    pub(super) fn take(&mut self) -> Vec<Skipped> {
        mem::take(&mut self.waiting)
    }

    /// Forgets a process that has exited, because its id may be reused.
    pub(super) fn ended(&mut self, pid: u32) {
        let is_its =
            |thing: &ReportedThing| matches!(thing, ReportedThing::Process(other, ..) if *other == pid);
        let its: Vec<_> =
            self.reported.iter().map(|(thing, ())| thing).filter(|thing| is_its(thing)).cloned().collect();
        for thing in its {
            self.reported.pop(&thing);
        }
    }

    fn is_new(&mut self, skipped: &Skipped) -> bool {
        let Skipped { kind, pid, file, subject, reason } = skipped;
        let thing = match (file, pid) {
            // Whether code is copied depends on the process.
            (Some(file), _) if *kind != SkipKind::CopiedCode => ReportedThing::File(*file, reason.clone()),
            (_, Some(pid)) => {
                let name = subject.rsplit('/').next().unwrap_or_default();
                ReportedThing::Process(*pid, name.to_owned(), reason.clone())
            }
            _ => return false,
        };
        kind.is_blind_spot() && self.reported.put(thing, ()).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::Device;

    fn skipped(kind: SkipKind, pid: u32, file: Option<u64>) -> Skipped {
        let file = file.map(|inode| SkippedFile::Shown(Device::default(), inode));
        Skipped { kind, pid: Some(pid), file, subject: "/x".into(), reason: "y".into() }
    }

    fn pids(reported: &mut ReportedOnce) -> Vec<u32> {
        reported.take().iter().filter_map(|skipped| skipped.pid).collect()
    }

    #[test]
    fn what_is_of_a_process_is_reported_once_while_it_lives() {
        for file in [None, Some(7)] {
            let skipped = |kind, pid| skipped(kind, pid, file);
            let mut reported = ReportedOnce::default();
            reported.mark_reported(&[skipped(SkipKind::CopiedCode, 1), skipped(SkipKind::File, 2)]);
            let all = || (1..=3).map(|pid| skipped(SkipKind::CopiedCode, pid)).collect::<Vec<_>>();
            reported.add(all());
            reported.add([all(), vec![skipped(SkipKind::File, 4)]].concat());
            assert_eq!(pids(&mut reported), [2, 3]);
            reported.ended(1);
            reported.add(all());
            assert_eq!(pids(&mut reported), [1]);
        }
    }

    #[test]
    fn what_is_of_a_file_is_reported_once_for_all_of_its_processes() {
        let mut reported = ReportedOnce::default();
        reported.mark_reported(&[skipped(SkipKind::Untraceable, 1, Some(7))]);
        reported.ended(1);
        for pid in [2, 3] {
            reported.add(vec![
                skipped(SkipKind::Untraceable, pid, Some(7)),
                skipped(SkipKind::Unseen, pid, Some(8)),
                skipped(SkipKind::File, pid, Some(9)),
            ]);
        }
        assert_eq!(pids(&mut reported), [2]);
    }
}
