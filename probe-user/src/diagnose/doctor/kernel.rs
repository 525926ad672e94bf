//! Checks of what the kernel supports, and of what it forbids to everybody.

use std::fs;
use std::path::Path;

use super::check::Check;
use crate::bpf::features::{self, Tracefs};

/// The oldest kernel that ctrace supports (attach cookies), and the first one without a limit on locked
/// memory.
const OLDEST: (u32, u32) = (5, 15);
const NO_MEMLOCK: (u32, u32) = (5, 11);

/// The kernel's description of its own structures.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// What the kernel forbids even to root.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// The checks that need no permission.
pub(super) fn checks(tracefs: Tracefs) -> Vec<Check> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    vec![
        version(&release),
        architecture(&uname.machine().to_string_lossy()),
        uprobes(),
        self::tracefs(tracefs),
        btf(Path::new(BTF)),
        lockdown(fs::read_to_string(LOCKDOWN).ok().as_deref()),
        memlock(&release),
    ]
}

/// The checks that need the permission to load programs. Must be called after [`crate::bpf::prepare`].
pub(super) fn privileged_checks() -> Vec<Check> {
    let ring = match features::ring_buffer() {
        Some(true) => Check::ok("ring buffer", "the kernel has it"),
        Some(false) => Check::no("ring buffer", "the kernel does not have it", "use Linux 5.15 or newer"),
        None => Check::warn(
            "ring buffer",
            "it could not be determined whether the kernel has it",
            "see whether the programs load, below",
        ),
    };
    let cookies = if features::attach_cookies() {
        Check::ok("attach cookies", "the kernel has them")
    } else {
        let next = "use Linux 5.15 or newer with CONFIG_BPF_SYSCALL=y and CONFIG_PERF_EVENTS=y";
        Check::no("attach cookies", "the kernel does not have them", next)
    };
    let links = match features::uprobe_multi() {
        Some(true) => "the kernel has them (uprobe_multi): one link per program and file",
        _ => "the kernel has none (before Linux 6.6): one link per place, each of which is slow to remove",
    };
    let links = Check::ok("links to many places", links);
    let missing = |all: &[(&str, &str)]| {
        let missing = all.iter().filter(|(group, name)| !features::has_tracepoint(group, name));
        missing.map(|(group, name)| format!("{group}:{name}")).collect::<Vec<_>>().join(", ")
    };
    let sched =
        [("sched", "sched_process_fork"), ("sched", "sched_process_exec"), ("sched", "sched_process_exit")];
    let sched = match missing(&sched) {
        none if none.is_empty() => {
            Check::ok("tracepoints of processes", "the kernel has fork, exec and exit")
        }
        missing => Check::no(
            "tracepoints of processes",
            format!("the kernel does not have {missing}"),
            "use a kernel with CONFIG_FTRACE=y and CONFIG_EVENT_TRACING=y",
        ),
    };
    let cgroup = match missing(&[("cgroup", "cgroup_mkdir"), ("cgroup", "cgroup_rmdir")]) {
        none if none.is_empty() => Check::ok("tracepoints of cgroups", "the kernel has mkdir and rmdir"),
        missing => Check::warn(
            "tracepoints of cgroups",
            format!("the kernel does not have {missing}"),
            "containers that start while ctrace traces are found later; use a kernel with CONFIG_CGROUPS=y",
        ),
    };
    vec![ring, cookies, links, sched, cgroup]
}

fn version(release: &str) -> Check {
    match features::version(release) {
        Some(version) if version >= OLDEST => Check::ok("kernel", release),
        Some(_) => Check::no("kernel", format!("{release} is too old"), "use Linux 5.15 or newer"),
        None => Check::warn(
            "kernel",
            format!("{release:?} is not a version that ctrace understands"),
            "see whether the programs load, below",
        ),
    }
}

fn architecture(machine: &str) -> Check {
    match machine {
        "x86_64" => Check::ok("architecture", machine),
        _ => Check::no("architecture", format!("{machine:?} is not supported"), "use an x86-64 machine"),
    }
}

