//! The names by which a program was started besides its executable: a script's, or a link's.
//!
//! The kernel runs a script by running the interpreter in its first line, often `env`, which then runs
//! another one. So the executable of `job.py` is Python's, and its own path is in two other places: where the
//! kernel keeps the path that was executed, and among the arguments of the interpreter. Both are in the
//! memory of the process, which may change them at any time, as it may change its name.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::execve::Memory;
use super::process::{Proc, read_bounded};

/// `AT_EXECFN` of linux/auxvec.h: the address of the path that was executed.
const AT_EXECFN: u64 = 31;
/// Limit of the bytes that are read of /proc/PID/auxv, which has about 350.
const VECTOR: u64 = 4096;
/// Limit of the bytes that are read of /proc/PID/cmdline: the script is among the first arguments.
const ARGUMENTS: u64 = 16 * 1024;
/// Limit of the options that may stand before a script.
const OPTIONS: usize = 16;

/// Interpreters, without the version in their names, and those of their options that have one letter and no
/// value. After any other option it is uncertain which argument is the script.
const INTERPRETERS: [(&[u8], &[u8]); 15] = [
    (b"ash", b"abefhikmnuvx"),
    (b"bash", b"abefhiklmnprtuvxBCEHPT"),
    (b"bun", b""),
    (b"dash", b"abefhikmnuvx"),
    (b"deno", b""),
    (b"ksh", b"abefhikmnuvx"),
    (b"lua", b"EW"),
    (b"node", b""),
    (b"nodejs", b""),
    (b"perl", b"TUWXfnpstuvw"),
    (b"php", b"nqs"),
    (b"pypy", b"BEIOPSbdiqsuv"),
    (b"python", b"BEIOPSbdiqsuv"),
    (b"ruby", b"Sadlnpsvw"),
    (b"sh", b"abefhikmnuvx"),
];

/// What a program was started with.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartNames<'a> {
    /// The path that was executed: a script's own, not its interpreter's.
    pub path: Option<&'a [u8]>,
    /// The first arguments, beginning with the name of the program.
    pub arguments: &'a [&'a [u8]],
    /// The working directory, by which relative paths are completed.
    pub directory: Option<&'a [u8]>,
}

impl StartNames<'_> {
    /// The paths by which the program is called, besides that of its executable.
    pub fn paths(&self, executable: Option<&Path>) -> Vec<PathBuf> {
        let script = executable.and_then(|executable| script(executable, self.arguments));
        let named = self.path.into_iter().chain(script).filter(|path| !path.is_empty());
        let mut paths = Vec::new();
        for path in named.map(|path| self.whole(path)).filter(|path| Some(path.as_path()) != executable) {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        paths
    }

    /// The path from the root, as far as that is known. Nothing is resolved: that would need the target's
    /// files.
    fn whole(&self, path: &[u8]) -> PathBuf {
        let path = Path::new(OsStr::from_bytes(path));
        let start = self.directory.map(|directory| Path::new(OsStr::from_bytes(directory)));
        let path = start.map_or_else(|| path.to_owned(), |start| start.join(path));
        // This leaves out `.` between names; one at the start would make it another path than `x.sh`.
        path.strip_prefix(".").unwrap_or(&path).components().collect()
    }
}

/// The argument of an interpreter that names the script.
fn script<'a>(executable: &Path, arguments: &[&'a [u8]]) -> Option<&'a [u8]> {
    let [own, rest @ ..] = arguments else { return None };
    let flags = flags(executable.file_name()?.as_bytes(), own)?;
    for argument in rest.iter().take(OPTIONS) {
        match argument.strip_prefix(b"-") {
            None => return Some(argument),
            // The script is read from standard input, or what follows is the first word that is no option.
            Some(b"" | b"-") => return None,
            Some(long) if long.starts_with(b"-") && long.contains(&b'=') => {}
            Some(letters) if letters.iter().all(|letter| flags.contains(letter)) => {}
            Some(_) => return None,
        }
    }
    None
}

/// The options of an interpreter that have no value. BusyBox is many programs, one of which its first
/// argument names.
fn flags(executable: &[u8], own: &[u8]) -> Option<&'static [u8]> {
    let name = match executable {
        b"busybox" => own.rsplit(|byte| *byte == b'/').next().unwrap_or_default(),
        name => name,
    };
    let end =
        name.iter().rposition(|byte| !byte.is_ascii_digit() && *byte != b'.').map_or(0, |last| last + 1);
    let name = name.get(..end)?;
    INTERPRETERS.iter().find(|(known, _)| *known == name).map(|(_, flags)| *flags)
}

