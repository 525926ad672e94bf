//! Frames → messages of WebSocket.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use flate2::{Compress, Compression, FlushCompress};
use jiff::Timestamp;

use super::*;
use crate::protocol::{CallMark, Chunk, Conversation, Detect, Partial, Prefix};
use crate::test_rng::TestRng;

const PROTOCOLS: &[&Protocol] = &[&WEBSOCKET];

/// An event on a connection, as the client sees it.
#[derive(Clone, Debug)]
enum Event {
    /// A call of one side.
    Call(Direction, Vec<u8>),
    Gap(Direction, u64),
}

fn up(data: impl AsRef<[u8]>) -> Event {
    Event::Call(Direction::Transmit, data.as_ref().to_vec())
}

fn down(data: impl AsRef<[u8]>) -> Event {
    Event::Call(Direction::Receive, data.as_ref().to_vec())
}

fn from_start(extensions: &str) -> Hints {
    Hints {
        role: Some(Role::Client),
        extensions: Some(extensions.to_owned()),
        from_start: true,
        ..Hints::default()
    }
}

fn joined() -> Hints {
    Hints { role: Some(Role::Client), ..Hints::default() }
}

/// A frame. `first` is its first byte.
fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let flag = if mask.is_some() { 0x80 } else { 0 };
    let mut out = vec![first];
    match payload.len() {
        length @ 0..=125 => out.push(flag | u8::try_from(length).unwrap()),
        length @ 126..=0xffff => {
            out.push(flag | 0x7e);
            out.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            out.push(flag | 0x7f);
            out.extend((length as u64).to_be_bytes());
        }
    }
    let mut payload = payload.to_vec();
    if let Some(mask) = mask {
        out.extend(mask);
        frame::unmask(&mut payload, mask, 0);
    }
    out.extend(payload);
    out
}

/// A frame of the client.
fn c(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(first, payload.as_ref(), Some([0x12, 0x34, 0xab, 0xff]))
}

/// A frame of the server.
fn s(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(first, payload.as_ref(), None)
}

/// A message in one line.
fn shown(message: &Message) -> String {
    let arrow = if message.direction == Direction::Transmit { '>' } else { '<' };
    let field = |field: &Field| match message.field(field) {
        Some(FieldValue::Text(text)) => Some(text.clone()),
        Some(FieldValue::Number(number)) => Some(number.to_string()),
        Some(FieldValue::Unknown) => Some("?".to_owned()),
        _ => None,
    };
    let body = message.body().0;
    let body = if body.len() > 40 {
        format!("{} bytes", body.len())
    } else {
        format!("{:?}", String::from_utf8_lossy(&body))
    };
    let mut text = format!("{arrow}{} {body} {}", field(&TYPE).unwrap(), message.length);
    for (name, field) in [
        ("frames", &FRAMES),
        ("compressed", &PART_COMPRESSED),
        ("not_decoded", &NOT_DECODED),
        ("code", &CLOSE_CODE),
        ("reason", &CLOSE_REASON),
    ]
    .into_iter()
    .filter_map(|(name, of)| Some((name, field(of)?)))
    {
        text.extend([" ", name, "=", &field]);
    }
    let Partial { missing, lacks_start, lacks_end, .. } = message.partial;
    let marks = [(missing > 0, format!(" -{missing}")), (lacks_start, " ^".into()), (lacks_end, " $".into())];
    text + &marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect::<String>()
}

