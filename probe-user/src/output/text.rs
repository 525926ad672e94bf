//! Text for a person: a header line per call, then its payload.
//!
//! Owns what a terminal gets to see. No byte of a target reaches it unescaped (`escape`, `dump`).
//! The summary is not part of the text: the caller prints [`summary_line`] to stderr.

use std::fmt::{self, Write as _};
use std::io;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use probe_common::{Loss, LossCount};

use super::{Options, Payload, RecordWriter, TextStyle, Tree, signal_names};
use crate::event::Output;
use crate::event::{
    Body, Containment, Context, Direction, Endpoint, HarmCause, Harmed, Lost, Missed, MissedTotal, Record,
    RequestCounts, Socket, SocketEvidence, Ssl, StopReason, Summary, TlsInfo, UnknownTls, UprobeCall,
    UprobeTotal,
};
use crate::terminal::Colour;
use crate::terminal::{escape, hexdump};

mod body;
mod connection;
mod exec;
mod request;
mod tls;
mod uprobe;

/// The text output.
#[derive(Debug)]
pub(super) struct Text {
    output: RecordWriter,
    payload: Payload,
    tree: Tree,
    zone: TimeZone,
    colour: Colour,
    styles: Styles,
    /// The columns that a request's line may take, at the cost of its target. None: all that it needs.
    columns: Option<usize>,
    /// The time of the current record.
    time: Timestamp,
    /// The current record. Kept for its capacity.
    line: String,
}

/// Styles of the parts of a header.
#[derive(Debug, Default)]
struct Styles {
    who: Style,
    faint: Style,
    transmit: Style,
    receive: Style,
    warning: Style,
    success: Style,
    redirect: Style,
    failure: Style,
}

impl Styles {
    fn new(colour: Colour) -> Self {
        match colour {
            Colour::Off => Self::default(),
            Colour::On => Self {
                who: Style::new().bold(),
                faint: Style::new().dimmed(),
                transmit: AnsiColor::Green.on_default().bold(),
                receive: AnsiColor::Cyan.on_default().bold(),
                warning: AnsiColor::Yellow.on_default(),
                success: AnsiColor::Green.on_default(),
                redirect: AnsiColor::Cyan.on_default(),
                failure: AnsiColor::Red.on_default().bold(),
            },
        }
    }
}

impl Text {
    pub(super) fn new(output: RecordWriter, Options { look, zone }: Options) -> Self {
        let TextStyle { colour, payload, tree, columns } = look;
        let (styles, line) = (Styles::new(colour), String::new());
        Self { output, payload, tree, zone, colour, styles, columns, time: Timestamp::default(), line }
    }

    /// `15:04:05.123456 web tls-server[1234] `, without the process if the record is about a whole container.
    /// Nothing for records about the trace. `→web` is the host's process that has entered the container.
    fn context(&mut self, context: &Context<'_>, depth: u32) -> fmt::Result {
        let Self { zone, styles: Styles { who, faint, .. }, line, tree, .. } = self;
        let Some(containment) = context.container() else { return Ok(()) };
        write!(line, "{faint}{}{faint:#} {who}", time(context.time, zone))?;
        match context.thread().and_then(|(process, _)| process.process.entered.as_ref()) {
            Some(entered) => {
                line.push('→');
                escape::name(entered.shown().as_bytes(), line);
            }
            None => container(containment, line),
        }
        if let Some((process, thread)) = context.thread() {
            line.push(' ');
            if *tree == Tree::Indented {
                (0..depth.min(exec::DEEPEST)).for_each(|_| line.push_str("  "));
            }
            escape::name(thread.name(), line);
            write!(line, "[{}]", process.process.pid)?;
        }
        write!(line, "{who:#} ")
    }

    fn body(&mut self, context: &Context<'_>, body: &Body<'_>) -> fmt::Result {
        match body {
            Body::Ssl(ssl) => self.ssl(context, ssl),
            Body::SslOpen(open) => self.open(context, open),
            Body::SslClose(close) => self.close(context, close),
            Body::Uprobe(call) => self.function(call),
            Body::UprobeTotal(total) => self.function_total(total),
            Body::Harmed(harmed) => self.harmed(harmed),
            Body::Missed(missed) => self.missed(missed),
            Body::UnknownTls(unknown) => self.unknown_tls(unknown),
            Body::Request(request) => self.request(context, request),
            Body::Message(message) => self.stream_message(context, message),
            Body::RequestStats(stats) => self.request_stats(stats),
            Body::Lost(lost) => self.lost(lost),
            Body::Exec(exec) => self.exec(context, exec),
            Body::ExecFailed(failed) => self.failed(failed),
            Body::Exit(exit) => self.exit(exit),
            Body::Fork(fork) => self.fork(fork),
        }
    }

