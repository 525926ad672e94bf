//! `cargo xtask test`: every suite, fast ones first, and one line of numbers at the end.
//!
//! Owns which suites there are, which of them need root, and what it means when one cannot run. Never lets a suite
//! that could have run pass by not running.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::setup::{self, Undone};
use crate::shell::{self, Root};
use crate::tally::Tally;
use crate::{build, tidy, workspace};

/// Which suites.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Options {
    /// Leave out what needs root: the live suites.
    #[arg(long)]
    no_live: bool,
    /// Only tests whose name contains this, in all suites.
    filter: Option<String>,
}

/// Test programs of the end-to-end package that need no root; every other one is a live suite.
const NOT_LIVE: [&str; 3] = ["ctrace_tests", "cli", "docs"];

/// A built test program.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    name: String,
    file: PathBuf,
    package_dir: PathBuf,
}

impl Program {
    fn is_live(&self) -> bool {
        self.package_dir.ends_with("tests") && !NOT_LIVE.contains(&self.name.as_str())
    }
}

/// The command itself. Failed tests are an exit status and no error: the line of numbers comes last.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let begin = Instant::now();
    let undone = setup::prepare(setup::Options { engines: true, ..setup::Options::default() })?;
    // Without a compiler or a BPF toolchain nothing is worth starting; without container engines a lot is.
    setup::require(undone.iter().filter(|step| !setup::LIVE.contains(&&*step.name)))?;

    let mut tally = if options.filter.is_none() { tidy::check_all() } else { Tally::default() };
    build::release()?;
    let (live, quick): (Vec<Program>, Vec<Program>) = programs()?.into_iter().partition(Program::is_live);
    for program in &quick {
        tally += suite(program, Root::Already, options);
    }
    let not_run = match live_obstacle(options, &undone) {
        Ok(Some(reason)) => Some(reason),
        Ok(None) => {
            tally += run_live(&live, options)?;
            None
        }
        Err(error) => {
            // Root and BPF are here, so that not running is a failure of each suite.
            eprintln!("error: the live suites did not run: {error:#}");
            tally.failed += u32::try_from(live.len().max(1))?;
            None
        }
    };
    Ok(report(tally, not_run.as_deref(), &live, begin))
}

fn report(tally: Tally, not_run: Option<&str>, live: &[Program], begin: Instant) -> ExitCode {
    let Tally { passed, failed, ignored } = tally;
    println!();
    if let Some(reason) = not_run {
        let names: Vec<&str> = live.iter().map(|program| program.name.as_str()).collect();
        println!("NOT RUN: the live suites ({}): {reason}", names.join(", "));
    }
    if ignored > 0 {
        println!("{ignored} ignored");
    }
    println!("in {} s", begin.elapsed().as_secs());
    println!("{passed} passed, {failed} failed");
    if failed > 0 || passed == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Why the live suites cannot run on this machine, if they cannot; an error if they could and something is amiss.
fn live_obstacle(options: &Options, undone: &[Undone]) -> Result<Option<String>> {
    if options.no_live {
        return Ok(Some("--no-live was given".to_owned()));
    }
    let root = Root::detect();
    if root == Root::Never {
        return Ok(Some("they need root, and there is neither root nor a sudo that works here".to_owned()));
    }
    for (file, what) in [
        ("/proc/sys/kernel/unprivileged_bpf_disabled", "this kernel has no bpf() system call"),
        ("/sys/bus/event_source/devices/uprobe/type", "this kernel has no uprobes"),
    ] {
        if !Path::new(file).exists() {
            return Ok(Some(format!("{what} ({file} is not there)")));
        }
    }
    let status = shell::read(root.command("cat", &[]).arg("/proc/self/status"))?;
    if !may_trace(&status) {
        return Ok(Some("root has no CAP_SYS_ADMIN here, as in an unprivileged container".to_owned()));
    }
    match undone.iter().find(|step| setup::LIVE.contains(&&*step.name)) {
        Some(step) => bail!("no {}: {}", step.name, step.why),
        None => Ok(None),
    }
}

/// Whether a process with this /proc/PID/status has the capability that uprobes need on every kernel.
fn may_trace(status: &str) -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & CAP_SYS_ADMIN != 0)
}

