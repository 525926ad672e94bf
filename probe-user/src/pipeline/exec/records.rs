//! The pipeline's side of executions: which records are of them, and when enough were reported.

use std::io;

use probe_common::Lineage;

use crate::decode::{RingRecord, decode};
use crate::event::CloseReason;
use crate::pipeline::{Pipeline, ProcessInfo};

impl<O: ProcessInfo> Pipeline<O> {
    /// A record of an execution.
    pub(in crate::pipeline) fn execution(&mut self, wire: &RingRecord<'_>) -> io::Result<()> {
        if let RingRecord::Program { head, .. } = wire {
            // Nobody else is told: it is in scope already, and executions are all that is watched.
            self.end_process(&head.header, CloseReason::Exec)?;
        }
        if self.is_full() {
            return Ok(());
        }
        let Self { execs, origins, report, .. } = self;
        match *wire {
            RingRecord::Part { head, data } => {
                execs.part(head, data);
                Ok(())
            }
            RingRecord::Program { head, data } => execs.program(head, data, origins, report),
            RingRecord::Attempt { head, data } => execs.attempt(head, data, origins, report),
            RingRecord::Ended(head) => execs.ended(head, origins, report),
            RingRecord::Forked(head) => execs.forked(head, origins, report),
            _ => Ok(()),
        }
    }

    /// A process has come into scope, or is in it when the trace begins: what it runs is reported, if it was
    /// not. `lineage` is what the kernel knows of it.
    pub fn existing(&mut self, pid: u32, lineage: &Lineage) -> io::Result<()> {
        if self.is_full() {
            return Ok(());
        }
        let Self { execs, origins, report, .. } = self;
        execs.emit_existing(pid, lineage, origins, report)
    }

    /// A process is in scope when the trace begins, and what it runs is not to be reported.
    pub fn known(&mut self, pid: u32, lineage: &Lineage) {
        let Self { execs, origins, .. } = self;
        execs.seed_silently(pid, lineage, origins);
    }

    /// Whether executions are watched.
    pub fn has_executions(&self) -> bool {
        self.has_execs
    }

    /// Whether these are the bytes of a record about a program, for which [`ProcessInfo::program`] will be
    /// asked.
    pub fn is_program(&self, bytes: &[u8]) -> bool {
        self.has_execs && matches!(decode(bytes), Ok(RingRecord::Program { .. }))
    }
}