fn run(
    mut conversation: Conversation,
    events: &[Event],
    split: usize,
    limit: usize,
) -> (Vec<Message>, Conversation) {
    let mut out = Messages::new(limit);
    let mut offsets = [0_u64; 2];
    let mut messages = Vec::new();
    for (call, event) in (1_u32..).zip(events) {
        match event {
            Event::Call(direction, data) => {
                let offset = offsets.get_mut(usize::from(*direction == Direction::Receive)).unwrap();
                for (index, data) in data.chunks(split).enumerate() {
                    let time = Timestamp::from_second(call.into()).unwrap();
                    let mark = CallMark { offset: *offset, call: call.into(), time, starts_call: index == 0 };
                    conversation.data(*direction, &Chunk { offset: *offset, data, mark }, &mut out);
                    *offset += data.len() as u64;
                }
            }
            Event::Gap(direction, length) => {
                let offset = offsets.get_mut(usize::from(*direction == Direction::Receive)).unwrap();
                let gap = Gap { offset: *offset, length: *length, cause: GapCause::Lost };
                conversation.gap(*direction, gap, &mut out);
                *offset += length;
            }
        }
        messages.extend(out.drain());
    }
    conversation.end(&mut out);
    messages.extend(out.drain());
    (messages, conversation)
}

/// The same messages come out however the bytes are cut.
#[track_caller]
fn check(hints: &Hints, events: &[Event], expected: &[&str]) {
    for split in [1, 2, 3, 5, 7, 1000, 1 << 20] {
        let conversation = if hints.from_start {
            Conversation::of(&WEBSOCKET, hints.clone())
        } else {
            Conversation::new(PROTOCOLS, hints.clone())
        };
        let (mut messages, conversation) = run(conversation, events, split, 1000);
        // One direction waits for more evidence than the other.
        messages.sort_by_key(|message| message.first);
        let words: Vec<String> = messages.iter().map(shown).collect();
        assert_eq!(words, expected, "cut after each {split}");
        assert_eq!(conversation.waiting_bytes(), 0);
    }
}

/// A peer that compresses.
struct Peer(Compress);

impl Peer {
    fn new() -> Self {
        Self(Compress::new(Compression::default(), false))
    }

    fn deflate(&mut self, text: impl AsRef<[u8]>) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.as_ref().len() * 2 + 1000);
        self.0.compress_vec(text.as_ref(), &mut out, FlushCompress::Sync).unwrap();
        out.truncate(out.len() - 4);
        out
    }
}

const DEFLATE: &str = "permessage-deflate";

#[test]
fn messages_of_all_types() {
    check(
        &from_start(""),
        &[
            up(c(0x81, "hello")),
            down([s(0x82, b"\0\x01"), s(0x89, "ping"), s(0x81, "")].concat()),
            up(c(0x8a, "ping")),
            down(s(0x88, b"\x03\xe9going away")),
            up(c(0x88, b"\x03\xe9")),
            up(c(0x88, "")),
        ],
        &[
            ">text \"hello\" 11",
            "<binary \"\\0\\u{1}\" 4",
            "<ping \"ping\" 6",
            "<text \"\" 2",
            ">pong \"ping\" 10",
            "<close \"\" 14 code=1001 reason=going away",
            ">close \"\" 8 code=1001",
            ">close \"\" 6",
        ],
    );
}

#[test]
fn lengths() {
    let sizes = [125, 126, 127, 65_535, 65_536, 300_000];
    for size in sizes {
        let text = "x".repeat(size);
        let up_length = c(0x81, &text).len();
        let down_length = s(0x82, &text).len();
        let body = format!("{} bytes", size.min(1000));
        check(
            &from_start(""),
            &[up([c(0x81, &text), c(0x89, "")].concat()), down(s(0x82, &text))],
            &[&format!(">text {body} {up_length}"), ">ping \"\" 6", &format!("<binary {body} {down_length}")],
        );
    }
    // A length that is not minimal, and a client that does not mask, are understood by most servers.
    check(
        &from_start(""),
        &[up(b"\x81\x7e\0\x02hi\x81\x02ho"), up(b"\x81\xff\0\0\0\0\0\0\0\x01\0\0\0\0x")],
        &[">text \"hi\" 6", ">text \"ho\" 4", ">text \"x\" 15"],
    );
}

