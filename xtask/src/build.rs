//! `cargo xtask build`: ctrace with its BPF programs.
//!
//! Owns how the program is built. The BPF side is compiled by ctrace's own build script, not here.

use anyhow::Result;

use crate::{shell, workspace};

/// How to build.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct BuildOptions {
    /// Optimise, as the demo and the live tests require
    #[arg(long)]
    release: bool,
}

/// Runs the command.
pub(crate) fn run(options: BuildOptions) -> Result<()> {
    if options.release {
        return release();
    }
    shell::run(cargo_build().current_dir(workspace::root()))?;
    println!("built {}", workspace::target()?.join("debug/ctrace").display());
    Ok(())
}

/// Builds the program that the demo, the live tests and the virtual machines run.
pub(crate) fn release() -> Result<()> {
    shell::run(cargo_build().arg("--release").current_dir(workspace::root()))?;
    println!("built {}", workspace::ctrace()?.display());
    Ok(())
}

fn cargo_build() -> std::process::Command {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--package", "ctrace"]);
    cargo
}
