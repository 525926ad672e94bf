//! The capabilities that a session needs: which of them this process lacks, and how to get them.

use std::fmt;

use rustix::thread::CapabilitySet;

/// The needed capabilities that this process lacks.
#[derive(Debug)]
pub struct Lacking(Vec<&'static str>);

/// A capability, a larger one that includes it, and the name for messages.
pub(super) type Needed = (CapabilitySet, CapabilitySet, &'static str);

impl Lacking {
    /// To load a program and attach it to a tracepoint.
    pub(super) const PROGRAMS: [Needed; 2] = [
        (CapabilitySet::BPF, CapabilitySet::SYS_ADMIN, "CAP_BPF"),
        (CapabilitySet::PERFMON, CapabilitySet::SYS_ADMIN, "CAP_PERFMON"),
    ];
    /// Since Linux 6.1.146, 6.12.39 and 6.16; before, CAP_PERFMON was enough.
    pub(super) const UPROBES: [Needed; 1] =
        [(CapabilitySet::SYS_ADMIN, CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN")];
    /// Only root may enter tracefs, unless it was mounted with other permissions.
    pub(super) const TRACEFS: [Needed; 1] =
        [(CapabilitySet::DAC_READ_SEARCH, CapabilitySet::DAC_OVERRIDE, "CAP_DAC_READ_SEARCH")];

    /// Which of `needed` this process does not have in its effective set.
    pub(super) fn of(needed: &[Needed]) -> Self {
        let own = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        Self::in_set(own, needed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn in_set(own: CapabilitySet, needed: &[Needed]) -> Self {
        let lacking = needed.iter().filter(|(capability, larger, _)| !own.intersects(*capability | *larger));
        let mut names: Vec<&str> = lacking.map(|(_, _, name)| *name).collect();
        if names.len() == Self::PROGRAMS.len() {
            // A session needs CAP_SYS_ADMIN sooner or later, so it is named instead of the two.
            names = vec!["CAP_SYS_ADMIN (for `ctrace exec` alone: CAP_BPF and CAP_PERFMON)"];
        }
        Self(names)
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(
                "no capability is missing, so a user namespace, lockdown or a security module forbids it: \
                 `ctrace doctor` shows more",
            );
        }
        write!(
            f,
            "{} is missing: run ctrace as root, or give the program its capabilities, once, as root: \
             setcap cap_sys_admin,cap_sys_ptrace,cap_dac_read_search+ep $(which ctrace)",
            self.0.join(" and ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_named_and_nothing_else() {
        let check = |own: CapabilitySet, needed: &[Needed], expected: &[&str]| {
            let lacking = Lacking::in_set(own, needed);
            assert_eq!(lacking.0.len(), expected.len(), "{lacking}");
            for (name, beginning) in lacking.0.iter().zip(expected) {
                assert!(name.starts_with(beginning), "{name}: {beginning}");
            }
        };
        let none = CapabilitySet::empty();
        check(none, &Lacking::PROGRAMS, &["CAP_SYS_ADMIN ("]);
        check(CapabilitySet::BPF, &Lacking::PROGRAMS, &["CAP_PERFMON"]);
        check(CapabilitySet::PERFMON, &Lacking::PROGRAMS, &["CAP_BPF"]);
        check(CapabilitySet::SYS_ADMIN, &Lacking::PROGRAMS, &[]);
        check(CapabilitySet::BPF | CapabilitySet::PERFMON, &Lacking::UPROBES, &["CAP_SYS_ADMIN"]);
        check(CapabilitySet::SYS_ADMIN, &Lacking::TRACEFS, &["CAP_DAC_READ_SEARCH"]);
        check(CapabilitySet::DAC_OVERRIDE, &Lacking::TRACEFS, &[]);
        assert!(Lacking::in_set(none, &[]).to_string().contains("no capability is missing"));
    }
}
