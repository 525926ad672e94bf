//! `ctrace ssl`.

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, ValueEnum};

use super::tls_trace::{TlsSource, TlsTraceArgs};
use super::{Cli, Operation, selection};
use crate::plan::program_set::{CapturedConnections, ConnectionRecords};

const EXAMPLES: &str = "\
Examples:
  ctrace ssl --container web                       what container web sends and receives over TLS
  ctrace ssl --pid 2543 --hex                      a process and its descendants, as a hex dump
  ctrace ssl --image nginx --namespace prod        every nginx of a Kubernetes namespace, future ones too
  ctrace ssl --compose-service api --comm python3  only the python3 processes of a service's containers
  ctrace ssl --all --max-bytes 0 -o json           every call on the machine, without payload
  ctrace ssl --container web --connections=only    a log of connections: peers, duration, number of bytes
  ctrace ssl --all --exclude-label tier=db         every container and process but those
  ctrace ssl --container web -o json | jq -r 'select(.type == \"ssl\") | .data // empty'
  ctrace ssl --output calls.txt -- curl https://host/   a command from its first call on, until it exits
  ctrace ssl --container web -o text -o json=web.jsonl   text to read, and JSON to keep, at once

Standard output contains records only. docs/events.md describes them; `ctrace schema` prints their schema.";

/// Records of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Connections {
    /// Report connections in addition to calls
    Also,
    /// Report connections, but no calls
    Only,
}

#[derive(Args, Debug)]
#[command(
    after_help = format!("{}\n\n{EXAMPLES}", selection::MEANING),
    override_usage = "ctrace ssl [OPTIONS] <WHAT TO TRACE>...\n       ctrace ssl [OPTIONS] -- <COMMAND>...\n       ctrace ssl [OPTIONS] --read <FILE>"
)]
pub(super) struct SslArgs {
    #[command(flatten)]
    tls: TlsTraceArgs,
    /// Also report the opening and closing of each connection: peers, TLS parameters, duration, number of
    /// bytes, how it was closed
    #[arg(long, help_heading = "What to report", value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "also", conflicts_with = "read")]
    connections: Option<Connections>,
}

impl SslArgs {
    /// What they mean.
    pub(super) fn operation(self) -> Operation {
        let connections = match self.connections {
            None => ConnectionRecords::Off,
            Some(Connections::Also) => ConnectionRecords::On,
            Some(Connections::Only) => ConnectionRecords::Only,
        };
        let trace = match self.tls.source(CapturedConnections::Tls, connections) {
            TlsSource::Recording(playback) => return Operation::Read(playback),
            TlsSource::Trace(trace) => trace,
        };
        if connections == ConnectionRecords::Only && trace.limit.is_some() {
            let what = "--limit counts calls, which --connections=only does not report; use --duration \
                        instead";
            Cli::command().error(ErrorKind::ArgumentConflict, what).exit();
        }
        Operation::Trace(trace)
    }
}