#[test]
fn fragments() {
    check(
        &from_start(""),
        &[
            down([s(0x01, "one "), s(0x89, "p"), s(0x00, "two "), s(0x00, ""), s(0x80, "three")].concat()),
            up([c(0x02, "a"), c(0x8a, "p")].concat()),
            up(c(0x80, "b")),
        ],
        &[
            "<ping \"p\" 3",
            "<text \"one two three\" 21 frames=4",
            ">pong \"p\" 7",
            ">binary \"ab\" 14 frames=2",
        ],
    );
    // What does not end, or does not begin.
    check(
        &from_start(""),
        &[down([s(0x01, "one"), s(0x81, "two"), s(0x80, "three"), s(0x02, "four")].concat())],
        &["<text \"one\" 5 $", "<text \"two\" 5", "<? \"three\" 7 ^", "<binary \"four\" 6 $"],
    );
}

#[test]
fn compressed_messages() {
    let (mut client, mut server) = (Peer::new(), Peer::new());
    let texts = ["hello hello hello", "hello again", "", "and again hello again"];
    let ups: Vec<Vec<u8>> = texts.iter().map(|text| c(0xc1, client.deflate(text))).collect();
    let downs: Vec<Vec<u8>> = texts.iter().map(|text| s(0xc2, server.deflate(text))).collect();
    let mut events: Vec<Event> = ups.iter().map(up).collect();
    events.extend(downs.iter().map(down));
    // Those that are not compressed do not matter, nor do control frames.
    events.insert(1, up([c(0x81, "plain"), c(0x89, "")].concat()));
    let line = |arrow, kind, text, length| format!("{arrow}{kind} {text:?} {length} compressed={DEFLATE}");
    let mut expected: Vec<String> =
        ups.iter().zip(texts).map(|(data, text)| line('>', "text", text, data.len())).collect();
    expected.extend(downs.iter().zip(texts).map(|(data, text)| line('<', "binary", text, data.len())));
    expected.insert(1, ">text \"plain\" 11".to_owned());
    expected.insert(2, ">ping \"\" 6".to_owned());
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    check(&from_start(DEFLATE), &events, &expected);
    let parameters = "x-other, permessage-deflate; server_max_window_bits=15; client_max_window_bits";
    check(&from_start(parameters), &events, &expected);

    // Fragments: only the first frame says that it is compressed.
    let data = Peer::new().deflate("hello hello hello");
    let (one, two) = data.split_at(4);
    let frames = [s(0x41, one), s(0x89, ""), s(0x00, ""), s(0x80, two)].concat();
    let text = format!("<text \"hello hello hello\" {} frames=3 compressed={DEFLATE}", frames.len() - 2);
    check(&from_start(DEFLATE), &[down(frames)], &["<ping \"\" 2", &text]);

    // Messages that do not refer to each other: a gap between them does no harm.
    let resets = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let data = s(0xc1, Peer::new().deflate("hello hello"));
    let text = format!("<text \"hello hello\" {} compressed={DEFLATE}", data.len());
    let events = [down(&data), Event::Gap(Direction::Receive, 9), down(&data), down(&data), down(&data)];
    check(&from_start(resets), &events, &[text.as_str(); 4]);
    // An empty payload.
    check(&from_start(DEFLATE), &[down(s(0xc1, ""))], &[&format!("<text \"\" 2 compressed={DEFLATE}")]);
    // An extension that is not known.
    check(
        &from_start("x-webkit-deflate-frame"),
        &[down(s(0xc1, "abc"))],
        &["<text \"\" 5 compressed=? not_decoded=unknown extension -3"],
    );
}

