//! Requests, a line each, and below it what was asked for: header fields and bodies.

use std::fmt::{self, Write as _};
use std::time::Duration;

use anstyle::Style;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::{Text, body, escape, time, uprobe};
use crate::event::{
    Context, Direction, Durations, FieldKind, FieldValue, Outcome, Overview, Request, RequestGroup,
    RequestKey, RequestSide, RequestStats, SlowExample, StreamMessage, Transport, UnpairedReason,
};
use crate::terminal::table::{Cell, Table};

/// The indentation of what is below a line.
const INDENT: &str = "    ";
/// The least columns of a target that is cut.
const LEAST: usize = 16;

impl Text {
    /// `← 10.0.0.1:51234 HTTP/1.1 GET api.example/orders/7?page=2 200 12.3 ms ↑31 B ↓1.2 KiB`
    pub(super) fn request(&mut self, context: &Context<'_>, request: &Request) -> fmt::Result {
        let Overview { protocol, method, host, target, statement, rows, status, outcome } = &request.overview;
        self.peer(
            context,
            request
                .request
                .as_ref()
                .map(|side| side.direction)
                .or_else(|| request.response.as_ref().map(|side| side.direction.other())),
        )?;
        // A statement begins with its method.
        let method = statement.is_none().then(|| unknown(method.as_deref()));
        let protocol = if protocol.is_empty() { request.protocol } else { protocol };
        for part in [protocol].into_iter().chain(method) {
            escape::name(part.as_bytes(), &mut self.line);
            self.line.push(' ');
        }
        let mut shown = String::new();
        escape::name(host.as_deref().unwrap_or_default().as_bytes(), &mut shown);
        escape::name(unknown(target.as_deref()).as_bytes(), &mut shown);

        let mut rest = String::new();
        let style = self.styles.of_outcome(*outcome);
        let text = match (status, &request.response) {
            (Some(status), _) => status.as_str(),
            (None, None) => "-",
            (None, Some(_)) => "?",
        };
        write!(rest, " {style}")?;
        escape::name(text.as_bytes(), &mut rest);
        write!(rest, "{style:#}")?;
        match rows {
            Some(1) => rest.push_str(" 1 row"),
            Some(rows) => write!(rest, " {rows} rows")?,
            None => {}
        }
        if let Some(took) = request.duration() {
            write!(rest, " {}", uprobe::duration(nanoseconds(took)))?;
        }
        for (arrow, side) in [('↑', &request.request), ('↓', &request.response)] {
            if let Some(side) = side {
                write!(rest, " {arrow}{}", bytes(side.length))?;
            }
        }
        self.marks(request, &mut rest)?;
        if let Some(columns) = self.columns {
            let taken = width(&self.line) + width(&rest);
            let shown_columns = columns.saturating_sub(taken).max(LEAST);
            shown = middle_cut(&shown, shown_columns);
        }
        self.line.push_str(&shown);
        self.line.push_str(&rest);
        self.line.push('\n');
        for (arrow, side) in [('>', &request.request), ('<', &request.response)] {
            if let Some(side) = side {
                self.below(arrow, side)?;
            }
        }
        Ok(())
    }

    /// `→ api.example WebSocket #3 of 7+1.1 opcode text 123 B`
    pub(super) fn stream_message(&mut self, context: &Context<'_>, part: &StreamMessage) -> fmt::Result {
        let direction = part.message.direction;
        self.peer(context, Some(direction))?;
        escape::name(part.shown.as_bytes(), &mut self.line);
        if let Some(number) = part.number {
            write!(self.line, " #{number}")?;
        }
        if let Some(exchange) = &part.exchange {
            write!(self.line, " of {exchange}")?;
        }
        for (field, value) in &part.message.fields {
            let name = field.path.rsplit('.').next().unwrap_or_default();
            match value {
                FieldValue::Text(text) => {
                    write!(self.line, " {name}=")?;
                    escape::name(text.as_bytes(), &mut self.line);
                }
                FieldValue::Number(number) => write!(self.line, " {name}={number}")?,
                FieldValue::Statement(_)
                | FieldValue::List(_)
                | FieldValue::Headers(_)
                | FieldValue::Unknown => {}
            }
        }
        writeln!(self.line, " {}{}", bytes(part.message.length), gaps(part.message.partial.missing))?;
        let arrow = if direction == Direction::Transmit { '>' } else { '<' };
        self.below(arrow, &part.message)
    }

