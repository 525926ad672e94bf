//! The bytes of a program's strings → arguments, environment, path. Copies only what came in several parts.

use std::borrow::Cow;

use probe_common::{CHUNK_OF_ARGUMENTS, CHUNK_OF_ENVIRONMENT, CHUNK_OF_PATH, ExecStringChunk};

use crate::event::{ArgList, Plaintext};
use crate::pipeline::pending::PendingBytes;
use crate::plan::capture::Environment;

/// How many arguments are looked at for a script.
const FIRST: usize = 18;

/// Parts that wait for the record of their program.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// The time of the exec.
    pub(super) time: u64,
    arguments: Vec<(u32, Vec<u8>)>,
    environment: Vec<(u32, Vec<u8>)>,
    path: Vec<(u32, Vec<u8>)>,
    /// The size of all parts.
    bytes: usize,
}

impl PendingBytes for Parts {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Parts {
    /// No part yet, of the program that was executed at this time.
    pub(super) fn new(time: u64) -> Self {
        Self { time, ..Self::default() }
    }

    pub(super) fn add(&mut self, part: &ExecStringChunk, data: &Plaintext<'_>) {
        let parts = match part.part {
            CHUNK_OF_ARGUMENTS => &mut self.arguments,
            CHUNK_OF_ENVIRONMENT => &mut self.environment,
            CHUNK_OF_PATH => &mut self.path,
            _ => return,
        };
        parts.push((part.offset, data.0.to_vec()));
        self.bytes += data.0.len();
    }

    /// The bytes of the arguments, completed by the `last` part. A gap ends them early.
    pub(super) fn arguments<'a>(&self, offset: u32, last: &'a [u8]) -> Cow<'a, [u8]> {
        if self.arguments.is_empty() && offset == 0 {
            return Cow::Borrowed(last);
        }
        let mut bytes = joined(&self.arguments);
        if bytes.len() == offset as usize {
            bytes.extend_from_slice(last);
        }
        Cow::Owned(bytes)
    }

    pub(super) fn environment(&self) -> Vec<u8> {
        joined(&self.environment)
    }

    /// The path, without the NUL after it.
    pub(super) fn path(&self) -> Option<Vec<u8>> {
        let bytes = joined(&self.path);
        first(&bytes).map(<[u8]>::to_vec)
    }
}

fn joined(parts: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (offset, part) in parts {
        if *offset as usize != bytes.len() {
            break;
        }
        bytes.extend_from_slice(part);
    }
    bytes
}

/// The first string. None if it is empty.
pub(super) fn first(bytes: &[u8]) -> Option<&[u8]> {
    bytes.split(|byte| *byte == 0).next().filter(|string| !string.is_empty())
}

/// Splits strings that each end with a NUL, which may be missing after the last one.
pub(super) fn split(bytes: &[u8]) -> Vec<Plaintext<'_>> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    bytes.split(|byte| *byte == 0).map(Plaintext::of).collect()
}

/// The arguments of a program: `count` arguments (None if they could not be read) in `length` bytes.
pub(super) fn arguments(bytes: &[u8], count: Option<u64>, length: u64) -> ArgList<'_> {
    let truncated = count.is_none() || (bytes.len() as u64) < length;
    let mut list = split(bytes);
    list.truncate(count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX));
    ArgList { list, count, truncated }
}

/// The first arguments, among which a script is.
pub(super) fn first_arguments<'a>(arguments: &'a ArgList<'_>) -> Vec<&'a [u8]> {
    arguments.list.iter().take(FIRST).map(|argument| &*argument.0).collect()
}

/// The wanted variables of an environment. The environment is followed by the path of the program and by
/// padding of the stack. Without a path, the end of the environment was not captured.
pub(super) fn environment<'a>(bytes: &'a [u8], path: Option<&[u8]>, wanted: &Environment) -> ArgList<'a> {
    let mut bytes = bytes;
    if let Some(path) = path {
        while let Some(rest) = bytes.strip_suffix(b"\0") {
            bytes = rest;
        }
        bytes = bytes.strip_suffix(path).unwrap_or(bytes);
    }
    let list = split(bytes).into_iter().filter(|variable| wanted.takes(&variable.0)).collect();
    ArgList { list, count: None, truncated: path.is_none() }
}