#[test]
fn what_cannot_be_inflated() {
    // Damage: the connection goes on, but what messages refer to is unknown.
    let mut server = Peer::new();
    let first = server.deflate("hello hello");
    let second = server.deflate("hello again");
    let third = Peer::new().deflate("fresh");
    check(
        &from_start(DEFLATE),
        &[down(s(0xc1, &first)), down(s(0xc1, b"\xff\xff")), down(s(0xc1, &second)), down(s(0xc1, &third))],
        &[
            &format!("<text \"hello hello\" {} compressed={DEFLATE}", first.len() + 2),
            &format!("<text \"\" 4 compressed={DEFLATE} not_decoded=damaged $"),
            &format!("<text \"\" {} compressed={DEFLATE} not_decoded=context unknown -5", second.len() + 2),
            &format!("<text \"fresh\" {} compressed={DEFLATE}", third.len() + 2),
        ],
    );
    // A bomb.
    let bomb = Peer::new().deflate(vec![b' '; 8 << 20]);
    let events = [down(s(0xc2, &bomb)), down(s(0xc1, &third))];
    for split in [100, 10_000, 1 << 20] {
        let conversation = Conversation::of(&WEBSOCKET, from_start(DEFLATE));
        let (messages, _) = run(conversation, &events, split, 1000);
        assert!(shown(messages.first().unwrap()).contains("not_decoded=expands too much"));
        let inflated = messages.first().unwrap().body_length;
        assert!(inflated <= bomb.len() as u64 * 200 + (1 << 16), "{inflated}");
        assert!(shown(messages.get(1).unwrap()).starts_with("<text \"fresh\""));
    }
}

#[test]
fn gaps() {
    // Within a frame, whose length shows where the next one is.
    check(
        &from_start(""),
        &[
            up(b"\x81\x8a\0\0\0\0abc"),
            Event::Gap(Direction::Transmit, 4),
            up([b"hij".to_vec(), c(0x81, "k")].concat()),
        ],
        &[">text \"abc\" 16 -4", ">text \"k\" 7"],
    );
    // Up to the end of a frame.
    check(
        &from_start(""),
        &[down(b"\x81\x05ab"), Event::Gap(Direction::Receive, 3), down(s(0x81, "c"))],
        &["<text \"ab\" 7 -3", "<text \"c\" 3"],
    );
    // Beyond it: frames are searched for. Two calls that are frames are enough, and the other direction is
    // not affected.
    check(
        &from_start(""),
        &[
            down(b"\x01\x05ab"),
            Event::Gap(Direction::Receive, 30),
            down("the rest of something"),
            down(s(0x81, "one")),
            up(c(0x81, "up")),
            down(s(0x80, "two")),
            down(s(0x81, "three")),
        ],
        &["<text \"ab\" 7 -3 $", "<text \"one\" 5", ">text \"up\" 8", "<? \"two\" 5 ^", "<text \"three\" 7"],
    );
    // A gap within a compressed message: its rest cannot be inflated, and what is referred to is unknown.
    let mut server = Peer::new();
    let first = s(0xc1, server.deflate("hello hello what a nice day"));
    let second = s(0xc1, server.deflate("hello again"));
    let (begin, rest) = first.split_at(12);
    check(
        &from_start(DEFLATE),
        &[down(begin), Event::Gap(Direction::Receive, 5), down(rest.get(5..).unwrap()), down(&second)],
        &[
            &format!(
                "<text \"hello hello w\" {} compressed={DEFLATE} not_decoded=part missing -5 $",
                first.len()
            ),
            &format!("<text \"\" {} compressed={DEFLATE} not_decoded=context unknown -6", second.len()),
        ],
    );
    // Bytes that are no frames are skipped up to frames.
    check(
        &from_start(""),
        &[
            down([s(0x81, "one"), b"\xf7???".to_vec()].concat()),
            down(s(0x81, "two")),
            down(s(0x81, "three")),
            down(s(0x89, "")),
        ],
        &["<text \"one\" 5", "<text \"two\" 5", "<text \"three\" 7", "<ping \"\" 2"],
    );
}

