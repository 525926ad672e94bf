//! Checks of ctrace's own permissions and surroundings: capabilities, namespaces, cgroups.

use std::fs;

use rustix::thread::CapabilitySet;

use super::check::Check;
use crate::bpf::ProbeRights;
use crate::proc::cgroup::Hierarchy;
use crate::proc::view::{self, Blind};

/// All checks of this file.
pub(super) fn checks() -> Vec<Check> {
    let own = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    vec![
        programs(own),
        uprobes(own, ProbeRights::of_kernel()),
        tracefs(own),
        others(own),
        files(own),
        seen("user namespace", view::rights()),
        seen("PID namespace", view::processes()),
        cgroups(Hierarchy::find().as_ref()),
    ]
}

fn programs(own: CapabilitySet) -> Check {
    if own.contains(CapabilitySet::SYS_ADMIN) || own.contains(CapabilitySet::BPF | CapabilitySet::PERFMON) {
        return Check::ok("right to load programs", "CAP_SYS_ADMIN, or CAP_BPF and CAP_PERFMON");
    }
    let lacking: Vec<&str> = [(CapabilitySet::BPF, "CAP_BPF"), (CapabilitySet::PERFMON, "CAP_PERFMON")]
        .into_iter()
        .filter(|(right, _)| !own.contains(*right))
        .map(|(_, name)| name)
        .collect();
    let lacking = lacking.join(" and ");
    // These settings matter only without the capabilities.
    let setting =
        |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let bpf = setting("/proc/sys/kernel/unprivileged_bpf_disabled");
    let perf = setting("/proc/sys/kernel/perf_event_paranoid");
    let found = format!(
        "{lacking} missing, and CAP_SYS_ADMIN, which includes both (kernel.unprivileged_bpf_disabled={bpf:?} \
         and kernel.perf_event_paranoid={perf:?} do not allow it without)"
    );
    Check::no("right to load programs", found, format!("run ctrace as root, or with {lacking}"))
}

fn uprobes(own: CapabilitySet, kernel: ProbeRights) -> Check {
    if kernel == ProbeRights::Programs {
        let found = "that to load programs, as the kernel has links to many places (uprobe_multi)";
        return Check::ok("right to set probes", found);
    }
    if own.contains(CapabilitySet::SYS_ADMIN) {
        return Check::ok("right to set probes", "CAP_SYS_ADMIN");
    }
    let found = "CAP_SYS_ADMIN missing: uprobes need it in newer updates of kernels without links to many \
                 places (6.1.146 and later); `ctrace exec` does not";
    let next = "run ctrace as root, or with CAP_SYS_ADMIN; the check below shows whether it works without";
    Check::warn("right to set probes", found, next)
}

/// This is at most a warning: tracefs may have been mounted so that others can read it, which shows when it
/// is read.
fn tracefs(own: CapabilitySet) -> Check {
    if own.intersects(CapabilitySet::DAC_READ_SEARCH | CapabilitySet::DAC_OVERRIDE) {
        return Check::ok("right to read tracefs", "CAP_DAC_READ_SEARCH");
    }
    let found = "CAP_DAC_READ_SEARCH missing: only root may read tracefs, unless it was mounted with other \
         permissions";
    Check::warn("right to read tracefs", found, "run ctrace as root, or with CAP_DAC_READ_SEARCH")
}

fn others(own: CapabilitySet) -> Check {
    if own.contains(CapabilitySet::SYS_PTRACE) {
        return Check::ok("right to look into processes", "CAP_SYS_PTRACE");
    }
    let found = "CAP_SYS_PTRACE missing: only processes of the same user can be inspected";
    Check::warn("right to look into processes", found, "run ctrace as root, or with CAP_SYS_PTRACE")
}

/// /proc/PID/map_files needs one of the first two capabilities, and only its owner may enter the directory.
/// Without them a file can only be opened by its name, if that can be read.
fn files(own: CapabilitySet) -> Check {
    const NAME: &str = "right to open their files";
    let links = own.intersects(CapabilitySet::SYS_ADMIN | CapabilitySet::CHECKPOINT_RESTORE);
    let names = own.intersects(CapabilitySet::DAC_READ_SEARCH | CapabilitySet::DAC_OVERRIDE);
    match (links, names) {
        (true, true) => Check::ok(NAME, "by mapping and by name"),
        (false, true) => Check::warn(
            NAME,
            "by name only, because CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN) is missing: deleted files \
             cannot be opened",
            "run ctrace as root, or with CAP_CHECKPOINT_RESTORE",
        ),
        (_, false) => Check::warn(
            NAME,
            "by name only, because CAP_DAC_READ_SEARCH is missing: files that are deleted, or not readable \
             by everyone, cannot be opened",
            "run ctrace as root, or with CAP_DAC_READ_SEARCH",
        ),
    }
}

fn seen(name: &'static str, found: Result<(), Blind>) -> Check {
    match found {
        Ok(()) => Check::ok(name, "the host's"),
        Err(blind) => Check::no(name, blind.found(), blind.next()),
    }
}

fn cgroups(found: Option<&Hierarchy>) -> Check {
    if found.is_some() {
        return Check::ok("cgroup v2", "mounted: containers are distinguished by their cgroups");
    }
    Check::warn(
        "cgroup v2",
        "not mounted, or ctrace is in a cgroup namespace: containers are distinguished by PID namespaces and \
         processes",
        "mount -t cgroup2 none /sys/fs/cgroup/unified; in a container: --cgroupns=host",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::doctor::check::CheckStatus;

    #[test]
    fn rights_are_checked_one_by_one() {
        let none = CapabilitySet::empty();
        let all = CapabilitySet::all();
        let uprobes_by_perf = |own| uprobes(own, ProbeRights::Admin);
        for check in [programs(all), uprobes_by_perf(all), tracefs(all), others(all), files(all)] {
            assert_eq!((check.status, check.next), (CheckStatus::Ok, None), "{}", check.name);
        }
        assert_eq!(programs(none).status, CheckStatus::No);
        assert!(programs(CapabilitySet::BPF).found.starts_with("CAP_PERFMON missing"));
        assert_eq!(programs(CapabilitySet::BPF | CapabilitySet::PERFMON).status, CheckStatus::Ok);
        assert!(programs(CapabilitySet::PERFMON).next.is_some_and(|next| next.ends_with("or with CAP_BPF")));
        assert_eq!(uprobes_by_perf(CapabilitySet::BPF).status, CheckStatus::Warn);
        assert_eq!(uprobes(none, ProbeRights::Programs).status, CheckStatus::Ok);
        assert_eq!(others(none).status, CheckStatus::Warn);
        assert_eq!(tracefs(CapabilitySet::SYS_ADMIN).status, CheckStatus::Warn);
        assert!(files(none).found.contains("CAP_DAC_READ_SEARCH"));
        assert!(files(CapabilitySet::DAC_READ_SEARCH).found.contains("CAP_CHECKPOINT_RESTORE"));
        assert!(files(CapabilitySet::SYS_ADMIN).found.contains("CAP_DAC_READ_SEARCH"));
    }

    #[test]
    fn other_namespaces_than_the_hosts_do_not_do() {
        assert_eq!(seen("PID namespace", Ok(())).status, CheckStatus::Ok);
        assert_eq!(seen("PID namespace", Err(Blind::PidNamespace(4_026_532_182))).status, CheckStatus::No);
        assert!(cgroups(None).next.is_some());
    }
}