/// The interpreter that a script names. The kernel inserts it, with at most one argument from the script's
/// first line, before the path as it was given. `executable` is the program that runs, if that is known.
pub(super) fn interpreter<'a>(
    path: &[u8],
    arguments: &[Plaintext<'a>],
    executable: Option<&str>,
) -> Option<Cow<'a, [u8]>> {
    let [interpreter, rest @ ..] = arguments else { return None };
    let name = |path: &'_ [u8]| path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    let is_path = |argument: &&Plaintext<'_>| *argument.0 == *path;
    let is_script = interpreter.0.starts_with(b"/")
        && *interpreter.0 != *path
        && rest.iter().take(2).any(|argument| is_path(&argument))
        && executable.is_none_or(|executable| name(executable.as_bytes()) != name(path));
    is_script.then(|| interpreter.0.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: &[Plaintext<'_>], expected: &[&[u8]]) {
        let found: Vec<&[u8]> = found.iter().map(|string| &*string.0).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn arguments_are_split_at_nul_alone() {
        check(&arguments(b"a\0\0b c\n\0", Some(3), 8).list, &[b"a", b"", b"b c\n"]);
        check(&arguments(b"\0", Some(1), 1).list, &[b""]);
        check(&arguments(b"", Some(0), 0).list, &[]);
        let cut = arguments(b"a\0bcd", Some(3), 100);
        check(&cut.list, &[b"a", b"bcd"]);
        assert!(cut.truncated && cut.count == Some(3));
        assert!(!arguments(b"a\0", Some(1), 2).truncated);
        assert!(arguments(b"", None, 0).truncated);
    }

    #[test]
    fn an_environment_ends_before_the_path() {
        let bytes = b"A=1\0SECRET=x\0B=\0/bin/x\0\0\0\0\0\0\0\0\0";
        let all = environment(bytes, Some(b"/bin/x"), &Environment::All);
        check(&all.list, &[b"A=1", b"SECRET=x", b"B="]);
        let named = Environment::Named(vec![b"B".to_vec(), b"A".to_vec()]);
        check(&environment(bytes, Some(b"/bin/x"), &named).list, &[b"A=1", b"B="]);
        let cut = environment(b"A=1\0SECR", None, &Environment::All);
        check(&cut.list, &[b"A=1", b"SECR"]);
        assert!(cut.truncated && !all.truncated);
        check(&environment(b"", Some(b"/bin/x"), &Environment::All).list, &[]);
    }

    #[test]
    fn interpreters_are_told_from_programs() {
        for (path, arguments, executable, expected) in [
            ("./x.sh", &["/bin/sh", "./x.sh", "a"][..], Some("/usr/bin/dash"), Some("/bin/sh")),
            ("./x.py", &["/usr/bin/env", "-S python3", "./x.py"], None, Some("/usr/bin/env")),
            ("/bin/ls", &["ls", "/bin/ls"], Some("/bin/busybox"), None),
            ("/bin/sh", &["/bin/sh", "/bin/sh"], None, None),
            ("/bin/sh", &["sh", "x.sh"], None, None),
            ("/bin/cat", &["/x/cat", "/bin/cat"], Some("/usr/bin/cat"), None),
            ("/bin/x", &[], None, None),
        ] {
            let list: Vec<Plaintext<'_>> =
                arguments.iter().map(|text| Plaintext::of(text.as_bytes())).collect();
            let found = interpreter(path.as_bytes(), &list, executable);
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{path} {arguments:?}");
        }
    }

    #[test]
    fn parts_are_joined_up_to_a_gap() {
        let part = |offset| ExecStringChunk { offset, ..zerocopy::FromZeros::new_zeroed() };
        let mut parts = Parts::default();
        parts.add(&part(0), &Plaintext::of(b"ab"));
        parts.add(&part(2), &Plaintext::of(b"cd"));
        assert_eq!(parts.arguments(4, b"ef"), b"abcdef".as_slice());
        assert_eq!(parts.arguments(9, b"ef"), b"abcd".as_slice());
        assert_eq!(Parts::default().arguments(0, b"ef"), b"ef".as_slice());
        assert_eq!(Parts::default().arguments(2, b"ef"), b"".as_slice());
    }
}
