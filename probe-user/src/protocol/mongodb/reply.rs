//! What a reply says: whether the command was done, and how many documents it returned or changed.

use super::bson::{BsonContainer, BsonPart, kind};

/// The longest text of an error.
const MAX_TEXT: usize = 512;

/// A reply, as far as it came.
#[derive(Clone, Debug, Default)]
pub(super) struct MongoReply {
    is_failed: bool,
    pub(super) code: Option<i64>,
    pub(super) code_name: Option<String>,
    pub(super) message: Option<String>,
    /// How many documents were returned.
    pub(super) rows: Option<u64>,
    found: Option<u64>,
    modified: Option<u64>,
    open: Vec<ReplyLevel>,
}

/// A document or an array of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplyLevel {
    Reply,
    Cursor,
    /// Documents that are returned.
    Batch,
    /// What of the command failed.
    Errors,
    Error,
    LastError,
    Other,
}

impl MongoReply {
    /// A reply in the old form has so many documents.
    pub(super) fn documents(&mut self, count: u64) {
        self.rows = Some(count);
    }

    /// Adds a part of its document.
    pub(super) fn add(&mut self, part: &BsonPart<'_>) {
        match *part {
            BsonPart::Open { name, container } => {
                let level = self.level(name, container);
                self.open.push(level);
            }
            BsonPart::Close => {
                self.open.pop();
            }
            BsonPart::Value { name, kind, value, .. } => match self.open.last() {
                Some(ReplyLevel::Reply) => self.value(name, kind, value),
                Some(ReplyLevel::Error) => self.error(name, kind, value),
                Some(ReplyLevel::LastError) if name == b"n" => self.found = count(kind, value),
                Some(ReplyLevel::Batch) => self.rows = self.rows.map(|rows| rows.saturating_add(1)),
                _ => {}
            },
        }
    }

    fn level(&mut self, name: &[u8], container: BsonContainer) -> ReplyLevel {
        let is_array = container == BsonContainer::Array;
        match (self.open.last(), name) {
            (None, _) => ReplyLevel::Reply,
            (Some(ReplyLevel::Reply), b"cursor") => ReplyLevel::Cursor,
            (Some(ReplyLevel::Reply), b"writeErrors") if is_array => ReplyLevel::Errors,
            (Some(ReplyLevel::Reply), b"writeConcernError") | (Some(ReplyLevel::Errors), _) => {
                ReplyLevel::Error
            }
            (Some(ReplyLevel::Reply), b"lastErrorObject") => ReplyLevel::LastError,
            (Some(ReplyLevel::Cursor), b"firstBatch" | b"nextBatch")
            | (Some(ReplyLevel::Reply), b"values")
                if is_array =>
            {
                self.rows = Some(0);
                ReplyLevel::Batch
            }
            (Some(ReplyLevel::Batch), _) => {
                self.rows = self.rows.map(|rows| rows.saturating_add(1));
                ReplyLevel::Other
            }
            _ => ReplyLevel::Other,
        }
    }

    fn value(&mut self, name: &[u8], kind: u8, value: &[u8]) {
        match name {
            b"ok" => {
                self.is_failed = match kind {
                    kind::DOUBLE => value == 0_f64.to_le_bytes(),
                    _ => value.iter().all(|byte| *byte == 0),
                }
            }
            b"n" => self.found = count(kind, value),
            b"nModified" => self.modified = count(kind, value),
            b"code" | b"codeName" | b"errmsg" => self.error(name, kind, value),
            _ => {}
        }
    }

    /// Adds a value of an error. The first error counts.
    fn error(&mut self, name: &[u8], kind: u8, value: &[u8]) {
        let text = || {
            let text = value.get(..MAX_TEXT).unwrap_or(value);
            (kind == kind::STRING).then(|| String::from_utf8_lossy(text).into_owned())
        };
        match name {
            b"code" => self.code = self.code.or_else(|| number(kind, value)),
            b"codeName" => self.code_name = self.code_name.take().or_else(text),
            b"errmsg" => {
                self.message = self.message.take().or_else(|| text().map(|text| without_values(&text)));
            }
            _ => {}
        }
    }

    /// Whether all or a part of the command failed.
    pub(super) fn is_error(&self) -> bool {
        self.is_failed || self.code.is_some()
    }

    /// How many documents were changed, by a command that changes some.
    pub(super) fn affected(&self) -> Option<u64> {
        self.modified.or(self.found)
    }
}

fn number(kind: u8, value: &[u8]) -> Option<i64> {
    match kind {
        kind::INT32 => Some(i32::from_le_bytes(value.try_into().ok()?).into()),
        kind::INT64 => Some(i64::from_le_bytes(value.try_into().ok()?)),
        kind::DOUBLE => {
            let value = f64::from_le_bytes(value.try_into().ok()?);
            #[expect(clippy::cast_possible_truncation, reason = "it is a small whole number")]
            (value.abs() < 1e15).then_some(value as i64)
        }
        _ => None,
    }
}

fn count(kind: u8, value: &[u8]) -> Option<u64> {
    u64::try_from(number(kind, value)?).ok()
}

/// The text of an error without what is in quotes or braces: that may be a value.
fn without_values(text: &str) -> String {
    let mut out = String::new();
    let mut closing: Option<char> = None;
    let mut depth = 0_usize;
    let mut before = ' ';
    for c in text.chars() {
        match closing {
            Some('}') if c == '{' => depth += 1,
            Some('}') if c == '}' && depth > 0 => depth -= 1,
            Some(close) if c == close => {
                out.extend(['?', c]);
                closing = None;
            }
            Some(_) => {}
            None => {
                out.push(c);
                closing = match c {
                    '{' => Some('}'),
                    '"' | '`' => Some(c),
                    // An apostrophe is no quote.
                    '\'' if !before.is_alphanumeric() => Some(c),
                    _ => None,
                };
            }
        }
        before = c;
    }
    if closing.is_some() {
        out.push('?');
    }
    out
}