    fn ssl(&mut self, context: &Context<'_>, ssl: &Ssl<'_>) -> fmt::Result {
        self.header(context, ssl)?;
        let data = &*ssl.data.0;
        match self.payload {
            Payload::Auto if escape::is_readable(data) => {
                escape::payload(data, &mut self.line);
                if !self.line.ends_with('\n') {
                    self.line.push('\n');
                }
            }
            Payload::Auto | Payload::Hex => hexdump::hex(data, ssl.offset, &mut self.line),
        }
        Ok(())
    }

    /// `→ 1024 of 70000 B +16384  #7 10.0.0.2:443↔10.0.0.1:51234 SSL_write`. The first record with the
    /// handshake has it before the function.
    fn header(&mut self, context: &Context<'_>, ssl: &Ssl<'_>) -> fmt::Result {
        let Self { styles: Styles { faint, transmit, receive, .. }, line, .. } = self;
        let (arrow, style) = match ssl.direction {
            Direction::Transmit => ('→', transmit),
            Direction::Receive => ('←', receive),
        };
        write!(line, "{style}{arrow}{style:#} {}", ssl.data.0.len())?;
        if ssl.data.0.len() as u64 != ssl.length {
            write!(line, " of {}", ssl.length)?;
        }
        line.push_str(" B");
        if ssl.offset > 0 {
            write!(line, " +{}", ssl.offset)?;
        }
        write!(line, "  {faint}")?;
        if let Some(connection) = &context.connection {
            write!(line, "#{}{} ", connection.id, if connection.partial_attach { "~" } else { "" })?;
        }
        if let Some(socket) = context.socket() {
            self::socket(socket, line);
            line.push(' ');
        }
        if let Some(TlsInfo { tls, is_first: true }) = context.tls() {
            tls::facts(tls, line);
        }
        escape::name(ssl.function.as_bytes(), line);
        writeln!(line, "{faint:#}")
    }

    /// `getaddrinfo("example.org") = 0 [1.20 ms]`
    fn function(&mut self, call: &UprobeCall<'_>) -> fmt::Result {
        uprobe::call(call, &mut self.line)?;
        self.line.push('\n');
        call.stack.as_ref().map_or(Ok(()), |frames| uprobe::stack(frames, &mut self.line))
    }

    /// `libc.so.6:malloc 1024 calls`
    fn function_total(&mut self, total: &UprobeTotal<'_>) -> fmt::Result {
        let Self { styles: Styles { faint, .. }, line, .. } = self;
        write!(line, "{faint}")?;
        escape::name(total.object.name.as_bytes(), line);
        write!(line, ":{faint:#}")?;
        escape::name(total.function.as_bytes(), line);
        write!(line, " {}", plural(total.count, "call"))?;
        let Some(latency) = &total.latency else { return writeln!(line) };
        let average = latency.total.checked_div(total.count).unwrap_or(0);
        writeln!(line, ", {} on average", uprobe::duration(average))?;
        uprobe::histogram(latency, line)
    }

    /// `speaks TLS (SNI example.org) by code that ctrace does not know`
    fn unknown_tls(&mut self, unknown: &UnknownTls) -> fmt::Result {
        let warning = self.styles.warning;
        write!(self.line, "{warning}")?;
        escape::name(unknown.to_string().as_bytes(), &mut self.line);
        writeln!(self.line, "{warning:#}")
    }

