//! `ctrace exec`: which process events to report. They come from tracepoints, so no file is inspected.

use crate::plan::capture::Environment;
use crate::plan::program_set::ExecDetail;

/// What to report besides programs that are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExecEvents {
    /// Programs that were already running when the trace began.
    Existing,
    /// Attempts to execute a program that failed.
    Failed,
    /// Exits of processes.
    Exits,
    /// Forks of processes.
    Forks,
}

/// What `ctrace exec` reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecProbe {
    /// The events to report besides executions.
    pub also: Vec<ExecEvents>,
    /// Which environment variables to report.
    pub environment: Environment,
}

impl ExecProbe {
    /// Whether these events are reported.
    pub fn includes(&self, also: ExecEvents) -> bool {
        self.also.contains(&also)
    }

    /// What the kernel has to record besides executions.
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
