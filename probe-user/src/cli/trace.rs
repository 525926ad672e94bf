//! The options of every tracing command: what to trace, where records go, when to stop.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, ValueEnum};

use super::output::OutputArgs;
use super::selection::TargetArgs;
use super::value;
use super::{Action, Cli, OnNoMatch, Playback, ProtoFiles, Trace};
use crate::bpf::ProbeLink;
use crate::output::{OutputPath, TextStyle};
use crate::plan::return_probe::ReturnPolicy;
use crate::probe::Probe;

/// The options of every tracing command.
#[derive(Args, Debug)]
pub(super) struct TraceArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// If there is nothing to attach to yet, wait for a program or library that is loaded later
    #[arg(short, long, help_heading = "What to attach to")]
    wait: bool,
    /// Print what would be attached where, as JSON; load and attach nothing
    #[arg(long, help_heading = "What to attach to")]
    dry_run: bool,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Stop after N records (of ssl: calls; of requests: requests)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Stop after a time, such as 10s, 5m, 1h30m
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    duration: Option<Duration>,
    /// Hold a program of a command (-- COMMAND) at its start for at most this time, until ctrace has attached
    /// to it; 0: never
    #[arg(long, value_name = "TIME", value_parser = value::duration_or_zero, default_value = "200ms")]
    hold_limit: Duration,
    /// Size of the ring buffer between the kernel and ctrace, rounded up to a power of two, from 64K to 1G
    #[arg(long, value_name = "SIZE", value_parser = value::ring_bytes, default_value = "32M")]
    ring_size: u32,
}

/// How the returns of functions may be probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReturnProbeArg {
    /// At exits in the function's own code where these are certain, otherwise by the kernel
    Auto,
    /// Only at exits; functions whose exits are not certain are left out
    Exit,
    /// By the kernel: a program that switches stacks inside of a traced function (fibers, coroutines) is
    /// ended by SIGILL; before Linux 6.13, whether it is in scope or not
    Kernel,
}

/// The options of commands that probe the returns of functions.
#[derive(Args, Debug)]
pub(super) struct ReturnArgs {
    /// How the returns of functions are probed: at exits in their own code, or by the kernel, which ends
    /// programs that switch stacks (fibers) inside of a traced function
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto", help_heading = "What to attach to")]
    return_probe: ReturnProbeArg,
}

impl ReturnArgs {
    pub(super) fn policy(&self) -> ReturnPolicy {
        match self.return_probe {
            ReturnProbeArg::Auto => ReturnPolicy::Auto,
            ReturnProbeArg::Exit => ReturnPolicy::Exit,
            ReturnProbeArg::Kernel => ReturnPolicy::Kernel,
        }
    }
}

/// `--count`, which used to be the name of `--limit` on these commands and counts calls on another one.
#[derive(Args, Debug)]
pub(super) struct RenamedArgs {
    #[arg(long, hide = true, value_name = "N", num_args = 0..=1, default_missing_value = "", value_parser = value::renamed_count)]
    count: Option<std::convert::Infallible>,
}

impl TraceArgs {
    /// The recording of this name, shown instead of a trace; text as `style` says, but for its colour.
    ///
    /// Ends with a usage error for what clap cannot detect.
    pub(super) fn playback(self, path: PathBuf, style: TextStyle) -> Playback {
        let Self { output, limits: LimitArgs { limit, duration, .. }, .. } = self;
        let outputs = output
            .outputs(OutputPath::Stdout, style)
            .unwrap_or_else(|why| Cli::command().error(ErrorKind::ArgumentConflict, why).exit());
        Playback { path, outputs, requests: None, proto: ProtoFiles::default(), limit, duration }
    }

    /// The trace of what `probe` watches; text as `style` says, but for its colour; of payload `max_bytes` a
    /// call.
    ///
    /// Ends with a usage error for what clap cannot detect.
    pub(super) fn trace(self, probe: Probe, style: TextStyle, max_bytes: u32) -> Trace {
        let command: Vec<OsString> = self.target.command().to_vec();
        if self.dry_run && !command.is_empty() {
            let what = "--dry-run cannot know what a command maps before it runs: start the command yourself, \
                        and use --dry-run --pid";
            Cli::command().error(ErrorKind::ArgumentConflict, what).exit();
        }
        if let Some(why) = self.target.conflict() {
            Cli::command().error(ErrorKind::ArgumentConflict, why).exit();
        }
        let Self { target, output, limits, wait, dry_run } = self;
        // Standard output belongs to a command if there is one.
        let standard = if command.is_empty() { OutputPath::Stdout } else { OutputPath::Stderr };
        let outputs = output
            .outputs(standard, style)
            .unwrap_or_else(|why| Cli::command().error(ErrorKind::ArgumentConflict, why).exit());
        Trace {
            probe,
            selector: target.into(),
            command,
            hold_limit: Some(limits.hold_limit).filter(|limit| !limit.is_zero()),
            outputs,
            limit: limits.limit,
            duration: limits.duration,
            interval: None,
            requests: None,
            proto: ProtoFiles::default(),
            max_bytes,
            ring_bytes: limits.ring_size,
            probe_link: ProbeLink::default(),
            on_no_match: if wait { OnNoMatch::Wait } else { OnNoMatch::Error },
            action: if dry_run { Action::PrintPlan } else { Action::Run },
        }
    }
}
