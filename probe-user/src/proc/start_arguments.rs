//! How a program was started: its arguments, and those variables of its environment that change where its
//! code is.
//!
//! The bytes are the process's own, which it may change at any time.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::process_snapshot::{self, CommandLine};

/// The variables that are kept.
pub(super) const VARIABLES: [&str; 3] = ["NODE_OPTIONS", "PHPRC", "PHP_INI_SCAN_DIR"];

/// Limit of the arguments that are kept.
const ARGUMENTS: usize = 4096;

/// The arguments of a program, and some variables of its environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartArguments {
    /// The arguments, beginning with the name of the program.
    pub arguments: Vec<Vec<u8>>,
    /// The variables with their values.
    pub variables: Vec<(&'static str, Vec<u8>)>,
}

impl StartArguments {
    /// That of the program that a process runs now. Empty if it cannot be read.
    pub fn running(pid: u32) -> Self {
        let CommandLine { arguments, environment, .. } = process_snapshot::given(pid);
        Self::parse(&arguments, &environment)
    }

    /// That of a command that ctrace starts, which inherits its environment.
    pub fn of_command(words: &[OsString]) -> Self {
        let arguments = words.iter().map(|word| word.clone().into_vec()).collect();
        let value = |name| Some((name, std::env::var_os(name)?.into_vec()));
        Self { arguments, variables: VARIABLES.into_iter().filter_map(value).collect() }
    }

    /// The value of one of the variables.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        self.variables.iter().find(|(kept, _)| *kept == name).map(|(_, value)| value.as_slice())
    }

    /// Parses strings that are separated by NUL, as in /proc/PID/cmdline and /proc/PID/environ.
    fn parse(arguments: &[u8], environment: &[u8]) -> Self {
        let arguments = arguments.strip_suffix(b"\0").unwrap_or(arguments);
        let arguments = arguments.split(|byte| *byte == 0).take(ARGUMENTS).map(<[u8]>::to_vec).collect();
        let mut variables = Vec::new();
        for variable in environment.split(|byte| *byte == 0) {
            for name in VARIABLES {
                let value = variable.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
                // The first of several is what getenv(3) returns.
                if let Some(value) = value
                    && !variables.iter().any(|(kept, _)| *kept == name)
                {
                    variables.push((name, value.to_vec()));
                }
            }
        }
        Self { arguments, variables }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_separated_by_nul() {
        let found =
            StartArguments::parse(b"node\0\0app.js\0", b"A=1\0PHPRC=\0NODE_OPTIONS=a b\0PHPRC=later\0");
        assert_eq!(found.arguments, [&b"node"[..], b"", b"app.js"]);
        assert_eq!(
            (found.variable("PHPRC"), found.variable("NODE_OPTIONS")),
            (Some(&b""[..]), Some(&b"a b"[..]))
        );
        assert_eq!((found.variable("PHP_INI_SCAN_DIR"), found.variable("A")), (None, None));
        let many = StartArguments::parse(&b"x\0".repeat(2 * ARGUMENTS), b"");
        assert_eq!(many.arguments.len(), ARGUMENTS);
    }

    #[test]
    fn a_process_that_does_not_run_has_no_variables() {
        assert_eq!(StartArguments::running(u32::MAX).variables, []);
        assert!(!StartArguments::running(std::process::id()).arguments.is_empty());
    }
}