fn uprobes() -> Check {
    const TYPE: &str = "/sys/bus/event_source/devices/uprobe/type";
    if Path::new(TYPE).exists() {
        return Check::ok("uprobes", "the kernel has them");
    }
    let next = if features::has_sysfs() {
        "use a kernel with CONFIG_UPROBE_EVENTS=y"
    } else {
        "mount sysfs: mount -t sysfs sysfs /sys"
    };
    Check::no("uprobes", format!("{TYPE} is missing"), next)
}

fn tracefs(found: Tracefs) -> Check {
    match found {
        Tracefs::Mounted => Check::ok("tracefs", "mounted at /sys/kernel/tracing"),
        Tracefs::Mountable => Check::ok("tracefs", "not mounted; ctrace mounts it privately, for itself"),
        Tracefs::Absent => Check::no(
            "tracefs",
            "the kernel does not have it",
            "use a kernel with CONFIG_FTRACE=y and CONFIG_EVENT_TRACING=y",
        ),
    }
}

/// This is at most a warning: only `ctrace exec` needs it, and the rest works with small losses.
fn btf(file: &Path) -> Check {
    if file.exists() {
        return Check::ok("BTF", "the kernel has it: ctrace exec can run");
    }
    Check::warn(
        "BTF",
        format!(
            "{} is missing: ctrace exec cannot run, and ctrace ssl shows no addresses and no handshakes",
            file.display()
        ),
        "use a kernel with CONFIG_DEBUG_INFO_BTF=y, and mount sysfs; everything else works without it",
    )
}

/// Parses `none [integrity] confidentiality`: the current mode is in brackets.
fn lockdown(text: Option<&str>) -> Check {
    let in_force = text.and_then(|text| text.split_once('[')?.1.split_once(']'));
    match in_force.map(|(mode, _)| mode) {
        None => Check::ok("lockdown", "none, or it could not be determined"),
        Some("none") => Check::ok("lockdown", "none"),
        Some("integrity") => Check::ok("lockdown", "integrity: BPF programs may read"),
        Some(mode) => Check::no(
            "lockdown",
            format!("{mode}: BPF programs may not read memory"),
            "boot with lockdown=integrity, or without secure boot",
        ),
    }
}

fn memlock(release: &str) -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let shown = limit.map_or_else(|| "unlimited".to_owned(), |bytes| format!("{} KiB", bytes / 1024));
    match features::version(release) {
        Some(version) if version < NO_MEMLOCK && limit.is_some() => Check::warn(
            "locked memory",
            format!("limited to {shown}"),
            "ulimit -l unlimited (with CAP_SYS_RESOURCE, ctrace does that itself)",
        ),
        _ => Check::ok(
            "locked memory",
            format!("{shown}; it does not apply: this kernel does not count BPF maps as locked memory"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::doctor::check::CheckStatus;

    #[test]
    fn versions() {
        for (release, expected) in [
            ("6.18.44-fc", CheckStatus::Ok),
            ("5.15.0-91-generic", CheckStatus::Ok),
            ("5.14.0-362.el9.x86_64", CheckStatus::No),
            ("4.19", CheckStatus::No),
            ("strange", CheckStatus::Warn),
            ("", CheckStatus::Warn),
        ] {
            let check = version(release);
            assert_eq!(check.status, expected, "{release}");
            assert_eq!(check.next.is_none(), expected == CheckStatus::Ok, "{release}");
        }
    }

    #[test]
    fn a_kernel_without_btf_has_no_exec() {
        let there = btf(Path::new("/proc/self/exe"));
        assert_eq!((there.status, there.next), (CheckStatus::Ok, None));
        let absent = btf(Path::new("/proc/self/no such file"));
        assert_eq!(absent.status, CheckStatus::Warn);
        assert!(absent.next.is_some_and(|next| next.contains("CONFIG_DEBUG_INFO_BTF")));
    }

    #[test]
    fn lockdown_modes() {
        let check = |text, expected| assert_eq!(lockdown(text).status, expected, "{text:?}");
        check(None, CheckStatus::Ok);
        check(Some("[none] integrity confidentiality\n"), CheckStatus::Ok);
        check(Some("none [integrity] confidentiality\n"), CheckStatus::Ok);
        check(Some("none integrity [confidentiality]\n"), CheckStatus::No);
        check(Some("nonsense"), CheckStatus::Ok);
    }
}
