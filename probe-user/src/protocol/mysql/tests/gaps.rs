//! Connections that are joined in the middle, or of which bytes are missing. The rows that each response says
//! are the number of its request, so that a wrong pair shows.

use super::*;
use crate::protocol::{Detect, Prefix};
use crate::test_rng::{TestRng, cases};

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&length[..3], &[sequence], payload].concat()
}

fn login(capabilities: u32) -> Vec<u8> {
    let head = [&(capabilities | 0x8201).to_le_bytes()[..], &[0; 3], &[1], &[45], &[0; 23]].concat();
    packet(1, &[&head[..], b"user\0\x01x"].concat())
}

fn ok(sequence: u8, affected: u64) -> Vec<u8> {
    let number = u16::try_from(affected).unwrap().to_le_bytes();
    packet(sequence, &[&[0, 0xfc][..], &number, &[0, 2, 0, 0, 0]].concat())
}

/// The capability of ending rows by an OK packet (`CLIENT_DEPRECATE_EOF`).
const DEPRECATE_EOF: u32 = 1 << 24;

/// A result with a column and so many rows.
fn result(rows: u64, flags: u32) -> Vec<u8> {
    let mut packets = vec![vec![1], [&b"\x03def"[..], &[0; 20]].concat()];
    let (end, last) = (vec![0xfe, 0, 0, 2, 0], vec![0xfe, 0, 0, 2, 0, 0, 0]);
    if flags == 0 {
        packets.push(end.clone());
    }
    packets.extend((0..rows).map(|_| b"\x01x".to_vec()));
    packets.push(if flags == 0 { end } else { last });
    let numbered = packets.iter().zip(1_u64..);
    numbered.flat_map(|(payload, number)| packet(u8::try_from(number % 256).unwrap(), payload)).collect()
}

/// The calls of a connection, which waits for each response.
fn calls(rng: &mut TestRng, exchanges: u64, flags: u32) -> Vec<Event> {
    let (up, down) = (Direction::Transmit, Direction::Receive);
    let mut events = vec![Event::Call(up, login(flags)), Event::Call(down, ok(2, 0))];
    for number in 1..=exchanges {
        if rng.below(4) == 0 {
            events.push(Event::Pause);
        }
        let word = if rng.below(2) == 0 { "UPDATE" } else { "SELECT" };
        events.push(Event::Call(up, packet(0, format!("\x03{word} t{number}").as_bytes())));
        let response = if word == "UPDATE" { ok(1, number) } else { result(number, flags) };
        let (one, other) = response.split_at(rng.below(response.len()));
        events.extend(
            [one, other].iter().filter(|part| !part.is_empty()).map(|part| Event::Call(down, part.to_vec())),
        );
    }
    events
}

/// Checks that what is paired belongs together. Returns how many pairs there are.
#[track_caller]
fn paired(messages: &[Message]) -> usize {
    let mut requests: BTreeMap<u64, &Message> = BTreeMap::new();
    let mut pairs = 0;
    for message in messages {
        let Some(id) = message.id else { continue };
        if message.kind == MessageKind::Request {
            assert!(requests.insert(id, message).is_none());
        } else if let Some(request) = requests.get(&id) {
            pairs += 1;
            let statement = text(request, &QUERY).unwrap_or_default();
            let asked = statement.split(" t").nth(1).and_then(|number| number.parse::<u64>().ok());
            let answered = message.number(&RETURNED_ROWS).or(message.number(&AFFECTED_ROWS));
            if !message.partial.lacks_end && message.partial.missing == 0 && asked.is_some() {
                assert_eq!(asked, answered, "{}", shown(message));
            }
        }
    }
    pairs
}

#[test]
fn rows_by_both_forms_of_their_end() {
    for flags in [0, DEPRECATE_EOF] {
        let events = calls(&mut TestRng(7), 300, flags);
        let (messages, conversation) = run(Conversation::new(ALL, client()), &events, usize::MAX);
        assert_eq!((paired(&messages), conversation.undecoded_bytes()), (301, 0));
    }
    let events = calls(&mut TestRng(7), 20, 0);
    words(&client(), &events);
}

