//! Commands: their names, what they are about, and their documents with the values told apart.
//!
//! Passwords and what else proves who a client is leave this file as `***`, whatever is asked for.

use super::bson::{BsonContainer, BsonExtent, BsonPart, kind};
use crate::event::{Statement, StatementPart};

/// The bytes of a command that are kept.
const MAX_KEPT: usize = 16 * 1024;
/// The longest name of a command, a collection or a database that is kept.
const MAX_NAME: usize = 255;
/// What stands for a secret.
const SECRET: &str = "***";

/// Commands whose first value is the name of a collection.
#[rustfmt::skip]
const OF_COLLECTION: &[&str] = &[
    "aggregate", "collMod", "collStats", "compact", "convertToCapped", "count", "create", "createIndexes",
    "createSearchIndexes", "delete", "distinct", "drop", "dropIndexes", "find", "findAndModify", "findandmodify",
    "insert", "killCursors", "listIndexes", "mapReduce", "mapreduce", "reIndex", "update", "validate",
];
/// Commands whose contents are secrets.
#[rustfmt::skip]
const SECRET_COMMANDS: &[&str] = &[
    "authenticate", "copydb", "copydbgetnonce", "copydbsaslstart", "createUser", "getnonce", "logout",
    "saslContinue", "saslStart", "updateUser",
];
/// Elements of a command that say nothing of what is asked for.
const PASSED_OVER: &[&str] = &["$clusterTime", "$db", "$readPreference", "lsid", "txnNumber"];
/// Elements that are secrets wherever they are.
const SECRET_NAMES: &[&str] =
    &["password", "passwd", "pwd", "payload", "speculativeAuthenticate", "secretAccessKey"];
/// Lists of what a command does.
const BATCHES: &[&str] = &["documents", "updates", "deletes", "ops"];

/// A command, as far as it came.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Default)]
pub(super) struct MongoCommand {
    pub(super) name: Option<String>,
    pub(super) collection: Option<String>,
    pub(super) database: Option<String>,
    pub(super) statement: Statement,
    /// How many documents, updates or deletions it has.
    pub(super) batch: Option<u64>,
    /// The bytes of the statement.
    kept: usize,
    /// Whether its contents are not kept.
    is_secret: bool,
    /// Whether the documents that are read are those of a list behind the command.
    is_sequence: bool,
    /// The documents and arrays that are open.
    open: Vec<OpenLevel>,
    /// How many of them are open in what is passed over.
    hidden: usize,
    /// Whether the document is a query in the old form, and not a command.
    is_query: bool,
    /// Whether an element is behind the command's name.
    has_field: bool,
}

#[derive(Clone, Copy)]
struct OpenLevel {
    container: BsonContainer,
    /// Whether its values count.
    is_batch: bool,
    has_element: bool,
}

impl std::fmt::Debug for MongoCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MongoCommand").field("name", &self.name).finish_non_exhaustive()
    }
}

impl MongoCommand {
    /// A query in the old form, which names its collection in front of its document.
    pub(super) fn query(&mut self, full_name: &[u8]) {
        let full_name = text(full_name);
        let (database, collection) = full_name.split_once('.').unwrap_or((&full_name, ""));
        self.database = Some(database.to_owned());
        if collection != "$cmd" {
            self.begin("find", Some(collection.to_owned()));
            self.is_query = true;
            self.push(StatementPart::Text, " ");
        }
    }

    /// Another message of the old form.
    pub(super) fn legacy(&mut self, name: &str) {
        self.name = Some(name.to_owned());
    }

    /// A list of documents follows that is an element of the command.
    pub(super) fn sequence(&mut self, name: &[u8]) {
        self.separate();
        self.is_sequence = true;
        self.push(StatementPart::Text, &format!("{}: [", text(name)));
        self.open.push(OpenLevel { container: BsonContainer::Array, is_batch: true, has_element: false });
        self.batch.get_or_insert(0);
    }

    pub(super) fn sequence_end(&mut self) {
        self.is_sequence = false;
        self.open.pop();
        self.push(StatementPart::Text, "]");
    }

    /// Adds a part of a document.
    pub(super) fn add(&mut self, part: &BsonPart<'_>) {
        if self.hidden > 0 {
            match part {
                BsonPart::Open { .. } => self.hidden += 1,
                BsonPart::Close => self.hidden -= 1,
                BsonPart::Value { .. } => {}
            }
            return;
        }
        match *part {
            // The command itself.
            BsonPart::Open { container, .. } if self.open.is_empty() => {
                self.open.push(OpenLevel { container, is_batch: false, has_element: false });
                if self.is_query {
                    self.push(StatementPart::Text, "{");
                }
            }
            BsonPart::Open { name, container } => self.open(name, container),
            BsonPart::Close => {
                let closed = self.open.pop();
                let is_command = self.open.is_empty();
                if !is_command || self.is_query {
                    let end = if closed.is_some_and(|closed| closed.container == BsonContainer::Array) {
                        "]"
                    } else {
                        "}"
                    };
                    self.push(StatementPart::Text, end);
                }
            }
            BsonPart::Value { name, kind, value, extent } => self.value(name, kind, value, extent),
        }
    }

    fn open(&mut self, name: &[u8], container: BsonContainer) {
        let is_array = container == BsonContainer::Array;
        let name = text(name);
        if self.is_first() {
            self.begin(&name, None);
            self.has_field = true;
            self.push(StatementPart::Text, ": ");
        } else {
            let is_hidden = self.is_passed_over(&name);
            if is_hidden || is_secret(&name) {
                self.hidden = 1;
                if !is_hidden {
                    self.name_of(&name);
                    self.push(StatementPart::Text, SECRET);
                }
                return;
            }
            self.name_of(&name);
        }
        self.count();
        let is_batch = is_array && self.open.len() == 1 && BATCHES.contains(&&*name);
        if is_batch {
            self.batch.get_or_insert(0);
        }
        self.push(StatementPart::Text, if is_array { "[" } else { "{" });
        self.open.push(OpenLevel { container, is_batch, has_element: false });
    }

