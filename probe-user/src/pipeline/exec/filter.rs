//! Which programs are told of, of those that are in scope: what the kernel tells of a program says whether it
//! is chosen.
//!
//! Owns which were. What a process forks runs what it runs, until it executes something else.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use crate::event::{ExecId, ProcessContext};
use crate::scope::{ProcessAttrs, ProcessFilter};

/// Programs that are remembered, at the most; those that no process has executed last are forgotten then.
const REMEMBERED: usize = 65_536;

/// The programs that are told of.
#[derive(Debug, Default)]
pub(super) struct ExecFilter {
    choice: ProcessFilter,
    programs: HashSet<ExecId>,
    /// What processes have executed last, if it was chosen.
    runs: HashMap<u32, ExecId>,
}

impl ExecFilter {
    pub(super) fn new(choice: ProcessFilter) -> Self {
        Self { choice, ..Self::default() }
    }

    /// Whether every program is told of.
    pub(super) fn is_all(&self) -> bool {
        self.choice.is_empty()
    }

    /// Decides about what a process runs from now on.
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

    /// Whether what is of a program is told.
    pub(super) fn has(&self, id: Option<ExecId>) -> bool {
        self.is_all() || id.is_some_and(|id| self.programs.contains(&id))
    }

    /// A process has ended.
    pub(super) fn end(&mut self, pid: u32) {
        self.runs.remove(&pid);
    }
}

/// A program, for the question whether it is chosen.
pub(super) struct FilteredProgram<'a> {
    pub(super) comm: Cow<'a, str>,
    pub(super) origin: &'a ProcessContext,
    pub(super) uid: Option<u32>,
}

impl ProcessAttrs for FilteredProgram<'_> {
    fn comm(&self) -> &str {
        &self.comm
    }

    fn executable(&self) -> Option<PathBuf> {
        self.origin.process.executable.as_ref().map(|executable| PathBuf::from(&executable.path))
    }

    fn uid(&self) -> Option<u32> {
        self.uid
    }
}
