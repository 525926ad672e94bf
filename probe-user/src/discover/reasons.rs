//! What was looked at and not hooked, as lines for a person.

use crate::plan::{Plan, Skipped};
use crate::target::Target;

/// What a reader wants to know of the files that were not hooked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What should perhaps have been.
    Skipped,
    /// Each file.
    Everything,
}

/// What was not hooked and why, by process, as lines.
pub fn reasons(plan: &Plan, target: &Target, detail: Detail) -> Vec<String> {
    let foreign: &[Skipped] = match detail {
        Detail::Skipped => &[],
        Detail::Everything => &plan.foreign,
    };
    let mut all: Vec<&Skipped> = plan.skipped.iter().chain(foreign).collect();
    all.sort_by_key(|skipped| skipped.pid);
    let line = |Skipped { lack: _, pid, what, why }: &Skipped| {
        let process = target.processes.iter().find(|process| Some(process.pid) == *pid);
        let comm = process.map_or("", |process| process.comm.as_str());
        let (comm, what, why) = (comm.escape_debug(), what.escape_debug(), why.escape_debug());
        match pid {
            Some(pid) => format!("{comm}[{pid}]: {what}: {why}"),
            None => format!("{what}: {why}"),
        }
    };
    all.into_iter().map(line).collect()
}
