//! A command with its response.

use std::sync::Arc;

use jiff::Timestamp;

use super::NAME;
use super::response::{CommandReply, ResponseState};
use crate::event::{Direction, FieldValue, Statement};
use crate::protocol::database::{BATCH, NAMESPACE, OPERATION, PREPARED, QUERY, SYSTEM};
use crate::protocol::{Message, MessageKind, Messages};

/// What a client asks for, by the numbers of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MySqlCommand {
    /// The beginning of a connection.
    Connect,
    Numbered(u8),
}

impl MySqlCommand {
    pub(super) const QUIT: Self = Self::Numbered(0x01);
    pub(super) const INIT_DB: Self = Self::Numbered(0x02);
    pub(super) const QUERY: Self = Self::Numbered(0x03);
    pub(super) const FIELD_LIST: Self = Self::Numbered(0x04);
    pub(super) const STATISTICS: Self = Self::Numbered(0x09);
    pub(super) const PROCESS_INFO: Self = Self::Numbered(0x0a);
    pub(super) const CHANGE_USER: Self = Self::Numbered(0x11);
    pub(super) const BINLOG_DUMP: Self = Self::Numbered(0x12);
    pub(super) const TABLE_DUMP: Self = Self::Numbered(0x13);
    pub(super) const PREPARE: Self = Self::Numbered(0x16);
    pub(super) const EXECUTE: Self = Self::Numbered(0x17);
    pub(super) const SEND_LONG_DATA: Self = Self::Numbered(0x18);
    pub(super) const CLOSE: Self = Self::Numbered(0x19);
    pub(super) const RESET: Self = Self::Numbered(0x1a);
    pub(super) const FETCH: Self = Self::Numbered(0x1c);
    pub(super) const BINLOG_DUMP_GTID: Self = Self::Numbered(0x1e);
    pub(super) const BULK_EXECUTE: Self = Self::Numbered(0xfa);

    /// The name of the command. None if it is not known how it is answered.
    pub(super) fn name(self) -> Option<&'static str> {
        let Self::Numbered(number) = self else { return Some("CONNECT") };
        Some(match number {
            0x01 => "QUIT",
            0x02 => "USE",
            0x03 => "QUERY",
            0x04 => "FIELD_LIST",
            0x05 => "CREATE_DB",
            0x06 => "DROP_DB",
            0x07 => "REFRESH",
            0x08 => "SHUTDOWN",
            0x09 => "STATISTICS",
            0x0a => "PROCESS_INFO",
            0x0c => "PROCESS_KILL",
            0x0d => "DEBUG",
            0x0e => "PING",
            0x11 => "CHANGE_USER",
            0x12 => "BINLOG_DUMP",
            0x13 => "TABLE_DUMP",
            0x15 => "REGISTER_REPLICA",
            0x16 => "PREPARE",
            0x17 | 0xfa => "EXECUTE",
            0x18 => "SEND_LONG_DATA",
            0x19 => "CLOSE",
            0x1a => "RESET",
            0x1b => "SET_OPTION",
            0x1c => "FETCH",
            0x1e => "BINLOG_DUMP_GTID",
            0x1f => "RESET_CONNECTION",
            _ => return None,
        })
    }

    pub(super) fn is_one_way(self) -> bool {
        matches!(self, Self::QUIT | Self::CLOSE | Self::SEND_LONG_DATA)
    }

    pub(super) fn executes(self) -> bool {
        matches!(self, Self::EXECUTE | Self::BULK_EXECUTE)
    }
}

/// A statement that a command executes or prepares.
#[derive(Clone, Debug)]
pub(super) struct PreparedText {
    pub(super) statement: Statement,
    pub(super) operation: Option<String>,
    pub(super) statements: Option<u64>,
}

impl PreparedText {
    pub(super) fn size(&self) -> usize {
        self.statement.size() + size_of::<Self>()
    }
}

