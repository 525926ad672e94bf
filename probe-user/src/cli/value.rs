//! Parses the values of options. Error messages contain the unit and the limits.

use std::io;
use std::time::Duration;

use clap::ValueEnum;
use probe_common::CALL_BYTES;

use crate::terminal;

/// The ring must hold several records of the largest size, or every large one would be lost.
const RING_BYTES: std::ops::RangeInclusive<u64> = 64 * 1024..=1024 * 1024 * 1024;

/// Rejects `--count` on the commands where it was the former name of `--limit`.
pub(super) fn renamed_count(_: &str) -> Result<std::convert::Infallible, String> {
    Err("--limit N ends a trace after N records; --count is an option of `ctrace uprobe`, where it counts \
     calls"
        .to_owned())
}

/// Parses a time such as `10s` or `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wanted = || "a time is a number with a unit, such as 500ms, 10s, 5m or 1h30m".to_owned();
    let span: jiff::SignedDuration = text.parse().map_err(|_| wanted())?;
    match Duration::try_from(span) {
        Ok(Duration::ZERO) | Err(_) => Err(wanted()),
        Ok(duration) => Ok(duration),
    }
}

/// Parses a time that may be 0, with or without a unit.
pub(super) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { duration(text) }
}

/// Parses the bytes to capture of a call.
pub(super) fn max_bytes(text: &str) -> Result<u32, String> {
    match u32::try_from(bytes(text)?) {
        Ok(bytes) if bytes <= CALL_BYTES => Ok(bytes),
        _ => Err("at most 1M (1048576 bytes) of a call can be captured".to_owned()),
    }
}

/// Parses the bytes to show of a body.
pub(super) fn body_bytes(text: &str) -> Result<usize, String> {
    match usize::try_from(bytes(text)?) {
        Ok(bytes @ 1..=0x10_0000) => Ok(bytes),
        _ => Err("from 1 byte to 1M (1048576 bytes) of a body can be shown".to_owned()),
    }
}

/// Parses the size of the ring buffer, and rounds it up to a power of two.
pub(super) fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes = bytes(text)?;
    if !RING_BYTES.contains(&bytes) {
        return Err("the size of the ring must be from 64K to 1G".to_owned());
    }
    u32::try_from(bytes.next_power_of_two()).map_err(|error| error.to_string())
}

/// Parses a size. `64K` means 64 KiB: sizes of memory are powers of two.
fn bytes(text: &str) -> Result<u64, String> {
    let wanted = || "a size is a number of bytes, or a number with K, M or G for KiB, MiB or GiB".to_owned();
    let number_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let shift = match unit {
        "" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        _ => return Err(wanted()),
    };
    let number: u64 = number.parse().map_err(|_| wanted())?;
    number.checked_mul(1 << shift).ok_or_else(wanted)
}

/// When to colour text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    /// If the output is a terminal and NO_COLOR is not set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    /// Whether to colour text on one of the standard streams.
    pub(super) fn for_stream(self, stream: &impl io::IsTerminal) -> terminal::Colour {
        let wanted = || std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        match self {
            Self::Always => terminal::Colour::On,
            Self::Auto if stream.is_terminal() && wanted() => terminal::Colour::On,
            Self::Auto | Self::Never => terminal::Colour::Off,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn sizes() {
        let check =
            |text: &str, expected: Option<u64>| assert_eq!(super::bytes(text).ok(), expected, "{text}");
        check("0", Some(0));
        check("4096", Some(4096));
        check("64K", Some(65_536));
        check("16M", Some(16 << 20));
        check("1GiB", Some(1 << 30));
        check("", None);
        check("K", None);
        check("-1", None);
        check("1.5M", None);
        check("1KB", None);
        check("99999999999999999999", None);
    }

    #[test]
    fn limits() {
        assert_eq!(super::max_bytes("1M"), Ok(1 << 20));
        assert!(super::max_bytes("1048577").is_err());
        assert_eq!(super::ring_bytes("64K"), Ok(65_536));
        assert_eq!(super::ring_bytes("100K"), Ok(131_072));
        assert_eq!(super::ring_bytes("1G"), Ok(1 << 30));
        assert!(super::ring_bytes("4K").is_err());
        assert!(super::ring_bytes("2G").is_err());
    }

    #[test]
    fn durations() {
        assert_eq!(super::duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(super::duration("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(super::duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(super::duration_or_zero("0"), Ok(Duration::ZERO));
        assert_eq!(super::duration_or_zero("200ms"), Ok(Duration::from_millis(200)));
        assert!(super::duration_or_zero("5").is_err());
        for wrong in ["", "10", "0s", "-1s", "soon"] {
            assert!(super::duration(wrong).is_err(), "{wrong}");
        }
    }
}