#[test]
fn joined_in_the_middle() {
    check(
        &joined(),
        &[
            down("the rest of some message"),
            up(c(0x81, "one")),
            down(s(0x81, "two")),
            up(c(0x81, "three")),
            down(s(0x81, "four")),
            up(c(0x81, "five")),
            down(s(0x81, "six")),
            down(s(0x81, "seven")),
        ],
        &[
            ">text \"one\" 9",
            "<text \"two\" 5",
            ">text \"three\" 11",
            "<text \"four\" 6",
            ">text \"five\" 10",
            "<text \"six\" 5",
            "<text \"seven\" 7",
        ],
    );
    // The role is found out by who masks.
    let hints = Hints::default();
    let frames =
        [up(s(0x81, "a")), down(c(0x81, "b")), up(s(0x81, "c")), down(c(0x81, "d")), up(s(0x81, "e"))];
    check(
        &hints,
        &frames,
        &[">text \"a\" 3", "<text \"b\" 7", ">text \"c\" 3", "<text \"d\" 7", ">text \"e\" 3"],
    );
    // Compressed: what refers to bytes from before is not shown.
    let mut server = Peer::new();
    server.deflate("{\"name\":\"value\"}");
    let two = s(0xc1, server.deflate("{\"name\":\"other\"}"));
    let three = s(0xc1, server.deflate("nothing in common"));
    let four = s(0xc1, server.deflate("nothing in common with me"));
    check(
        &joined(),
        &[up(c(0x89, "")), down(&two), up(c(0x89, "")), down(&three), up(c(0x89, "")), down(&four)],
        &[
            ">ping \"\" 6",
            &format!("<text \"{{\" {} compressed={DEFLATE} not_decoded=context unknown -8", two.len()),
            ">ping \"\" 6",
            &format!("<text \"nothing in common\" {} compressed={DEFLATE}", three.len()),
            ">ping \"\" 6",
            &format!("<text \"nothing in common with me\" {} compressed={DEFLATE}", four.len()),
        ],
    );
}

/// An upgrade in HTTP/1 says what was agreed on.
#[test]
fn after_an_upgrade() {
    let request = "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    let response = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n";
    let agreed = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n";
    let hints = Hints { role: Some(Role::Client), from_start: true, ..Hints::default() };
    let compressed = s(0xc1, Peer::new().deflate("hello hello"));
    for split in [1, 3, 1000] {
        let run = |agreed: &str| {
            let switched = [format!("{response}{agreed}\r\n").as_bytes(), &compressed].concat();
            let events = [up(request), down(switched), up(c(0x81, "one")), down(s(0x88, ""))];
            let (messages, conversation) =
                run(Conversation::new(crate::protocol::ALL, hints.clone()), &events, split, 1000);
            assert_eq!(messages.first().unwrap().protocol, "http1");
            let words: Vec<String> = messages.iter().skip(2).map(shown).collect();
            (words, conversation.undecoded_bytes())
        };
        let text = format!("<text \"hello hello\" {} compressed={DEFLATE}", compressed.len());
        assert_eq!(run(agreed), (vec![text, ">text \"one\" 9".to_owned(), "<close \"\" 2".to_owned()], 0));
        // Nothing was agreed on, so the server violates the standard: this is not decoded.
        let (words, undecoded) = run("");
        assert_eq!((words, undecoded), (vec![">text \"one\" 9".to_owned()], compressed.len() as u64 + 2));
    }
}

