//! Test programs: which there are, and how one is run.
//!
//! Owns how cargo builds them and their arguments. Never decides which of them run.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::tally::TestCounts;
use crate::shell::{self, RootAccess};
use crate::workspace;

/// Test programs of the end-to-end package that need no root. Every other one is a live suite.
const NOT_LIVE: [&str; 3] = ["ctrace_tests", "cli", "docs"];

/// A built test program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) name: String,
    file: PathBuf,
    package_dir: PathBuf,
}

impl Program {
    /// Whether it needs root and the rest of the machine.
    pub(super) fn is_live(&self) -> bool {
        self.package_dir.ends_with("tests") && !NOT_LIVE.contains(&self.name.as_str())
    }

    /// Runs the program with some environment variables. A live suite runs one test at a time, because its
    /// tests load BPF programs and count what the whole machine does.
    pub(super) fn run(
        &self,
        root: RootAccess,
        filter: Option<&str>,
        environment: &[(&str, &str)],
    ) -> Result<TestCounts> {
        let target = workspace::target()?;
        let ctrace = workspace::ctrace()?;
        let variables =
            [("CARGO_TARGET_DIR", target.to_string_lossy()), ("CTRACE_BIN", ctrace.to_string_lossy())];
        let variables = variables.each_ref().map(|(name, value)| (*name, &**value));
        let variables = [&variables, environment].concat();
        let mut command = root.command(&self.file.to_string_lossy(), &variables);
        command.args(self.is_live().then_some("--test-threads=1")).args(filter);
        println!("\nsuite {} ({})", self.name, self.package_dir.display());
        count(command.current_dir(&self.package_dir))
    }
}

/// Builds all test programs, as the user.
pub(super) fn programs() -> Result<Vec<Program>> {
    let mut cargo = shell::cargo();
    cargo.args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    println!("    $ {}", shell::shown(&cargo));
    let output =
        cargo.current_dir(workspace::root()).stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the tests do not compile");
    }
    let mut programs: Vec<Program> =
        String::from_utf8_lossy(&output.stdout).lines().filter_map(program).collect();
    programs.sort_by(|a, b| (&a.package_dir, &a.name).cmp(&(&b.package_dir, &b.name)));
    Ok(programs)
}

/// The test program that a message of cargo names, if any.
fn program(message: &str) -> Option<Program> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let is_test = message.pointer("/profile/test")?.as_bool()?;
    let text = |pointer: &str| message.pointer(pointer)?.as_str();
    let file = text("/executable").filter(|_| is_test)?;
    Some(Program {
        name: text("/target/name")?.to_owned(),
        file: file.into(),
        package_dir: Path::new(text("/manifest_path")?).parent()?.to_owned(),
    })
}

/// Runs a test program, passes its output on line by line, and counts its tests.
fn count(command: &mut Command) -> Result<TestCounts> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", shell::shown(command)))?;
    let mut tally = None;
    let stdout = child.stdout.take().context("no pipe to the test program")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read the test program's output")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally = TestCounts::of_line(&line).or(tally);
    }
    let status = child.wait().context("cannot wait for the test program")?;
    let mut tally = tally.with_context(|| format!("it died without a result: {status}"))?;
    if !status.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_in_cargos_messages() {
        let message = |executable: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{{"name":"live"}},
                "profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let found = program(&message("\"/t/live-1\"", true));
        assert_eq!(found.as_ref().map(|program| program.file.clone()), Some(PathBuf::from("/t/live-1")));
        assert!(found.is_some_and(|program| program.is_live()));
        assert_eq!(program(&message("\"/t/live\"", false)), None);
        assert_eq!(program(&message("null", true)), None);
        assert_eq!(program("warning: something"), None);
    }

    #[test]
    fn only_suites_of_the_end_to_end_package_are_live() {
        let check = |package_dir: &str, name: &str, live: bool| {
            let program =
                Program { name: name.to_owned(), file: PathBuf::new(), package_dir: package_dir.into() };
            assert_eq!(program.is_live(), live, "{package_dir} {name}");
        };
        check("/w/tests", "loss", true);
        check("/w/tests", "cli", false);
        check("/w/tests", "ctrace_tests", false);
        check("/w/probe-user", "replay", false);
    }

    #[test]
    fn a_test_program_that_dies_is_an_error() {
        assert!(count(Command::new("sh").args(["-c", "echo running 2 tests; kill -9 $$"])).is_err());
        let line = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'";
        assert_eq!(
            count(Command::new("sh").args(["-c", line])).ok(),
            Some(TestCounts { passed: 2, failed: 0, ignored: 0 })
        );
        let exit = format!("{line}; exit 1");
        assert_eq!(
            count(Command::new("sh").args(["-c", &exit])).ok(),
            Some(TestCounts { passed: 2, failed: 1, ignored: 0 })
        );
    }
}
