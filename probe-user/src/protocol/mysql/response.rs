//! What a response consists of, packet by packet.

use super::exchange::MySqlCommand;
use super::packet::{self, Capabilities, EOF_LENGTH, FULL};
use crate::event::{FieldValue, Statement};
use crate::protocol::database::{
    AFFECTED_ROWS, COMPRESSION, ERROR_TYPE, RETURNED_ROWS, SQLSTATE, STATUS, STATUS_MESSAGE, TRANSACTION,
    error_text,
};
use crate::protocol::{Message, Messages};

/// States of the server that its packets have.
const IN_TRANSACTION: u16 = 1;
const MORE_RESULTS: u16 = 8;
const CURSOR_EXISTS: u16 = 0x40;
const NO_BACKSLASH_ESCAPES: u16 = 0x200;
/// The number of an error that is none, but says how far MariaDB has come.
const PROGRESS: u16 = 0xffff;
/// The most columns that a result can have.
const MAX_COLUMNS: u64 = 65_535;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseState {
    /// The first packet of a result.
    First,
    /// The descriptions of so many columns.
    Columns(u64),
    /// Rows, or the end of the columns.
    AfterColumns,
    Rows,
    /// The client sends a file.
    File,
    /// The descriptions of parameters and of columns.
    Prepared {
        parameters: u16,
        columns: u16,
    },
    /// The ends of both.
    PreparedEnd {
        columns: u16,
    },
    /// Both ends authenticate.
    Authentication,
    /// Packets until one says that it is the last one.
    Stream,
    /// One packet of any content.
    Any,
    Done,
}

impl ResponseState {
    pub(super) fn of(command: MySqlCommand) -> Self {
        match command {
            MySqlCommand::Connect | MySqlCommand::CHANGE_USER => Self::Authentication,
            MySqlCommand::FETCH => Self::Rows,
            MySqlCommand::STATISTICS => Self::Any,
            MySqlCommand::FIELD_LIST
            | MySqlCommand::BINLOG_DUMP
            | MySqlCommand::BINLOG_DUMP_GTID
            | MySqlCommand::TABLE_DUMP => Self::Stream,
            _ if command.is_one_way() => Self::Done,
            MySqlCommand::Numbered(_) => Self::First,
        }
    }
}

/// A packet of a response, of which the first bytes are there.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponsePacket<'a> {
    pub(super) length: usize,
    pub(super) payload: &'a [u8],
}

/// What is known of the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownResponse {
    pub(super) capabilities: Option<Capabilities>,
    pub(super) deprecates_eof: Option<bool>,
}

impl KnownResponse {
    fn has(self, capability: u64) -> bool {
        self.capabilities.is_some_and(|capabilities| capabilities.has(capability))
    }
}

/// An error of a server.
#[derive(Clone, Debug)]
struct ServerError {
    code: u16,
    state: Option<String>,
    message: Statement,
}

/// What the packets of a response say.
#[derive(Clone, Debug, Default)]
pub(super) struct CommandReply {
    rows: Option<u64>,
    affected: Option<u64>,
    error: Option<ServerError>,
    /// What the last packet said of the server.
    status: Option<u16>,
    pub(super) statement: Option<u32>,
    /// What the packets show of [`KnownResponse::deprecates_eof`].
    pub(super) deprecates_eof: Option<bool>,
    /// Whether the end of what was described may follow.
    pub(super) may_lack_end: bool,
    pub(super) compression: Option<&'static str>,
}

impl CommandReply {
    pub(super) fn has_error(&self) -> bool {
        self.error.is_some()
    }

    /// Whether a backslash in a literal is text from now on, if that is known.
    pub(super) fn has_no_escapes(&self) -> Option<bool> {
        self.status.map(|status| status & NO_BACKSLASH_ESCAPES != 0)
    }

