//! `cargo xtask tidy`: all checks of the code that do not run it.
//!
//! Owns the order of the checks and how they are reported. Never changes a file.

mod bpf_layers;
mod layers;
mod one_name;
mod rules;
mod schema;
mod sources;

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::test::TestCounts;
use crate::{shell, tls_table, workspace};

/// A check: its name, and a function that fails if the rule is broken.
type Check = (&'static str, fn() -> Result<()>);

const CHECKS: [Check; 11] = [
    ("format of the user side", || run(cargo(Side::User, "fmt").args(["--all", "--check"]))),
    ("format of the BPF side", || run(cargo(Side::Bpf, "fmt").arg("--check"))),
    ("design rules", rules::check_tree),
    ("layers", layers::check_tree),
    ("layers of the BPF side", bpf_layers::check_tree),
    ("one name for each type", one_name::check_tree),
    ("clippy on the user side", || {
        run(cargo(Side::User, "clippy").args(["--workspace", "--all-targets", "--", "-D", "warnings"]))
    }),
    ("clippy on the BPF side", || run(bpf_clippy()?.args(["--", "-D", "warnings"]))),
    ("documentation", || {
        let mut cargo = cargo(Side::User, "doc");
        run(cargo.env("RUSTDOCFLAGS", "-D warnings").args(["--workspace", "--no-deps"]))
    }),
    ("docs/events.md describes the schema", schema::check),
    ("the tests of docs/tls.md's table are there", tls_table::check),
];

/// What to check.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct TidyOptions {
    /// Only print which room of `probe-user/src` imports which
    #[arg(long)]
    rooms: bool,
}

/// Runs the command.
pub(crate) fn run_with(options: TidyOptions) -> Result<()> {
    if options.rooms { layers::print_graph() } else { run_all() }
}

fn run_all() -> Result<()> {
    let tally = check_all();
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 {
        bail!("{} checks failed", tally.failed);
    }
    Ok(())
}

/// Runs every check; a failed one does not stop the others.
pub(crate) fn check_all() -> TestCounts {
    println!("\ntidy");
    let mut tally = TestCounts::default();
    for (name, check) in CHECKS {
        let begin = Instant::now();
        let result = check();
        let seconds = begin.elapsed().as_secs_f64();
        match &result {
            Ok(()) => println!("  {name}: ok, {seconds:.1} s"),
            Err(error) => println!("  {name}: FAILED: {error:#}"),
        }
        tally += TestCounts::one(&result);
    }
    tally
}

#[derive(Clone, Copy)]
enum Side {
    User,
    Bpf,
}

/// A cargo command in one of the two workspaces.
fn cargo(side: Side, subcommand: &str) -> Command {
    let mut cargo = shell::cargo();
    cargo.arg(subcommand).current_dir(match side {
        Side::User => workspace::root(),
        Side::Bpf => workspace::root().join("probe-ebpf"),
    });
    cargo
}

/// Clippy with the settings of probe-user/build.rs, in the directory where that has compiled core.
fn bpf_clippy() -> Result<Command> {
    let mut cargo = cargo(Side::Bpf, "clippy");
    cargo
        .args(["--quiet", "--release", "--target", "bpfel-unknown-none", "-Zbuild-std=core", "--target-dir"])
        .arg(workspace::target()?.join("bpf"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH));
    Ok(cargo)
}

fn run(command: &mut Command) -> Result<()> {
    println!("    $ {}", shell::shown(command));
    let status = command.status()?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}
