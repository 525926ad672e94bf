//! The BPF programs that a trace needs, and their settings: a part of the plan.
//!
//! Only the needs of a trace are here; the table of the programs themselves is in [`crate::bpf`].

use std::collections::BTreeSet;

use probe_common::{WANT_ENDS, WANT_ENVIRONMENT, WANT_FORKS, WANT_PROGRAMS};

/// BPF programs that are loaded or attached together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProgramFamily {
    /// Exits of processes, which every trace needs.
    TaskExits,
    /// Executions, for traces that do not report them.
    TaskExecs,
    /// Executions with what is reported of them.
    ExecRecords,
    /// Forks of threads in scope.
    Forks,
    /// Creation and removal of cgroups, for a scope with [`watch`](crate::scope::Scope::watch).
    Cgroups,
    /// Calls on TLS connections.
    Tls,
    /// Sockets of TLS connections.
    Sockets,
    /// Bytes without TLS that pass sockets.
    ClearSockets,
    /// Closing of these sockets.
    SocketCloses,
    /// Calls of any function.
    Functions,
    /// Parents of forked processes.
    Lineage,
    /// Failed executions.
    ExecFailures,
    /// Signals that probes may have caused.
    Signals,
}

/// Whether the opening and closing of connections is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionRecords {
    /// Only calls are recorded.
    #[default]
    Off,
    /// The ends of connections that were seen are recorded as well as calls. This needs no probes in
    /// functions that do handshakes.
    Ends,
    /// Connections are recorded as well as calls.
    On,
    /// Connections are recorded, and calls are only counted.
    Only,
}

impl ConnectionRecords {
    /// Whether connections are recorded.
    pub fn enabled(self) -> bool {
        self != Self::Off
    }

    /// Whether connections are recorded whose handshake fails.
    pub fn has_handshakes(self) -> bool {
        matches!(self, Self::On | Self::Only)
    }
}

/// The connections whose bytes are captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CapturedConnections {
    /// Those with TLS, by the calls of its libraries.
    #[default]
    Tls,
    /// These, and those without TLS, by their sockets.
    All,
    /// Those without TLS.
    Cleartext,
}

impl CapturedConnections {
    /// Whether those with TLS are captured.
    pub fn has_tls(self) -> bool {
        self != Self::Cleartext
    }

    /// Whether those without TLS are captured.
    pub fn has_cleartext(self) -> bool {
        self != Self::Tls
    }
}

/// What to record besides executions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExecDetail {
    /// The environment variables of programs.
    Environment,
    /// Failed executions.
    Failures,
    /// Exits of processes.
    Exits,
    /// Forks of processes.
    Forks,
}

/// The BPF programs and settings of one trace. The default is what every trace has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramSet {
    families: BTreeSet<ProgramFamily>,
    connections: ConnectionRecords,
    exec_records: u32,
}

impl ProgramSet {
    /// The set for the bytes of connections.
    pub fn connections_of(captured: CapturedConnections, connections: ConnectionRecords) -> Self {
        let mut families = BTreeSet::from([ProgramFamily::Sockets]);
        if captured.has_tls() {
            families.insert(ProgramFamily::Tls);
        }
        if captured.has_cleartext() {
            families.insert(ProgramFamily::ClearSockets);
        }
        if connections.enabled() {
            families.insert(ProgramFamily::SocketCloses);
        }
        Self { families, connections, exec_records: 0 }
    }

    /// The set for calls of any function.
    pub fn functions() -> Self {
        Self { families: BTreeSet::from([ProgramFamily::Functions]), ..Self::default() }
    }

    /// The set for executed programs.
    pub fn executions(details: impl IntoIterator<Item = ExecDetail>) -> Self {
        let families = BTreeSet::from([ProgramFamily::ExecRecords, ProgramFamily::Lineage]);
        let mut set = Self { families, ..Self::default() };
        set.exec_records = WANT_PROGRAMS;
        for detail in details {
            set.exec_records |= match detail {
                ExecDetail::Environment => WANT_ENVIRONMENT,
                ExecDetail::Exits => WANT_ENDS,
                ExecDetail::Forks => WANT_FORKS,
                ExecDetail::Failures => {
                    set.families.insert(ProgramFamily::ExecFailures);
                    0
                }
            };
        }
        set
    }

    /// Whether the trace needs these programs, regardless of its scope.
    pub fn has(&self, family: ProgramFamily) -> bool {
        self.families.contains(&family)
    }

    /// The programs that the trace needs, regardless of its scope.
    pub fn families(&self) -> impl Iterator<Item = ProgramFamily> {
        self.families.iter().copied()
    }

    /// Whether hooks in mapped files are needed.
    pub fn probes_files(&self) -> bool {
        self.has(ProgramFamily::Tls) || self.has(ProgramFamily::Functions)
    }

    /// Whether bytes are captured that pass sockets without TLS.
    pub fn captures_cleartext(&self) -> bool {
        self.has(ProgramFamily::ClearSockets)
    }

    /// Whether connections are recorded.
    pub fn connections(&self) -> ConnectionRecords {
        self.connections
    }

    /// What is recorded of executions: `WANT_` bits of [`probe_common`], or 0 if executions are not recorded.
    pub fn exec_records(&self) -> u32 {
        self.exec_records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_records_need_the_closing_of_sockets() {
        for (connections, closes) in [
            (ConnectionRecords::Off, false),
            (ConnectionRecords::Ends, true),
            (ConnectionRecords::On, true),
            (ConnectionRecords::Only, true),
        ] {
            let set = ProgramSet::connections_of(CapturedConnections::Tls, connections);
            assert_eq!((set.has(ProgramFamily::SocketCloses), set.connections()), (closes, connections));
            assert!(set.probes_files());
            assert_eq!(set.exec_records(), 0);
        }
    }

    #[test]
    fn what_has_no_tls_needs_no_probes_in_files() {
        for (captured, files, cleartext) in [
            (CapturedConnections::Tls, true, false),
            (CapturedConnections::All, true, true),
            (CapturedConnections::Cleartext, false, true),
        ] {
            let set = ProgramSet::connections_of(captured, ConnectionRecords::Ends);
            assert_eq!((set.probes_files(), set.captures_cleartext()), (files, cleartext));
        }
    }

    #[test]
    fn failures_alone_need_the_tracepoints_of_system_calls() {
        let check = |details: &[ExecDetail], failures, records| {
            let set = ProgramSet::executions(details.iter().copied());
            assert_eq!((set.has(ProgramFamily::ExecFailures), set.exec_records()), (failures, records));
            assert!(set.has(ProgramFamily::Lineage) && !set.probes_files());
        };
        check(&[], false, WANT_PROGRAMS);
        check(&[ExecDetail::Failures], true, WANT_PROGRAMS);
        let all = WANT_PROGRAMS | WANT_ENDS | WANT_FORKS | WANT_ENVIRONMENT;
        check(&[ExecDetail::Exits, ExecDetail::Forks, ExecDetail::Environment], false, all);
    }
}
