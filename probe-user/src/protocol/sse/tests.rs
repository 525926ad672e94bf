//! Bodies → server-sent events.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::event::Direction;
use crate::test_rng::TestRng;

/// The part of a stream.
enum Part<'a> {
    Text(&'a str),
    Gap(u64),
}
use Part::{Gap, Text};

/// Each event as `name: data`, with its length and what it lacks.
fn read(parts: &[Part<'_>], split: usize, body_limit: usize) -> Vec<String> {
    let mut out = Messages::new(body_limit);
    let mut response =
        Message::new("http1", MessageKind::Response, Direction::Receive, Timestamp::UNIX_EPOCH);
    response.id = Some(7);
    let mut events = EventStream::default();
    for (second, part) in (1..).zip(parts) {
        let time = Timestamp::from_second(second).unwrap();
        match part {
            Text(text) => {
                text.as_bytes().chunks(split).for_each(|data| events.data(&response, data, time, &mut out));
            }
            Gap(missing) => events.gap(*missing, &mut out),
        }
    }
    events.end(&mut out);
    let shown = |event: Message| {
        assert_eq!((event.id, event.kind), (Some(7), MessageKind::Event));
        let name = match event.field(&PART_TYPE) {
            Some(FieldValue::Text(name)) => format!("{name}: "),
            _ => String::new(),
        };
        let end = if event.partial.lacks_end { " $" } else { "" };
        let missing = event.partial.missing;
        let missing = if missing > 0 { format!(" -{missing}") } else { String::new() };
        let body = String::from_utf8_lossy(&event.body().0).into_owned();
        assert!(body.len() as u64 <= event.body_length);
        format!("{name}{body}{missing}{end} [{}]", event.length)
    };
    out.drain().map(shown).collect()
}

fn check(parts: &[Part<'_>], expected: &[&str]) {
    for split in [1, 2, 3, 5, 7, 1000] {
        assert_eq!(read(parts, split, 1000), expected, "cut after each {split}");
    }
}

#[test]
fn events() {
    check(&[Text("data: one\n\ndata: two\n\n")], &["one [11]", "two [11]"]);
    // The examples of the HTML standard.
    check(&[Text("data: YHOO\ndata: +2\ndata: 10\n\n")], &["YHOO\n+2\n10 [30]"]);
    check(
        &[Text(": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n")],
        &["first event [25]", "second event [22]", " third event $ [19]"],
    );
    check(&[Text("data\n\ndata\ndata\n\ndata:")], &[" [6]", "\n [11]", " $ [5]"]);
    check(&[Text("data:test\n\ndata: test\n\n")], &["test [11]", "test [12]"]);
    // Names, every line end, a byte order mark, unknown fields.
    check(
        &[Text("\u{feff}event: add\r\ndata: 1\r\n\r\nevent: del\rdata: 2\r\rretry: 9\ndata: 3\n\n")],
        &["add: 1 [25]", "del: 2 [20]", "3 [18]"],
    );
    check(
        &[Text("event: a\nevent: b\ndata: {\"x\": 1}\n\nevent: c\n\ndata: y\n\n")],
        &["b: {\"x\": 1} [34]", "y [9]"],
    );
}

#[test]
fn gaps() {
    check(
        &[Text("data: one\n\ndata: tw"), Gap(5), Text("o\n\ndata: three\n\n")],
        &["one [11]", "tw -5 $ [8]", "three [13]"],
    );
    // The bytes after a gap may belong to a line that it hides.
    check(&[Text("data: one\n\n"), Gap(9), Text("data: x\n\ndata: y\n\n")], &["one [11]", "y [9]"]);
    check(&[Text("data: one\n\n"), Gap(9), Text("\ndata: x\n\ndata: y\n\n")], &["one [11]", "y [9]"]);
}

#[test]
fn memory_is_bounded() {
    let long = "x".repeat(1 << 20);
    let text = format!("event: {long}\n{long}: 1\ndata: {long}\n\n");
    for split in [1000, 100_000] {
        let events = read(&[Text(&text)], split, 10);
        let name = "x".repeat(MAX_EVENT_NAME);
        assert_eq!(events, [format!("{name}: xxxxxxxxxx [{}]", text.len())]);
    }
}

#[test]
fn junk_is_read_alike_however_it_is_cut() {
    let mut rng = TestRng(16);
    for _ in 0..500 {
        let junk = rng.bytes(b"\r\n\n\n: datedatvn\xef\xbb\xbf");
        let junk = String::from_utf8_lossy(&junk).into_owned();
        let whole = read(&[Text(&junk)], 1000, 20);
        for split in [1, 2, 3] {
            assert_eq!(read(&[Text(&junk)], split, 20), whole, "{junk:?}");
        }
    }
}
