//! `cargo xtask vm`: checks the BPF programs under other kernels, each booted in QEMU.
//!
//! Owns the host's side: what is built first, one boot per kernel, the table. The guest's side is
//! [`mod@guest`]. Never builds in a guest, which has no network and sees the host's files read-only.

mod guest;
mod kernel;
mod machine;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ctrace_tests::{ctrace_binary, program};

pub(crate) use guest::run as guest;
pub(crate) use kernel::Kernel;
pub(crate) use machine::ConsoleLog;
use machine::VirtualMachine;

use crate::{build, setup, workspace};

/// A hang is a failure, slowness is not: an emulated guest needs a minute of one processor, which may have
/// other work.
const TIMEOUT: Duration = Duration::from_mins(15);

/// Which kernels.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct VmOptions {
    /// Versions, such as 6.1 or 6.12: the newest kernel of Debian's archive whose version starts so.
    #[arg(required = true, value_name = "VERSION")]
    kernels: Vec<String>,
    /// Show the kernel's log
    #[arg(long)]
    verbose: bool,
}

/// Runs the command.
pub(crate) fn run(options: &VmOptions) -> Result<()> {
    let undone = setup::prepare(setup::SetupOptions { vm: true, ..Default::default() })?;
    setup::require(undone.iter().filter(|step| step.name != setup::DOCKER))?;
    // Another program can be chosen, as for the live suites.
    if std::env::var_os("CTRACE_BIN").is_none() {
        build::release()?;
    }
    let log = if options.verbose { ConsoleLog::Shown } else { ConsoleLog::Kept };
    let mut rows = Vec::new();
    for version in &options.kernels {
        let begin = Instant::now();
        let result = Kernel::get(version).and_then(|kernel| check(&kernel, log));
        rows.push((version, result, begin.elapsed().as_secs()));
    }
    println!("\n{:<10} {:>6}  result", "kernel", "time");
    for (kernel, result, seconds) in &rows {
        let text = result.as_ref().map_or_else(|error| format!("FAILED: {error:#}"), |()| "ok".to_owned());
        println!("{kernel:<10} {seconds:>4} s  {text}");
    }
    let failed = rows.iter().filter(|(_, result, _)| result.is_err()).count();
    if failed > 0 {
        bail!("{failed} of {} kernels failed", rows.len());
    }
    Ok(())
}

/// Runs the check of [`mod@guest`] under a kernel, with the programs that are built.
pub(crate) fn check(kernel: &Kernel, log: ConsoleLog) -> Result<()> {
    println!("\n{}", kernel.name);
    for name in guest::PROGRAMS {
        program(name)?;
    }
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let target = format!("CARGO_TARGET_DIR={}", workspace::target()?.display());
    let ctrace = format!("CTRACE_BIN={}", ctrace_binary()?.display());
    let command = ["/usr/bin/env", &target, &ctrace, &own.to_string_lossy(), "vm-guest"];
    VirtualMachine::new(kernel, log)?.run(&command, TIMEOUT)
}