    /// `harmed by ctrace: SIGTRAP in a copy of the breakpoint in SSL_write; detached from node`
    fn harmed(&mut self, harmed: &Harmed) -> fmt::Result {
        let warning = self.styles.warning;
        let signal = signal_names::signal(harmed.signal);
        write!(self.line, "{warning}harmed by ctrace: {signal} ")?;
        self.line.push_str(match harmed.cause {
            HarmCause::CopiedCode => "at the breakpoint in a copy of its own code",
            HarmCause::ReturnProbe => "at the return of a function, after it has switched stacks",
        });
        if let Some(function) = &harmed.function {
            self.line.push_str(", of ");
            escape::name(function.as_bytes(), &mut self.line);
        }
        self.line.push_str("; detached from ");
        for (index, library) in harmed.detached.iter().enumerate() {
            self.line.push_str(if index > 0 { ", " } else { "" });
            escape::name(library.name.as_bytes(), &mut self.line);
        }
        writeln!(self.line, "{warning:#}")
    }

    /// `missed: libssl.so.3 was mapped 12.3 ms before ctrace had attached to it`
    fn missed(&mut self, Missed { library, unattached, ended }: &Missed) -> fmt::Result {
        let warning = self.styles.warning;
        write!(self.line, "{warning}missed: ")?;
        let time = time_of(*unattached);
        match (library, ended) {
            (None, _) => {
                write!(self.line, "it ended after {time}, before ctrace could inspect what it had mapped")?;
            }
            (Some(library), ended) => {
                escape::name(library.name.as_bytes(), &mut self.line);
                write!(self.line, " was mapped {}", if *ended { "for " } else { "" })?;
                let what = if *ended {
                    "when it ended, and not attached to"
                } else {
                    "before ctrace had attached to it"
                };
                write!(self.line, "{time} {what}")?;
            }
        }
        writeln!(self.line, "{warning:#}")
    }

    fn lost(&mut self, &Lost { loss, count }: &Lost) -> fmt::Result {
        let warning = self.styles.warning;
        writeln!(self.line, "{warning}lost: {}{warning:#}", what(loss, count))
    }
}

