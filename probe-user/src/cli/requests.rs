//! `ctrace requests`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use super::tls_trace::{TlsSource, TlsTraceArgs};
use super::{Operation, Playback, ProtoFiles, Trace, selection, value};
use crate::event::{Redaction, RequestKey, Secrets};
use crate::glob::Glob;
use crate::pipeline::requests::{RequestFilter, RequestSettings, StatusPattern};
use crate::plan::program_set::{CapturedConnections, ConnectionRecords};

const EXAMPLES: &str = "\
Examples:
  ctrace requests --container web                        a line per request, when its response has ended
  ctrace requests --container web --headers --body 2k    also header fields, and up to 2 KiB of each body
  ctrace requests -c web --errors --slower-than 200ms    only what failed and took long
  ctrace requests -c web --path '/orders/*' --status 5xx --method POST
  ctrace requests -c web --interval 5s                   also those that are open, every 5 s
  ctrace requests -c web --stats path --interval 5s      rate, errors and percentiles of each path
  ctrace requests -c db --stats statement                which statements of a database take how long
  ctrace requests -c web --proto api/shop.proto          bodies of gRPC, by the names of their fields
  ctrace requests -- curl https://host/                  a command from its first request on
  ctrace requests --read calls.jsonl                     what `ctrace ssl -o json` has recorded

Standard output contains records only. docs/requests.md says what they mean, docs/events.md what they look like.";

/// How much of each body is shown if that is not said.
const DEFAULT_BODY: usize = 4096;

/// What requests are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stats {
    Path,
    Host,
    Peer,
    Status,
    Method,
    Statement,
    Container,
    Process,
}

#[derive(Args, Debug)]
#[command(
    after_help = format!("{}\n\n{EXAMPLES}", selection::MEANING),
    override_usage = "ctrace requests [OPTIONS] <WHAT TO TRACE>...\n       ctrace requests [OPTIONS] -- <COMMAND>...\n       ctrace requests [OPTIONS] --read <FILE>"
)]
pub(super) struct RequestsArgs {
    #[command(flatten)]
    tls: TlsTraceArgs,
    #[command(flatten)]
    cleartext: CleartextArgs,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    shown: ShownArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "What to attach to")]
struct CleartextArgs {
    /// Do not show requests on connections without TLS (TCP and unix sockets)
    #[arg(long, conflicts_with = "read")]
    no_cleartext: bool,
    /// Only show requests on connections without TLS: no file is probed
    #[arg(long, conflicts_with_all = ["no_cleartext", "read", "guess", "probe_link", "return_probe"])]
    cleartext_only: bool,
}

impl CleartextArgs {
    fn captured(&self) -> CapturedConnections {
        match (self.no_cleartext, self.cleartext_only) {
            (true, _) => CapturedConnections::Tls,
            (false, true) => CapturedConnections::Cleartext,
            (false, false) => CapturedConnections::All,
        }
    }
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Which requests (all must fit; several values of one option: any of them)")]
struct FilterArgs {
    /// Only requests that failed: by their status, or because the connection was closed before their end
    #[arg(long)]
    errors: bool,
    /// Only requests that took longer than this time, such as 200ms
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    slower_than: Option<Duration>,
    /// Only requests with such a path, without its query; * and ? are wildcards
    #[arg(long = "path", value_name = "GLOB")]
    paths: Vec<String>,
    /// Only requests for such a host, with or without its port; * and ? are wildcards
    #[arg(long = "host", value_name = "GLOB")]
    hosts: Vec<String>,
    /// Only requests with this method
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<String>,
    /// Only requests with this status, such as 404, 5xx or UNAVAILABLE
    #[arg(long = "status", value_name = "STATUS", value_parser = StatusPattern::parse)]
    statuses: Vec<StatusPattern>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "What to report")]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
