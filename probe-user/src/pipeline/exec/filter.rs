//! Filters exec records by comm, executable and uid, using the attributes in the kernel's record.
//!
//! Owns which programs have matched. A process that forks shares its program with the child until the child
//! executes something else.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use crate::event::{ExecId, ProcessContext};
use crate::proc::script::StartNames;
use crate::scope::{ProcessAttrs, ProcessFilter};

/// The most programs that are remembered. If there are more, those that no process has executed last are
/// removed.
const REMEMBERED: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct ExecFilter {
    choice: ProcessFilter,
    programs: HashSet<ExecId>,
    /// The last program of each process, if it matched.
    runs: HashMap<u32, ExecId>,
}

impl ExecFilter {
    pub(super) fn new(choice: ProcessFilter) -> Self {
        Self { choice, ..Self::default() }
    }

    /// Whether every program matches.
    pub(super) fn is_all(&self) -> bool {
        self.choice.is_empty()
    }

    /// Decides whether a program matches, and records it as the current one of its process.
    pub(super) fn admit(&mut self, id: ExecId, looks: &FilteredProgram<'_>) -> bool {
        if self.is_all() {
            return true;
        }
        if !self.choice.matches(looks) {
            self.runs.remove(&id.pid);
            return false;
        }
        if self.programs.len() >= REMEMBERED {
            self.programs = self.runs.values().copied().collect();
        }
        self.programs.insert(id);
        self.runs.insert(id.pid, id);
        true
    }

    /// Whether records that belong to a program are emitted.
    pub(super) fn has(&self, id: Option<ExecId>) -> bool {
        self.is_all() || id.is_some_and(|id| self.programs.contains(&id))
    }

    /// Removes a process that has ended.
    pub(super) fn end(&mut self, pid: u32) {
        self.runs.remove(&pid);
    }
}

/// The attributes of a program that the filter compares.
pub(super) struct FilteredProgram<'a> {
    pub(super) comm: Cow<'a, str>,
    pub(super) origin: &'a ProcessContext,
    pub(super) uid: Option<u32>,
    pub(super) start: StartNames<'a>,
}

impl ProcessAttrs for FilteredProgram<'_> {
    fn comm(&self) -> &str {
        &self.comm
    }

    fn executable(&self) -> Option<PathBuf> {
        self.origin.process.executable.as_ref().map(|executable| PathBuf::from(&executable.path))
    }

    fn start_names(&self) -> Vec<PathBuf> {
        self.start.paths(self.executable().as_deref())
    }

    fn uid(&self) -> Option<u32> {
        self.uid
    }
}
