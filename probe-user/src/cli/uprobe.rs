//! `ctrace uprobe`.

use std::time::Duration;

use clap::Args;
use clap::CommandFactory;
use clap::error::ErrorKind;

use super::attach::AttachArgs;
use super::trace::{ReturnArgs, TraceArgs};
use super::{Action, Cli, Trace, selection, value};
use crate::output::{OutputPath, OutputSpec, TextStyle};
use crate::plan::value_type::MAX_BYTES;
use crate::probe::Probe;
use crate::probe::uprobe::{Mode, Pattern, Stacks, Uprobe, UsdtPattern};

const PATTERNS: &str = "\
A pattern is OBJECT:FUNCTION[+OFFSET][(TYPES)][ -> TYPE], or OBJECT:0xADDRESS (an address as in the
file, before relocation). OBJECT is a soname, a file name, or a path in the container if it contains a
slash; without it, the executable is meant. FUNCTION is a symbol as in the file or demangled, with or
without its parameters. * and ? match in both. TYPES are the types of the arguments to read: int, uint
(32 bits in C), int8 to int64, uint8 to uint64, long, ulong, hex, ptr, str, bool, bytes(N), bytes(#n)
(as many as the n-th argument says), bytes (a Go slice), _ (not read). The type after -> is that of the
returned value (_: report only that it returned). If a C++ name ends with parentheses, they are taken
as TYPES if they parse as such.";

const EXAMPLES: &str = "\
Examples:
  ctrace uprobe --container web 'libc.so.6:getaddrinfo(str) -> int'
  ctrace uprobe --pid 2543 ':main.handle*'                    functions of the executable
  ctrace uprobe --container web --list 'libpq.so.5:PQ*'       which functions match, and where they are
  ctrace uprobe --container db --count 'libc.so.6:*lloc'      number of calls by function and container
  ctrace uprobe --container web --latency --interval 10s 'libpq.so.5:PQexec'
  ctrace uprobe --pid 2543 'libc.so.6:write(int, bytes(#3), ulong) -> long' -o json
  ctrace uprobe --container py --usdt 'python:function__entry(str, str, int)'

Standard output contains records only. docs/events.md describes them; `ctrace schema` prints their schema.";

#[derive(Args, Debug)]
#[command(
    after_help = format!("{PATTERNS}\n\n{}\n\n{EXAMPLES}", selection::MEANING),
    override_usage = "ctrace uprobe [OPTIONS] <WHAT TO TRACE>... <FUNCTION>...\n       ctrace uprobe \
     [OPTIONS] <FUNCTION>... -- <COMMAND>..."
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct UprobeArgs {
    /// Functions, as OBJECT:FUNCTION(TYPES) -> TYPE (see below)
    #[arg(value_name = "FUNCTION", value_parser = Pattern::parse, required_unless_present = "usdt")]
    functions: Vec<Pattern>,
    /// USDT probes, which programs have compiled in; TYPES as for functions
    #[arg(long, help_heading = "What to attach to", value_name = "PROVIDER:NAME[(TYPES)]", value_parser = UsdtPattern::parse)]
    usdt: Vec<UsdtPattern>,
    #[command(flatten)]
    common: TraceArgs,
    /// Print which functions match, and where they are; load and attach nothing
    #[arg(long, help_heading = "What to attach to", conflicts_with_all = ["count", "latency", "dry_run"])]
    list: bool,
    /// Count calls by function and container, in the kernel; print the counts at the end
    #[arg(long, help_heading = "What to report", conflicts_with_all = ["latency", "ret_only", "stack"])]
    count: bool,
    /// Measure the time from entry to return, in the kernel; print a histogram by function and container at
    /// the end
    #[arg(long, help_heading = "What to report", conflicts_with_all = ["ret_only", "stack", "usdt"])]
    latency: bool,
    /// With --count or --latency: also print the counts of each interval, such as 10s
    #[arg(long, help_heading = "What to report", value_name = "TIME", value_parser = value::duration)]
    interval: Option<Duration>,
    /// Report calls only when they return, without their arguments
    #[arg(long, help_heading = "What to report", conflicts_with_all = ["stack", "usdt"])]
    ret_only: bool,
    /// Report the call stack of each call, found by frame pointers
    #[arg(long, help_heading = "What to report")]
    stack: bool,
    #[command(flatten)]
    attach: AttachArgs,
    #[command(flatten)]
    returns: ReturnArgs,
    /// Capture at most N bytes of a string, or of bytes whose length is in an argument, up to 4096
    #[arg(long, help_heading = "Limits", value_name = "N", default_value = "256",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_BYTES)))]
    max_bytes: u32,
    /// Probe at most N functions
    #[arg(long, help_heading = "Limits", value_name = "N", default_value = "1000",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_probes: u32,
}

impl UprobeArgs {
    /// The trace that these options describe.
    pub(super) fn trace(self) -> Trace {
        let mode = match (self.count, self.latency, self.ret_only) {
            (true, _, _) => Mode::Count,
            (_, true, _) => Mode::Latency,
            (_, _, true) => Mode::ReturnsOnly,
            _ => Mode::Calls,
        };
        if self.interval.is_some() && !matches!(mode, Mode::Count | Mode::Latency) {
            let what = "--interval needs --count or --latency: everything else is reported immediately";
            Cli::command().error(ErrorKind::ArgumentConflict, what).exit();
        }
        let uprobe = Uprobe {
            patterns: self.functions,
            usdt: self.usdt,
            mode,
            returns: self.returns.policy(),
            stacks: if self.stack { Stacks::Captured } else { Stacks::Left },
            max_bytes: self.max_bytes,
            max_probes: usize::try_from(self.max_probes).unwrap_or(usize::MAX),
        };
        let trace = self.common.trace(Probe::Uprobe(uprobe), TextStyle::default(), self.max_bytes);
        let action = match trace.outputs.as_slice() {
            _ if !self.list => trace.action,
            [OutputSpec { format, path: OutputPath::Stdout | OutputPath::Stderr, .. }] => {
                Action::List(format.kind)
            }
            _ => {
                let what = "--list prints to standard output, in one format; leave out every path";
                Cli::command().error(ErrorKind::ArgumentConflict, what).exit();
            }
        };
        Trace { interval: self.interval, action, probe_link: self.attach.link(), ..trace }
    }
}
