//! What the protocols of databases have in common: their fields, by OpenTelemetry's names, and how an
//! exchange looks at a glance.

pub(super) mod error_text;
pub(super) mod idle;
pub(super) mod sql;

use crate::event::{Field, FieldKind, FieldValue, Outcome, Overview};
use crate::protocol::Message;

macro_rules! fields {
    ($($name:ident: $kind:ident = $path:literal, $help:literal;)*) => {
        $(pub(super) const $name: Field = Field { path: $path, help: $help, kind: FieldKind::$kind };)*
        /// The fields of databases.
        pub(super) const FIELDS: &[Field] = &[$($name),*];
    };
}

fields! {
    SYSTEM: Text = "db.system.name", "The system, as far as the protocol shows it: `postgresql`, `mysql`, `redis`, `mongodb`";
    NAMESPACE: Text = "db.namespace", "The database that the connection uses";
    OPERATION: Text = "db.operation.name", "What is done: the first word of a statement, the name of a command";
    COLLECTION: Text = "db.collection.name", "The collection that a command is about";
    QUERY: Text = "db.query.text", "The statement or the command, with `?` in place of each value";
    PREPARED: Text = "db.statement.name", "The name of the prepared statement that is executed";
    BATCH: Number = "db.operation.batch.size", "How many statements or commands the request has, if not one";
    STATUS: Text = "db.response.status_code", "The code of an error: an SQLSTATE, a number, the first word of an error";
    SQLSTATE: Text = "db.response.sqlstate", "The SQLSTATE of an error whose code is a number";
    STATUS_MESSAGE: Text = "db.response.status_message", "What an error says, with `?` in place of each value";
    RETURNED_ROWS: Number = "db.response.returned_rows", "How many rows, documents or entries were returned";
    AFFECTED_ROWS: Number = "db.response.affected_rows", "How many rows or documents were changed";
    COMMAND_TAGS: List = "db.response.command_tags", "What the server says that was done, for each statement: `INSERT 0 5`";
    COMPRESSION: Text = "db.connection.compression", "How what follows is compressed, which is not decoded: `zlib` or `zstd`";
    TRANSACTION: Text = "db.transaction.state", "After the exchange: `idle`, `in_transaction` or `failed`";
    ERROR_TYPE: Text = "error.type", "Why the exchange failed: a status of the server or of the call, the code of an error, or how it was broken off";
}

/// Summarises an exchange. `protocol` is the name that people use.
pub(super) fn overview(
    protocol: &'static str,
    request: Option<&Message>,
    response: Option<&Message>,
) -> Overview {
    let text = |message: Option<&'_ Message>, field: &Field| message?.text(field).map(str::to_owned);
    let rows = |field: &Field| response?.number(field);
    let error = text(response, &ERROR_TYPE).or_else(|| text(response, &STATUS));
    let statement = match request.and_then(|request| request.field(&QUERY)) {
        Some(FieldValue::Statement(statement)) => Some(statement.clone()),
        _ => None,
    };
    Overview {
        protocol: protocol.into(),
        method: text(request, &OPERATION),
        host: None,
        target: text(request, &PREPARED).or_else(|| text(request, &NAMESPACE)),
        statement,
        rows: rows(&RETURNED_ROWS).or_else(|| rows(&AFFECTED_ROWS)),
        outcome: match (response, &error) {
            (_, Some(_)) => Outcome::ServerError,
            (Some(_), None) => Outcome::Success,
            (None, None) => Outcome::Unknown,
        },
        status: error.or_else(|| response.map(|_| "OK".to_owned())),
    }
}
