//! Calls of functions as text: `getaddrinfo("example.org") = 0 [1.2 ms]`, counts, histograms.

use std::fmt::{self, Write as _};

use crate::event::{Argument, CallOutcome, Latency, Plaintext, StackFrame, Truncation, UprobeCall, Value};
use crate::terminal::escape;

/// Characters of the longest bar of a histogram.
const BAR: u64 = 40;

/// Appends a call without who made it, in one line.
pub(super) fn call(call: &UprobeCall<'_>, line: &mut String) -> fmt::Result {
    escape::name(call.function.as_bytes(), line);
    if let Some(arguments) = &call.arguments {
        line.push('(');
        let mut next = 0;
        for argument in arguments {
            while next < argument.index {
                line.push_str("_, ");
                next += 1;
            }
            value(argument, line)?;
            line.push_str(", ");
            next += 1;
        }
        if line.ends_with(", ") {
            line.truncate(line.len() - 2);
        }
        line.push(')');
    }
    match &call.end {
        CallOutcome::NotRequested => Ok(()),
        CallOutcome::NeverReturned => {
            line.push_str(" has not returned");
            Ok(())
        }
        CallOutcome::ReturnMissed => {
            line.push_str(" (whether it returned was not seen)");
            Ok(())
        }
        CallOutcome::Returned { value: returned, duration: nanoseconds } => {
            if let Some(returned) = returned {
                line.push_str(" = ");
                value(returned, line)?;
            }
            write!(line, " [{}]", duration(*nanoseconds))
        }
    }
}

/// Appends a line per frame.
pub(super) fn stack(frames: &[StackFrame], text: &mut String) -> fmt::Result {
    for frame in frames {
        text.push_str("    ");
        match &frame.function {
            Some((function, offset)) => {
                escape::name(function.as_bytes(), text);
                write!(text, "+{offset:#x}")?;
            }
            None => write!(text, "{:#x}", frame.address)?,
        }
        if let Some(object) = &frame.object {
            text.push_str(" (");
            escape::name(object.as_bytes(), text);
            text.push(')');
        }
        text.push('\n');
    }
    Ok(())
}

/// Appends a line per bucket.
pub(super) fn histogram(latency: &Latency, text: &mut String) -> fmt::Result {
    let used = latency.used();
    let most = used.iter().map(|(.., calls)| *calls).max().unwrap_or(0).max(1);
    let width = most.to_string().len();
    for (from, to, calls) in used {
        let bar = usize::try_from(calls.saturating_mul(BAR).div_ceil(most)).unwrap_or(0);
        let range = format!("{} to {}", duration(from), duration(to));
        writeln!(text, "    {range:<22} {calls:>width$} {:#<bar$}", "")?;
    }
    Ok(())
}

/// Three digits and a unit.
pub(super) fn duration(nanoseconds: u64) -> String {
    const UNITS: &[(&str, u64)] = &[("s", 1_000_000_000), ("ms", 1_000_000), ("µs", 1000)];
    match UNITS.iter().find(|(_, unit)| nanoseconds >= *unit) {
        Some((name, unit)) => {
            let (whole, rest) = (nanoseconds / unit, nanoseconds % unit);
            match whole {
                0..10 => format!("{whole}.{:02} {name}", rest * 100 / unit),
                10..100 => format!("{whole}.{} {name}", rest * 10 / unit),
                _ => format!("{whole} {name}"),
            }
        }
        None => format!("{nanoseconds} ns"),
    }
}

fn value(argument: &Argument<'_>, line: &mut String) -> fmt::Result {
    match &argument.value {
        Value::Signed(value) => write!(line, "{value}"),
        Value::Unsigned(value) => write!(line, "{value}"),
        Value::Hex(value) => write!(line, "{value:#x}"),
        Value::Single(value) => write!(line, "{value:?}"),
        Value::Double(value) => write!(line, "{value:?}"),
        Value::Bool(value) => write!(line, "{value}"),
        Value::Text(Plaintext(data), extent) => {
            line.push('"');
            quoted(data, line);
            line.push('"');
            cut(*extent, line);
            Ok(())
        }
        Value::Bytes(Plaintext(data), extent) => {
            if !data.is_empty() && escape::is_readable(data) {
                line.push('"');
                quoted(data, line);
                line.push('"');
            } else {
                line.push_str("0x");
                for byte in &**data {
                    write!(line, "{byte:02x}")?;
                }
            }
            cut(*extent, line);
            Ok(())
        }
        Value::Unreadable => {
            line.push_str("<unreadable>");
            Ok(())
        }
    }
}

/// Appends text in which a quote does not end it.
fn quoted(data: &[u8], line: &mut String) {
    for (number, part) in data.split(|byte| *byte == b'"').enumerate() {
        if number > 0 {
            line.push_str("\\\"");
        }
        escape::name(part, line);
    }
}

fn cut(extent: Truncation, line: &mut String) {
    if extent == Truncation::Cut {
        line.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_have_three_digits() {
        for (nanoseconds, expected) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1000, "1.00 µs"),
            (1_234_567, "1.23 ms"),
            (12_345_678, "12.3 ms"),
            (999_999_999, "999 ms"),
            (65_000_000_000, "65.0 s"),
            (1_000_000_000_000, "1000 s"),
        ] {
            assert_eq!(duration(nanoseconds), expected);
        }
    }
}