    /// A table of groups.
    pub(super) fn request_stats(&mut self, RequestStats { by, since, groups }: &RequestStats) -> fmt::Result {
        let head = match by {
            RequestKey::Path => "PATH",
            RequestKey::Host => "HOST",
            RequestKey::Peer => "PEER",
            RequestKey::Status => "STATUS",
            RequestKey::Method => "METHOD",
            RequestKey::Statement => "STATEMENT",
            RequestKey::Container => "CONTAINER",
            RequestKey::Process => "PROCESS",
        };
        let seconds = self.time.duration_since(*since).as_secs_f64().max(0.001);
        let mut table =
            Table::new(&["COUNT", "RATE", "ERRORS", "P50", "P95", "P99", "MAX", "UP", "DOWN", head]);
        for group in groups {
            let &RequestGroup { ref value, count, errors, request_bytes, response_bytes, durations, .. } =
                group;
            let took = |of: fn(&Durations) -> u64| durations.as_ref().map(|it| uprobe::duration(of(it)));
            #[expect(clippy::cast_precision_loss, reason = "a rate for a person")]
            let rate = count as f64 / seconds;
            let cells = [
                Some(count.to_string()),
                Some(format!("{rate:.1}/s")),
                Some(errors.to_string()),
                took(|it| it.p50),
                took(|it| it.p95),
                took(|it| it.p99),
                took(|it| it.max),
                Some(bytes(request_bytes)),
                Some(bytes(response_bytes)),
                Some(unknown(value.as_deref()).to_owned()),
            ];
            table.row(cells.iter().map(|cell| Cell::maybe(cell.as_deref())).collect());
        }
        if table.is_empty() {
            return writeln!(self.line, "no requests in {seconds:.1} s");
        }
        writeln!(self.line, "requests of {seconds:.1} s")?;
        self.line.push_str(&table.render("", self.colour));
        self.line.push('\n');
        self.slowest(groups)
    }

    /// An example of each of the groups that took longest.
    fn slowest(&mut self, groups: &[RequestGroup]) -> fmt::Result {
        /// More are in JSON.
        const EXAMPLES: usize = 5;
        let mut examples: Vec<&SlowExample> =
            groups.iter().filter_map(|group| group.slowest.as_ref()).collect();
        examples.sort_by_key(|example| std::cmp::Reverse(example.duration));
        for example in examples.iter().take(EXAMPLES) {
            let took = uprobe::duration(nanoseconds(example.duration));
            write!(self.line, "slowest: {took} at {}", time(example.time, &self.zone))?;
            if let Some(pid) = example.pid {
                write!(self.line, " [{pid}]")?;
            }
            self.line.push(' ');
            escape::name(unknown(example.target.as_deref()).as_bytes(), &mut self.line);
            self.line.push('\n');
        }
        Ok(())
    }

    /// `← 10.0.0.1:51234 `: an arrow to the left at a server.
    fn peer(&mut self, context: &Context<'_>, asked: Option<Direction>) -> fmt::Result {
        let (arrow, style) = match asked {
            Some(Direction::Transmit) => ('→', self.styles.transmit),
            Some(Direction::Receive) => ('←', self.styles.receive),
            None => ('?', Style::new()),
        };
        write!(self.line, "{style}{arrow}{style:#} ")?;
        // At a server, a unix socket has a name at this end only.
        let socket = context.socket();
        let ends = socket.into_iter().flat_map(|socket| [&socket.peer, &socket.local]);
        let is_unix = socket.is_some_and(|socket| socket.transport == Some(Transport::Unix));
        let peer = ends.take(if is_unix { 2 } else { 1 }).flatten().next().map(ToString::to_string);
        let name = || context.tls().and_then(|known| known.tls.server_name.clone());
        let shown = peer.or_else(name);
        escape::name(unknown(shown.as_deref()).as_bytes(), &mut self.line);
        self.line.push(' ');
        Ok(())
    }

