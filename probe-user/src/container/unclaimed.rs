//! Cgroups that may be a container's, because no runtime has claimed them yet.
//!
//! A container whose id is a name of the user's choice looks like any other cgroup until its runtime reports
//! it. Until the runtimes have been asked, a process in such a cgroup counts neither as in a container nor as
//! on the host.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::proc::cgroup::{ProcCgroups, is_below};

/// Limit of the cgroups that wait. The oldest one makes room for a new one.
const ROOM: usize = 1024;

/// The waiting cgroups, by id.
#[derive(Debug, Default)]
pub(crate) struct UnclaimedCgroups(BTreeMap<u64, NewCgroup>);

/// A cgroup that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewCgroup {
    /// The path in the v2 hierarchy.
    pub(crate) path: Vec<u8>,
    /// When its creation was reported.
    pub(crate) at: Instant,
}

impl UnclaimedCgroups {
    pub(crate) fn insert(&mut self, id: u64, created: NewCgroup) {
        if self.0.len() >= ROOM
            && let Some(oldest) = self.0.iter().min_by_key(|(_, created)| created.at).map(|(id, _)| *id)
        {
            self.0.remove(&oldest);
        }
        self.0.insert(id, created);
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.0.remove(&id);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&u64, &NewCgroup)> {
        self.0.iter()
    }

    /// Whether a process with these cgroups is in one of the waiting ones, or below one.
    pub(crate) fn holds(&self, cgroups: &ProcCgroups) -> bool {
        let path = cgroups.unified.as_deref();
        path.is_some_and(|path| self.0.values().any(|created| is_below(path, &created.path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut all = UnclaimedCgroups::default();
        let at = Instant::now();
        for id in 0..=ROOM as u64 {
            let at = at + std::time::Duration::from_nanos(ROOM as u64 - id.min(ROOM as u64 - 1));
            all.insert(id, NewCgroup { path: format!("/{id}").into_bytes(), at });
        }
        assert_eq!(all.0.len(), ROOM);
        let holds = |path: &[u8]| all.holds(&ProcCgroups::of_path(path));
        assert!(!holds(format!("/{}", ROOM - 1).as_bytes()), "it was the oldest");
        assert!(holds(b"/0") && holds(b"/0/below") && !holds(b"/0below") && !holds(b"/"));
    }
}
