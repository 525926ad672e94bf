//! `cargo xtask test`: every suite, fast ones first, and one line of totals at the end.
//!
//! Owns which suites there are, which of them need root, which take long, and what it means if one cannot
//! run. Never lets a suite that could have run pass by not running.

mod program;
mod report;
mod tally;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use program::{Program, programs};
use report::Report;
pub(crate) use tally::TestCounts;

use crate::setup::{self, Undone};
use crate::shell::{self, RootAccess};
use crate::{build, tidy, vm, workspace};

/// Which suites.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct TestOptions {
    /// Leave out what needs root: the live suites
    #[arg(long)]
    no_live: bool,
    /// Also run what takes long: see CONTRIBUTING.md
    #[arg(long)]
    long: bool,
    /// Only run tests whose name contains this, in all suites
    filter: Option<String>,
}

/// Live suites that only `--long`, or a filter, runs: without them everything takes at most 35 minutes on two
/// processors.
const LONG: &[&str] = &["live_third_party_large", "live_requests_peers_large"];

/// The kernel that every run boots. With `--long` there are three: the oldest that Debian supports and ctrace
/// runs on, a long-term one, and the newest.
const KERNEL: &str = "6.1";
const KERNELS: [&str; 3] = [KERNEL, "6.12", "7.3"];

/// Runs the command. Failed tests are an exit status and not an error, because the totals come last.
pub(crate) fn run(options: &TestOptions) -> Result<ExitCode> {
    let mut report = Report::default();
    let wanted = setup::SetupOptions { engines: true, vm: true, ..setup::SetupOptions::default() };
    let undone = report.time("setup", || setup::prepare(wanted))?;
    // Without a compiler or a BPF toolchain nothing can run; without container engines much can.
    setup::require(undone.iter().filter(|step| !setup::OPTIONAL.contains(&&*step.name)))?;

    if options.filter.is_none() {
        report.run("tidy", || Ok(tidy::check_all()));
    }
    report.time("build of ctrace", build::release)?;
    let programs = report.time("build of the tests", programs)?;
    let (live, quick): (Vec<Program>, Vec<Program>) = programs.into_iter().partition(Program::is_live);
    for program in &quick {
        report.run(&program.name, || program.run(RootAccess::Root, options.filter.as_deref(), &[]));
    }
    run_live(&live, options, &undone, &mut report)?;
    if options.filter.is_none() {
        run_kernels(options, &undone, &mut report);
    }
    Ok(report.end())
}

fn run_live(live: &[Program], options: &TestOptions, undone: &[Undone], report: &mut Report) -> Result<()> {
    let left_out = |program: &&Program| {
        !options.long && options.filter.is_none() && LONG.contains(&program.name.as_str())
    };
    let (long, chosen): (Vec<&Program>, Vec<&Program>) = live.iter().partition(left_out);
    match live_obstacle(options, undone) {
        Ok(Some(reason)) => report.not_run(&names(&chosen), &reason),
        Ok(None) => {
            let root = RootAccess::detect();
            for program in chosen {
                report.run(&program.name, || program.run(root, options.filter.as_deref(), &[]));
            }
            give_back(root)?;
        }
        // Root and BPF are available, so each suite that does not run counts as failed.
        Err(error) => chosen.iter().for_each(|program| {
            report.run(&program.name, || bail!("it did not run: {error:#}"));
        }),
    }
    if !long.is_empty() {
        report.not_run(&names(&long), "`cargo xtask test --long` runs what takes long");
    }
    Ok(())
}

fn names(programs: &[&Program]) -> String {
    programs.iter().map(|program| program.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The short form of `cargo xtask vm`. A kernel that cannot be fetched is no failure: the machine may have no
/// network.
fn run_kernels(options: &TestOptions, undone: &[Undone], report: &mut Report) {
    let kernels = if options.long { &KERNELS[..] } else { &[KERNEL] };
    for version in kernels {
        let name = format!("Linux {version}");
        if let Some(step) = undone.iter().find(|step| step.name == setup::VM) {
            report.not_run(&name, &format!("no {}: {}", step.name, step.why));
            continue;
        }
        match report.time(&format!("{name}, fetched"), || vm::Kernel::get(version)) {
            Ok(kernel) => {
                report.run(&name, || Ok(TestCounts::one(&Ok(vm::check(&kernel, vm::ConsoleLog::Kept)?))));
            }
            Err(error) => report.not_run(&name, &format!("{error:#}")),
        }
    }
}

/// Why the live suites cannot run on this machine, if they cannot. It is an error if they could, and
/// something else is wrong.
fn live_obstacle(options: &TestOptions, undone: &[Undone]) -> Result<Option<String>> {
    if options.no_live {
        return Ok(Some("--no-live was given".to_owned()));
    }
    let root = RootAccess::detect();
    if root == RootAccess::None {
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

/// Gives files that root has built back to the user, whose next build could not replace them otherwise.
fn give_back(root: RootAccess) -> Result<()> {
    let cache = workspace::target()?.join("ctrace-tests");
    if root == RootAccess::Sudo && cache.exists() {
        let user = rustix::process::getuid().as_raw().to_string();
        shell::run(root.command("chown", &[]).args(["-R", &user]).arg(cache))?;
    }
    Ok(())
}

/// Runs some live suites as root, with a variable in their environment. Fails if a test fails.
pub(crate) fn run_named(suites: &[&str], variable: (&str, &str)) -> Result<()> {
    let root = RootAccess::detect();
    if root == RootAccess::None {
        bail!("the live suites need root, and there is neither root nor a sudo that works here");
    }
    build::release()?;
    for program in programs()?.iter().filter(|program| suites.contains(&program.name.as_str())) {
        let tally = program.run(root, None, &[variable])?;
        if tally.failed > 0 {
            bail!("{} tests of {} failed", tally.failed, program.name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let check = |status, expected: bool| assert_eq!(may_trace(status), expected, "{status}");
        check("CapPrm:\t000001ffffffffff\nCapEff:\t000001ffffffffff\n", true);
        check("CapPrm:\t000001ffffffffff\nCapEff:\t00000000a80425fb\n", false);
        check("", false);
    }
}
