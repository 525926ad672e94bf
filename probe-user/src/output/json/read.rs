//! Lines → records: the lines of `ctrace ssl`, by the same types that write them.
//!
//! The bytes are foreign, whoever wrote them: no message quotes a line. Fields that this version does not
//! have are skipped and counted. Owns no limit on the length of a line, which its caller has.

use std::borrow::Cow;

use serde::Deserialize;
use serde_ignored::Path;

use super::connection::{SslCloseBody, SslOpenBody};
use super::harmed::HarmedBody;
use super::line::{Envelope, FIELDS};
use super::loss::{LostBody, SummaryBody};
use super::missed::MissedBody;
use super::ssl::SslBody;
use super::unknown_tls::UnknownTlsBody;
use crate::event::{Context, Record, SCHEMA, Summary};

/// A record that was read.
#[derive(Debug)]
pub enum Recorded {
    /// Any record but the last.
    Record(Box<Record<'static>>),
    /// The last record.
    Summary(Box<Summary>),
}

/// Why a line gives no record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LineError {
    /// The line is empty.
    Empty,
    /// Its type cannot be read, or it is of another version of the schema.
    OtherType,
    /// It is not a record.
    Bad(String),
}

/// The fields that say what a line is.
#[derive(Deserialize)]
struct Head<'a> {
    schema: u32,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
}

/// Reads a line. Returns the record, and the number of its fields that were skipped.
pub(crate) fn read(line: &[u8]) -> Result<(Recorded, u64), LineError> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return Err(LineError::Empty);
    }
    let head: Head<'_> = serde_json::from_slice(line).map_err(|error| bad(&error))?;
    if head.schema != SCHEMA {
        return Err(LineError::OtherType);
    }
    match &*head.r#type {
        "ssl" => parts(line, |envelope, body: SslBody<'_>| body.record(thread(envelope)?).map(recorded)),
        "ssl_open" => {
            parts(line, |envelope, body: SslOpenBody<'_>| Ok(recorded(body.record(thread(envelope)?))))
        }
        "ssl_close" => {
            parts(line, |envelope, body: SslCloseBody<'_>| Ok(recorded(body.record(thread(envelope)?))))
        }
        "harmed" => {
            parts(line, |envelope, body: HarmedBody<'_>| Ok(recorded(body.record(thread(envelope)?))))
        }
        "missed" => {
            parts(line, |envelope, body: MissedBody<'_>| Ok(recorded(body.record(thread(envelope)?))))
        }
        "unknown_tls" => {
            parts(line, |envelope, body: UnknownTlsBody<'_>| Ok(recorded(body.record(thread(envelope)?))))
        }
        "lost" => parts(line, |envelope, body: LostBody| Ok(recorded(body.record(envelope.time.0)))),
        "summary" => parts(line, |envelope, body: SummaryBody| {
            Ok(Recorded::Summary(Box::new(body.summary(envelope.time.0))))
        }),
        _ => Err(LineError::OtherType),
    }
}

fn recorded(record: Record<'static>) -> Recorded {
    Recorded::Record(Box::new(record))
}

fn thread(envelope: Envelope<'_>) -> Result<Context<'static>, LineError> {
    envelope.thread_context().ok_or_else(|| contradiction("it has no process or no thread"))
}

/// Reads the envelope and the body of a line, each of which skips the fields of the other. One struct with
/// both would need serde's flatten, which hides from serde_ignored what is skipped.
fn parts<'a, B: Deserialize<'a>>(
    line: &'a [u8],
    record: impl FnOnce(Envelope<'a>, B) -> Result<Recorded, LineError>,
) -> Result<(Recorded, u64), LineError> {
    let mut skipped = 0;
    // Of the line's own fields, those that are neither the envelope's nor the body's.
    let envelope = part(line, |path| skipped += u64::from(field(&path).is_none()))?;
    let is_unknown = |path: &Path<'_>| field(path).is_none_or(|name| !FIELDS.contains(&name));
    let body = part(line, |path| skipped += u64::from(is_unknown(&path)))?;
    Ok((record(envelope, body)?, skipped))
}

fn part<'a, P: Deserialize<'a>>(line: &'a [u8], skip: impl FnMut(Path<'_>)) -> Result<P, LineError> {
    let mut input = serde_json::Deserializer::from_slice(line);
    serde_ignored::deserialize(&mut input, skip).map_err(|error| bad(&error))
}

/// The name of a field of the line itself, not of an object inside it.
fn field<'p>(path: &'p Path<'_>) -> Option<&'p str> {
    match path {
        Path::Map { parent: Path::Root, key } => Some(key),
        _ => None,
    }
}

/// The parser's own message would quote the line, which is other people's traffic.
fn bad(error: &serde_json::Error) -> LineError {
    let what = match error.classify() {
        serde_json::error::Category::Data => "it has not the shape of a record",
        serde_json::error::Category::Eof => "it is cut off",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "it is no JSON",
    };
    LineError::Bad(format!("{what} (column {})", error.column()))
}

pub(super) fn contradiction(what: &str) -> LineError {
    LineError::Bad(what.to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::Value;

    use super::read;

    /// Adds a field to each object of a line, and counts them. Keys of `reasons` are no fields.
    fn add_fields(value: &mut Value, name: &str) -> u64 {
        match value {
            Value::Object(object) => {
                let below: u64 = object.iter_mut().map(|(name, value)| add_fields(value, name)).sum();
                let is_added = name != "reasons" && object.insert("added".to_owned(), true.into()).is_none();
                below + u64::from(is_added)
            }
            _ => 0,
        }
    }

    #[test]
    fn fields_of_a_later_version_are_counted_wherever_they_are() {
        let recorded = concat!(
            include_str!("../../../tests/data/records.jsonl"),
            include_str!("../../../tests/data/connections.jsonl")
        );
        let mut all = 0;
        for line in recorded.lines() {
            let mut value = serde_json::from_str(line).unwrap();
            let added = add_fields(&mut value, "");
            let (_, skipped) = read(value.to_string().as_bytes()).unwrap();
            assert_eq!(skipped, added, "{value}");
            all += added;
        }
        assert!(all > 300, "{all}");
    }
}
