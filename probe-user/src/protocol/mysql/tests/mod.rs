//! Packets of MySQL → exchanges.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::event::{Field, FieldValue};
use crate::protocol::database::{
    AFFECTED_ROWS, BATCH, COMPRESSION, NAMESPACE, OPERATION, PREPARED, QUERY, RETURNED_ROWS, SQLSTATE,
    STATUS, STATUS_MESSAGE, TRANSACTION,
};
use crate::protocol::{ALL, CallMark, Chunk, Conversation, Message, MessageKind, Partial};

mod gaps;
mod recordings;

/// An event on a connection, as the client sees it.
#[derive(Clone, Debug)]
enum Event {
    Call(Direction, Vec<u8>),
    Gap(Direction, u64),
    /// Nothing happens for a second.
    Pause,
}

fn client() -> Hints {
    Hints { role: Some(Role::Client), from_start: true, ..Hints::default() }
}

fn joined() -> Hints {
    Hints { from_start: false, ..client() }
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
fn shown(message: &Message) -> String {
    let id = message.id.map_or("?".to_owned(), |id| id.to_string());
    let kind = match message.kind {
        MessageKind::Request => '>',
        MessageKind::Response => '<',
        MessageKind::Event => '!',
    };
    let mut words = vec![format!("{kind}{id}")];
    for (name, field) in [
        ("", &SYSTEM),
        ("in ", &NAMESPACE),
        ("", &OPERATION),
        ("name=", &PREPARED),
        ("batch=", &BATCH),
        ("rows=", &RETURNED_ROWS),
        ("affected=", &AFFECTED_ROWS),
        ("", &COMPRESSION),
        ("", &STATUS),
        ("", &SQLSTATE),
        ("", &TRANSACTION),
    ] {
        words.extend(text(message, field).map(|text| format!("{name}{text}")));
    }
    let quoted = [&QUERY, &STATUS_MESSAGE];
    words.extend(quoted.into_iter().filter_map(|field| Some(format!("`{}`", text(message, field)?))));
    words.push(message.length.to_string());
    let Partial { missing, lacks_end, may_lack, .. } = message.partial;
    let marks = [(missing > 0, "gap"), (lacks_end, "$"), (may_lack, "~"), (message.is_one_way, "one way")];
    words.extend(marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark.to_owned()));
    words.join(" ")
}

fn start_time() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

/// Decodes events, each a millisecond after the previous one.
fn run(mut conversation: Conversation, events: &[Event], split: usize) -> (Vec<Message>, Conversation) {
    let mut out = Messages::new(1000);
    let mut offsets = [0_u64; 2];
    let mut time = start_time();
    for (call, event) in (1..).zip(events) {
        time += Duration::from_millis(1);
        match event {
            Event::Call(direction, data) => {
                let offset = &mut offsets[usize::from(*direction == Direction::Receive)];
                for (index, data) in data.chunks(split).enumerate() {
                    let mark = CallMark { offset: *offset, call, time, starts_call: index == 0 };
                    conversation.data(*direction, &Chunk { offset: *offset, data, mark }, &mut out);
                    *offset += data.len() as u64;
                }
            }
            Event::Gap(direction, length) => {
                let offset = &mut offsets[usize::from(*direction == Direction::Receive)];
                let gap = Gap { offset: *offset, length: *length, cause: GapCause::Lost };
                conversation.gap(*direction, gap, &mut out);
                *offset += length;
            }
            Event::Pause => time += Duration::from_secs(1),
        }
    }
    conversation.end(&mut out);
    (out.drain().collect(), conversation)
}

/// The same messages come out however the bytes are cut.
#[track_caller]
fn words(hints: &Hints, events: &[Event]) -> Vec<String> {
    let of = |split| {
        let conversation = Conversation::new(ALL, hints.clone());
        run(conversation, events, split).0.iter().map(shown).collect::<Vec<_>>()
    };
    let whole = of(usize::MAX);
    for split in [1, 2, 3, 5, 7, 64, 1000] {
        assert_eq!(of(split), whole, "cut after each {split}");
    }
    whole
}
