//! `ctrace exec`: what is told of the programs that are executed. Tracepoints tell it: no file is looked
//! into.

use crate::plan::capture::Environment;
use crate::plan::program_set::ExecDetail;

/// What is told beside the programs that are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExecEvents {
    /// The programs that run already when the trace begins.
    Existing,
    /// Attempts to execute that fail.
    Failed,
    /// The ends of processes.
    Exits,
    /// The processes that are forked.
    Forks,
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// Beside the programs.
    pub also: Vec<ExecEvents>,
    /// Of their environments.
    pub environment: Environment,
}

impl Exec {
    /// Whether this is told too.
    pub fn includes(&self, also: ExecEvents) -> bool {
        self.also.contains(&also)
    }

    /// What the kernel has to record beside the programs that are executed.
    pub(super) fn details(&self) -> impl Iterator<Item = ExecDetail> {
        let events = self.also.iter().filter_map(|event| match event {
            ExecEvents::Existing => None,
            ExecEvents::Failed => Some(ExecDetail::Failures),
            ExecEvents::Exits => Some(ExecDetail::Exits),
            ExecEvents::Forks => Some(ExecDetail::Forks),
        });
        let environment = (self.environment != Environment::None).then_some(ExecDetail::Environment);
        events.chain(environment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_taken_by_their_whole_name() {
        let named = Environment::Named(vec![b"PATH".to_vec(), b"A B".to_vec()]);
        for (variable, expected) in [
            (&b"PATH=/bin"[..], true),
            (b"PATH=", true),
            (b"PATH", true),
            (b"A B=x=y", true),
            (b"PATHS=/bin", false),
            (b"XPATH=/bin", false),
            (b"=PATH", false),
            (b"", false),
        ] {
            assert_eq!(named.takes(variable), expected, "{variable:?}");
            assert!(Environment::All.takes(variable) && !Environment::None.takes(variable));
        }
    }
}
