//! The project's own commands. `cargo xtask --help` lists them.
//!
//! Owns the command line only; each command has a module of its own. Nothing here is part of `ctrace`.

mod bench;
mod build;
mod demo;
mod fuzz;
mod setup;
mod shell;
mod signatures;
mod test;
mod tidy;
mod tls_table;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sets up, builds, shows and tests ctrace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Prepare this machine to build ctrace and run its tests; announce each step, skip what is there
    Setup(setup::SetupOptions),
    /// Build ctrace and its BPF programs
    Build(build::BuildOptions),
    /// Set up, build, and show the decrypted traffic of a real container for some seconds
    Demo,
    /// Set up, then run every suite that this machine can run; the last line has the totals
    Test(test::TestOptions),
    /// Measure what tracing costs, next to bpftrace, and what ctrace can take; write docs/performance.md
    Bench(bench::BenchOptions),
    /// Compare the functions found without symbols with those that symbols name, over this machine's programs
    /// and libraries
    Signatures(signatures::SignaturesOptions),
    /// Inspect damaged programs until a bug is found or the time is over
    Fuzz(fuzz::FuzzOptions),
    /// Rewrite the table of docs/tls.md from the results of the live tests
    TlsTable(tls_table::TlsTableOptions),
    /// Check format, lints, documentation and the design's rules
    Tidy(tidy::TidyOptions),
    /// Boot other kernels in QEMU; on each, load every BPF program and trace with each command
    Vm(vm::VmOptions),
    /// The part of the demo that runs as root.
    #[command(hide = true)]
    DemoShow(demo::Show),
    /// The part of the measurements that runs as root.
    #[command(hide = true)]
    BenchMeasure(bench::BenchOptions),
    /// The part of `vm` that runs in a guest.
    #[command(hide = true)]
    VmGuest,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Subcommands::Test(options) => return exit(test::run(&options)),
        Subcommands::Setup(options) => setup::run(options),
        Subcommands::Build(options) => build::run(options),
        Subcommands::Demo => demo::run(),
        Subcommands::Bench(options) => bench::run(options),
        Subcommands::Signatures(options) => signatures::run(&options),
        Subcommands::Fuzz(options) => fuzz::run(&options),
        Subcommands::TlsTable(options) => tls_table::run(options),
        Subcommands::Tidy(options) => tidy::run_with(options),
        Subcommands::Vm(options) => vm::run(&options),
        Subcommands::DemoShow(options) => demo::show(options),
        Subcommands::BenchMeasure(options) => bench::measure(options),
        Subcommands::VmGuest => vm::guest(),
    };
    exit(result.map(|()| ExitCode::SUCCESS))
}

fn exit(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
