//! The program: parse, run, print the error, exit.

use std::process::ExitCode;

use ctrace::app;
use ctrace::cli;
use ctrace::cli::Verbosity;
use ctrace::stderr;
use ctrace::stderr::print_error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Makes the build fail if there are no BPF programs. The constant of a generic function is evaluated when
/// code is generated, so check, clippy and rustdoc still work without them.
#[cfg(bpf_missing)]
fn require_bpf_programs<T>() {
    const { panic!(concat!("no BPF programs to embed: ", env!("BPF_MISSING"), "; run `cargo xtask setup`")) }
}

fn main() -> ExitCode {
    #[cfg(bpf_missing)]
    require_bpf_programs::<()>();
    if let Some(status) = app::run_helper(std::env::args_os()) {
        return status;
    }
    let invocation = cli::parse();
    log_to_stderr(invocation.verbosity);
    let runtime = match app::event_loop() {
        Ok(runtime) => runtime,
        Err(shortage) => {
            print_error(&shortage);
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(app::run(invocation));
    // Threads that wait for a file system that does not respond are abandoned.
    runtime.shutdown_background();
    stderr::flush_all_repeated();
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            print_error(&failure);
            ExitCode::from(failure.exit_status())
        }
    }
}

fn log_to_stderr(verbosity: Verbosity) {
    let level = match verbosity {
        Verbosity::Quiet => LevelFilter::ERROR,
        Verbosity::Normal => LevelFilter::WARN,
        Verbosity::Verbose => LevelFilter::INFO,
        Verbosity::Debug => LevelFilter::DEBUG,
    };
    // Log messages of libraries are left out, because they include what runtimes reply, with secrets of
    // containers. The messages of the BPF programs have the names of their own modules.
    let ours = Targets::new().with_target("ctrace", level).with_target("probe_ebpf", level);
    tracing_subscriber::registry().with(stderr::StderrLog::default()).with(ours).init();
}