impl Proc {
    /// The paths by which the program of a process is called, besides that of its executable.
    pub fn start_names(&self, pid: u32) -> Vec<PathBuf> {
        let bytes = read_bounded(&self.path(pid, "cmdline"), ARGUMENTS).unwrap_or_default();
        let arguments: Vec<&[u8]> = bytes.split(|byte| *byte == 0).take(OPTIONS + 2).collect();
        let directory =
            fs::read_link(self.path(pid, "cwd")).ok().map(|path| path.into_os_string().into_vec());
        let path = self.executed_path(pid);
        let start =
            StartNames { path: path.as_deref(), arguments: &arguments, directory: directory.as_deref() };
        start.paths(self.executable(pid).as_deref())
    }

    /// The path with which the program of a process was executed, which the kernel has put at the end of its
    /// stack.
    pub fn executed_path(&self, pid: u32) -> Option<Vec<u8>> {
        let vector = read_bounded(&self.path(pid, "auxv"), VECTOR).ok()?;
        let address = entry(&vector, AT_EXECFN)?;
        let memory = File::open(self.path(pid, "mem")).ok()?;
        memory.string(address).map(OsStringExt::into_vec)
    }
}

/// A value of an auxiliary vector: pairs of 64-bit numbers.
fn entry(vector: &[u8], wanted: u64) -> Option<u64> {
    let (pairs, _) = vector.as_chunks::<16>();
    pairs.iter().find_map(|pair| {
        let pair = u128::from_le_bytes(*pair);
        let (kind, value) =
            (u64::try_from(pair & u128::from(u64::MAX)).ok()?, u64::try_from(pair >> 64).ok()?);
        (kind == wanted).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(executable: &str, path: &str, arguments: &[&str], expected: &[&str]) {
        let arguments: Vec<&[u8]> = arguments.iter().map(|text| text.as_bytes()).collect();
        let start =
            StartNames { path: Some(path.as_bytes()), arguments: &arguments, directory: Some(b"/app") };
        let found = start.paths(Some(Path::new(executable)));
        assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{path} {arguments:?}");
    }

    #[test]
    fn a_script_is_what_the_kernel_or_its_interpreter_was_given() {
        let python = "/usr/bin/python3.11";
        check("/usr/bin/dash", "./job.sh", &["/bin/sh", "./job.sh", "a"], &["/app/job.sh"]);
        check("/opt/own/lisp", "/x/job.lisp", &["/opt/own/lisp", "/x/job.lisp"], &["/x/job.lisp"]);
        // `#!/usr/bin/env python3`: first env, then Python.
        check("/usr/bin/env", "/x/job.py", &["/usr/bin/env", "python3", "/x/job.py"], &["/x/job.py"]);
        check(python, python, &["python3", "/x/job.py", "in"], &["/x/job.py"]);
        check(
            python,
            "/usr/bin/python3",
            &["python3", "-uB", "job.py"],
            &["/usr/bin/python3", "/app/job.py"],
        );
        check("/usr/bin/node", "/usr/bin/node", &["node", "--max-old-space-size=9", "a.js"], &["/app/a.js"]);
        check("/bin/busybox", "/bin/sh", &["sh", "-e", "job.sh"], &["/bin/sh", "/app/job.sh"]);
        check("/bin/busybox", "/bin/wget", &["wget", "job.sh"], &["/bin/wget"]);
    }

    #[test]
    fn other_arguments_are_no_scripts() {
        let python = "/usr/bin/python3.11";
        for arguments in [
            &["python3", "-m", "job.py"][..],
            &["python3", "-c", "code", "job.py"],
            &["python3", "-", "job.py"],
            &["python3", "-W", "job.py", "x"],
            &["python3", "--", "job.py"],
            &["python3"],
            &[],
        ] {
            check(python, python, arguments, &[]);
        }
        check("/usr/bin/grep", "/usr/bin/grep", &["grep", "job.py"], &[]);
        check("/usr/bin/1.2", "/usr/bin/1.2", &["1.2", "job.py"], &[]);
        check(python, python, &[&["python3"][..], &["-u"; 2 * OPTIONS], &["job.py"]].concat(), &[]);
    }

    #[test]
    fn a_relative_path_stays_relative_where_the_directory_is_unknown() {
        let start = StartNames { path: Some(b"./x/./job.sh"), ..StartNames::default() };
        assert_eq!(start.paths(None), [PathBuf::from("x/job.sh")]);
        assert_eq!(StartNames::default().paths(None), [] as [PathBuf; 0]);
    }

    #[test]
    fn the_kernel_keeps_the_path_that_was_executed() {
        let proc = Proc::default();
        let own = proc.executed_path(std::process::id());
        let first = std::env::args_os().next().map(OsStringExt::into_vec);
        assert!(own.is_some() && own == first, "{own:?}");
        assert_eq!((proc.executed_path(u32::MAX), proc.start_names(u32::MAX)), (None, Vec::new()));
        assert_eq!(entry(&[1; 40], 7), None);
    }
}
