//! What a process passes to execve(2) while it waits in it: the environment that its next program will have.
//!
//! The process is held by the kernel meanwhile, but its other threads are not, and it may have written
//! anything there. So everything is read with limits, and missing data is None.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::start_arguments::{StartArguments, VARIABLES as STARTING_VARIABLES};

/// `__NR_execve` and `__NR_execveat` of x86-64.
const EXECVE: u64 = 59;
const EXECVEAT: u64 = 322;
/// Limit of the environment variables, and of the arguments, that are looked at.
const VARIABLES: usize = 4096;
/// Limit of the length of a variable.
const VALUE: usize = 64 * 1024;
/// Bytes that are read at once of a string. Most are shorter.
const PART: usize = 256;

/// What decides where a dynamic loader searches for libraries, besides the files themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoaderVariables {
    /// `LD_LIBRARY_PATH`.
    pub library_path: Option<OsString>,
    /// `LD_PRELOAD`.
    pub preload: Option<OsString>,
    /// The working directory, as ctrace sees it.
    pub directory: Option<PathBuf>,
}

impl LoaderVariables {
    /// Those of ctrace itself, which a command inherits.
    pub fn own() -> Self {
        Self {
            library_path: std::env::var_os("LD_LIBRARY_PATH"),
            preload: std::env::var_os("LD_PRELOAD"),
            directory: std::env::current_dir().ok(),
        }
    }

    /// Those of the program that a thread is about to execute. Empty if it is not inside of execve(2), or if
    /// ctrace may not read its memory.
    pub fn of_execve(tid: u32) -> Self {
        let directory = fs::read_link(format!("/proc/{tid}/cwd")).ok();
        let mut found = Self { directory, ..Self::default() };
        let environment = fs::read_to_string(format!("/proc/{tid}/syscall")).ok();
        let pointers = environment.and_then(|line| Pointers::parse(&line));
        let memory = File::open(format!("/proc/{tid}/mem")).ok();
        if let (Some(pointers), Some(memory)) = (pointers, memory) {
            found.read(&memory, pointers.environment);
        }
        found
    }

    /// Reads an environment: an array of pointers to strings that ends with a null pointer.
    pub fn read(&mut self, memory: &impl Memory, mut address: u64) {
        // The last one of a name is the one that the loader uses. Only that one is copied.
        let (mut library_path, mut preload) = (None, None);
        for _ in 0..VARIABLES {
            let Some(pointer) = memory.word(address).filter(|pointer| *pointer != 0) else { break };
            address = address.wrapping_add(8);
            if memory.starts_with(pointer, b"LD_LIBRARY_PATH=") {
                library_path = Some(pointer.wrapping_add(16));
            } else if memory.starts_with(pointer, b"LD_PRELOAD=") {
                preload = Some(pointer.wrapping_add(11));
            }
        }
        self.library_path = library_path.and_then(|value| memory.string(value));
        self.preload = preload.and_then(|value| memory.string(value));
    }
}

impl StartArguments {
    /// That of the program that a thread is about to execute. Empty if it is not inside of execve(2), or if
    /// ctrace may not read its memory.
    pub fn of_execve(tid: u32) -> Self {
        let pointers = fs::read_to_string(format!("/proc/{tid}/syscall")).ok();
        let pointers = pointers.and_then(|line| Pointers::parse(&line));
        let memory = File::open(format!("/proc/{tid}/mem")).ok();
        pointers.zip(memory).map(|(pointers, memory)| start_arguments(&memory, pointers)).unwrap_or_default()
    }
}

fn start_arguments(memory: &impl Memory, pointers: Pointers) -> StartArguments {
    let mut found = StartArguments::default();
    memory.strings(pointers.arguments, |memory, pointer| {
        // A long one is none of those that are searched for.
        found.arguments.push(memory.short_string(pointer).unwrap_or_default());
    });
    memory.strings(pointers.environment, |memory, pointer| {
        for name in STARTING_VARIABLES {
            let is_new = found.variable(name).is_none();
            if is_new && memory.starts_with(pointer, format!("{name}=").as_bytes()) {
                let value = memory.string(pointer.wrapping_add(name.len() as u64 + 1));
                found.variables.extend(value.map(|value| (name, value.into_vec())));
            }
        }
    });
    found
}

/// Where the arguments of an execve(2) are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pointers {
    arguments: u64,
    environment: u64,
}

impl Pointers {
    /// Parses the line of /proc/TID/syscall: the number of the system call and its arguments, or `running`.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let number = fields.next()?.parse().ok()?;
        let before = match number {
            EXECVE => 1,
            EXECVEAT => 2,
            _ => return None,
        };
        let mut addresses =
            fields.skip(before).map(|field| u64::from_str_radix(field.strip_prefix("0x")?, 16).ok());
        Some(Self { arguments: addresses.next()??, environment: addresses.next()?? })
    }
}

/// The memory of a process.
pub trait Memory {
    /// Reads from an address. Returns the number of bytes, or None.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Option<usize>;

