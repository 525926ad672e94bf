//! What /proc shows of a program while a process runs it.
//!
//! Owns the check that what was read still belongs to that program: the process may have executed another one
//! meanwhile, or its pid may have been reused. Files are not read for facts that are available without them,
//! because that would slow down each exec.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use procfs::FromRead;

use super::process::{FILE, Proc, number, read_bounded, status_field};

/// Limit of the bytes of the arguments or the environment of a program that was already running.
const STRINGS: u64 = 128 * 1024;

/// `PF_EXITING` of linux/sched.h.
const EXITING: u32 = 0x0000_0004;

/// A running program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSnapshot {
    /// When its process started, in nanoseconds after boot.
    pub started: u64,
    /// The present parent of the process.
    pub parent: u32,
    /// The name of its main thread. Only with [`MissingFields::names`].
    pub comm: Vec<u8>,
    /// The id in its own PID namespace. Only with [`MissingFields::names`].
    pub vpid: Option<u32>,
    /// The path of the executable, inside the executable's mount namespace. Only with
    /// [`MissingFields::executable`].
    pub executable: Option<Vec<u8>>,
    /// The working directory, inside the process's root.
    pub directory: Option<Vec<u8>>,
    /// The terminal, such as `pts/0`.
    pub tty: Option<String>,
    /// The real and effective user id, and the real group id. Only with [`MissingFields::names`].
    pub users: (Option<u32>, Option<u32>, Option<u32>),
}

/// What the kernel's records do not contain about a program, besides what only /proc has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingFields {
    /// Its executable.
    pub executable: bool,
    /// Its name, its id in its own PID namespace, and its users.
    pub names: bool,
}

impl MissingFields {
    /// Nothing has been recorded.
    pub const ALL: Self = Self { executable: true, names: true };
}

/// The strings of a program, each with a NUL at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// The arguments, as the program has them now.
    pub arguments: Vec<u8>,
    /// Whether the arguments were truncated.
    pub truncated: bool,
    /// The environment, as the program has it now.
    pub environment: Vec<u8>,
    /// The path that was executed; for a script, its own.
    pub path: Option<Vec<u8>>,
}

/// The program that a process runs now. `stack` is the stack pointer with which a program started: the result
/// is None if the process no longer runs that program.
pub fn running(pid: u32, stack: Option<u64>, unknown: MissingFields) -> Option<ProcessSnapshot> {
    let read = |name: &str| read_bounded(format!("/proc/{pid}/{name}").as_ref(), FILE).ok();
    let link = |name: &str| {
        let path = fs::read_link(format!("/proc/{pid}/{name}"))?;
        Ok(without_mark(path.as_os_str().as_bytes().to_vec()))
    };
    let directory: io::Result<Vec<u8>> = link("cwd");
    if directory.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        // The process has exited, so the other files do not exist either.
        return None;
    }
    let executable = unknown.executable.then(|| link("exe").ok()).flatten();
    let names = |name: &str| unknown.names.then(|| read(name)).flatten().unwrap_or_default();
    let (status, comm) = (names("status"), names("comm"));
    let ids = |name: &[u8]| -> Vec<u32> {
        let field = status_field(&status, name).unwrap_or_default();
        field.split(u8::is_ascii_whitespace).filter_map(number).collect()
    };
    let (uids, gids) = (ids(b"Uid:"), ids(b"Gid:"));
    // This must be the last read: if the program is still the same, all earlier reads belong to it.
    let stat = stat(&read("stat")?)?;
    // The stack of a program starts where the kernel has put its strings, at a random place for each
    // execution. An exiting process has neither strings nor files any more, and the kernel reports its exit
    // anyway.
    if stack.is_some_and(|stack| stack != stat.startstack) || stat.flags & EXITING != 0 {
        return None;
    }
    Some(ProcessSnapshot {
        started: nanoseconds(stat.starttime)?,
        parent: u32::try_from(stat.ppid).ok()?,
        comm: comm.strip_suffix(b"\n").unwrap_or(&comm).to_vec(),
        vpid: ids(b"NSpid:").last().copied(),
        executable,
        directory: directory.ok(),
        tty: terminal(stat.tty_nr),
        users: (uids.first().copied(), uids.get(1).copied(), gids.first().copied()),
    })
}

/// When a process has started, in nanoseconds of `CLOCK_BOOTTIME`, to a tick of the kernel (10 ms).
pub fn started(pid: u32) -> Option<u64> {
    nanoseconds(Proc::default().process(pid)?.start_time)
}

