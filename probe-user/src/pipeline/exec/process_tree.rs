//! The ancestry of programs: their identities, and their depth in the tree of the reported ones.

use std::collections::HashMap;

use probe_common::{Execution, Parent};

use crate::event::{Ancestor, ExecId};
use crate::pipeline::ProcessInfo;
use crate::proc::process_snapshot::ProcessSnapshot;

/// The most programs whose depth is remembered. If there are more, those that have ended are removed.
const REMEMBERED: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct ProcessTree {
    /// The program of each process, if it was reported.
    runs: HashMap<u32, ExecId>,
    depths: HashMap<ExecId, u32>,
    /// The parents of the processes of which something was reported.
    parents: HashMap<u32, Ancestor>,
}

impl ProcessTree {
    /// Whether the program of a process was reported.
    pub(super) fn knows(&self, pid: u32) -> bool {
        self.runs.contains_key(&pid)
    }

    /// Records the program of a process as reported. Returns its depth.
    pub(super) fn enter(&mut self, pid: u32, id: ExecId, parent: Option<&Ancestor>) -> u32 {
        let above = parent.and_then(|parent| parent.id).and_then(|id| self.depths.get(&id));
        let depth = above.map_or(0, |depth| depth.saturating_add(1));
        if self.depths.len() >= REMEMBERED {
            let living: HashMap<ExecId, u32> =
                self.runs.values().filter_map(|id| Some((*id, *self.depths.get(id)?))).collect();
            self.depths = if living.len() < REMEMBERED { living } else { HashMap::new() };
        }
        self.depths.insert(id, depth);
        self.runs.insert(pid, id);
        if let Some(parent) = parent {
            self.parents.insert(pid, parent.clone());
        }
        depth
    }

    /// The depth of a program in the tree.
    pub(super) fn depth(&self, id: Option<ExecId>) -> u32 {
        id.and_then(|id| self.depths.get(&id)).copied().unwrap_or(0)
    }

    /// Forgets the program of a process that executes one that is not reported.
    pub(super) fn forget(&mut self, pid: u32) {
        self.runs.remove(&pid);
    }

    /// Removes a process that has ended, because its id may be reused.
    pub(super) fn end(&mut self, pid: u32) {
        self.runs.remove(&pid);
        self.parents.remove(&pid);
    }

    /// The identity of the program that a process runs according to the kernel's record.
    pub(super) fn id(execution: Execution, info: &mut dyn ProcessInfo) -> Option<ExecId> {
        let Execution { pid, time, .. } = execution;
        match (pid, time) {
            (0, _) => None,
            (pid, 0) => Self::before(pid, info),
            (pid, time) => Some(ExecId { pid, time }),
        }
    }

    /// The identity of the program of a process that was running before the trace.
    pub(super) fn before(pid: u32, info: &mut dyn ProcessInfo) -> Option<ExecId> {
        info.started(pid).map(|time| ExecId { pid, time })
    }

    /// The parent of process `of`: from the kernel's record, or else from /proc now, or else as it was
    /// recorded before.
    pub(super) fn parent(
        &self,
        of: u32,
        parent: &Parent,
        running: Option<&ProcessSnapshot>,
        info: &mut dyn ProcessInfo,
    ) -> Option<Ancestor> {
        if parent.pid != 0 {
            let comm = parent.comm.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
            let id = Self::id(parent.execution, info);
            return Some(Ancestor { pid: parent.pid, comm: Some(comm), id });
        }
        let Some(pid) = running.map(|running| running.parent).filter(|pid| *pid != 0) else {
            return self.parents.get(&of).cloned();
        };
        let known = self.runs.get(&pid).copied();
        let id = known.or_else(|| Self::before(pid, info));
        Some(Ancestor { pid, comm: info.comm(pid), id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(pid: u32, time: u64) -> ExecId {
        ExecId { pid, time }
    }

    fn child_of(id: ExecId) -> Ancestor {
        Ancestor { pid: id.pid, comm: None, id: Some(id) }
    }

    #[test]
    fn a_reused_pid_is_another_program() {
        let mut tree = ProcessTree::default();
        assert_eq!(tree.enter(10, id(10, 1), None), 0);
        assert_eq!(tree.enter(11, id(11, 2), Some(&child_of(id(10, 1)))), 1);
        tree.end(10);
        assert!(!tree.knows(10));
        // Process 10 is another one now: what it starts is not a child of the first.
        assert_eq!(tree.enter(10, id(10, 9), Some(&child_of(id(11, 2)))), 2);
        assert_eq!(tree.enter(12, id(12, 10), Some(&child_of(id(10, 9)))), 3);
        assert_eq!(tree.enter(13, id(13, 11), Some(&child_of(id(10, 1)))), 1, "the first one's late child");
        assert_eq!(tree.enter(14, id(14, 12), Some(&child_of(id(10, 5)))), 0, "a program that nobody saw");
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let mut tree = ProcessTree::default();
        for number in 0..200_000_u32 {
            let own = id(number, u64::from(number) + 1);
            let parent = number.checked_sub(1).map(|above| child_of(id(above, u64::from(above) + 1)));
            tree.enter(number, own, parent.as_ref());
            assert_eq!(tree.depth(Some(own)), number);
            if let Some(ended) = number.checked_sub(100) {
                tree.end(ended);
            }
            assert!(tree.depths.len() <= REMEMBERED && tree.runs.len() <= 101);
        }
    }
}