#[test]
fn joined_at_every_call() {
    let mut rng = TestRng(0x2545_f491_4f6c_dd1d);
    for flags in [0, DEPRECATE_EOF] {
        let events = calls(&mut rng, 40, flags);
        for first in 2..events.len() {
            for hints in [joined(), Hints::default()] {
                let rest = &events[first..];
                let (messages, _) = run(Conversation::new(ALL, hints), rest, 1000);
                let is_request = |event: &&Event| matches!(event, Event::Call(Direction::Transmit, _));
                let left = rest.iter().filter(is_request).count();
                // Some exchanges pass until it is known that nothing is outstanding.
                let words: Vec<String> = messages.iter().map(shown).collect();
                assert!(paired(&messages) + 22 >= left, "{left} from {first}: {words:#?}");
            }
        }
    }
}

#[test]
fn a_gap_at_every_byte() {
    let events = calls(&mut TestRng(0x0545_f491_4f6c_dd1d), 12, 0);
    for index in 0..events.len() {
        let Event::Call(direction, data) = &events[index] else { continue };
        for at in 0..data.len() {
            for to in [data.len(), (at + 3).min(data.len())] {
                let mut parts = vec![
                    Event::Call(*direction, data[..at].to_vec()),
                    Event::Gap(*direction, (to - at) as u64),
                    Event::Call(*direction, data[to..].to_vec()),
                ];
                parts.retain(|part| !matches!(part, Event::Call(_, data) if data.is_empty()));
                let all = [&events[..index], &parts, &events[index + 1..]].concat();
                paired(&run(Conversation::new(ALL, client()), &all, 1000).0);
            }
        }
    }
}

#[test]
fn random_gaps() {
    let mut rng = TestRng(0x9e37_79b9_7f4a_7c15);
    let (mut all, mut found) = (0, 0);
    for case in 0..cases(1000) {
        let mut events = calls(&mut rng, 30, if case % 2 == 0 { DEPRECATE_EOF } else { 0 });
        for _ in 0..=rng.below(3) {
            let index = rng.below(events.len());
            let Event::Call(direction, data) = events[index].clone() else { continue };
            if data.is_empty() {
                continue;
            }
            let at = rng.below(data.len());
            let to = at + 1 + rng.below(data.len() - at);
            let parts = [
                Event::Call(direction, data[..at].to_vec()),
                Event::Gap(direction, (to - at) as u64),
                Event::Call(direction, data[to..].to_vec()),
            ];
            events.splice(index..=index, parts);
        }
        events.retain(|event| !matches!(event, Event::Call(_, data) if data.is_empty()));
        all += 31;
        found += paired(&run(Conversation::new(ALL, client()), &events, 1 + rng.below(200)).0);
    }
    assert!(found * 2 > all, "{found} of {all}");
}

fn detected(hints: &Hints, sent: &[u8], received: &[u8]) -> Detect {
    let marks = [CallMark { offset: 0, call: 1, time: start_time(), starts_call: true }];
    let input = |data| Input { data, offset: 0, marks: &marks };
    (MYSQL.detect)(&Prefix { transmit: input(sent), receive: input(received), hints })
}

#[test]
fn detection() {
    let select = packet(0, b"\x03SELECT 1");
    for (hints, sent, received, expected) in [
        (client(), &login(0)[..], &b""[..], Detect::Yes),
        (client(), &login(0)[..6], b"", Detect::NeedMore),
        (client(), b"GET / HTTP/1.1\r\n\r\n", b"", Detect::No),
        (client(), b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03", b"", Detect::No),
        (client(), b"\0\0\0\x08\x04\xd2\x16\x2f", b"", Detect::No),
        (client(), b"", b"220 mail.example ESMTP\r\n", Detect::No),
        (joined(), &select, &ok(1, 1), Detect::Yes),
        (joined(), &select, &result(3, 0), Detect::Yes),
        (joined(), &select, b"", Detect::NeedMore),
        (joined(), &packet(0, b"\x03hello you"), &ok(1, 1), Detect::No),
        (joined(), b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", Detect::No),
    ] {
        assert_eq!(detected(&hints, sent, received), expected, "{sent:?} {received:?}");
    }
}

#[test]
fn random_bytes() {
    let mut rng = TestRng(0x7777_1234_5678_9abc);
    for _ in 0..cases(20_000) {
        let (sent, received) = (rng.bytes(b""), rng.bytes(b"\0\x01\x02\x03\x05\x07\xfe\xffS"));
        for hints in [client(), joined(), Hints::default()] {
            assert_ne!(detected(&hints, &sent, &received), Detect::Yes, "{sent:?} {received:?}");
        }
    }
}
