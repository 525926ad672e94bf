//! Standard error: what a person reads while records go to standard output.
//!
//! Every line is written here, in one piece, and no byte of it acts on a terminal: lines contain names of
//! containers, and the user's own arguments, which a script may have taken from anywhere. Repeated lines are
//! counted instead of printed. Printing never fails and never waits: if nobody reads it any more, nothing
//! happens (`eprintln!` would panic).

use std::collections::VecDeque;
use std::error::Error;
use std::fmt::{self, Display, Write as _};
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::terminal;

/// How many recent lines are compared with the next one.
const REMEMBERED: usize = 64;
/// How long repetitions are counted before their number is printed. It doubles each time, up to the second
/// value.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// Prints a line.
pub fn say(line: &dyn Display) {
    write(&terminal::escaped_lines(&line.to_string()));
}

/// Prints an error and its causes.
pub fn print_error(failure: &dyn Error) {
    say(&format_args!("ctrace: {failure}"));
    let mut cause = failure.source();
    while let Some(error) = cause {
        say(&format_args!("  because: {error}"));
        cause = error.source();
    }
}

/// Prints a line. If it was printed recently, it is only counted, and [`flush_repeated`] prints the count.
pub fn say_once(line: &dyn Display) {
    let line = terminal::escaped_lines(&line.to_string());
    flush(|repeats| repeats.say(line, Instant::now()));
}

/// Prints the counts of repeated lines that are due. To be called regularly.
pub fn flush_repeated() {
    flush(|repeats| repeats.due(Instant::now()));
}

/// Prints the counts of all repeated lines. To be called at the end of a phase.
pub fn flush_all_repeated() {
    flush(Repeats::rest);
}

static REPEATS: Mutex<Repeats> = Mutex::new(Repeats { lines: VecDeque::new() });

fn flush(act: impl FnOnce(&mut Repeats) -> Vec<String>) {
    // Nothing panics while it holds the lock. The lock is held until the lines are written, so that they stay
    // in order.
    let mut repeats = REPEATS.lock().unwrap_or_else(PoisonError::into_inner);
    for line in act(&mut repeats) {
        write(&line);
    }
}

fn write(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Recently printed lines, and how often each was repeated since. Pure: times are passed in.
#[derive(Debug, Default)]
struct Repeats {
    /// Oldest first.
    lines: VecDeque<Line>,
}

#[derive(Debug)]
struct Line {
    text: String,
    /// The number of repetitions since it was printed.
    again: u64,
    printed_at: Instant,
    pause: Duration,
}

impl Repeats {
    /// Returns the lines to print for a new line.
    fn say(&mut self, text: String, now: Instant) -> Vec<String> {
        let mut lines = self.due(now);
        if let Some(line) = self.lines.iter_mut().find(|line| line.text == text) {
            line.again += 1;
            return lines;
        }
        if self.lines.len() >= REMEMBERED {
            lines.extend(self.lines.pop_front().and_then(|mut oldest| oldest.count()));
        }
        self.lines.push_back(Line { text: text.clone(), again: 0, printed_at: now, pause: PAUSES.0 });
        lines.push(text);
        lines
    }

    fn due(&mut self, now: Instant) -> Vec<String> {
        let (_, longest) = PAUSES;
        // A line that comes once a minute is printed each time.
        self.lines.retain(|line| line.again > 0 || now.duration_since(line.printed_at) < longest);
        let due = self.lines.iter_mut().filter(|line| now.duration_since(line.printed_at) >= line.pause);
        let counts = due.filter_map(|line| {
            let count = line.count()?;
            (line.printed_at, line.pause) = (now, (line.pause * 2).min(longest));
            Some(count)
        });
        counts.collect()
    }

    fn rest(&mut self) -> Vec<String> {
        self.lines.iter_mut().filter_map(Line::count).collect()
    }
}

impl Line {
    /// `… (299 times more)`, if the line was repeated.
    fn count(&mut self) -> Option<String> {
        let again = std::mem::take(&mut self.again);
        let times = if again == 1 { "time" } else { "times" };
        (again > 0).then(|| format!("{} ({again} {times} more)", self.text))
    }
}

/// Prints log messages here: ` WARN message`.
#[derive(Debug)]
pub struct StderrLog {
    is_coloured: bool,
}

impl Default for StderrLog {
    fn default() -> Self {
        Self { is_coloured: io::stderr().is_terminal() }
    }
}

impl StderrLog {
    fn line(&self, level: Level, printed_at: &str) -> String {
        let colour = match level {
            Level::ERROR => AnsiColor::Red,
            Level::WARN => AnsiColor::Yellow,
            Level::INFO => AnsiColor::Green,
            _ => AnsiColor::Blue,
        };
        let printed_at = terminal::escaped_lines(printed_at);
        if self.is_coloured {
            let style = Style::new().fg_color(Some(colour.into()));
            return format!("{style}{level:>5}{style:#} {printed_at}");
        }
        format!("{level:>5} {printed_at}")
    }
}

impl<S: Subscriber> Layer<S> for StderrLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut printed_at = Said::default();
        event.record(&mut printed_at);
        // The messages of BPF programs come through the crate log. Their level is that of the callsite, which
        // is in the metadata.
        let level = *event.metadata().level();
        let line = self.line(level, &format!("{}{}", printed_at.message, printed_at.fields));
        if level <= Level::WARN {
            flush(|repeats| repeats.say(line, Instant::now()));
        } else {
            // A user who asks for more output wants to see each message when it comes.
            write(&line);
        }
    }
}

