//! Reports what cannot be seen, such as untraceable TLS, once for each process and file.

use std::collections::BTreeSet;
use std::mem;

use crate::plan::Skipped;

/// What is waiting to be reported, and what was reported.
#[derive(Debug, Default)]
pub(super) struct ReportedOnce {
    reported: BTreeSet<(u32, String, String)>,
    waiting: Vec<Skipped>,
}

impl ReportedOnce {
    /// Marks what was reported at the start of a trace.
    pub(super) fn mark_reported(&mut self, skipped: &[Skipped]) {
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
        self.reported.retain(|(reporter, ..)| *reporter != pid);
    }

    fn is_new(&mut self, skipped: &Skipped) -> bool {
        // A path may have been given in another form before.
        let name = skipped.subject.rsplit('/').next().unwrap_or_default();
        let key = skipped.pid.map(|pid| (pid, name.to_owned(), skipped.reason.clone()));
        skipped.kind.is_blind_spot() && key.is_some_and(|key| self.reported.insert(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SkipKind;

    #[test]
    fn each_is_reported_once_while_its_process_lives() {
        let skipped = |kind, pid| Skipped { kind, pid: Some(pid), subject: "/x".into(), reason: "y".into() };
        let mut reported = ReportedOnce::default();
        reported.mark_reported(&[skipped(SkipKind::Untraceable, 1), skipped(SkipKind::File, 2)]);
        let all = || (1..=3).map(|pid| skipped(SkipKind::Untraceable, pid)).collect::<Vec<_>>();
        let pids = |reported: &mut ReportedOnce| {
            reported.take().iter().filter_map(|skipped| skipped.pid).collect::<Vec<_>>()
        };
        reported.add(all());
        reported.add([all(), vec![skipped(SkipKind::File, 4)]].concat());
        assert_eq!(pids(&mut reported), [2, 3]);
        reported.ended(1);
        reported.add(all());
        assert_eq!(pids(&mut reported), [1]);
    }
}
