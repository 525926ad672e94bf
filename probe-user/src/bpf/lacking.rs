//! The capabilities that a session needs: which of them this process lacks, and how to get them.

use std::fmt;

use rustix::thread::CapabilitySet;

use super::features;

/// The needed capabilities that this process lacks.
#[derive(Debug)]
pub struct Lacking {
    names: Vec<&'static str>,
    kernel: ProbeRights,
}

/// What the kernel demands of whoever probes functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeRights {
    /// Nothing but the right to load programs, because it has links to many places (Linux 6.6).
    Programs,
    /// `CAP_SYS_ADMIN`, for perf events.
    Admin,
}

impl ProbeRights {
    /// What this kernel demands.
    pub fn of_kernel() -> Self {
        if features::expects_uprobe_multi() { Self::Programs } else { Self::Admin }
    }

    /// All capabilities that a trace uses, for setcap(8).
    const fn all(self) -> &'static str {
        match self {
            Self::Programs => "cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search,cap_checkpoint_restore",
            Self::Admin => "cap_sys_admin,cap_sys_ptrace,cap_dac_read_search",
        }
    }
}

/// A capability, a larger one that includes it, and the name for messages.
pub(super) type Needed = (CapabilitySet, CapabilitySet, &'static str);

impl Lacking {
    /// To load a program and attach it to a tracepoint.
    pub(super) const PROGRAMS: [Needed; 2] = [
        (CapabilitySet::BPF, CapabilitySet::SYS_ADMIN, "CAP_BPF"),
        (CapabilitySet::PERFMON, CapabilitySet::SYS_ADMIN, "CAP_PERFMON"),
    ];
    /// To attach by a perf event, since Linux 6.1.146, 6.12.39 and 6.16; before, CAP_PERFMON was enough. A
    /// link to many places needs no more than its program.
    pub(super) const PERF_UPROBES: [Needed; 1] =
        [(CapabilitySet::SYS_ADMIN, CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN")];
    /// Only root may enter tracefs, unless it was mounted with other permissions.
    pub(super) const TRACEFS: [Needed; 1] =
        [(CapabilitySet::DAC_READ_SEARCH, CapabilitySet::DAC_OVERRIDE, "CAP_DAC_READ_SEARCH")];

    /// Which of `needed` this process does not have in its effective set.
    pub(super) fn of(needed: &[Needed]) -> Self {
        let own = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        Self::in_set(own, needed, ProbeRights::of_kernel())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    fn in_set(own: CapabilitySet, needed: &[Needed], kernel: ProbeRights) -> Self {
        let lacking = needed.iter().filter(|(capability, larger, _)| !own.intersects(*capability | *larger));
        let mut names: Vec<&str> = lacking.map(|(_, _, name)| *name).collect();
        if kernel == ProbeRights::Admin && names.len() == Self::PROGRAMS.len() {
            // A session needs CAP_SYS_ADMIN sooner or later, so it is named instead of the two.
            names = vec!["CAP_SYS_ADMIN (for `ctrace exec` alone: CAP_BPF and CAP_PERFMON)"];
        }
        Self { names, kernel }
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let are = match self.names.as_slice() {
            [] => {
                return f.write_str(
                    "no capability is missing, so a user namespace, lockdown or a security module forbids \
                     it: `ctrace doctor` shows more",
                );
            }
            [_] => "is",
            _ => "are",
        };
        write!(
            f,
            "{} {are} missing: run ctrace as root, or give the program its capabilities, once, as root: \
             setcap {}+ep $(which ctrace)",
            self.names.join(" and "),
            self.kernel.all()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_named_and_nothing_else() {
        let check = |kernel, own: CapabilitySet, needed: &[Needed], expected: &[&str]| {
            let lacking = Lacking::in_set(own, needed, kernel);
            assert_eq!(lacking.names.len(), expected.len(), "{lacking}");
            for (name, beginning) in lacking.names.iter().zip(expected) {
                assert!(name.starts_with(beginning), "{name}: {beginning}");
            }
        };
        let none = CapabilitySet::empty();
        for kernel in [ProbeRights::Programs, ProbeRights::Admin] {
            check(kernel, CapabilitySet::BPF, &Lacking::PROGRAMS, &["CAP_PERFMON"]);
            check(kernel, CapabilitySet::PERFMON, &Lacking::PROGRAMS, &["CAP_BPF"]);
            check(kernel, CapabilitySet::SYS_ADMIN, &Lacking::PROGRAMS, &[]);
            check(kernel, CapabilitySet::SYS_ADMIN, &Lacking::TRACEFS, &["CAP_DAC_READ_SEARCH"]);
            check(kernel, CapabilitySet::DAC_OVERRIDE, &Lacking::TRACEFS, &[]);
            let programs = CapabilitySet::BPF | CapabilitySet::PERFMON;
            check(kernel, programs, &Lacking::PERF_UPROBES, &["CAP_SYS_ADMIN"]);
        }
        check(ProbeRights::Admin, none, &Lacking::PROGRAMS, &["CAP_SYS_ADMIN ("]);
        check(ProbeRights::Programs, none, &Lacking::PROGRAMS, &["CAP_BPF", "CAP_PERFMON"]);
    }

    #[test]
    fn the_advice_is_what_the_kernel_demands() {
        let none = CapabilitySet::empty();
        let advice = |kernel, needed: &[Needed]| Lacking::in_set(none, needed, kernel).to_string();
        let programs = advice(ProbeRights::Programs, &Lacking::PROGRAMS);
        assert!(programs.starts_with("CAP_BPF and CAP_PERFMON are missing"), "{programs}");
        assert!(!programs.contains("sys_admin"), "{programs}");
        let admin = advice(ProbeRights::Admin, &Lacking::TRACEFS);
        assert!(admin.starts_with("CAP_DAC_READ_SEARCH is missing"), "{admin}");
        assert!(admin.contains("setcap cap_sys_admin,"), "{admin}");
        assert!(advice(ProbeRights::Admin, &[]).contains("no capability is missing"));
    }
}