/// The text of an event: its message, then its fields.
#[derive(Default)]
struct Said {
    message: String,
    fields: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            // The source location of a record of the crate log.
            name if name.starts_with("log.") => Ok(()),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each step is a time in milliseconds, a line to print if any, and the lines that are written.
    fn check(steps: &[(u64, Option<&str>, &[&str])]) {
        let (start, mut repeats) = (Instant::now(), Repeats::default());
        for (at, line, expected) in steps {
            let now = start + Duration::from_millis(*at);
            let written = match line {
                Some(line) => repeats.say((*line).to_owned(), now),
                None => repeats.due(now),
            };
            assert_eq!(written, *expected, "{at} {line:?}");
        }
    }

    #[test]
    fn the_first_of_equal_lines_is_printed_at_once_and_the_others_are_counted() {
        check(&[
            (0, Some("a"), &["a"]),
            (1, Some("a"), &[]),
            (2, Some("b"), &["b"]),
            (3, Some("a"), &[]),
            (999, None, &[]),
            (1000, None, &["a (2 times more)"]),
            (1001, Some("a"), &[]),
            // The pause has doubled.
            (2500, None, &[]),
            (3000, Some("b"), &["a (1 time more)"]),
            (4000, None, &["b (1 time more)"]),
        ]);
    }

    #[test]
    fn what_comes_once_in_a_while_is_printed_each_time() {
        check(&[(0, Some("a"), &["a"]), (60_000, Some("a"), &["a"]), (120_000, Some("a"), &["a"])]);
    }

    #[test]
    fn different_lines_do_not_fill_memory_and_lose_no_count() {
        let (now, mut repeats) = (Instant::now(), Repeats::default());
        let _ = repeats.say("first".into(), now);
        let _ = repeats.say("first".into(), now);
        let written: Vec<String> =
            (0..2 * REMEMBERED).flat_map(|number| repeats.say(number.to_string(), now)).collect();
        assert_eq!(repeats.lines.len(), REMEMBERED);
        assert_eq!(written.len(), 2 * REMEMBERED + 1);
        assert!(written.contains(&"first (1 time more)".to_owned()), "{written:?}");
        let _ = repeats.say("0".into(), now);
        let _ = repeats.say("0".into(), now);
        assert_eq!(repeats.rest(), ["0 (1 time more)"]);
        assert_eq!(repeats.rest(), [""; 0]);
    }

    #[test]
    fn what_is_logged_acts_on_no_terminal() {
        let plain = StderrLog { is_coloured: false };
        assert_eq!(plain.line(Level::WARN, "a\u{1b}[2J\nb\r"), " WARN a\\x1b[2J\nb\\r");
        let coloured = StderrLog { is_coloured: true };
        let line = coloured.line(Level::ERROR, "\u{1b}[2J");
        assert!(line.starts_with('\u{1b}') && line.ends_with(" \\x1b[2J"), "{line:?}");
    }
}
