//! `ctrace ssl`.

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, ValueEnum};

use super::trace::{RenamedArgs, TraceArgs};
use super::{Cli, Trace, selection, value};
use crate::output::{Payload, TextStyle};
use crate::plan::program_set::ConnectionRecords;
use crate::probe::{Confidence, Probe, Ssl};

const EXAMPLES: &str = "\
Examples:
  ctrace ssl --container web                       what container web sends and receives over TLS
  ctrace ssl --pid 2543 --hex                      a process and its descendants, as a hex dump
  ctrace ssl --image nginx --namespace prod        every nginx of a Kubernetes namespace, those to come too
  ctrace ssl --compose-service api --comm python3  of a service's containers the processes called python3
  ctrace ssl --all --max-bytes 0 -o json           every call on the machine, without payload
  ctrace ssl --container web --connections=only    a log of connections: between whom, how long, how many \
  bytes
  ctrace ssl --all --exclude-label tier=db         every container and process but those
  ctrace ssl --container web -o json | jq -r 'select(.type == \"ssl\") | .data // empty'
  ctrace ssl --output calls.txt -- curl https://host/   a command from its first call on; ends with it
  ctrace ssl --container web -o text -o json=web.jsonl   text to look at, and JSON to keep, at once

Standard output has records only. docs/events.md describes them; `ctrace schema` prints their schema.";

/// Records of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Connections {
    /// Beside those of calls
    Also,
    /// Alone
    Only,
}

#[derive(Args, Debug)]
#[command(
    after_help = format!("{}\n\n{EXAMPLES}", selection::MEANING),
    override_usage = "ctrace ssl [OPTIONS] <WHAT TO TRACE>...\n       ctrace ssl [OPTIONS] -- <COMMAND>..."
)]
pub(super) struct SslArgs {
    #[command(flatten)]
    common: TraceArgs,
    #[command(flatten)]
    renamed: RenamedArgs,
    /// Dump payloads in hexadecimal even if they are text
    #[arg(long, help_heading = "Output")]
    hex: bool,
    /// Tell also when each connection begins and ends: between whom, which TLS, how long, how many bytes, how
    /// it ended; `only`: without calls
    #[arg(long, help_heading = "Output", value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "also")]
    connections: Option<Connections>,
    /// Attach also where a TLS library without symbols only seems to be: what is shown may be something else
    #[arg(long, help_heading = "What to attach to")]
    guess: bool,
    /// Capture N bytes of each call at the most, up to 1M; 0: none, only the record [default: 1M]
    #[arg(long, help_heading = "Limits", value_name = "N", value_parser = value::max_bytes, default_value = "1M", hide_default_value = true)]
    max_bytes: u32,
}

impl SslArgs {
    /// What they mean.
    pub(super) fn trace(self) -> Trace {
        let Self { common, renamed: _, hex, connections, guess, max_bytes } = self;
        let least = if guess { Confidence::Low } else { Confidence::High };
        let connections = match connections {
            None => ConnectionRecords::Off,
            Some(Connections::Also) => ConnectionRecords::On,
            Some(Connections::Only) => ConnectionRecords::Only,
        };
        let payload = if hex { Payload::Hex } else { Payload::Auto };
        let style = TextStyle { payload, ..TextStyle::default() };
        let trace = common.trace(Probe::Ssl(Ssl { least, connections }), style, max_bytes);
        if connections == ConnectionRecords::Only && trace.limit.is_some() {
            let what = "--limit is a number of calls, which --connections=only does not show; --duration \
             ends a trace, too";
            Cli::command().error(ErrorKind::ArgumentConflict, what).exit();
        }
        trace
    }
}
