//! `cargo xtask vm`: the programs under other kernels, each booted in QEMU.
//!
//! Owns the host's side: what is built before, one boot a kernel, the table. The guest's side is [`crate::vm_guest`].
//! Never builds in a guest, which has no network and sees the host's files read-only.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ctrace_tests::program;

use crate::{build, setup, shell, vm_guest, workspace};

/// Which kernels.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Versions, such as 6.1 or 6.12: the newest packaged kernel whose version starts so.
    #[arg(required = true, value_name = "VERSION")]
    kernels: Vec<String>,
    /// The program that boots a kernel [default: ../shared/kernel-run beside the workspace].
    #[arg(long, value_name = "PATH")]
    kernel_run: Option<PathBuf>,
    /// Show the kernel's log.
    #[arg(long)]
    verbose: bool,
}

/// The command itself.
pub(crate) fn run(options: &Options) -> Result<()> {
    let kernel_run = kernel_run(options)?;
    setup::require(
        setup::prepare(setup::Options { vm: true, ..Default::default() })?
            .iter()
            .filter(|step| step.name != setup::DOCKER),
    )?;
    build::release()?;
    for name in vm_guest::PROGRAMS {
        program(name)?;
    }
    let mut rows = Vec::new();
    for kernel in &options.kernels {
        let begin = Instant::now();
        let result = boot(options, &kernel_run, kernel);
        rows.push((kernel, result, begin.elapsed().as_secs()));
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

fn kernel_run(options: &Options) -> Result<PathBuf> {
    let beside = workspace::root().join("../shared/kernel-run");
    let path = options.kernel_run.clone().unwrap_or(beside);
    path.canonicalize().with_context(|| {
        format!("no program to boot kernels with at {}: name one with --kernel-run PATH", path.display())
    })
}

fn boot(options: &Options, kernel_run: &std::path::Path, kernel: &str) -> Result<()> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let target = format!("CARGO_TARGET_DIR={}", workspace::target()?.display());
    let ctrace = format!("CTRACE_BIN={}", workspace::ctrace()?.display());
    let mut command = shell::command(&kernel_run.to_string_lossy());
    command.args(["--kernel", kernel, "--timeout", "600", "--cwd", "/"]);
    command.args(options.verbose.then_some("--verbose"));
    command.args(["--", "/usr/bin/env", &target, &ctrace]).arg(own).arg("vm-guest");
    println!("\nkernel {kernel}");
    shell::run(&mut command)
}
