//! Calls → messages of HTTP/1.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::time::Duration;

use jiff::Timestamp;

use super::HTTP1;
use crate::event::{Direction, Field, FieldValue, Role};
use crate::protocol::http::{
    HOST, METHOD, PATH, PORT, QUERY, REQUEST_BODY_SIZE, REQUEST_TRAILERS, REQUEST_VIOLATIONS,
    RESPONSE_BODY_SIZE, RESPONSE_TRAILERS, RESPONSE_VIOLATIONS, SCHEME, STATUS,
};
use crate::protocol::{
    ALL, CallMark, Chunk, Conversation, Gap, GapCause, Hints, Message, MessageKind, Messages,
};

mod contents;
mod gaps;
mod heads;
mod limits;
mod messages;
mod random;

/// An event on the connection of a client. Each is a call, a millisecond after the previous one.
#[derive(Clone, Copy, Debug)]
enum Event<'a> {
    /// A call of the client.
    Up(&'a str),
    /// A call of the server.
    Down(&'a str),
    /// The same with any bytes.
    DownBytes(&'a [u8]),
    /// This many bytes of the client are missing.
    UpGap(u64),
    /// This many bytes of the server are missing.
    DownGap(u64),
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
    match message.field(field)? {
        FieldValue::Text(text) => Some(text.clone()),
        FieldValue::Number(number) => Some(number.to_string()),
        FieldValue::List(list) => Some(list.join(", ")),
        FieldValue::Headers(list) => {
            let shown = list.iter().map(|header| {
                format!("{}={}", header.name.as_ref().unwrap(), header.value.as_ref().unwrap())
            });
            Some(shown.collect::<Vec<_>>().join("&"))
        }
        FieldValue::Statement(_) | FieldValue::Unknown => Some("?".to_owned()),
    }
}

/// A message in one line: its kind and id, what it asks for or its status, its body, what it lacks, and its
/// violations.
fn shown(message: &Message) -> String {
    let id = message.id.map_or("?".to_owned(), |id| id.to_string());
    let (kind, size, trailers, violations) = match message.kind {
        MessageKind::Request => ('>', &REQUEST_BODY_SIZE, &REQUEST_TRAILERS, &REQUEST_VIOLATIONS),
        MessageKind::Response => ('<', &RESPONSE_BODY_SIZE, &RESPONSE_TRAILERS, &RESPONSE_VIOLATIONS),
        MessageKind::Event => ('!', &RESPONSE_BODY_SIZE, &RESPONSE_TRAILERS, &RESPONSE_VIOLATIONS),
    };
    let mut words = vec![format!("{kind}{id}")];
    let mut add = |prefix: &str, field| {
        words.extend(text(message, field).map(|text| format!("{prefix}{text}")));
    };
    add("", &METHOD);
    add("", &STATUS);
    add("scheme:", &SCHEME);
    add("host:", &HOST);
    add("port:", &PORT);
    add("", &PATH);
    add("?", &QUERY);
    let body = String::from_utf8_lossy(&message.body().0).into_owned();
    if !body.is_empty() {
        words.push(format!("'{body}'"));
    }
    if message.partial.missing > 0 {
        words.push(format!("-{}", message.partial.missing));
    }
    if message.partial.lacks_end {
        words.push("$".to_owned());
    }
    // The size is that of the body that is shown, or known to be unknown.
    let known = FieldValue::Number(message.body_length);
    match message.field(size) {
        Some(FieldValue::Unknown) => words.push("size:?".to_owned()),
        Some(number) => assert_eq!(number, &known),
        None => {}
    }
    words.extend(text(message, trailers).map(|text| format!("trailers:{text}")));
    words.extend(text(message, violations).map(|text| format!("({text})")));
    words.join(" ")
}

fn start_time() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

/// What was made of the events.
struct Run {
    messages: Vec<Message>,
    /// The protocol before the end of the connection.
    protocol: Option<&'static str>,
    undecoded: u64,
}

fn run(hints: &Hints, events: &[Event<'_>], split: usize) -> Run {
    let mut conversation = Conversation::new(ALL, hints.clone());
    let mut out = Messages::new(1000);
    let mut offsets = [0_u64; 2];
    let mut time = start_time();
    for (call, event) in (1..).zip(events) {
        time += Duration::from_millis(1);
        let none: &[u8] = &[];
        let (direction, data, missing) = match *event {
            Event::Up(text) => (Direction::Transmit, text.as_bytes(), 0),
            Event::Down(text) => (Direction::Receive, text.as_bytes(), 0),
            Event::DownBytes(data) => (Direction::Receive, data, 0),
            Event::UpGap(missing) => (Direction::Transmit, none, missing),
            Event::DownGap(missing) => (Direction::Receive, none, missing),
            Event::Pause => {
                time += Duration::from_secs(1);
                continue;
            }
        };
        let offset = &mut offsets[usize::from(direction == Direction::Receive)];
        for (index, data) in data.chunks(split).enumerate() {
            let mark = CallMark { offset: *offset, call, time, starts_call: index == 0 };
            conversation.data(direction, &Chunk { offset: *offset, data, mark }, &mut out);
            *offset += data.len() as u64;
        }
        if missing > 0 {
            let gap = Gap { offset: *offset, length: missing, cause: GapCause::Lost };
            conversation.gap(direction, gap, &mut out);
            *offset += missing;
        }
    }
    let protocol = conversation.protocol().map(|protocol| protocol.name);
    conversation.end(&mut out);
    assert_eq!(conversation.waiting_bytes(), 0);
    Run { messages: out.drain().collect(), protocol, undecoded: conversation.undecoded_bytes() }
}

/// The same messages come out however the bytes are cut.
#[track_caller]
fn check(hints: &Hints, events: &[Event<'_>], expected: &[&str]) {
    for split in [1, 2, 3, 5, 7, 1000] {
        let messages = run(hints, events, split).messages;
        assert!(messages.iter().all(|message| message.protocol == HTTP1.name));
        let words: Vec<String> = messages.iter().map(shown).collect();
        assert_eq!(words, expected, "{events:?} cut after each {split}");
    }
}
