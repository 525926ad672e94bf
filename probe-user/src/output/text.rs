//! Text for a person: a header line per call, then its payload.
//!
//! Owns what a terminal gets to see. No byte of a target reaches it unescaped (`escape`, `dump`).
//! The summary is not part of the text: the caller prints [`summary_line`] to stderr.

use std::fmt::{self, Write as _};
use std::io;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use probe_common::{Loss, LossCount};

use super::{Options, Payload, RecordWriter, TextStyle, Tree};
use crate::event::Output;
use crate::event::{
    Containment, Direction, Endpoint, Lost, ProcessContext, Record, Socket, SocketEvidence, Ssl, StopReason,
    Summary, Thread, TlsInfo, UprobeCall, UprobeTotal,
};
use crate::terminal::Colour;
use crate::terminal::{escape, hexdump};

mod connection;
mod exec;
mod tls;
mod uprobe;

/// The sink.
#[derive(Debug)]
pub(super) struct Text {
    output: RecordWriter,
    payload: Payload,
    tree: Tree,
    zone: TimeZone,
    styles: Styles,
    /// The record being made; kept for its room.
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
            },
        }
    }
}

impl Text {
    pub(super) fn new(output: RecordWriter, Options { look, zone }: Options) -> Self {
        let TextStyle { colour, payload, tree } = look;
        Self { output, payload, tree, zone, styles: Styles::new(colour), line: String::new() }
    }

    fn ssl(&mut self, ssl: &Ssl<'_>) {
        // Writing to a String cannot fail.
        let _ = self.header(ssl);
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
    }

    /// `15:04:05.123456 web tls-server[1234] → 1024 of 70000 B +16384  #7 10.0.0.2:443↔10.0.0.1:51234
    /// SSL_write`; where it is told first, with what the handshake says before the function.
    fn header(&mut self, ssl: &Ssl<'_>) -> fmt::Result {
        self.who(ssl.time, &ssl.origin, &ssl.thread)?;
        let Self { styles: Styles { faint, transmit, receive, .. }, line, .. } = self;
        let (arrow, style) = match ssl.direction {
            Direction::Transmit => ('→', transmit),
            Direction::Receive => ('←', receive),
        };
        write!(line, " {style}{arrow}{style:#} {}", ssl.data.0.len())?;
        if ssl.data.0.len() as u64 != ssl.length {
            write!(line, " of {}", ssl.length)?;
        }
        line.push_str(" B");
        if ssl.offset > 0 {
            write!(line, " +{}", ssl.offset)?;
        }
        write!(line, "  {faint}")?;
        if let Some(connection) = ssl.connection {
            write!(line, "#{} ", connection.id)?;
        }
        if let Some(socket) = &ssl.socket {
            self::socket(socket, line);
            line.push(' ');
        }
        if let Some(TlsInfo { tls, is_first: true }) = &ssl.tls {
            tls::facts(tls, line);
        }
        escape::name(ssl.function.as_bytes(), line);
        writeln!(line, "{faint:#}")
    }

    /// `15:04:05.123456 web tls-server[1234]`
    fn who(&mut self, at: Timestamp, origin: &ProcessContext, thread: &Thread) -> fmt::Result {
        let Self { zone, styles: Styles { who, faint, .. }, line, .. } = self;
        write!(line, "{faint}{}{faint:#} {who}", time(at, zone))?;
        container(&origin.container, line);
        line.push(' ');
        escape::name(thread.name(), line);
        write!(line, "[{}]{who:#}", origin.process.pid)
    }

    /// `15:04:05.123456 web app[1234] getaddrinfo("example.org") = 0 [1.20 ms]`
    fn function(&mut self, call: &UprobeCall<'_>) -> fmt::Result {
        self.who(call.time, &call.origin, &call.thread)?;
        self.line.push(' ');
        uprobe::call(call, &mut self.line)?;
        self.line.push('\n');
        call.stack.as_ref().map_or(Ok(()), |frames| uprobe::stack(frames, &mut self.line))
    }

    /// `15:04:05.123456 web libc.so.6:malloc 1024 calls`
    fn function_total(&mut self, total: &UprobeTotal<'_>) -> fmt::Result {
        let Self { zone, styles: Styles { who, faint, .. }, line, .. } = self;
        write!(line, "{faint}{}{faint:#} {who}", time(total.time, zone))?;
        container(&total.container, line);
        write!(line, "{who:#} {faint}")?;
        escape::name(total.object.name.as_bytes(), line);
        write!(line, ":{faint:#}")?;
        escape::name(total.function.as_bytes(), line);
        write!(line, " {}", plural(total.count, "call"))?;
        let Some(latency) = &total.latency else { return writeln!(line) };
        let average = latency.total.checked_div(total.count).unwrap_or(0);
        writeln!(line, ", {} on average", uprobe::duration(average))?;
        uprobe::histogram(latency, line)
    }

    /// Where lines about executions are made. Writing them cannot fail.
    fn lines(&mut self) -> exec::Lines<'_> {
        let Self { styles, zone, tree, line, .. } = self;
        exec::Lines { styles, zone, tree: *tree, line }
    }

    fn lost(&mut self, &Lost { loss, count, .. }: &Lost) {
        let warning = self.styles.warning;
        let _ = writeln!(self.line, "{warning}lost: {}{warning:#}", what(loss, count));
    }
}

impl Output for Text {
    fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.line.clear();
        match record {
            Record::Ssl(ssl) => self.ssl(ssl),
            // Writing to a String cannot fail.
            Record::SslOpen(connection) => drop(self.open(connection)),
            Record::SslClose(close) => drop(self.close(close)),
            Record::Uprobe(call) => drop(self.function(call)),
            Record::UprobeTotal(total) => drop(self.function_total(total)),
            Record::Lost(lost) => self.lost(lost),
            Record::Exec(exec) => drop(self.lines().exec(exec)),
            Record::ExecFailed(failed) => drop(self.lines().failed(failed)),
            Record::Exit(exit) => drop(self.lines().exit(exit)),
            Record::Fork(fork) => drop(self.lines().fork(fork)),
            Record::Summary(_) => {}
        }
        self.output.buffer().extend_from_slice(self.line.as_bytes());
        self.output.end_record()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// Text has no end of its own.
    fn finish(&mut self, _: &Summary) -> io::Result<()> {
        self.flush()
    }
}

/// The summary for stderr: one line without its line end, beginning with `summary:`.
pub fn summary_line(summary: &Summary) -> String {
    let &Summary { time, started, end, calls, executions, bytes, truncated, ref lost, undecodable } = summary;
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
    let mut line = match executions {
        Some(executions) => format!("summary: {}", plural(executions, "program")),
        None => format!("summary: {}, {}", plural(calls, "call"), plural(bytes, "byte")),
    };
    // Writing to a String cannot fail.
    let _ = write!(line, " in {seconds:.1} s ({end})");
    if truncated > 0 {
        let _ = write!(line, "; {truncated} truncated");
    }
    let mut some = lost.iter().filter(|(_, count)| *count != LossCount::default()).peekable();
    if some.peek().is_none() {
        line.push_str("; nothing lost");
    }
    for &(loss, count) in some {
        let _ = write!(line, "; lost {}", what(loss, count));
    }
    if undecodable > 0 {
        let _ = write!(line, "; {} not decodable", plural(undecodable, "record"));
    }
    line
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
    if socket.sighting == SocketEvidence::Inferred {
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