    /// The number at an address.
    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        (self.read(address, &mut bytes)? == bytes.len()).then(|| u64::from_le_bytes(bytes))
    }

    /// Visits the strings of an array of pointers that ends with a null pointer.
    fn strings(&self, mut address: u64, mut visit: impl FnMut(&Self, u64)) {
        for _ in 0..VARIABLES {
            let Some(pointer) = self.word(address).filter(|pointer| *pointer != 0) else { return };
            address = address.wrapping_add(8);
            visit(self, pointer);
        }
    }

    /// Whether these bytes are at an address. At most 32 are compared.
    fn starts_with(&self, address: u64, prefix: &[u8]) -> bool {
        let mut bytes = [0; 32];
        let length = self.read(address, &mut bytes).unwrap_or(0);
        bytes.get(..length).is_some_and(|bytes| bytes.starts_with(prefix))
    }

    /// The string at an address, without its end, if it is shorter than what is read at once.
    fn short_string(&self, address: u64) -> Option<Vec<u8>> {
        let mut bytes = [0; PART];
        let length = self.read(address, &mut bytes)?;
        let bytes = bytes.get(..length)?;
        bytes.get(..memchr::memchr(0, bytes)?).map(<[u8]>::to_vec)
    }

    /// The string at an address, without its end.
    fn string(&self, address: u64) -> Option<OsString> {
        let mut text = Vec::new();
        while text.len() < VALUE {
            let mut part = [0; PART];
            let length = self.read(address.wrapping_add(text.len() as u64), &mut part)?;
            let part = part.get(..length).filter(|part| !part.is_empty())?;
            if let Some(end) = memchr::memchr(0, part) {
                text.extend(part.get(..end)?);
                return Some(OsString::from_vec(text));
            }
            text.extend(part);
        }
        None
    }
}

impl Memory for File {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Option<usize> {
        self.read_at(bytes, address).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory that begins at an address.
    struct Image(u64, Vec<u8>);

    impl Memory for Image {
        fn read(&self, address: u64, bytes: &mut [u8]) -> Option<usize> {
            let rest = self.1.get(usize::try_from(address.checked_sub(self.0)?).ok()?..)?;
            let length = rest.len().min(bytes.len());
            bytes.get_mut(..length)?.copy_from_slice(rest.get(..length)?);
            Some(length)
        }
    }

    /// An environment at 0x1000: the pointers, then the strings.
    fn environment(variables: &[&str]) -> Image {
        let mut at = 0x1000 + 8 * (variables.len() as u64 + 1);
        let (mut bytes, mut strings) = (Vec::new(), Vec::new());
        for variable in variables {
            bytes.extend(at.to_le_bytes());
            strings.extend(variable.bytes().chain([0]));
            at += variable.len() as u64 + 1;
        }
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(strings);
        Image(0x1000, bytes)
    }

    fn check(memory: &Image, expected: (Option<&str>, Option<&str>)) {
        let mut found = LoaderVariables::default();
        found.read(memory, 0x1000);
        let text =
            |value: &Option<OsString>| value.as_ref().map(|value| value.to_string_lossy().into_owned());
        assert_eq!(
            (text(&found.library_path), text(&found.preload)),
            (expected.0.map(str::to_owned), expected.1.map(str::to_owned))
        );
    }

    #[test]
    fn variables_are_read_from_memory() {
        check(
            &environment(&["A=1", "LD_LIBRARY_PATH=/a:/b", "LD_PRELOAD=x.so"]),
            (Some("/a:/b"), Some("x.so")),
        );
        check(&environment(&["LD_PRELOAD=x.so", "LD_PRELOAD=y.so"]), (None, Some("y.so")));
        check(&environment(&["LD_LIBRARY_PATH="]), (Some(""), None));
        let long = "d".repeat(3 * PART);
        check(&environment(&[&format!("LD_LIBRARY_PATH={long}")]), (Some(&long), None));
        check(&environment(&[]), (None, None));
    }

    #[test]
    fn arguments_and_the_variables_of_runtimes_are_read() {
        let memory = environment(&["node", "--use-largepages=on", "NODE_OPTIONS=x", "A=1", "PHPRC=/p"]);
        let found = start_arguments(&memory, Pointers { arguments: 0x1000, environment: 0x1010 });
        assert_eq!(found.arguments.len(), 5);
        assert_eq!(found.arguments.get(1).map(Vec::as_slice), Some(&b"--use-largepages=on"[..]));
        assert_eq!(found.variables, [("NODE_OPTIONS", b"x".to_vec()), ("PHPRC", b"/p".to_vec())]);
        // A pointer that leads to itself, for ever.
        let circle = Image(0x1000, 0x1000_u64.to_le_bytes().repeat(2 * VARIABLES));
        let found = start_arguments(&circle, Pointers { arguments: 0x1000, environment: 0x1000 });
        assert_eq!((found.arguments.len(), found.variables.len()), (VARIABLES, 0));
    }

    #[test]
    fn damaged_memory_gives_nothing() {
        let endless = format!("LD_PRELOAD={}", "x".repeat(2 * VALUE));
        check(&environment(&[&endless]), (None, None));
        let mut cut = environment(&["LD_PRELOAD=x.so"]);
        cut.1.truncate(20);
        check(&cut, (None, None));
        // A pointer that leads to itself, for ever.
        let circle = Image(0x1000, 0x1000_u64.to_le_bytes().repeat(2 * VARIABLES));
        check(&circle, (None, None));
    }

    #[test]
    fn the_environment_is_an_argument_of_the_system_call() {
        let check = |line: &str, expected: Option<(u64, u64)>| {
            let expected = expected.map(|(arguments, environment)| Pointers { arguments, environment });
            assert_eq!(Pointers::parse(line), expected, "{line}");
        };
        check("59 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc 0x7f00", Some((2, 3)));
        check("322 0xffffff9c 0x2 0x3 0x4 0x5 0x6 0x7ffc 0x7f00", Some((3, 4)));
        check("0 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc 0x7f00", None);
        check("running", None);
        check("-1 0x7ffc 0x7f00", None);
        check("59 0x1", None);
        check("", None);
    }

    #[test]
    fn a_thread_that_executes_nothing_has_only_its_directory() {
        let found = LoaderVariables::of_execve(std::process::id());
        assert_eq!((found.library_path, found.preload), (None, None));
        assert_eq!(found.directory, std::env::current_dir().ok());
    }
}
