//! `ctrace ssl`.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, ValueEnum};

use super::attach::AttachArgs;
use super::trace::{RenamedArgs, ReturnArgs, TraceArgs};
use super::{Cli, Playback, Request, Trace, selection, value};
use crate::output::{Payload, TextStyle};
use crate::plan::program_set::ConnectionRecords;
use crate::probe::{Confidence, Probe, SslProbe};

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

/// What needs processes to be traced: their selection, and how they are attached to.
const LIVE: [&str; 32] = [
    "containers",
    "images",
    "labels",
    "services",
    "pods",
    "namespaces",
    "pids",
    "comms",
    "executables",
    "uids",
    "all",
    "command",
    "exclude_containers",
    "exclude_images",
    "exclude_labels",
    "exclude_services",
    "exclude_pods",
    "exclude_namespaces",
    "exclude_comms",
    "exclude_executables",
    "exclude_uids",
    "runtime_sockets",
    "wait",
    "dry_run",
    "ring_size",
    "hold_limit",
    "connections",
    "guess",
    "probe_link",
    "return_probe",
    "max_bytes",
    "count",
];

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
    common: TraceArgs,
    /// Show a recording that `ctrace ssl -o json` has written (`-`: standard input) instead of tracing: it
    /// needs no root, and no kernel
    #[arg(long, value_name = "FILE", help_heading = "Recordings", group = "target", conflicts_with_all = LIVE)]
    read: Option<PathBuf>,
    #[command(flatten)]
    renamed: RenamedArgs,
    /// Dump payloads in hexadecimal even if they are text
    #[arg(long, help_heading = "Output")]
    hex: bool,
    /// Also report the opening and closing of each connection: peers, TLS parameters, duration, number of
    /// bytes, how it was closed
    #[arg(long, help_heading = "What to report", value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "also")]
    connections: Option<Connections>,
    /// Also attach where a TLS library without symbols is only suspected; what is shown may be wrong
    #[arg(long, help_heading = "What to attach to")]
    guess: bool,
    #[command(flatten)]
    attach: AttachArgs,
    #[command(flatten)]
    returns: ReturnArgs,
    /// Capture at most N bytes of each call, up to 1M; 0: no payload [default: 1M]
    #[arg(long, help_heading = "Limits", value_name = "N", value_parser = value::max_bytes, default_value = "1M", hide_default_value = true)]
    max_bytes: u32,
}

impl SslArgs {
    /// What they mean.
    pub(super) fn request(mut self) -> Request {
        match self.read.take() {
            Some(path) => Request::Read(Box::new(self.playback(path))),
            None => Request::Trace(Box::new(self.trace())),
        }
    }

    fn playback(self, path: PathBuf) -> Playback {
        let payload = if self.hex { Payload::Hex } else { Payload::Auto };
        self.common.playback(path, TextStyle { payload, ..TextStyle::default() })
    }

    fn trace(self) -> Trace {
        let Self { common, read: _, renamed: _, hex, connections, guess, attach, returns, max_bytes } = self;
        let returns = returns.policy();
        let least = if guess { Confidence::Low } else { Confidence::High };
        let connections = match connections {
            None => ConnectionRecords::Off,
            Some(Connections::Also) => ConnectionRecords::On,
            Some(Connections::Only) => ConnectionRecords::Only,
        };
        let payload = if hex { Payload::Hex } else { Payload::Auto };
        let style = TextStyle { payload, ..TextStyle::default() };
        let trace = common.trace(Probe::Ssl(SslProbe { least, connections, returns }), style, max_bytes);
        if connections == ConnectionRecords::Only && trace.limit.is_some() {
            let what = "--limit counts calls, which --connections=only does not report; use --duration \
                        instead";
            Cli::command().error(ErrorKind::ArgumentConflict, what).exit();
        }
        Trace { probe_link: attach.link(), ..trace }
    }
}
