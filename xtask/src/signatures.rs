//! `cargo xtask signatures`: what is found without symbols, against what symbols say, over this machine's
//! files.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::{shell, workspace};

#[derive(Args)]
pub(crate) struct Options {
    /// Files and directories to look at
    #[arg(default_values = ["/usr/bin", "/usr/sbin", "/usr/lib"])]
    paths: Vec<PathBuf>,
}

/// Fails when an answer that is called certain is not what the symbols of the same file say.
pub(crate) fn run(options: &Options) -> Result<()> {
    let paths = std::env::join_paths(&options.paths)?;
    let mut cargo = shell::cargo();
    cargo.args(["test", "--release", "--package", "ctrace", "--test", "signatures", "--", "--nocapture"]);
    shell::run(cargo.env("CTRACE_SIGNATURES", paths).current_dir(workspace::root()))
}
