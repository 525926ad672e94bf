//! `cargo xtask signatures`: compares the functions found without symbols with those that symbols name, over
//! this machine's files.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::{shell, workspace};

#[derive(Args)]
pub(crate) struct SignaturesOptions {
    /// Files and directories to inspect
    #[arg(default_values = ["/usr/bin", "/usr/sbin", "/usr/lib"])]
    paths: Vec<PathBuf>,
}

/// Runs the command. It fails if an answer with high confidence differs from the symbols of the same file.
pub(crate) fn run(options: &SignaturesOptions) -> Result<()> {
    let paths = std::env::join_paths(&options.paths)?;
    let mut cargo = shell::cargo();
    cargo.args(["test", "--release", "--package", "ctrace", "--test", "signatures", "--", "--nocapture"]);
    shell::run(cargo.env("CTRACE_SIGNATURES", paths).current_dir(workspace::root()))
}