struct ShownArgs {
    /// Also show header fields
    #[arg(long)]
    headers: bool,
    /// Also show up to SIZE of each body, up to 1M, decoded [default: 4K]
    #[arg(long, value_name = "SIZE", num_args = 0..=1, default_missing_value = "4K", value_parser = value::body_bytes)]
    body: Option<usize>,
    /// Show bodies and messages of protocol buffers (gRPC, gRPC-Web, Connect) by the names of this .proto
    /// file or descriptor set; repeatable; implies --body
    #[arg(long = "proto", value_name = "FILE", value_hint = ValueHint::FilePath)]
    protos: Vec<PathBuf>,
    /// Search the imports of .proto files in this directory, as protoc's -I does; repeatable [default: the
    /// directory of the file]
    #[arg(long = "proto-path", value_name = "DIR", value_hint = ValueHint::DirPath, requires = "protos")]
    proto_paths: Vec<PathBuf>,
    /// Show secrets: values of header fields, cookies, query parameters and passwords in URLs of which only
    /// the scheme and the length are shown otherwise (docs/requests.md)
    #[arg(long)]
    show_secrets: bool,
    /// Also hide the values of header fields and query parameters with this name; repeatable
    #[arg(long = "redact", value_name = "NAME", conflicts_with = "show_secrets")]
    redacted: Vec<String>,
    /// Also show the messages of exchanges that have many: server-sent events, messages of gRPC. Those of
    /// WebSocket are always shown
    #[arg(long)]
    messages: bool,
    /// Also show calls on connections whose protocol is not known, as `ctrace ssl` does
    #[arg(long)]
    unknown: bool,
    /// Show figures instead of requests: rate, errors, percentiles of the duration and bytes, by what the
    /// requests have in common
    #[arg(long, value_name = "KEY", value_enum, conflicts_with = "messages")]
    stats: Option<Stats>,
    /// Also show exchanges that take longer than this time, such as 5s, each time it has passed. With
    /// --stats: show the figures of each interval instead of one table at the end
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    interval: Option<Duration>,
}

impl RequestsArgs {
    /// What they mean.
    pub(super) fn operation(self) -> Operation {
        let Self { tls, cleartext, filter, shown } = self;
        let secrets = if shown.show_secrets { Secrets::Shown } else { Secrets::Redacted };
        let proto = ProtoFiles { files: shown.protos, directories: shown.proto_paths };
        let body = shown.body.or((!proto.files.is_empty()).then_some(DEFAULT_BODY));
        let settings = |limit| RequestSettings {
            redaction: Redaction::new(secrets, &shown.redacted),
            headers: shown.headers,
            body,
            schema: None,
            messages: shown.messages,
            unknown: shown.unknown,
            filter: filter.filter(),
            stats: shown.stats.map(Stats::key),
            interval: shown.interval,
            limit,
        };
        // The limit is one on requests, and not on the calls that they are made of.
        match tls.source(cleartext.captured(), ConnectionRecords::Ends) {
            TlsSource::Recording(playback) => {
                let requests = Some(settings(playback.limit));
                Operation::Read(Box::new(Playback { requests, proto, limit: None, ..*playback }))
            }
            TlsSource::Trace(trace) => {
                let requests = Some(settings(trace.limit));
                Operation::Trace(Box::new(Trace { requests, proto, limit: None, ..*trace }))
            }
        }
    }
}

impl FilterArgs {
    fn filter(self) -> RequestFilter {
        let Self { errors, slower_than, paths, hosts, methods, statuses } = self;
        let globs = |texts: Vec<String>| texts.iter().map(|text| Glob::new(text)).collect();
        RequestFilter { errors, slower_than, paths: globs(paths), hosts: globs(hosts), methods, statuses }
    }
}

impl Stats {
    fn key(self) -> RequestKey {
        match self {
            Self::Path => RequestKey::Path,
            Self::Host => RequestKey::Host,
            Self::Peer => RequestKey::Peer,
            Self::Status => RequestKey::Status,
            Self::Method => RequestKey::Method,
            Self::Statement => RequestKey::Statement,
            Self::Container => RequestKey::Container,
            Self::Process => RequestKey::Process,
        }
    }
}
