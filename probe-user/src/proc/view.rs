//! From where ctrace looks: whether the processes that it sees are those that the kernel tells of.
//!
//! The kernel's programs tell process ids as the first PID namespace counts them. Seen through another /proc,
//! these are other processes, or none: a trace would be empty, and look as if nothing had happened.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// Inode numbers of the first namespaces (`PROC_PID_INIT_INO`, `PROC_USER_INIT_INO` of linux/proc_ns.h).
const FIRST_PIDS: u64 = 0xEFFF_FFFC;
const FIRST_USERS: u64 = 0xEFFF_FFFD;

/// `PROC_SUPER_MAGIC` of linux/magic.h.
const PROCFS: i64 = 0x9fa0;

/// Why ctrace cannot see what it would trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blind {
    /// Nothing at /proc, or something else.
    NoProc,
    /// A PID namespace that is not the first, by its number.
    PidNamespace(u64),
    /// /proc belongs to another PID namespace than ctrace.
    OthersProc,
    /// /proc shows a user its own processes only.
    Hidden,
    /// A user namespace that is not the first, by its number.
    UserNamespace(u64),
}

impl std::error::Error for Blind {}

impl fmt::Display for Blind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.found(), self.next())
    }
}

impl Blind {
    /// What is in the way.
    pub fn found(self) -> String {
        match self {
            Self::NoProc => {
                "there is no procfs at /proc, where processes and their files are looked for".to_owned()
            }
            Self::PidNamespace(id) => format!(
                "this is a PID namespace of its own (pid:[{id}]), not the host's: its processes alone are \
                 seen, and the kernel tells of them by other ids than those here"
            ),
            Self::OthersProc => {
                "/proc shows the processes of another PID namespace than ctrace's own".to_owned()
            }
            Self::Hidden => {
                "/proc hides the processes of others from ctrace (mounted with hidepid)".to_owned()
            }
            Self::UserNamespace(id) => format!(
                "this is a user namespace of its own (user:[{id}]): who is root here is not root of the \
                 machine, and has no rights where probes are set"
            ),
        }
    }

    /// What to do about it.
    pub fn next(self) -> &'static str {
        match self {
            Self::NoProc => "mount it: mount -t proc proc /proc",
            Self::PidNamespace(_) => {
                "run ctrace on the host, or in a container with --pid=host (hostPID: true)"
            }
            Self::OthersProc => "mount its own there, for ctrace alone: unshare -m --mount-proc ctrace …",
            Self::Hidden => "run ctrace as root or with CAP_SYS_PTRACE, or mount -o remount,hidepid=0 /proc",
            Self::UserNamespace(_) => {
                "run ctrace as root on the host, not in a rootless container or unshare -U"
            }
        }
    }
}

/// What is seen from here.
struct View {
    has_procfs: bool,
    /// Our pid, and what /proc takes us for.
    own: (u32, Option<u32>),
    namespace: Option<u64>,
    /// Whether the first process of the machine, which is another user's, is seen.
    shows_others: bool,
}

impl View {
    fn look() -> Self {
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

    fn judge(&self) -> Result<(), Blind> {
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

/// Whether the processes in /proc are those that the kernel's programs tell of.
pub fn processes() -> Result<(), Blind> {
    View::look().judge()
}

/// Whether ctrace's capabilities are those of the machine. Not to be told where there is no /proc.
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
    fn what_is_seen_is_judged() {
        let seen = |has_procfs, in_proc, namespace, shows_others| {
            View { has_procfs, own: (7, in_proc), namespace, shows_others }.judge()
        };
        let other = 4_026_532_182;
        assert_eq!(seen(true, Some(7), Some(FIRST_PIDS), true), Ok(()));
        assert_eq!(seen(false, None, None, false), Err(Blind::NoProc));
        // With a /proc of its own, and with the host's.
        assert_eq!(seen(true, Some(7), Some(other), true), Err(Blind::PidNamespace(other)));
        assert_eq!(seen(true, Some(4711), Some(other), true), Err(Blind::PidNamespace(other)));
        // The host's ctrace, with the /proc of a container.
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