/// Builds all test programs, as the user.
fn programs() -> Result<Vec<Program>> {
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

/// The test program that a message of cargo tells of, if it does.
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

/// Runs the live suites as root, one test at a time: they load BPF programs and count what the whole machine does.
fn run_live(programs: &[Program], options: &Options) -> Result<Tally> {
    let root = Root::detect();
    let tally = programs.iter().map(|program| suite(program, root, options)).sum();
    let cache = workspace::target()?.join("ctrace-tests");
    if root == Root::Sudo && cache.exists() {
        // What root has compiled belongs to the user again, or the user's next build could not replace it.
        let user = rustix::process::getuid().as_raw().to_string();
        shell::run(root.command("chown", &[]).args(["-R", &user]).arg(cache))?;
    }
    Ok(tally)
}

/// Runs some live suites as root, with a variable in their environment; fails when a test does.
pub(crate) fn run_named(suites: &[&str], variable: (&str, &str)) -> Result<()> {
    let root = Root::detect();
    if root == Root::Never {
        bail!("the live suites need root, and there is neither root nor a sudo that works here");
    }
    build::release()?;
    for program in programs()?.iter().filter(|program| suites.contains(&program.name.as_str())) {
        let tally = run_suite(program, root, &Options::default(), &[variable])?;
        if tally.failed > 0 {
            bail!("{} tests of {} failed", tally.failed, program.name);
        }
    }
    Ok(())
}

fn suite(program: &Program, root: Root, options: &Options) -> Tally {
    match run_suite(program, root, options, &[]) {
        Ok(tally) => tally,
        Err(error) => {
            println!("error: {}: {error:#}", program.name);
            Tally { failed: 1, ..Tally::default() }
        }
    }
}

fn run_suite(
    program: &Program,
    root: Root,
    options: &Options,
    environment: &[(&str, &str)],
) -> Result<Tally> {
    let begin = Instant::now();
    let target = workspace::target()?;
    let ctrace = workspace::ctrace()?;
    let file = program.file.to_string_lossy();
    let variables =
        [("CARGO_TARGET_DIR", target.to_string_lossy()), ("CTRACE_BIN", ctrace.to_string_lossy())];
    let variables = variables.each_ref().map(|(name, value)| (*name, &**value));
    let variables = [&variables, environment].concat();
    let mut command = root.command(&file, &variables);
    command.args(program.is_live().then_some("--test-threads=1")).args(&options.filter);
    println!("\nsuite {} ({})", program.name, program.package_dir.display());
    let tally = count(command.current_dir(&program.package_dir))?;
    println!("suite {}: {:.1} s", program.name, begin.elapsed().as_secs_f64());
    Ok(tally)
}

/// Runs a test program, passes its output on line by line, and counts.
fn count(command: &mut Command) -> Result<Tally> {
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
        tally = Tally::of_line(&line).or(tally);
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
    fn capabilities_are_read_from_the_effective_set() {
        let check = |status, expected: bool| assert_eq!(may_trace(status), expected, "{status}");
        check("CapPrm:\t000001ffffffffff\nCapEff:\t000001ffffffffff\n", true);
        check("CapPrm:\t000001ffffffffff\nCapEff:\t00000000a80425fb\n", false);
        check("", false);
    }

    #[test]
    fn a_test_program_that_dies_is_an_error() {
        assert!(count(Command::new("sh").args(["-c", "echo running 2 tests; kill -9 $$"])).is_err());
        let line = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'";
        assert_eq!(
            count(Command::new("sh").args(["-c", line])).ok(),
            Some(Tally { passed: 2, failed: 0, ignored: 0 })
        );
        let exit = format!("{line}; exit 1");
        assert_eq!(
            count(Command::new("sh").args(["-c", &exit])).ok(),
            Some(Tally { passed: 2, failed: 1, ignored: 0 })
        );
    }
}