/// Ticks of /proc in nanoseconds.
fn nanoseconds(ticks: u64) -> Option<u64> {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    u64::try_from(u128::from(ticks) * 1_000_000_000 / u128::from(per_second)).ok()
}

/// The arguments and environment of the program that a process runs now.
pub fn given(pid: u32) -> CommandLine {
    let read = |name: &str| {
        let mut bytes = read_bounded(format!("/proc/{pid}/{name}").as_ref(), STRINGS + 1).unwrap_or_default();
        let truncated = bytes.len() as u64 > STRINGS;
        bytes.truncate(usize::try_from(STRINGS).unwrap_or(usize::MAX));
        (bytes, truncated)
    };
    let ((arguments, truncated), (environment, _)) = (read("cmdline"), read("environ"));
    CommandLine { arguments, truncated, environment, path: Proc::default().executed_path(pid) }
}

/// The bytes of a path that the kernel reported, without the mark of a deleted file.
pub fn path_bytes(path: &Path) -> Vec<u8> {
    without_mark(path.as_os_str().as_bytes().to_vec())
}

fn without_mark(path: Vec<u8>) -> Vec<u8> {
    path.strip_suffix(b" (deleted)").map(<[u8]>::to_vec).unwrap_or(path)
}

/// Parses /proc/PID/stat. As in `process`, procfs must not get a line that no kernel writes.
fn stat(text: &[u8]) -> Option<procfs::process::Stat> {
    let close = text.iter().rposition(|byte| *byte == b')')?;
    text.iter().position(|byte| *byte == b'(').filter(|open| *open < close)?;
    let numbers = text.get(close + 1..)?.strip_prefix(b" ")?;
    if !numbers.is_ascii() || numbers.split(|byte| *byte == b' ').count() < 30 {
        return None;
    }
    procfs::process::Stat::from_read(text).ok()
}

/// The name of a terminal by its number (`dev_t` in the kernel's old encoding, as in /proc/PID/stat). None
/// for 0.
fn terminal(number: i32) -> Option<String> {
    let number = number.cast_unsigned();
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xfff00);
    Some(match (major, minor) {
        (0, _) => return None,
        // See Documentation/admin-guide/devices.txt of the kernel.
        (136..=143, _) => format!("pts/{}", (major - 136) * 256 + minor),
        (4, 0..=63) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        (5, 1) => "console".to_owned(),
        (229, _) => format!("hvc{minor}"),
        _ => format!("{major}:{minor}"),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::test_rng::TestRng;

    #[test]
    fn terminals_have_names() {
        for (number, name) in [
            (0, None),
            (0x8803, Some("pts/3")),
            (0x8903, Some("pts/259")),
            (0x0401, Some("tty1")),
            (0x0440, Some("ttyS0")),
            (0x0501, Some("console")),
            (0x0a01, Some("10:1")),
        ] {
            assert_eq!(terminal(number).as_deref(), name, "{number:#x}");
        }
    }

    #[test]
    fn this_process() {
        let pid = std::process::id();
        let own = running(pid, None, MissingFields::ALL).unwrap();
        assert_eq!(own.executable.unwrap(), std::env::current_exe().unwrap().as_os_str().as_bytes());
        assert_eq!(
            own.directory.as_deref().unwrap(),
            std::env::current_dir().unwrap().as_os_str().as_bytes()
        );
        assert_eq!(own.users.1, Some(rustix::process::geteuid().as_raw()));
        assert_eq!(own.parent, std::os::unix::process::parent_id());
        assert!(own.started > 0);
        assert_eq!(running(pid, Some(1), MissingFields::ALL), None, "another program's stack");
        let rest = running(pid, None, MissingFields { executable: false, names: false }).unwrap();
        assert_eq!((rest.directory, rest.parent), (own.directory, own.parent));
        assert_eq!((rest.executable, rest.vpid, rest.users), (None, None, (None, None, None)));
        let first = std::env::args_os().next().unwrap();
        assert!(given(pid).arguments.starts_with(first.as_bytes()));
        assert_eq!(
            (running(u32::MAX, None, MissingFields::ALL), given(u32::MAX)),
            (None, CommandLine::default())
        );
    }

    #[test]
    fn junk_does_not_panic() {
        let mut noise = TestRng(0x5eed_0012);
        for round in 0..5000 {
            let alphabet: &[u8] = if round % 2 == 0 { b"" } else { b"0123 ()SZ\n" };
            let _ = stat(&noise.bytes(alphabet));
        }
    }
}