    /// What is missing.
    fn marks(&self, request: &Request, out: &mut String) -> fmt::Result {
        let warning = self.styles.warning;
        let mut marks: Vec<String> = Vec::new();
        let reason = |reason: UnpairedReason| match reason {
            UnpairedReason::Closed => "connection closed",
            UnpairedReason::Open => "open",
            UnpairedReason::Superseded => "superseded",
            UnpairedReason::Evicted => "evicted",
            UnpairedReason::NoRequest => "no request seen",
            UnpairedReason::Unknown => "unpaired",
            UnpairedReason::OneWay => "no response asked for",
        };
        match request.open_for {
            Some(age) => marks.push(format!("open for {}", uprobe::duration(nanoseconds(age)))),
            None => marks.extend(request.unpaired.or(request.cut_off).map(|why| reason(why).to_owned())),
        }
        if request.answered_early {
            marks.push("answered early".to_owned());
        }
        if request.sides().any(|side| side.partial.lacks_start) {
            marks.push("start not seen".to_owned());
        }
        match request.missing() {
            0 if request.open_for.is_none() && request.sides().any(|side| side.partial.lacks_end) => {
                marks.push("partial".to_owned());
            }
            0 => {}
            missing => marks.push(format!("gap of {}", bytes(missing))),
        }
        if request.sides().any(|side| side.partial.may_lack) {
            marks.push("may lack bytes".to_owned());
        }
        if marks.is_empty() { Ok(()) } else { write!(out, " {warning}[{}]{warning:#}", marks.join(", ")) }
    }

    /// The header fields and the body of a message.
    fn below(&mut self, arrow: char, side: &RequestSide) -> fmt::Result {
        let faint = self.styles.faint;
        for (_, value) in side.fields.iter().filter(|(field, _)| field.kind == FieldKind::Headers) {
            let FieldValue::Headers(headers) = value else {
                writeln!(self.line, "{INDENT}{arrow} ?")?;
                continue;
            };
            for header in headers {
                write!(self.line, "{INDENT}{arrow} {faint}")?;
                escape::name(unknown(header.name.as_deref()).as_bytes(), &mut self.line);
                write!(self.line, ":{faint:#} ")?;
                escape::name(unknown(header.value.as_deref()).as_bytes(), &mut self.line);
                self.line.push('\n');
            }
        }
        let Some(body) = side.body.as_ref().filter(|body| !body.in_messages) else { return Ok(()) };
        let mut content = String::new();
        body::content(body, self.payload, &mut content)?;
        for line in content.lines() {
            let space = if line.is_empty() { "" } else { " " };
            writeln!(self.line, "{INDENT}{arrow}{space}{line}")?;
        }
        Ok(())
    }
}

impl super::Styles {
    fn of_outcome(&self, outcome: Outcome) -> Style {
        match outcome {
            Outcome::Unknown => Style::new(),
            Outcome::Success => self.success,
            Outcome::Redirect => self.redirect,
            Outcome::ClientError => self.warning,
            Outcome::ServerError => self.failure,
        }
    }
}

fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

fn unknown(text: Option<&str>) -> &str {
    text.unwrap_or("?")
}

fn gaps(missing: u64) -> String {
    if missing == 0 { String::new() } else { format!(" [gap of {}]", bytes(missing)) }
}

/// `31 B`, `1.2 KiB`
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| number >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", number / unit, number % unit * 10 / unit),
        None => format!("{number} B"),
    }
}

/// The columns that text takes whose only escape sequences are styles.
fn width(text: &str) -> usize {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().width();
    parts.fold(first, |sum, part| sum + part.split_once('m').map_or("", |(_, rest)| rest).width())
}

/// The text in so many columns, with `…` for what is left out in its middle.
fn middle_cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let half = columns.saturating_sub(1);
    let (front, back) = (half.div_ceil(2), half / 2);
    let take = |characters: &mut dyn Iterator<Item = char>, columns: usize| {
        let mut left = columns;
        let mut taken = Vec::new();
        for character in characters {
            match left.checked_sub(character.width().unwrap_or(0)) {
                Some(rest) => left = rest,
                None => break,
            }
            taken.push(character);
        }
        taken
    };
    let start = take(&mut text.chars(), front);
    let end = take(&mut text.chars().rev(), back);
    start.into_iter().chain(['…']).chain(end.into_iter().rev()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_cut_in_its_middle() {
        for (text, columns, expected) in [
            ("/orders/7", 9, "/orders/7"),
            ("/orders/17", 9, "/ord…s/17"),
            ("/日本日本日本", 8, "/日…本"),
            ("/orders/17", 1, "…"),
        ] {
            assert_eq!(middle_cut(text, columns), expected);
            assert!(middle_cut(text, columns).width() <= columns);
        }
        assert_eq!(width("\u{1b}[1mab\u{1b}[0m日 \u{1b}[2m"), 5);
    }

    #[test]
    fn sizes_for_a_person() {
        for (number, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_300_000, "1.2 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(bytes(number), expected);
        }
    }
}