#[test]
fn detection() {
    let check = |hints: &Hints, transmit: &[&[u8]], receive: &[&[u8]], expected: Detect| {
        let side = |calls: &[&[u8]]| {
            let mut marks = Vec::new();
            let mut data = Vec::new();
            for (call, bytes) in (0..).zip(calls) {
                let time = Timestamp::UNIX_EPOCH;
                marks.push(CallMark { offset: data.len() as u64, call, time, starts_call: true });
                data.extend_from_slice(bytes);
            }
            (data, marks)
        };
        let (sent, received) = (side(transmit), side(receive));
        let prefix = Prefix {
            transmit: Input { data: &sent.0, offset: 0, marks: &sent.1 },
            receive: Input { data: &received.0, offset: 0, marks: &received.1 },
            hints,
        };
        assert_eq!(detect::detect(&prefix), expected, "{transmit:x?} {receive:x?}");
    };
    let (ping, text) = (c(0x89, ""), s(0x81, "text"));
    let server = Hints { role: Some(Role::Server), ..Hints::default() };
    let five: &[&[u8]] = &[&text, &text, &text, &text, &text];
    check(&joined(), &[&ping, &ping], &[&text, &text], Detect::Yes);
    check(&joined(), &[&ping], five, Detect::Yes);
    check(&joined(), &[&ping], &[&text], Detect::NeedMore);
    check(&joined(), &[], five, Detect::NeedMore);
    check(&server, &[&text, &text], &[&ping, &ping], Detect::Yes);
    // The wrong side masks.
    check(&server, &[&ping, &ping], &[&text, &text], Detect::No);
    // Never at the start of a connection, which is that of another protocol.
    check(&from_start(""), &[&ping, &ping], &[&text, &text], Detect::No);
    for other in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\x12\x04\0\0\0\0\0",
        b"\0\0\x04\x08\0\0\0\0\0\0\0\xff\0",
        b"Q\0\0\0\x0dSELECT 1\0",
        b"\x30\x0c\x02\x01\x01\x60\x07",
    ] {
        check(&joined(), &[other, other, other], &[other, other, other], Detect::No);
    }
    // MQTT looks like a server.
    let topic: &[u8] = b"\x82\x0a\0\x01\0\x05topic\0";
    check(&joined(), &[topic; 9], &[topic; 9], Detect::NeedMore);
    let mut rng = TestRng(11);
    for _ in 0..5000 {
        let mut calls = Vec::new();
        for _ in 0..8 {
            calls.push(rng.bytes(b""));
        }
        let calls: Vec<&[u8]> = calls.iter().map(Vec::as_slice).filter(|call| !call.is_empty()).collect();
        let (one, two) = calls.split_at(calls.len() / 2);
        let hints = if rng.below(2) == 0 { joined() } else { Hints::default() };
        let (sent, received) = (one.concat(), two.concat());
        let marks = |calls: &[&[u8]]| {
            let mut offset = 0;
            let mark = |call: &&[u8]| {
                let mark = CallMark { offset, call: 0, time: Timestamp::UNIX_EPOCH, starts_call: true };
                offset += call.len() as u64;
                mark
            };
            calls.iter().map(mark).collect::<Vec<_>>()
        };
        let (sent_marks, received_marks) = (marks(one), marks(two));
        let prefix = Prefix {
            transmit: Input { data: &sent, offset: 0, marks: &sent_marks },
            receive: Input { data: &received, offset: 0, marks: &received_marks },
            hints: &hints,
        };
        assert_ne!(detect::detect(&prefix), Detect::Yes, "{one:x?} {two:x?}");
    }
}

