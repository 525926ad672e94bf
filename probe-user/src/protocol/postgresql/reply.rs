//! What a server answers.

use super::unit::Cut;
use super::wire;
use crate::event::{FieldValue, Statement};
use crate::protocol::database::{
    AFFECTED_ROWS, COMMAND_TAGS, ERROR_TYPE, RETURNED_ROWS, STATUS, STATUS_MESSAGE, TRANSACTION, error_text,
};
use crate::protocol::{Message, Messages};

/// The most tags of commands that are kept.
const MAX_TAGS: usize = 64;
/// The longest tag of a command.
const MAX_TAG: usize = 64;
/// What stands for an error without a code, by OpenTelemetry's conventions.
const OTHER: &str = "_OTHER";
/// What stands for the error of a message that the server has discarded after an error.
const SKIPPED: &str = "skipped";

/// What the messages of a response say.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerReply {
    /// The rows of all statements. None if none returns any.
    rows: Option<u64>,
    /// What came of the statement that is being executed.
    running: Running,
    affected: Option<u64>,
    tags: Vec<String>,
    error: Option<ServerError>,
    pub(super) is_skipped: bool,
    transaction: Option<&'static str>,
}

/// What came of a statement.
#[derive(Clone, Copy, Debug, Default)]
struct Running {
    rows: u64,
    has_columns: bool,
    copies_out: bool,
}

/// An ErrorResponse.
#[derive(Clone, Debug)]
pub(super) struct ServerError {
    code: Option<String>,
    message: Option<Statement>,
    /// Whether the server closes the connection.
    pub(super) is_fatal: bool,
}

impl ServerError {
    pub(super) fn read(mut body: &[u8]) -> Self {
        let mut error = Self { code: None, message: None, is_fatal: false };
        while let Some((&field, rest)) = body.split_first()
            && field != 0
            && let Some((value, after)) = wire::text(rest)
        {
            match field {
                // The severity, which is translated in S.
                b'V' | b'S' => error.is_fatal |= matches!(value, b"FATAL" | b"PANIC"),
                b'C' if is_code(value) => error.code = Some(String::from_utf8_lossy(value).into_owned()),
                b'M' => error.message = Some(error_text::read(value)),
                _ => {}
            }
            body = after;
        }
        error
    }

    /// Whether a server may send it without being asked: it ends, or waits no longer.
    pub(super) fn is_unsolicited(&self) -> bool {
        let codes = ["57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04"];
        self.is_fatal && self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    pub(super) fn push_to(self, message: &mut Message) {
        let fields = &mut message.fields;
        if let Some(code) = self.code {
            fields.push((&STATUS, FieldValue::Text(code.clone())));
            fields.push((&ERROR_TYPE, FieldValue::Text(code)));
        } else {
            fields.push((&ERROR_TYPE, FieldValue::Text(OTHER.to_owned())));
        }
        fields.extend(self.message.map(|text| (&STATUS_MESSAGE, FieldValue::Statement(text))));
    }
}

fn is_code(value: &[u8]) -> bool {
    value.len() == 5 && value.iter().all(u8::is_ascii_alphanumeric)
}

impl ServerReply {
    /// Handles a message of the response.
    pub(super) fn message(&mut self, tag: u8, body: &[u8]) {
        match tag {
            b'T' => self.running.has_columns = true,
            b'D' => {
                self.return_rows(1);
                self.running.rows = self.running.rows.saturating_add(1);
            }
            b'H' => self.running.copies_out = true,
            b'C' => self.command(body),
            b'E' if self.error.is_none() => self.error = Some(ServerError::read(body)),
            b'Z' => {
                self.transaction = match body.first() {
                    Some(b'I') => Some("idle"),
                    Some(b'T') => Some("in_transaction"),
                    Some(b'E') => Some("failed"),
                    _ => None,
                };
            }
            _ => {}
        }
    }

    /// The tag of a command has the number of its rows at the end, if it has any.
    fn command(&mut self, body: &[u8]) {
        let Running { rows, has_columns, copies_out } = std::mem::take(&mut self.running);
        let Some(tag) = wire::text(body).map(|(tag, _)| tag.get(..MAX_TAG).unwrap_or(tag)) else { return };
        let tag = String::from_utf8_lossy(tag).into_owned();
        let mut words = tag.split(' ');
        let command = words.next().unwrap_or_default();
        if has_columns {
            self.return_rows(0);
        }
        let number = words.next_back().and_then(|word| word.parse::<u64>().ok());
        match (command, number) {
            ("COPY", Some(number)) if copies_out => self.return_rows(number),
            ("INSERT" | "UPDATE" | "DELETE" | "MERGE" | "COPY", Some(number)) => self.affect(number),
            // The tag of CREATE TABLE AS, whose rows are not returned.
            ("SELECT", Some(number)) if number != rows && !has_columns => self.affect(number),
            ("SELECT" | "FETCH" | "SHOW" | "VALUES", _) => self.return_rows(0),
            _ => {}
        }
        if self.tags.len() < MAX_TAGS {
            self.tags.push(tag);
        }
    }

    fn return_rows(&mut self, rows: u64) {
        self.rows = Some(self.rows.unwrap_or(0).saturating_add(rows));
    }

    fn affect(&mut self, rows: u64) {
        self.affected = Some(self.affected.unwrap_or(0).saturating_add(rows));
    }

    pub(super) fn has_error(&self) -> bool {
        self.error.is_some()
    }

    pub(super) fn is_fatal(&self) -> bool {
        self.error.as_ref().is_some_and(|error| error.is_fatal)
    }

    pub(super) fn size(&self) -> usize {
        let message = self.error.as_ref().and_then(|error| error.message.as_ref());
        self.tags.iter().map(|tag| tag.len() + size_of::<String>()).sum::<usize>()
            + message.map_or(0, Statement::size)
    }

    /// Adds the response.
    pub(super) fn finish(self, mut message: Message, cut: Cut, out: &mut Messages) {
        message.partial.lacks_end |= cut != Cut::Nothing && !self.is_fatal();
        let fields = &mut message.fields;
        fields.extend(self.rows.map(|rows| (&RETURNED_ROWS, FieldValue::Number(rows))));
        fields.extend(self.affected.map(|rows| (&AFFECTED_ROWS, FieldValue::Number(rows))));
        if !self.tags.is_empty() {
            fields.push((&COMMAND_TAGS, FieldValue::List(self.tags)));
        }
        let transaction = self.transaction.map(|state| FieldValue::Text(state.to_owned()));
        fields.extend(transaction.map(|state| (&TRANSACTION, state)));
        match self.error {
            Some(error) => error.push_to(&mut message),
            None if self.is_skipped => {
                message.fields.push((&ERROR_TYPE, FieldValue::Text(SKIPPED.to_owned())));
            }
            None => {}
        }
        out.push(message);
    }
}
