//! Frames → messages of HTTP/2.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::fmt::Write;

use jiff::Timestamp;

use super::*;
use crate::event::{FieldValue, HeaderField};
use crate::protocol::{CallMark, Chunk, Conversation, GapCause, Message, MessageKind, Partial};

mod calls;
mod detection;
mod gaps;
mod limits;
mod oracle;
mod table;
mod tunnels;

/// What happens on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    /// A call that transfers bytes.
    Call(Direction, Vec<u8>),
    /// Bytes are missing.
    Gap(Direction, u64),
    /// The bytes of a call after such a gap.
    Rest(Direction, Vec<u8>),
}

const UP: Direction = Direction::Transmit;
const DOWN: Direction = Direction::Receive;

fn up(frames: &[Vec<u8>]) -> Event {
    Event::Call(UP, frames.concat())
}

fn down(frames: &[Vec<u8>]) -> Event {
    Event::Call(DOWN, frames.concat())
}

/// The hints about a client's connection that is traced from its first byte.
fn client() -> Hints {
    Hints { role: Some(Role::Client), alpn: Some("h2".to_owned()), from_start: true, ..Hints::default() }
}

/// The hints about a client's connection that is joined in the middle.
fn joined() -> Hints {
    Hints { role: Some(Role::Client), ..Hints::default() }
}

/// Decodes events, of which the bytes are split into pieces of some size. The time of each call is its
/// number.
fn run(hints: &Hints, events: &[Event], split: usize) -> (Vec<Message>, Conversation) {
    let mut conversation = Conversation::new(crate::protocol::ALL, hints.clone());
    let mut out = Messages::new(1000);
    let mut offsets = [0_u64; 2];
    let mut messages = Vec::new();
    for (call, event) in (1..).zip(events) {
        let direction = match event {
            Event::Call(direction, _) | Event::Gap(direction, _) | Event::Rest(direction, _) => *direction,
        };
        let offset = &mut offsets[usize::from(direction == DOWN)];
        match event {
            Event::Call(_, bytes) | Event::Rest(_, bytes) => {
                for (index, data) in bytes.chunks(split).enumerate() {
                    let time = Timestamp::from_second(call).unwrap();
                    let call = u64::try_from(call).unwrap();
                    let starts_call = index == 0 && matches!(event, Event::Call(..));
                    let mark = CallMark { offset: *offset, call, time, starts_call };
                    conversation.data(direction, &Chunk { offset: *offset, data, mark }, &mut out);
                    *offset += data.len() as u64;
                }
            }
            Event::Gap(_, missing) => {
                let gap = Gap { offset: *offset, length: *missing, cause: GapCause::Lost };
                conversation.gap(direction, gap, &mut out);
                *offset += missing;
            }
        }
        messages.extend(out.drain());
    }
    conversation.end(&mut out);
    messages.extend(out.drain());
    (messages, conversation)
}

/// A frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field of a header list, which is not inserted into the table.
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        assert!(text.len() < 127);
        [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    };
    [vec![0], text(name), text(value)].concat()
}

fn list(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

const END: u8 = frame::END_STREAM | frame::END_HEADERS;
const OPEN: u8 = frame::END_HEADERS;

fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(1, flags, stream, &list(fields))
}

fn get(flags: u8, stream: u32, path: &str) -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "example:8443"), (":path", path)];
    headers(flags, stream, &fields)
}

fn data(flags: u8, stream: u32, body: &str) -> Vec<u8> {
    frame(0, flags, stream, body.as_bytes())
}

fn preface() -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, &[])].concat()
}

/// Parts of a field's value as a line shows them.
fn value(value: &FieldValue) -> String {
    match value {
        FieldValue::Text(text) => text.clone(),
        FieldValue::Number(number) => number.to_string(),
        FieldValue::List(list) => list.join("; "),
        FieldValue::Statement(_) | FieldValue::Unknown => "?".to_owned(),
        FieldValue::Headers(list) => {
            let text = |text: &Option<String>| text.clone().unwrap_or("?".to_owned());
            let header = |header: &HeaderField| format!("{}={}", text(&header.name), text(&header.value));
            format!("[{}]", list.iter().map(header).collect::<Vec<_>>().join(" "))
        }
    }
}

/// A message in one line: its kind and id, the times of its first and last byte, its fields by the last part
/// of their names, its body, and what it lacks.
fn shown(message: &Message) -> String {
    let kind = match message.kind {
        MessageKind::Request => '>',
        MessageKind::Response => '<',
        MessageKind::Event => '!',
    };
    let id = message.id.map_or("?".to_owned(), |id| id.to_string());
    let mut line = format!("{kind}{id} {}-{}", message.first.as_second(), message.last.as_second());
    for (field, has) in &message.fields {
        let name = field.path.rsplit('.').next().unwrap();
        let is_usual = match (name, has) {
            ("version" | "scheme", _) | ("size", FieldValue::Number(0)) => true,
            (_, FieldValue::Headers(list)) => list.is_empty(),
            _ => false,
        };
        if !is_usual {
            write!(line, " {name}={}", value(has)).unwrap();
        }
    }
    let body = message.body();
    if !body.0.is_empty() {
        write!(line, " {:?}", String::from_utf8_lossy(&body.0)).unwrap();
    }
    let Partial { missing, lacks_start, lacks_end, may_lack } = message.partial;
    if missing > 0 {
        write!(line, " -{missing}").unwrap();
    }
    for (is, mark) in [(lacks_start, " ^"), (lacks_end, " $"), (may_lack, " ~")] {
        line += if is { mark } else { "" };
    }
    line += if message.is_abandoned { " %" } else { "" };
    line
}

/// The same messages come out however the bytes are split.
fn check(hints: &Hints, events: &[Event], expected: &[&str]) {
    for split in [1, 2, 3, 5, 7, 1000] {
        let (messages, conversation) = run(hints, events, split);
        let lines: Vec<String> = messages.iter().map(shown).collect();
        assert_eq!(lines, expected, "split after each {split}");
        assert_eq!(conversation.waiting_bytes(), 0);
    }
}
