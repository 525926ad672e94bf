//! Fields that a protocol defines. The meaning of each is defined once, in the table of its protocol, and
//! everything that writes messages iterates over that table.

use std::borrow::Cow;
use std::fmt;

use super::Statement;

/// A field that messages of a protocol can have.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// The path in a JSON record, nested at the dots: `http.request.method`.
    pub path: &'static str,
    /// The meaning, for the schema and the documentation.
    pub help: &'static str,
    /// The type of its values.
    pub kind: FieldKind,
}

/// The type of a field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// [`FieldValue::Text`] or [`FieldValue::Statement`]
    Text,
    /// [`FieldValue::Number`]
    Number,
    /// [`FieldValue::List`]
    List,
    /// [`FieldValue::Headers`]
    Headers,
}

/// The value of a field. Its `Debug` prints no text, because that is other people's traffic.
#[derive(Clone, PartialEq, Eq)]
pub enum FieldValue {
    /// Text.
    Text(String),
    /// A number.
    Number(u64),
    /// A statement, in records a text.
    Statement(Statement),
    /// Texts in order.
    List(Vec<String>),
    /// Header fields in order, in JSON an object of the values by name.
    Headers(Vec<HeaderField>),
    /// The message has the field, but its value depends on bytes that were not captured.
    Unknown,
}

/// A header field.
#[derive(Clone, PartialEq, Eq)]
pub struct HeaderField {
    /// The name, in lower case. None if it depends on bytes that were not captured.
    pub name: Option<String>,
    /// The value, in which U+FFFD stands for what is not UTF-8. None if it depends on such bytes.
    pub value: Option<String>,
}

impl fmt::Debug for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Number(number) => write!(f, "Number({number})"),
            Self::Statement(statement) => write!(f, "{statement:?}"),
            Self::List(list) => write!(f, "List({} texts)", list.len()),
            Self::Headers(list) => write!(f, "Headers({} fields)", list.len()),
            Self::Unknown => f.write_str("Unknown"),
        }
    }
}

impl fmt::Debug for HeaderField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.as_ref().map(String::len);
        f.debug_struct("HeaderField").field("name", &self.name).field("value_bytes", &value).finish()
    }
}

/// What a person wants to know about an exchange at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    /// The protocol as people call it: `HTTP/1.1`, `gRPC`.
    pub protocol: Cow<'static, str>,
    /// What was asked for: `GET`. None if it is unknown.
    pub method: Option<String>,
    /// Of whom: `api.example:8443`.
    pub host: Option<String>,
    /// On what: `/orders/7?page=2`.
    pub target: Option<String>,
    /// What was asked of a database. The method is its first word, and it is the target once secrets are
    /// hidden.
    pub statement: Option<Statement>,
    /// How many rows, entries or messages were asked for, returned or changed.
    pub rows: Option<u64>,
    /// What was answered: `404`, `UNAVAILABLE`. None if there was no answer, or it is unknown.
    pub status: Option<String>,
    /// What that means.
    pub outcome: Outcome,
}

/// What a response means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// There is no response, or what it means is unknown.
    #[default]
    Unknown,
    /// It was done.
    Success,
    /// The client has to ask elsewhere, or already has the answer.
    Redirect,
    /// The client's fault.
    ClientError,
    /// The server's fault.
    ServerError,
}

impl Outcome {
    /// Whether it is an error of either side.
    pub fn is_error(self) -> bool {
        matches!(self, Self::ClientError | Self::ServerError)
    }
}