impl Output for Text {
    fn write(&mut self, Record { context, body }: &Record<'_>) -> io::Result<()> {
        self.line.clear();
        self.time = context.time;
        // Writing to a String cannot fail.
        let _ = self.context(context, exec::depth(body)).and_then(|()| self.body(context, body));
        self.output.buffer().extend_from_slice(self.line.as_bytes());
        self.output.end_record()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// Text has no end of its own.
    fn finish(&mut self, _: &mut Summary) -> io::Result<()> {
        self.flush()
    }
}

/// The summary for stderr: one line without its line end, beginning with `summary:`.
pub fn summary_line(summary: &Summary) -> String {
    let &Summary { time, started, end, calls, executions, bytes, truncated, ref lost, .. } = summary;
    let seconds = time.duration_since(started).as_secs_f64().max(0.0);
    let end = match end {
        StopReason::Interrupted => "interrupted",
        StopReason::TargetEnded => "the target ended",
        StopReason::Count => "the count was reached",
        StopReason::Duration => "the time was over",
        StopReason::OutputClosed => "the output was closed",
        StopReason::RecordingEnded => "the recording ended without a summary",
        StopReason::OutputFailed => "an output could not be written",
    };
    let mut line = match (executions, &summary.requests) {
        (Some(executions), _) => format!("summary: {}", plural(executions, "program")),
        (None, Some(requests)) => format!("summary: {}", requests_counted(requests)),
        (None, None) => format!("summary: {}, {}", plural(calls, "call"), plural(bytes, "byte")),
    };
    // Writing to a String cannot fail.
    let _ = write!(line, " in {seconds:.1} s ({end})");
    if truncated > 0 {
        let _ = write!(line, "; {truncated} truncated");
    }
    if summary.requests.is_some() && summary.cleartext.connections > 0 {
        let _ = write!(line, "; {}", summary.cleartext);
    }
    if summary.is_whole() {
        line.push_str("; nothing lost");
    }
    for &(loss, count) in lost.iter().filter(|(_, count)| *count != LossCount::default()) {
        let _ = write!(line, "; lost {}", what(loss, count));
    }
    if summary.attached_late > 0 {
        let _ = write!(line, "; {}", missed_line(summary));
    }
    if summary.undecodable > 0 {
        let _ = write!(line, "; {} not decodable", plural(summary.undecodable, "record"));
    }
    line
}

/// `12 requests (2 incomplete) of 31 calls`, and what was not decoded.
fn requests_counted(counts: &RequestCounts) -> String {
    let &RequestCounts { exchanges, incomplete, unknown_connections, undecoded_bytes, missing_bytes, .. } =
        counts;
    let mut text = plural(exchanges, "request");
    // Writing to a String cannot fail.
    if incomplete > 0 {
        let _ = write!(text, " ({incomplete} incomplete)");
    }
    if unknown_connections > 0 || undecoded_bytes > 0 {
        let _ = write!(text, ", {} not decoded", plural(undecoded_bytes, "byte"));
    }
    if unknown_connections > 0 {
        let _ = write!(text, " ({} in an unknown protocol)", plural(unknown_connections, "connection"));
    }
    if missing_bytes > 0 {
        let _ = write!(text, ", {} missing", plural(missing_bytes, "byte"));
    }
    if counts.evicted_connections > 0 {
        let _ = write!(text, ", {} forgotten to make room", plural(counts.evicted_connections, "connection"));
    }
    text
}

/// What was attached to late: `missed first calls of 2 processes: 1 program or library in use before ctrace
/// had attached, for 12.3 ms at most, 1 ended before that`.
pub fn missed_line(summary: &Summary) -> String {
    let MissedTotal { processes, ended, longest, total: _ } = summary.missed;
    let files = match summary.attached_late {
        1 => "1 program or library".to_owned(),
        more => format!("{more} programs or libraries"),
    };
    let of = match processes {
        0 => String::new(),
        1 => " of 1 process".to_owned(),
        more => format!(" of {more} processes"),
    };
    let mut line = format!("missed first calls{of}: {files} in use before ctrace had attached");
    // Writing to a String cannot fail.
    if processes > 0 {
        let _ = write!(line, ", for {} at most", time_of(longest));
    }
    if ended > 0 {
        let _ = write!(line, ", {ended} ended before that");
    }
    line
}

fn time_of(duration: Duration) -> String {
    uprobe::duration(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

fn plural(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// What is missing, and why. Bytes are known only of calls that were followed.
fn what(loss: Loss, LossCount { events, bytes }: LossCount) -> String {
    let calls = plural(events, "call");
    let data = || format!("{}, {}", plural(events, "record"), plural(bytes, "byte"));
    match loss {
        Loss::RingFull => {
            let advice = "a larger --ring-size, or --max-bytes to capture less of each call";
            format!("{}: ring buffer full ({advice})", data())
        }
        Loss::ReadFault => format!("{}: not readable in the process (paged out or unmapped)", data()),
        Loss::ThreadsFull => {
            format!("{calls}: too many threads inside calls at once (trace fewer processes)")
        }
        Loss::Nesting => format!("{calls}: nested too deeply on one thread"),
        Loss::ConnectionsFull => {
            format!("the connection of {calls}: too many connections at once (trace fewer processes)")
        }
        Loss::ArgumentFault => {
            let arguments = plural(events, "argument");
            format!("{arguments}: not readable in the process (not in memory, or no address)")
        }
        Loss::CountsFull => format!("{calls}: too many functions and containers to count (name fewer)"),
        Loss::Unfinished => format!("{calls}: the process or thread ended before the call returned"),
        Loss::ScopeFull => {
            let threads = plural(events, "new thread");
            format!("{threads}: too many in the selected processes to follow (trace fewer processes)")
        }
    }
}

/// `10.0.0.2:443↔10.0.0.1:51234`, with a question mark if it is a guess; an end without a name is left out.
fn socket(socket: &Socket, line: &mut String) {
    let end = |end: Option<&Endpoint>| end.map(Endpoint::to_string).unwrap_or_default();
    escape::name(end(socket.local.as_ref()).as_bytes(), line);
    line.push('↔');
    escape::name(end(socket.peer.as_ref()).as_bytes(), line);
    if socket.evidence == SocketEvidence::Inferred {
        line.push('?');
    }
}

/// `web`; `-` on the host, `?` when it is not known.
fn container(container: &Containment, line: &mut String) {
    match container {
        Containment::In(container) => escape::name(container.shown().as_bytes(), line),
        Containment::Host => line.push('-'),
        Containment::Unknown => line.push('?'),
    }
}

fn time(time: Timestamp, zone: &TimeZone) -> impl fmt::Display {
    let time = zone.to_datetime(time).time();
    fmt::from_fn(move |f| {
        let micros = time.subsec_nanosecond() / 1000;
        write!(f, "{:02}:{:02}:{:02}.{micros:06}", time.hour(), time.minute(), time.second())
    })
}
