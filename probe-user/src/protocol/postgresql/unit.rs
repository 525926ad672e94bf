//! Units: what makes one exchange, and the messages of the client that the server answers one by one.

use std::sync::Arc;

use jiff::Timestamp;

use super::NAME;
use super::names::{ExecutedStatement, NameEffect, Prepared, SqlEffect};
use super::reply::ServerReply;
use super::wire::Sender;
use crate::event::{Direction, FieldValue, Statement};
use crate::protocol::database::{BATCH, NAMESPACE, OPERATION, PREPARED, QUERY, SYSTEM};
use crate::protocol::{Message, MessageKind, Messages};

/// What the server answers with messages of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Connect,
    Encryption,
    Query,
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    Sync,
    Function,
    /// The end of what is copied to the server. It is not answered.
    CopyEnd,
    /// What the server discards after an error. It is not answered.
    Discarded,
}

/// A message of the client that waits for its answer.
#[derive(Debug)]
pub(super) struct AwaitedAnswer {
    pub(super) asked: Asked,
    pub(super) unit: Option<u64>,
    pub(super) effect: NameEffect,
}

impl AwaitedAnswer {
    pub(super) fn size(&self) -> usize {
        let prepared = |prepared: &Option<Arc<Prepared>>| prepared.as_ref().map_or(0, |it| it.size());
        let effect = match &self.effect {
            NameEffect::Statement(name, of) => name.len() + prepared(of),
            NameEffect::Portal(name, target) => name.len() + prepared(&target.prepared),
            NameEffect::Sql(SqlEffect::Prepare(name, prepared)) => name.len() + prepared.size(),
            _ => 0,
        };
        size_of::<Self>() + effect
    }
}

/// What a unit has asked for so far. The last of these names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum UnitKind {
    Close,
    Describe,
    Bind,
    Prepare,
    Execute,
    Query,
    Function,
    Connect,
    Cancel,
}

impl UnitKind {
    fn operation(self) -> &'static str {
        match self {
            Self::Close => "CLOSE",
            Self::Describe => "DESCRIBE",
            Self::Bind => "BIND",
            Self::Prepare => "PREPARE",
            Self::Execute => "EXECUTE",
            Self::Query => "",
            Self::Function => "FUNCTION",
            Self::Connect => "CONNECT",
            Self::Cancel => "CANCEL",
        }
    }
}

/// Why an exchange is added before it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// It is complete.
    Nothing,
    /// The connection has ended.
    End,
    /// It is not known which response belongs to it.
    Unpaired,
}

/// What is known of the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnitContext<'a> {
    pub(super) namespace: Option<&'a str>,
}

/// The messages of an exchange.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) number: u64,
    pub(super) kind: UnitKind,
    pub(super) request: Message,
    pub(super) response: Option<Message>,
    pub(super) reply: ServerReply,
    /// How many of its messages wait for their answers.
    pub(super) outstanding: usize,
    /// Whether no more messages of the client belong to it.
    pub(super) is_closed: bool,
    /// Whether the server answers in order, so that the response is certain to belong to it.
    pub(super) is_paired: bool,
    /// What it executes or prepares.
    pub(super) target: ExecutedStatement,
    /// The statements of its query, if not one.
    pub(super) statements: Option<u64>,
    /// The name of the statement that it prepares.
    pub(super) parses: Option<String>,
}

impl Unit {
    pub(super) fn new(number: u64, kind: UnitKind, from: Direction, first: Timestamp) -> Self {
        Self {
            number,
            kind,
            request: Message::new(NAME, MessageKind::Request, from, first),
            response: None,
            reply: ServerReply::default(),
            outstanding: 0,
            is_closed: false,
            is_paired: true,
            target: ExecutedStatement::default(),
            statements: None,
            parses: None,
        }
    }

    /// Adds bytes of the request.
    pub(super) fn add_request(&mut self, bytes: usize, last: Timestamp) {
        self.request.length = self.request.length.saturating_add(bytes as u64);
        self.request.last = last;
    }

    /// Adds bytes of the response.
    pub(super) fn add_response(&mut self, bytes: usize, (first, last): (Timestamp, Timestamp)) {
        let direction = self.request.direction.other();
        let response =
            self.response.get_or_insert_with(|| Message::new(NAME, MessageKind::Response, direction, first));
        response.length = response.length.saturating_add(bytes as u64);
        response.last = last;
    }

    pub(super) fn add_gap(&mut self, sender: Sender, missing: u64) {
        let message = match sender {
            Sender::Client => Some(&mut self.request),
            Sender::Server => self.response.as_mut(),
        };
        if let Some(message) = message {
            message.length = message.length.saturating_add(missing);
            message.partial.missing = message.partial.missing.saturating_add(missing);
        }
    }

    pub(super) fn size(&self) -> usize {
        let prepared = self.target.prepared.as_ref().map_or(0, |prepared| prepared.size());
        size_of::<Self>() + prepared + self.reply.size() + self.target.name.as_ref().map_or(0, String::len)
    }

    /// Handles that the server has discarded it because of an error at this time.
    pub(super) fn skip(&mut self, time: Timestamp) {
        self.reply.is_skipped = true;
        self.add_response(0, (time, time));
    }

    /// Adds its messages.
    pub(super) fn emit(mut self, connection: &UnitContext<'_>, cut: Cut, out: &mut Messages) {
        let id = (self.is_paired && cut != Cut::Unpaired).then_some(self.number);
        self.request.id = id;
        self.request.is_one_way = self.kind == UnitKind::Cancel;
        self.push_fields(connection);
        if cut == Cut::End && !self.is_closed && self.kind < UnitKind::Execute {
            self.request.partial.lacks_end = true;
        }
        let is_answered = self.outstanding == 0 && (self.is_closed || self.kind >= UnitKind::Execute);
        out.push(self.request);
        if let Some(mut response) = self.response {
            response.id = id;
            let cut = if is_answered || self.reply.is_skipped { Cut::Nothing } else { cut };
            self.reply.finish(response, cut, out);
        }
    }

    fn push_fields(&mut self, connection: &UnitContext<'_>) {
        let fields = &mut self.request.fields;
        fields.push((&SYSTEM, FieldValue::Text(NAME.to_owned())));
        let namespace = connection.namespace.map(|name| FieldValue::Text(name.to_owned()));
        fields.extend(namespace.map(|name| (&NAMESPACE, name)));
        let prepared = self.target.prepared.take();
        let of_statement = prepared.as_ref().and_then(|prepared| prepared.operation.clone());
        let operation = match self.kind {
            UnitKind::Execute => of_statement.or_else(|| Some(self.kind.operation().to_owned())),
            UnitKind::Query => of_statement,
            _ => Some(self.kind.operation().to_owned()),
        };
        fields.extend(operation.map(|operation| (&OPERATION, FieldValue::Text(operation))));
        let statement: Option<Statement> = prepared.map(|prepared| prepared.statement.clone());
        fields.extend(statement.map(|statement| (&QUERY, FieldValue::Statement(statement))));
        let name = self.target.name.take().filter(|name| !name.is_empty());
        fields.extend(name.map(|name| (&PREPARED, FieldValue::Text(name))));
        let batch = self.statements.filter(|number| *number > 1);
        fields.extend(batch.map(|number| (&BATCH, FieldValue::Number(number))));
    }
}
