//! Checks that the processes in ctrace's /proc are the ones that the kernel reports.
//!
//! The BPF programs report process ids as the first PID namespace counts them. In another /proc, these belong
//! to other processes, or to none: a trace would be empty, and look as if nothing had happened.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// Inode numbers of the first PID and user namespace (`PROC_PID_INIT_INO`, `PROC_USER_INIT_INO` of
/// linux/proc_ns.h).
const FIRST_PIDS: u64 = 0xEFFF_FFFC;
const FIRST_USERS: u64 = 0xEFFF_FFFD;

/// `PROC_SUPER_MAGIC` of linux/magic.h.
const PROCFS: i64 = 0x9fa0;

/// Why ctrace cannot see the processes that it would trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blind {
    /// /proc is not a procfs, or is missing.
    NoProc,
    /// ctrace runs in a PID namespace that is not the first one. Contains its inode number.
    PidNamespace(u64),
    /// /proc belongs to another PID namespace than ctrace.
    OthersProc,
    /// /proc shows users only their own processes.
    Hidden,
    /// ctrace runs in a user namespace that is not the first one. Contains its inode number.
    UserNamespace(u64),
}

impl std::error::Error for Blind {}

impl fmt::Display for Blind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.found(), self.next())
    }
}

impl Blind {
    /// The obstacle, for messages.
    pub fn found(self) -> String {
        match self {
            Self::NoProc => {
                "no procfs is mounted at /proc, where ctrace finds processes and their files".to_owned()
            }
            Self::PidNamespace(id) => format!(
                "ctrace runs in a PID namespace (pid:[{id}]) that is not the host's: it sees only the \
                 processes in it, and the kernel reports them with the host's ids"
            ),
            Self::OthersProc => {
                "/proc belongs to another PID namespace than the one that ctrace runs in".to_owned()
            }
            Self::Hidden => {
                "/proc hides the processes of other users (it is mounted with hidepid)".to_owned()
            }
            Self::UserNamespace(id) => format!(
                "ctrace runs in a user namespace (user:[{id}]) that is not the host's: root here is not root \
                 on the host, and may not set probes"
            ),
        }
    }

    /// The advice for the user.
    pub fn next(self) -> &'static str {
        match self {
            Self::NoProc => "mount it: mount -t proc proc /proc",
            Self::PidNamespace(_) => {
                "run ctrace on the host, or in a container with --pid=host (hostPID: true)"
            }
            Self::OthersProc => "mount the right one for ctrace alone: unshare -m --mount-proc ctrace …",
            Self::Hidden => "run ctrace as root or with CAP_SYS_PTRACE, or mount -o remount,hidepid=0 /proc",
            Self::UserNamespace(_) => {
                "run ctrace as root on the host, not in a rootless container or unshare -U"
            }
        }
    }
}

/// What ctrace can see.
struct View {
    has_procfs: bool,
    /// ctrace's pid, and its pid according to /proc.
    own: (u32, Option<u32>),
    namespace: Option<u64>,
    /// Whether the first process of the machine is visible, which belongs to another user.
    shows_others: bool,
}

impl View {
    fn read() -> Self {
        let link = fs::read_link("/proc/self").ok();
        #[expect(clippy::unnecessary_cast, reason = "the field's type differs between architectures")]
        let has_procfs = rustix::fs::statfs("/proc").is_ok_and(|found| found.f_type as i64 == PROCFS);
        Self {
            has_procfs,
            own: (std::process::id(), link.and_then(|link| link.to_str()?.parse().ok())),
            namespace: namespace("pid"),
            shows_others: fs::read("/proc/1/stat").is_ok(),
        }
    }

    fn check(&self) -> Result<(), Blind> {
        let (own, in_proc) = self.own;
        match self.namespace {
            _ if !self.has_procfs => Err(Blind::NoProc),
            Some(id) if id != FIRST_PIDS => Err(Blind::PidNamespace(id)),
            _ if in_proc != Some(own) => Err(Blind::OthersProc),
            _ if !self.shows_others => Err(Blind::Hidden),
            _ => Ok(()),
        }
    }
}

/// Checks that the processes in /proc are the ones that the BPF programs report.
pub fn processes() -> Result<(), Blind> {
    View::read().check()
}

/// Checks that ctrace's capabilities apply to the whole machine. Without /proc this cannot be checked, and
/// counts as fine.
pub fn rights() -> Result<(), Blind> {
    match namespace("user") {
        Some(id) if id != FIRST_USERS => Err(Blind::UserNamespace(id)),
        _ => Ok(()),
    }
}

fn namespace(kind: &str) -> Option<u64> {
    Some(fs::metadata(format!("/proc/self/ns/{kind}")).ok()?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_is_checked() {
        let seen = |has_procfs, in_proc, namespace, shows_others| {
            View { has_procfs, own: (7, in_proc), namespace, shows_others }.check()
        };
        let other = 4_026_532_182;
        assert_eq!(seen(true, Some(7), Some(FIRST_PIDS), true), Ok(()));
        assert_eq!(seen(false, None, None, false), Err(Blind::NoProc));
        // ctrace in a PID namespace, with a /proc of its own, and with the host's.
        assert_eq!(seen(true, Some(7), Some(other), true), Err(Blind::PidNamespace(other)));
        assert_eq!(seen(true, Some(4711), Some(other), true), Err(Blind::PidNamespace(other)));
        // ctrace on the host, with the /proc of a container.
        assert_eq!(seen(true, None, None, true), Err(Blind::OthersProc));
        assert_eq!(seen(true, Some(7), Some(FIRST_PIDS), false), Err(Blind::Hidden));
    }

    #[test]
    fn each_says_what_to_do() {
        for blind in
            [Blind::NoProc, Blind::PidNamespace(1), Blind::OthersProc, Blind::Hidden, Blind::UserNamespace(1)]
        {
            assert_eq!(blind.to_string(), format!("{}: {}", blind.found(), blind.next()));
            assert!(!blind.next().is_empty());
        }
    }
}