/// Why an exchange is added before it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExchangeCut {
    /// It is complete.
    Nothing,
    /// The connection has ended.
    End,
    /// It is not known which response belongs to it.
    Unpaired,
}

/// What changes if a command succeeds.
#[derive(Clone, Debug, Default)]
pub(super) enum NamespaceEffect {
    #[default]
    None,
    /// Another database is used. None if it is not known which one.
    Use(Option<String>),
}

/// An exchange that is not complete.
#[derive(Clone, Debug)]
pub(super) struct OpenExchange {
    pub(super) number: u64,
    pub(super) command: MySqlCommand,
    pub(super) request: Message,
    pub(super) response: Option<Message>,
    pub(super) state: ResponseState,
    pub(super) reply: CommandReply,
    /// The sequence number of the next packet of the response.
    pub(super) sequence: u8,
    pub(super) is_paired: bool,
    pub(super) prepared: Option<Arc<PreparedText>>,
    /// The number of the statement that is executed.
    pub(super) statement: Option<u32>,
    pub(super) effect: NamespaceEffect,
}

impl OpenExchange {
    pub(super) fn new(number: u64, command: MySqlCommand, from: Direction, first: Timestamp) -> Self {
        Self {
            number,
            command,
            request: Message::new(NAME, MessageKind::Request, from, first),
            response: None,
            state: ResponseState::of(command),
            reply: CommandReply::default(),
            sequence: 1,
            is_paired: true,
            prepared: None,
            statement: None,
            effect: NamespaceEffect::None,
        }
    }

    pub(super) fn is_answered(&self) -> bool {
        self.state == ResponseState::Done
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

    /// The message of one of its directions.
    pub(super) fn message_mut(&mut self, direction: Direction) -> Option<&mut Message> {
        if direction == self.request.direction { Some(&mut self.request) } else { self.response.as_mut() }
    }

    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.prepared.as_ref().map_or(0, |prepared| prepared.size())
    }

    /// Adds what requests have in common.
    pub(super) fn describe(&mut self, system: Option<&'static str>, namespace: Option<&str>) {
        let fields = &mut self.request.fields;
        fields.extend(system.map(|system| (&SYSTEM, FieldValue::Text(system.to_owned()))));
        fields.extend(namespace.map(|name| (&NAMESPACE, FieldValue::Text(name.to_owned()))));
    }

    /// Adds its messages.
    pub(super) fn emit(mut self, cut: ExchangeCut, out: &mut Messages) {
        let id = (self.is_paired && cut != ExchangeCut::Unpaired).then_some(self.number);
        self.request.id = id;
        self.request.is_one_way = self.command.is_one_way();
        let of_statement = self.prepared.as_ref().and_then(|prepared| prepared.operation.clone());
        let named = self.command.name().map(str::to_owned);
        let operation = match self.command {
            MySqlCommand::QUERY => of_statement,
            command if command.executes() => of_statement.or(named),
            _ => named,
        };
        let fields = &mut self.request.fields;
        fields.extend(operation.clone().map(|operation| (&OPERATION, FieldValue::Text(operation))));
        if let Some(prepared) = &self.prepared {
            fields.push((&QUERY, FieldValue::Statement(prepared.statement.clone())));
            let batch =
                prepared.statements.filter(|number| *number > 1 && self.command == MySqlCommand::QUERY);
            fields.extend(batch.map(|number| (&BATCH, FieldValue::Number(number))));
        }
        fields.extend(self.statement.map(|id| (&PREPARED, FieldValue::Text(id.to_string()))));
        out.push(self.request);
        if let Some(mut response) = self.response {
            response.id = id;
            response.partial.lacks_end |= self.state != ResponseState::Done;
            self.reply.finish(response, operation.as_deref(), out);
        }
    }
}

/// Whether the number of changed rows says something, even if it is 0.
pub(super) fn changes_rows(operation: &str) -> bool {
    matches!(operation, "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "WITH")
}
