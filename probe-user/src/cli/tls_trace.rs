//! The options of the commands that trace TLS: `ctrace ssl` shows the bytes, `ctrace requests` what they
//! mean.

use std::path::PathBuf;

use clap::Args;

use super::attach::AttachArgs;
use super::trace::{RenamedArgs, ReturnArgs, TraceArgs};
use super::{Playback, Trace, value};
use crate::output::{Payload, TextStyle};
use crate::plan::program_set::{CapturedConnections, ConnectionRecords};
use crate::probe::{Confidence, Probe, SslProbe};

/// What needs processes to be traced: their selection, and how they are attached to.
const LIVE: [&str; 31] = [
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
    "guess",
    "probe_link",
    "return_probe",
    "max_bytes",
    "count",
];

#[derive(Args, Debug)]
pub(super) struct TlsTraceArgs {
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

/// A recording to show, or what to trace.
pub(super) enum TlsSource {
    Recording(Box<Playback>),
    Trace(Box<Trace>),
}

impl TlsTraceArgs {
    /// What they mean, with these connections and these records of them if it is a trace.
    pub(super) fn source(self, captured: CapturedConnections, connections: ConnectionRecords) -> TlsSource {
        let Self { common, read, renamed: _, hex, guess, attach, returns, max_bytes } = self;
        let payload = if hex { Payload::Hex } else { Payload::Auto };
        let style = TextStyle { payload, ..TextStyle::default() };
        if let Some(path) = read {
            return TlsSource::Recording(Box::new(common.playback(path, style)));
        }
        let least = if guess { Confidence::Low } else { Confidence::High };
        let probe = Probe::Ssl(SslProbe { least, captured, connections, returns: returns.policy() });
        let trace = common.trace(probe, style, max_bytes);
        TlsSource::Trace(Box::new(Trace { probe_link: attach.link(), ..trace }))
    }
}
