//! Messages of PostgreSQL → exchanges.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::*;
use crate::event::{Field, FieldValue};
use crate::protocol::database::{
    AFFECTED_ROWS, BATCH, COLLECTION, COMMAND_TAGS, ERROR_TYPE, OPERATION, PREPARED, QUERY, RETURNED_ROWS,
    STATUS, STATUS_MESSAGE, SYSTEM, TRANSACTION,
};
use crate::protocol::{ALL, CallMark, Chunk, Conversation, MessageKind, Partial};

mod detection;
mod exchanges;
mod gaps;
mod recordings;

/// An event on a connection, as the client sees it.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Call(Direction, Vec<u8>),
    Gap(Direction, u64),
    /// Nothing happens for a second.
    Pause,
}

pub(super) fn up(messages: &[Vec<u8>]) -> Happening {
    Happening::Call(Direction::Transmit, messages.concat())
}

pub(super) fn down(messages: &[Vec<u8>]) -> Happening {
    Happening::Call(Direction::Receive, messages.concat())
}

pub(super) fn client() -> Hints {
    Hints { role: Some(Role::Client), from_start: true, ..Hints::default() }
}

pub(super) fn joined() -> Hints {
    Hints { from_start: false, ..client() }
}

/// A message with a tag.
pub(super) fn m(tag: char, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[u8::try_from(tag).unwrap()][..], &length, body].concat()
}

pub(super) fn q(text: &str) -> Vec<u8> {
    m('Q', format!("{text}\0"))
}

pub(super) fn parse(name: &str, text: &str) -> Vec<u8> {
    m('P', format!("{name}\0{text}\0\0\0"))
}

pub(super) fn bind(portal: &str, name: &str) -> Vec<u8> {
    m('B', format!("{portal}\0{name}\0\0\0\0\0\0\0"))
}

pub(super) fn execute(portal: &str) -> Vec<u8> {
    m('E', format!("{portal}\0\0\0\0\0"))
}

pub(super) fn sync() -> Vec<u8> {
    m('S', "")
}

pub(super) fn done(tag: &str) -> Vec<u8> {
    m('C', format!("{tag}\0"))
}

pub(super) fn ready(state: char) -> Vec<u8> {
    m('Z', state.to_string())
}

pub(super) fn error(code: &str, message: &str) -> Vec<u8> {
    m('E', format!("SFEHLER\0VERROR\0C{code}\0M{message}\0\0"))
}

/// The first messages of a connection.
pub(super) fn startup() -> [Happening; 2] {
    let body = b"\0\x03\0\0user\0u\0database\0shop\0\0";
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    let answer = [m('R', [0; 4]), m('S', "a\0b\0"), m('K', [0; 8]), ready('I')];
    [up(&[[&length[..], body].concat()]), down(&answer)]
}

fn text(message: &Message, field: &Field) -> Option<String> {
    Some(match message.field(field)? {
        FieldValue::Text(text) => text.clone(),
        FieldValue::Number(number) => number.to_string(),
        FieldValue::List(list) => list.join(", "),
        FieldValue::Statement(statement) => statement.without_values(),
        FieldValue::Headers(_) | FieldValue::Unknown => "?".to_owned(),
    })
}

/// A message in one line: its kind and id, its fields, its length, and what it lacks.
pub(super) fn shown(message: &Message) -> String {
    let id = message.id.map_or("?".to_owned(), |id| id.to_string());
    let kind = match message.kind {
        MessageKind::Request => '>',
        MessageKind::Response => '<',
        MessageKind::Event => '!',
    };
    let mut words = vec![format!("{kind}{id}")];
    if message.kind == MessageKind::Request {
        assert_eq!(text(message, &SYSTEM).as_deref(), Some("postgresql"));
    }
    for (name, field) in [
        ("", &OPERATION),
        ("on ", &COLLECTION),
        ("name=", &PREPARED),
        ("batch=", &BATCH),
        ("rows=", &RETURNED_ROWS),
        ("affected=", &AFFECTED_ROWS),
        ("", &STATUS),
        ("tags=", &COMMAND_TAGS),
        ("", &TRANSACTION),
    ] {
        words.extend(text(message, field).map(|text| format!("{name}{text}")));
    }
    if text(message, &ERROR_TYPE) != text(message, &STATUS) {
        words.extend(text(message, &ERROR_TYPE));
    }
    words.extend(
        [&QUERY, &STATUS_MESSAGE]
            .into_iter()
            .filter_map(|field| Some(format!("`{}`", text(message, field)?))),
    );
    words.push(message.length.to_string());
    let Partial { missing, lacks_end, .. } = message.partial;
    if missing > 0 {
        words.push(format!("-{missing}"));
    }
    if lacks_end {
        words.push("$".to_owned());
    }
    if message.is_one_way {
        words.push("one way".to_owned());
    }
    words.join(" ")
}

pub(super) fn start_time() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

/// Decodes events, each a millisecond after the previous one.
pub(super) fn run(
    mut conversation: Conversation,
    events: &[Happening],
    split: usize,
) -> (Vec<Message>, Conversation) {
    let mut out = Messages::new(1000);
    let mut offsets = [0_u64; 2];
    let mut time = start_time();
    for (call, event) in (1..).zip(events) {
        time += std::time::Duration::from_millis(1);
        match event {
            Happening::Call(direction, data) => {
                let offset = &mut offsets[usize::from(*direction == Direction::Receive)];
                for (index, data) in data.chunks(split).enumerate() {
                    let mark = CallMark { offset: *offset, call, time, starts_call: index == 0 };
                    conversation.data(*direction, &Chunk { offset: *offset, data, mark }, &mut out);
                    *offset += data.len() as u64;
                }
            }
            Happening::Pause => time += std::time::Duration::from_secs(1),
            Happening::Gap(direction, length) => {
                let offset = &mut offsets[usize::from(*direction == Direction::Receive)];
                let gap = Gap { offset: *offset, length: *length, cause: GapCause::Lost };
                conversation.gap(*direction, gap, &mut out);
                *offset += length;
            }
        }
    }
    conversation.end(&mut out);
    (out.drain().collect(), conversation)
}

pub(super) fn conversation(hints: &Hints) -> Conversation {
    if hints.from_start {
        Conversation::new(ALL, hints.clone())
    } else {
        Conversation::of(&POSTGRESQL, hints.clone())
    }
}

/// The same messages come out however the bytes are cut.
#[track_caller]
pub(super) fn words(hints: &Hints, events: &[Happening]) -> Vec<String> {
    let of = |split| run(conversation(hints), events, split).0.iter().map(shown).collect::<Vec<_>>();
    let whole = of(usize::MAX);
    for split in [1, 2, 3, 5, 7, 64, 1000] {
        assert_eq!(of(split), whole, "cut after each {split}");
    }
    whole
}

/// Checks what becomes of the messages after the startup.
#[track_caller]
pub(super) fn check(events: &[Happening], expected: &[&str]) {
    let events = [&startup()[..], events].concat();
    let words = words(&client(), &events);
    assert_eq!(words[..2], [">1 CONNECT 30", "<1 idle 37"]);
    assert_eq!(words[2..], *expected);
}
