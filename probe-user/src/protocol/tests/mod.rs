//! Tests the interface of protocols with two protocols that only the tests have.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::*;
use crate::event::FieldValue;

pub(crate) mod calls;
mod frame;
mod line;

use frame::FRAME;
use line::LINE;

/// The equivalent of the product's table of protocols.
pub(crate) const PROTOCOLS: &[&Protocol] = &[&FRAME, &LINE];

/// An event on a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event<'a> {
    /// A call of the client.
    Up(&'a str),
    /// A call of the server.
    Down(&'a str),
    /// This many bytes of the client are missing.
    UpGap(u64),
    /// This many bytes of the server are missing.
    DownGap(u64),
}
use Event::{Down, DownGap, Up, UpGap};

/// The hints about a client's connection that is traced from its first byte.
fn client() -> Hints {
    Hints { role: Some(Role::Client), from_start: true, ..Hints::default() }
}

/// The hints about a connection that was joined in the middle.
fn joined() -> Hints {
    Hints { from_start: false, ..client() }
}

/// A message in one line: its protocol, kind, scopes and id, its body, and what it lacks.
fn shown(message: &Message) -> String {
    let key = message.key().map_or("?".to_owned(), |key| format!("{key:?}"));
    let numbers: String = key.chars().filter(|c| c.is_ascii_digit() || *c == ')').collect();
    let kind = match message.kind {
        MessageKind::Request => '>',
        MessageKind::Response => '<',
        MessageKind::Event => '!',
    };
    let text = match message.fields.first() {
        Some((_, FieldValue::Text(text))) if message.protocol == "line" => text.clone(),
        _ => String::from_utf8_lossy(&message.body().0).into_owned(),
    };
    let Partial { missing, lacks_start, lacks_end, may_lack } = message.partial;
    let marks = [
        (missing > 0, format!(" -{missing}")),
        (lacks_start, " ^".into()),
        (lacks_end, " $".into()),
        (may_lack, " ~".into()),
    ];
    let marks: String = marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect();
    format!("{}{kind}{numbers} {text}{marks}", message.protocol)
}

fn run(mut conversation: Conversation, events: &[Event<'_>], split: usize) -> (Vec<String>, Conversation) {
    let mut out = Messages::new(100);
    let mut offsets = [0_u64; 2];
    let mut words = Vec::new();
    for (call, event) in (1..).zip(events) {
        let (direction, text, missing) = match *event {
            Up(text) => (Direction::Transmit, text, 0),
            Down(text) => (Direction::Receive, text, 0),
            UpGap(missing) => (Direction::Transmit, "", missing),
            DownGap(missing) => (Direction::Receive, "", missing),
        };
        let offset = &mut offsets[usize::from(direction == Direction::Receive)];
        for (index, data) in text.as_bytes().chunks(split).enumerate() {
            let time = Timestamp::from_second(call).unwrap();
            let call = u64::try_from(call).unwrap();
            let mark = CallMark { offset: *offset, call, time, starts_call: index == 0 };
            conversation.data(direction, &Chunk { offset: *offset, data, mark }, &mut out);
            *offset += data.len() as u64;
        }
        if missing > 0 {
            conversation.gap(
                direction,
                Gap { offset: *offset, length: missing, cause: GapCause::Lost },
                &mut out,
            );
            *offset += missing;
        }
        words.extend(out.drain().map(|message| shown(&message)));
    }
    conversation.end(&mut out);
    words.extend(out.drain().map(|message| shown(&message)));
    (words, conversation)
}

/// The same messages come out however the bytes are cut.
fn check(hints: &Hints, events: &[Event<'_>], expected: &[&str]) {
    for split in [1, 2, 3, 5, 7, 1000] {
        let (words, conversation) = run(Conversation::new(PROTOCOLS, hints.clone()), events, split);
        assert_eq!(words, expected, "{events:?} cut after each {split}");
        assert_eq!(conversation.waiting_bytes(), 0);
    }
}

#[test]
fn ids_are_answered_in_any_order() {
    check(
        &client(),
        &[Up("q1 003oneq2 003two"), Down("a2 003TWO"), Down("a1 003ONE"), Up("e3 000")],
        &["frame>00)1 one", "frame>00)2 two", "frame<00)2 TWO", "frame<00)1 ONE", "frame!00)3 "],
    );
}

#[test]
fn a_connection_goes_on_in_another_protocol() {
    // The client does not wait for the answer, which alone shows what protocol the line is in.
    check(
        &client(),
        &[Up("q1 000"), Up("u2 000line one\n"), Down("a1 000"), Down("U2 000line two\n"), Up("line x\n")],
        &[
            "frame>00)1 ",
            "frame>00)2 ",
            "frame<00)1 ",
            "frame<00)2 ",
            "line>01)1 line one",
            "line<01)1 line two",
            "line>01)2 line x",
        ],
    );
}

#[test]
fn bodies_hold_conversations_of_their_own() {
    check(
        &client(),
        &[Up("n4 007line a\nq1 000n5 005line "), Down("n4 007LINE A\n"), Up("n5 002b\n"), Down("n5 002B\n")],
        &[
            "line>00)40)1 line a",
            "frame>00)1 ",
            "line<00)40)1 LINE A",
            "line>00)50)1 line b",
            "line<00)50)1 B",
        ],
    );
}

#[test]
fn gaps_are_reported_and_bytes_are_not_joined_over_them() {
    // A gap within a body, whose length shows where the next frame is.
    check(
        &client(),
        &[Up("q1 010abc"), UpGap(4), Up("defq2 000"), Down("a1 000")],
        &["frame>00)1 abc -4", "frame>00)2 ", "frame<00)1 "],
    );
    // A gap over the end of a body: the next call may begin a frame. One that does not is skipped.
    check(
        &client(),
        &[Up("q1 010abc"), UpGap(40), Up("3 000"), Up("q2 001x")],
        &["frame>00)1 abc -7", "frame>00)2 x"],
    );
    // The other direction is not affected.
    check(
        &client(),
        &[Up("q1 000"), DownGap(5), Up("q2 000"), Down("a1 000")],
        &["frame>00)1 ", "frame>00)2 ", "frame<00)1 "],
    );
    // A message that is cut off by the end of the connection.
    check(&client(), &[Up("q1 010abc")], &["frame>00)1 abc $"]);
}

#[test]
fn what_makes_no_sense_is_passed_over_up_to_the_next_call() {
    check(&client(), &[Up("q1 000???????"), Up("q2 001x")], &["frame>00)1 ", "frame>00)2 x"]);
}

#[test]
fn a_decoder_that_fails_for_long_was_a_wrong_guess() {
    #[derive(Debug)]
    struct Broken;
    impl Decoder for Broken {
        fn data(&mut self, _: Direction, _: Input<'_>, _: &mut Messages) -> Result<Step, Desync> {
            Err(Desync("always"))
        }
        fn gap(&mut self, _: Direction, _: Gap, _: &mut Messages) {}
        fn end(&mut self, _: &mut Messages) {}
    }
    const BROKEN: Protocol = Protocol { open: |_| Box::new(Broken), ..LINE };
    let mut conversation = Conversation::of(&BROKEN, client());
    let mut out = Messages::new(0);
    let mut gave_up_after = None;
    for call in 0..20 {
        let mark = CallMark { offset: call * 8, call, time: Timestamp::UNIX_EPOCH, starts_call: true };
        let chunk = Chunk { offset: call * 8, data: b"????????", mark };
        conversation.data(Direction::Transmit, &chunk, &mut out);
        if conversation.protocol().is_none() {
            gave_up_after = gave_up_after.or(Some(call));
        }
    }
    assert_eq!((gave_up_after, conversation.undecoded_bytes()), (Some(8), 20 * 8));
}

#[test]
fn a_connection_can_be_joined_in_its_middle() {
    check(
        &joined(),
        &[Up("the end of something"), Up("q1 000"), Down("a1 000")],
        &["frame>00)1 ", "frame<00)1 "],
    );
    // If these were the first bytes, they would not be frames.
    let events = [Up("the end of something"), Up("q1 000")];
    let (words, conversation) = run(Conversation::new(PROTOCOLS, client()), &events, 1000);
    assert_eq!((words.len(), conversation.undecoded_bytes()), (0, 26));
}

#[test]
fn what_is_known_beside_the_bytes_counts() {
    const OTHER_LINE: Protocol = Protocol { name: "other", ports: &[70], ..LINE };
    let check = |hints: Hints, text: &str, expected: Result<&str, Detect>| {
        let mark = CallMark { offset: 0, call: 1, time: Timestamp::UNIX_EPOCH, starts_call: true };
        let transmit = Input { data: text.as_bytes(), offset: 0, marks: &[mark] };
        let prefix = Prefix { transmit, receive: Input::EMPTY, hints: &hints };
        let both = &[PROTOCOLS, &[&OTHER_LINE]].concat();
        assert_eq!(detect(both, &prefix).map(|protocol| protocol.name), expected, "{hints:?} {text}");
    };
    let start = client();
    check(start.clone(), "q1", Err(Detect::NeedMore));
    check(start.clone(), "q1 000", Ok("frame"));
    check(start.clone(), "something else", Err(Detect::No));
    check(Hints { alpn: Some("frame".into()), ..start.clone() }, "something else", Ok("frame"));
    // Ports only decide between protocols that all fit.
    check(start.clone(), "line 1", Ok("line"));
    check(Hints { peer_port: Some(70), ..start.clone() }, "line 1", Ok("other"));
    check(Hints { peer_port: Some(70), ..start }, "q1 000", Ok("frame"));
}

#[test]
fn what_waits_is_bounded() {
    let long = "x".repeat(1 << 20);
    // A line that never ends.
    let (words, conversation) = run(Conversation::of(&LINE, client()), &[Up(&long), Up("a\n")], 10_000);
    assert_eq!(conversation.waiting_bytes(), 0);
    assert!(conversation.undecoded_bytes() > 1 << 19, "{conversation:?}");
    assert_eq!(words.len(), 1);
    // Bytes of no protocol.
    let (_, conversation) = run(Conversation::new(PROTOCOLS, joined()), &[Up(&long)], 10_000);
    assert_eq!((conversation.waiting_bytes(), conversation.undecoded_bytes()), (0, 1 << 20));
}

/// Both tables of protocols: the product's and that of the tests.
#[test]
fn tables_are_complete() {
    for table in [ALL, PROTOCOLS] {
        let mut names: Vec<&str> = table.iter().map(|protocol| protocol.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{names:?}");
        let mut meanings: BTreeMap<&str, &Field> = BTreeMap::new();
        for protocol in table {
            assert!(!protocol.help.is_empty() && !protocol.fields.is_empty(), "{}", protocol.name);
            assert!(protocol.fields.iter().all(|field| !field.help.is_empty()), "{}", protocol.name);
            let mut paths: Vec<&str> = protocol.fields.iter().map(|field| field.path).collect();
            paths.sort_unstable();
            paths.dedup();
            assert_eq!(paths.len(), protocol.fields.len(), "{}", protocol.name);
            for field in protocol.fields {
                assert_eq!(*meanings.entry(field.path).or_insert(field), field, "{}", protocol.name);
            }
        }
    }
}