    fn value(&mut self, name: &[u8], kind: u8, value: &[u8], extent: BsonExtent) {
        let name = text(name);
        if self.is_first() {
            let collection = (kind == kind::STRING && OF_COLLECTION.contains(&&*name)).then(|| text(value));
            let has_value =
                collection.is_none() && !matches!(kind, kind::INT32 | kind::DOUBLE | kind::BOOLEAN);
            self.begin(&name, collection);
            if has_value && !self.is_secret {
                self.has_field = true;
                self.push(StatementPart::Text, ": ");
                self.push(StatementPart::Value, &value_text(kind, value, extent));
            }
            return;
        }
        if self.open.len() == 1 && kind == kind::STRING {
            match &*name {
                "$db" => self.database = Some(text(value)),
                "collection" => self.collection = self.collection.take().or_else(|| Some(text(value))),
                _ => {}
            }
        }
        self.count();
        if self.is_passed_over(&name) {
            return;
        }
        self.name_of(&name);
        if is_secret(&name) {
            return self.push(StatementPart::Text, SECRET);
        }
        self.push(StatementPart::Value, &value_text(kind, value, extent));
    }

    /// Whether the next element is the command's name.
    fn is_first(&self) -> bool {
        self.open.len() == 1 && self.name.is_none() && !self.is_sequence
    }

    fn is_passed_over(&self, name: &str) -> bool {
        self.open.len() == 1 && !self.is_sequence && PASSED_OVER.contains(&name)
    }

    fn begin(&mut self, name: &str, collection: Option<String>) {
        self.is_secret = SECRET_COMMANDS.iter().any(|secret| secret.eq_ignore_ascii_case(name));
        let shown = match &collection {
            Some(collection) => format!("{name} {collection}"),
            None => name.to_owned(),
        };
        (self.name, self.collection) = (Some(name.to_owned()), collection);
        self.statement = Statement::default();
        self.kept = shown.len();
        self.statement.push(StatementPart::Text, &shown);
        if self.is_secret {
            self.statement.push(StatementPart::Text, " ");
            self.statement.push(StatementPart::Text, SECRET);
        }
    }

    /// Counts a value of a list of what the command does.
    fn count(&mut self) {
        if self.open.last().is_some_and(|last| last.is_batch) {
            self.batch = self.batch.map(|batch| batch.saturating_add(1));
        }
    }

    /// Adds the name of an element, if it has one, and what is between it and the previous one.
    fn name_of(&mut self, name: &str) {
        self.separate();
        if !self.open.last().is_some_and(|last| last.container == BsonContainer::Array) {
            self.push(StatementPart::Text, &format!("{name}: "));
        }
    }

    /// Adds what is between an element and the previous one.
    fn separate(&mut self) {
        let is_command = !self.is_query && !self.is_sequence && self.open.len() == 1;
        let separator = match self.open.last_mut() {
            Some(_) if is_command => self.separator_of_command(),
            Some(last) => {
                if std::mem::replace(&mut last.has_element, true) {
                    ", "
                } else {
                    ""
                }
            }
            None => self.separator_of_command(),
        };
        self.push(StatementPart::Text, separator);
    }

    fn separator_of_command(&mut self) -> &'static str {
        if std::mem::replace(&mut self.has_field, true) { ", " } else { " " }
    }

    fn push(&mut self, part: StatementPart, text: &str) {
        if self.is_secret || self.kept > MAX_KEPT || text.is_empty() {
            return;
        }
        self.kept = self.kept.saturating_add(text.len());
        if self.kept > MAX_KEPT {
            return self.statement.push(StatementPart::Text, "…");
        }
        self.statement.push(part, text);
    }
}

fn is_secret(name: &str) -> bool {
    SECRET_NAMES.iter().any(|secret| secret.eq_ignore_ascii_case(name))
}

fn text(bytes: &[u8]) -> String {
    let bytes = bytes.get(..MAX_NAME).unwrap_or(bytes);
    String::from_utf8_lossy(bytes).into_owned()
}

/// A value as MongoDB's shell shows it.
fn value_text(kind: u8, value: &[u8], extent: BsonExtent) -> String {
    let number = || -> Option<i64> {
        match kind {
            kind::INT32 => Some(i32::from_le_bytes(value.try_into().ok()?).into()),
            _ => Some(i64::from_le_bytes(value.try_into().ok()?)),
        }
    };
    let shown = match kind {
        kind::STRING => Some(format!(
            "{:?}{}",
            String::from_utf8_lossy(value),
            if extent == BsonExtent::Cut { "…" } else { "" }
        )),
        kind::DOUBLE => value.try_into().ok().map(|bytes| f64::from_le_bytes(bytes).to_string()),
        kind::OBJECT_ID => {
            let number = value.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
            Some(format!("ObjectId({number:024x})"))
        }
        kind::BOOLEAN => Some(if value == [0] { "false" } else { "true" }.to_owned()),
        kind::NULL => Some("null".to_owned()),
        kind::INT32 | kind::INT64 => number().map(|number| number.to_string()),
        kind::DATE => number().map(|number| format!("Date({number})")),
        _ => None,
    };
    shown.unwrap_or_else(|| format!("BSON type {kind}"))
}