    /// Handles a packet. Returns what comes next, or none if the packet is not possible here.
    pub(super) fn packet(
        &mut self,
        state: ResponseState,
        command: MySqlCommand,
        packet: ResponsePacket<'_>,
        known: KnownResponse,
    ) -> Option<ResponseState> {
        use ResponseState::{
            AfterColumns, Any, Authentication, Columns, Done, File, First, Prepared, PreparedEnd, Rows,
            Stream,
        };
        let first = packet.payload.first().copied();
        if first == Some(0xff) && !matches!(state, Any | Columns(_)) {
            return self.error(packet.payload, state);
        }
        let is_end = first == Some(0xfe) && packet.length == EOF_LENGTH;
        match state {
            First => self.first(command, packet, known),
            Columns(left) if first.is_some() => Some(if left > 1 { Columns(left - 1) } else { AfterColumns }),
            AfterColumns if is_end => {
                self.deprecates_eof = Some(false);
                let status = packet::u16_at(packet.payload, 3)?;
                self.status = Some(status);
                Some(if command.executes() && status & CURSOR_EXISTS != 0 { Done } else { Rows })
            }
            AfterColumns => {
                self.deprecates_eof = Some(true);
                self.row(packet)
            }
            Rows => self.row(packet),
            File | Authentication => match first {
                Some(0) => self.ok(packet.payload),
                Some(0xfe | 1) if state == Authentication => Some(Authentication),
                _ => None,
            },
            Prepared { parameters, columns } => self.description(parameters, columns, known),
            PreparedEnd { columns } if is_end => {
                self.deprecates_eof = Some(false);
                Some(if columns > 0 { Prepared { parameters: 0, columns } } else { Done })
            }
            PreparedEnd { columns: columns @ 1.. } => {
                self.deprecates_eof = Some(true);
                self.description(0, columns, KnownResponse { deprecates_eof: Some(true), ..known })
            }
            Stream => Some(if first == Some(0xfe) && packet.length < 9 { Done } else { Stream }),
            Any => Some(Done),
            PreparedEnd { .. } | Columns(_) | Done => None,
        }
    }

    fn first(
        &mut self,
        command: MySqlCommand,
        packet: ResponsePacket<'_>,
        known: KnownResponse,
    ) -> Option<ResponseState> {
        let (&first, rest) = packet.payload.split_first()?;
        let has_results =
            command.executes() || matches!(command, MySqlCommand::QUERY | MySqlCommand::PROCESS_INFO);
        match first {
            0 if command == MySqlCommand::PREPARE => self.prepared(packet, known),
            0 if !(has_results && known.has(Capabilities::OPTIONAL_METADATA) && packet.length < 7) => {
                self.ok(packet.payload)
            }
            0xfb if command == MySqlCommand::QUERY => Some(ResponseState::File),
            0xfe if !has_results && packet.length == EOF_LENGTH => {
                self.status = packet::u16_at(packet.payload, 3);
                Some(ResponseState::Done)
            }
            0xfe if !has_results => self.ok(packet.payload),
            _ if !has_results => None,
            _ => {
                let optional = known.has(Capabilities::OPTIONAL_METADATA);
                let (count, rest) = packet::number(if optional { rest } else { packet.payload })?;
                let described = match (optional, known.has(Capabilities::CACHE_METADATA), rest) {
                    (true, _, []) => first == 1,
                    (false, true, [flag]) => *flag == 1,
                    (false, _, []) => true,
                    _ => return None,
                };
                if count == 0 || count > MAX_COLUMNS {
                    return None;
                }
                self.rows.get_or_insert(0);
                Some(if described { ResponseState::Columns(count) } else { ResponseState::AfterColumns })
            }
        }
    }

    fn prepared(&mut self, packet: ResponsePacket<'_>, known: KnownResponse) -> Option<ResponseState> {
        self.statement = packet::u32_at(packet.payload, 1);
        let (columns, parameters) = (packet::u16_at(packet.payload, 5)?, packet::u16_at(packet.payload, 7)?);
        if known.has(Capabilities::OPTIONAL_METADATA) && packet.payload.get(12) == Some(&0) {
            return Some(ResponseState::Done);
        }
        Some(match (parameters, columns) {
            (0, 0) => ResponseState::Done,
            _ => ResponseState::Prepared { parameters, columns },
        })
    }