/// Random conversations with random gaps, followed from the start or joined: no message is wrong.
#[test]
fn random_conversations() {
    let mut rng = TestRng(5);
    let (mut whole, mut total) = (0, 0);
    for round in 0..200 {
        let (mut client, mut server) = (Peer::new(), Peer::new());
        let mut events = Vec::new();
        let mut sent = Vec::new();
        for number in 0..60 {
            let is_up = rng.below(2) == 0;
            let filler = "abcdefgh ".repeat(rng.below(30));
            let text = format!("<{number} {filler} {}>", rng.next());
            let is_deflated = rng.below(2) == 0;
            let payload = if !is_deflated {
                text.clone().into_bytes()
            } else if is_up {
                client.deflate(&text)
            } else {
                server.deflate(&text)
            };
            let cut = rng.below(payload.len());
            let (one, two) = payload.split_at(cut);
            let first = if is_deflated { 0x41 } else { 0x01 };
            let mask = rng.next().to_le_bytes();
            let mask = is_up.then_some([mask[1], mask[2], mask[3], mask[4]]);
            let data = if rng.below(3) == 0 {
                [frame(first, one, mask), frame(0x89, b"p", mask), frame(0x80, two, mask)].concat()
            } else {
                frame(0x80 | first, &payload, mask)
            };
            sent.push(text);
            let direction = if is_up { Direction::Transmit } else { Direction::Receive };
            // A part of some calls is missing.
            if rng.below(12) == 0 {
                let begin = rng.below(data.len());
                let end = begin + 1 + rng.below(data.len() - begin);
                let (before, after) = (data.get(..begin).unwrap(), data.get(end..).unwrap());
                events.push(Event::Call(direction, before.to_vec()));
                events.push(Event::Gap(direction, (end - begin) as u64));
                events.push(Event::Call(direction, after.to_vec()));
            } else {
                events.push(Event::Call(direction, data));
            }
        }
        let split = 1 + rng.below(200);
        let (conversation, events) = if round % 2 == 0 {
            (Conversation::of(&WEBSOCKET, from_start(DEFLATE)), events.as_slice())
        } else {
            (Conversation::new(PROTOCOLS, joined()), events.get(rng.below(20)..).unwrap())
        };
        // A call after a gap does not begin where the message does.
        let (messages, _) = run(conversation, events, split, 10_000);
        for message in &messages {
            let body = String::from_utf8_lossy(&message.body().0).into_owned();
            let is_ping = message.field(&TYPE) == Some(&FieldValue::Text("ping".to_owned()));
            if is_ping {
                assert_eq!(body, "p");
                continue;
            }
            total += 1;
            if message.partial == Partial::default() {
                whole += 1;
                assert!(sent.contains(&body), "{round} {body}");
            } else if !message.partial.lacks_start {
                assert!(sent.iter().any(|text| text.starts_with(&body)), "{round} {body}");
            }
        }
    }
    assert!(whole > 4000 && total > whole + 300, "{whole} of {total}");
}

/// Bytes of any kind: no panic, and bounded memory.
#[test]
fn hostile_bytes() {
    let mut rng = TestRng(9);
    for round in 0..2000 {
        let mut events = Vec::new();
        for _ in 0..rng.below(20) {
            let direction = if rng.below(2) == 0 { Direction::Transmit } else { Direction::Receive };
            events.push(match rng.below(6) {
                0 => Event::Gap(direction, 1 + rng.next() % 1000),
                1 => Event::Call(direction, rng.bytes(b"")),
                _ => Event::Call(direction, rng.bytes(b"\x81\x82\x01\x00\xc1\x41\x89\x88\x7e\x7f\xfe\xff")),
            });
        }
        let hints = if round % 2 == 0 { from_start(DEFLATE) } else { joined() };
        let (_, conversation) = run(Conversation::of(&WEBSOCKET, hints), &events, 1 + rng.below(300), 100);
        assert_eq!(conversation.waiting_bytes(), 0);
    }
    // A message without an end, of many frames, and frames that claim much.
    let frames = s(0x01, "x").into_iter().chain(s(0x00, "x".repeat(100)).repeat(20_000)).collect::<Vec<u8>>();
    let huge = b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec();
    for (hints, data) in [
        (from_start(""), frames),
        (from_start(""), [huge.clone(), vec![0; 1 << 20]].concat()),
        (joined(), [huge, vec![0; 1 << 20]].concat()),
    ] {
        let mut conversation = Conversation::of(&WEBSOCKET, hints);
        let mut out = Messages::new(100);
        for (call, data) in (0_u64..).zip(data.chunks(10_000)) {
            let mark =
                CallMark { offset: call * 10_000, call, time: Timestamp::UNIX_EPOCH, starts_call: true };
            conversation.data(Direction::Receive, &Chunk { offset: call * 10_000, data, mark }, &mut out);
            assert!(conversation.held_bytes() < 300_000, "{}", conversation.held_bytes());
        }
    }
}
