//! `cargo xtask fuzz`: inspects damaged programs until it finds a bug or the time is over.
//!
//! Owns how the target in `fuzz/` is built and run, and which programs it damages. A finding is written to a
//! file, which the command accepts as an argument.

use anyhow::{Context, Result, bail};
use ctrace_tests::program;

use crate::{shell, workspace};

/// Programs to damage; each contains something different to find.
const PROGRAMS: [&str; 10] = [
    "functions",
    "functions-go-stripped",
    "usdt",
    "tls-go-stripped",
    "tls-gnutls-stripped",
    "tls-openssl-stripped",
    "tls-mbedtls-stripped",
    "tls-aws-lc-stripped",
    "tls-rustls-stripped",
    "tls-wolfssl-stripped",
];

/// How long to fuzz, or which input to try.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// How many seconds to fuzz
    #[arg(long, default_value_t = 60)]
    time: u32,
    /// Try only this input, which an earlier run has written
    input: Option<std::path::PathBuf>,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    let target = workspace::target()?.join("fuzz");
    let mut cargo = shell::cargo();
    cargo.args([
        "build",
        "--package",
        "ctrace-fuzz",
        "--features",
        "libfuzzer",
        "--profile",
        "fuzz",
        "--target-dir",
    ]);
    // In its own target directory, because cargo is not aware of the flags.
    cargo.arg(&target).current_dir(workspace::root());
    shell::run(cargo.env("RUSTC_WRAPPER", workspace::root().join("fuzz/rustc-counting")))?;

    let programs = PROGRAMS.iter().map(|name| program(name)).collect::<Result<Vec<_>>>()?;
    let corpus = target.join("corpus");
    std::fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
    let mut fuzzer = shell::command(&target.join("fuzz/ctrace-fuzz").to_string_lossy());
    fuzzer.env("CTRACE_FUZZ_PROGRAMS", std::env::join_paths(programs)?);
    // Inspecting a program of 5 MB takes 10 to 50 ms. Seconds, or 600 MB, are a bug.
    fuzzer.args(["-timeout=20", "-rss_limit_mb=600", "-max_len=512", "-len_control=0"]);
    fuzzer.arg(format!("-artifact_prefix={}/", target.display()));
    match &options.input {
        Some(input) => fuzzer.arg(input),
        None => fuzzer.arg(format!("-max_total_time={}", options.time)).arg(corpus),
    };
    println!("    $ {}", shell::shown(&fuzzer));
    let status = fuzzer.status().context("cannot run the fuzzer")?;
    if !status.success() {
        bail!(
            "something is wrong ({status}): `cargo xtask fuzz FILE` tries the file that is named above again"
        );
    }
    Ok(())
}