    /// Handles the description of a parameter or of a column of a prepared statement.
    fn description(&mut self, parameters: u16, columns: u16, known: KnownResponse) -> Option<ResponseState> {
        let (parameters, columns, is_last) = match parameters {
            0 => (0, columns.checked_sub(1)?, columns == 1),
            _ => (parameters - 1, columns, parameters == 1),
        };
        Some(match self.deprecates_eof.or(known.deprecates_eof) {
            _ if !is_last => ResponseState::Prepared { parameters, columns },
            Some(true) if columns == 0 => ResponseState::Done,
            Some(true) => ResponseState::Prepared { parameters, columns },
            _ => ResponseState::PreparedEnd { columns },
        })
    }

    fn row(&mut self, packet: ResponsePacket<'_>) -> Option<ResponseState> {
        match packet.payload.first() {
            Some(0xfe) if packet.length == EOF_LENGTH => {
                let status = packet::u16_at(packet.payload, 3)?;
                Some(self.end_result(status))
            }
            Some(0xfe) if packet.length < FULL => {
                let affected = self.affected;
                let next = self.ok(packet.payload);
                self.affected = affected;
                next
            }
            _ => {
                self.rows = Some(self.rows.unwrap_or(0).saturating_add(1));
                Some(ResponseState::Rows)
            }
        }
    }

    fn end_result(&mut self, status: u16) -> ResponseState {
        self.status = Some(status);
        if status & MORE_RESULTS != 0 { ResponseState::First } else { ResponseState::Done }
    }

    /// What was done: the changed rows, and the state of the server.
    fn ok(&mut self, payload: &[u8]) -> Option<ResponseState> {
        let (affected, rest) = packet::number(payload.get(1..)?)?;
        let (_, rest) = packet::number(rest)?;
        let status = packet::u16_at(rest, 0)?;
        self.affected = Some(self.affected.unwrap_or(0).saturating_add(affected));
        Some(self.end_result(status))
    }

    fn error(&mut self, payload: &[u8], state: ResponseState) -> Option<ResponseState> {
        let code = packet::u16_at(payload, 1)?;
        if code == PROGRESS {
            return Some(state);
        }
        let rest = payload.get(3..)?;
        let (sqlstate, text) = match rest {
            [b'#', rest @ ..] => rest.split_at_checked(5).map(|(state, text)| (Some(state), text))?,
            _ => (None, rest),
        };
        let sqlstate = sqlstate.map(|state| String::from_utf8_lossy(state).into_owned());
        self.error = Some(ServerError { code, state: sqlstate, message: error_text::read(text) });
        Some(ResponseState::Done)
    }

    /// Adds the response. `operation` is the first word of the statement that it answers.
    pub(super) fn finish(self, mut message: Message, operation: Option<&str>, out: &mut Messages) {
        let changes_rows = operation.is_some_and(super::exchange::changes_rows);
        message.partial.may_lack |= self.may_lack_end;
        let fields = &mut message.fields;
        fields.extend(self.rows.map(|rows| (&RETURNED_ROWS, FieldValue::Number(rows))));
        let affected = self.affected.filter(|rows| *rows > 0 || (changes_rows && self.rows.is_none()));
        fields.extend(affected.map(|rows| (&AFFECTED_ROWS, FieldValue::Number(rows))));
        fields.extend(self.compression.map(|name| (&COMPRESSION, FieldValue::Text(name.to_owned()))));
        if let Some(status) = self.status.filter(|_| self.error.is_none()) {
            let state = if status & IN_TRANSACTION != 0 { "in_transaction" } else { "idle" };
            fields.push((&TRANSACTION, FieldValue::Text(state.to_owned())));
        }
        if let Some(error) = self.error {
            let code = error.code.to_string();
            fields.push((&STATUS, FieldValue::Text(code.clone())));
            fields.extend(error.state.map(|state| (&SQLSTATE, FieldValue::Text(state))));
            fields.push((&STATUS_MESSAGE, FieldValue::Statement(error.message)));
            fields.push((&ERROR_TYPE, FieldValue::Text(code)));
        }
        out.push(message);
    }
}
