//! Checks which messages are paired, and that calls become exchanges through streams and a decoder.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::event::{Direction, Plaintext, Role};
use crate::pipeline::stream::{Piece, StreamLimits, StreamPart, Streams};
use crate::protocol::tests::PROTOCOLS;
use crate::protocol::{Conversation, Hints, Messages};
use crate::test_rng::TestRng;

/// A message of connection 1: its kind, its key, and its time in seconds.
fn message(kind: MessageKind, id: u64, second: i64) -> Message {
    let mut messages = Messages::new(0);
    let time = Timestamp::from_second(second).unwrap();
    let mut message = Message::new("test", kind, Direction::Transmit, time);
    (message.id, message.last) = (Some(id), Timestamp::from_second(second + 1).unwrap());
    messages.push(message);
    messages.drain().next().unwrap()
}

use MessageKind::{Event, Request, Response};

fn shown(connection: u64, exchange: &Exchange) -> String {
    let id = |message: &Message| message.id.map_or("?".to_owned(), |id| id.to_string());
    match exchange {
        Exchange::Complete { request, response } => {
            let took = std::time::Duration::try_from(response.last.duration_since(request.first));
            format!("{connection}: {}={} {:?}", id(request), id(response), took.unwrap_or_default())
        }
        Exchange::Unpaired { message, reason } => {
            format!("{connection}: {:?} {} {reason:?}", message.kind, id(message))
        }
        Exchange::Event(message) => format!("{connection}: event {}", id(message)),
    }
}

#[derive(Debug, Default)]
struct Emitted(Vec<String>);

impl Emitted {
    fn emit(&mut self) -> impl FnMut(u64, Exchange) -> io::Result<()> {
        |connection, exchange| {
            self.0.push(shown(connection, &exchange));
            Ok(())
        }
    }
}

fn check(limits: ExchangeLimits, messages: &[(u64, MessageKind, u64, i64)], expected: &[&str]) {
    let (mut exchanges, mut emitted) = (Exchanges::new(limits), Emitted::default());
    for &(connection, kind, id, second) in messages {
        exchanges.message(connection, message(kind, id, second), &mut emitted.emit()).unwrap();
        let size: usize = exchanges.pending.values().map(|pending| pending.message.size()).sum();
        assert_eq!(exchanges.bytes, size);
        assert!(exchanges.len() <= limits.messages);
    }
    exchanges.end_all(&mut emitted.emit()).unwrap();
    assert_eq!(emitted.0, expected, "{messages:?}");
    assert!(exchanges.is_empty() && exchanges.ages.is_empty() && exchanges.bytes == 0);
}

#[test]
fn a_request_that_asks_for_no_response_does_not_wait_for_one() {
    let (mut exchanges, mut emitted) = (Exchanges::new(ExchangeLimits::default()), Emitted::default());
    let mut one_way = message(Request, 1, 10);
    one_way.is_one_way = true;
    exchanges.message(1, one_way, &mut emitted.emit()).unwrap();
    assert_eq!(emitted.0, ["1: Request 1 OneWay"]);
    assert!(exchanges.is_empty());
}

#[test]
fn a_request_is_paired_by_its_key() {
    let limits = ExchangeLimits::default();
    check(
        limits,
        &[
            (1, Request, 1, 10),
            (1, Request, 2, 11),
            (2, Request, 1, 12),
            (1, Response, 2, 14),
            (1, Event, 1, 15),
        ],
        &["1: 2=2 4s", "1: event 1", "1: Request 1 Open", "2: Request 1 Open"],
    );
    // The record of the response came first, and its time may be before the request's.
    check(limits, &[(1, Response, 1, 10), (1, Request, 1, 9)], &["1: 1=1 2s"]);
    check(limits, &[(1, Response, 1, 5), (1, Request, 1, 9)], &["1: 1=1 0ns"]);
    check(
        limits,
        &[(1, Request, 1, 1), (1, Request, 1, 2), (1, Response, 1, 3), (1, Response, 1, 4)],
        &["1: Request 1 Superseded", "1: 1=1 2s", "1: Response 1 NoRequest"],
    );
}

#[test]
fn a_message_without_a_key_is_told_alone() {
    let (mut exchanges, mut emitted) = (Exchanges::new(ExchangeLimits::default()), Emitted::default());
    let mut open = message(Response, 1, 1);
    open.id = None;
    exchanges.message(1, open, &mut emitted.emit()).unwrap();
    assert_eq!(emitted.0, ["1: Response ? Unknown"]);
}

#[test]
fn the_oldest_makes_room_and_is_counted() {
    let limits = ExchangeLimits { connection_messages: 2, messages: 3, ..ExchangeLimits::default() };
    check(
        limits,
        &[(1, Request, 1, 1), (2, Request, 1, 1), (2, Request, 2, 1), (2, Request, 3, 1), (3, Request, 1, 1)],
        &[
            "2: Request 1 Evicted",
            "1: Request 1 Evicted",
            "2: Request 2 Open",
            "2: Request 3 Open",
            "3: Request 1 Open",
        ],
    );
    let one = message(Request, 1, 1).size();
    let limits = ExchangeLimits { bytes: one + one / 2, ..ExchangeLimits::default() };
    check(limits, &[(1, Request, 1, 1), (2, Request, 1, 1)], &["1: Request 1 Evicted", "2: Request 1 Open"]);
}

#[test]
fn the_end_of_a_connection_says_what_was_not_answered() {
    let (mut exchanges, mut emitted) = (Exchanges::new(ExchangeLimits::default()), Emitted::default());
    for (connection, kind, id) in [(1, Request, 1), (1, Request, 2), (2, Request, 1), (1, Response, 3)] {
        exchanges.message(connection, message(kind, id, 5), &mut emitted.emit()).unwrap();
    }
    exchanges.end(1, UnpairedReason::Closed, &mut emitted.emit()).unwrap();
    assert_eq!(emitted.0, ["1: Request 1 Closed", "1: Request 2 Closed", "1: Response 3 NoRequest"]);
    assert_eq!(exchanges.len(), 1);
}

#[test]
fn a_response_waits_only_as_long_as_records_are_late() {
    let (mut exchanges, mut emitted) = (Exchanges::new(ExchangeLimits::default()), Emitted::default());
    for (kind, id, second) in [(Response, 1, 5), (Response, 2, 8), (Request, 3, 1)] {
        exchanges.message(1, message(kind, id, second), &mut emitted.emit()).unwrap();
    }
    exchanges.settle(2, Timestamp::from_second(7).unwrap(), &mut emitted.emit()).unwrap();
    assert!(emitted.0.is_empty());
    exchanges.settle(1, Timestamp::from_second(7).unwrap(), &mut emitted.emit()).unwrap();
    assert_eq!((emitted.0.as_slice(), exchanges.len()), (&["1: Response 1 NoRequest".to_owned()][..], 2));
}

/// Streams, a conversation of the test protocols, and exchanges, one after the other as in a trace.
fn exchanges_of(calls: &[(Direction, u64, &[u8])], lost: &[usize]) -> Vec<String> {
    let mut streams = Streams::new(StreamLimits::default());
    let hints = Hints { role: Some(Role::Client), from_start: true, ..Hints::default() };
    let mut conversation = Conversation::new(PROTOCOLS, hints);
    let (mut exchanges, mut emitted, mut out) =
        (Exchanges::new(ExchangeLimits::default()), Emitted::default(), Messages::new(100));
    let mut decode = |direction, part: StreamPart<'_>| {
        match part {
            StreamPart::Chunk(chunk) => conversation.data(direction, &chunk, &mut out),
            StreamPart::Gap(gap) => conversation.gap(direction, gap, &mut out),
        }
        out.drain().try_for_each(|message| exchanges.message(1, message, &mut emitted.emit()))
    };
    let mut emit = |_, direction, part: StreamPart<'_>| decode(direction, part);
    for (index, &(direction, stream_offset, data)) in calls.iter().enumerate() {
        let (time, length) = (Timestamp::from_second(1).unwrap(), data.len() as u64);
        let call = index as u64;
        let (offset, data) = (0, Plaintext::of(data));
        let (connection, captured) = (1, length);
        let piece =
            Piece { connection, direction, stream_offset, call, time, length, captured, offset, data };
        if !lost.contains(&index) {
            streams.piece(&piece, &mut emit).unwrap();
        }
    }
    streams.end_all(&mut emit).unwrap();
    exchanges.end(1, UnpairedReason::Closed, &mut emitted.emit()).unwrap();
    emitted.0
}

#[test]
fn calls_become_exchanges() {
    let (up, down) = (Direction::Transmit, Direction::Receive);
    let calls: [(Direction, u64, &[u8]); 5] = [
        (up, 0, b"q1 003one"),
        // Records of two threads: the later call comes first.
        (up, 15, b"q3 000"),
        (up, 9, b"q2 000"),
        (down, 0, b"a3 000"),
        (down, 6, b"a1 002ab"),
    ];
    assert_eq!(exchanges_of(&calls, &[]), ["1: 3=3 0ns", "1: 1=1 0ns", "1: Request 2 Closed"]);
    // Without the late call, messages after the gap are still paired by their keys.
    assert_eq!(exchanges_of(&calls, &[2]), ["1: 1=1 0ns", "1: 3=3 0ns"]);
    assert_eq!(exchanges_of(&calls, &[3]), ["1: 1=1 0ns", "1: Request 2 Closed", "1: Request 3 Closed"]);
}

/// Some calls of a recording are lost, and the records are mixed. No pair may be wrong.
#[test]
fn what_is_lost_pairs_nothing_wrongly() {
    let mut noise = TestRng(88_172_645_463_325_252);
    for _ in 0..500 {
        let mut texts: Vec<(Direction, u64, String)> = Vec::new();
        let mut offsets = [0_u64; 2];
        for id in 0..8 {
            for (side, direction, kind) in [(0, Direction::Transmit, 'q'), (1, Direction::Receive, 'a')] {
                let text = format!("{kind}{id} 00{0}{1}", id + 1, "x".repeat(id + 1));
                let offset = offsets.get_mut(side).unwrap();
                let start = *offset;
                *offset += text.len() as u64;
                texts.push((direction, start, text));
            }
        }
        for _ in 0..4 {
            let at = noise.below(texts.len() - 1);
            texts.swap(at, at + 1);
        }
        let lost: Vec<usize> = (0..noise.below(4)).map(|_| noise.below(texts.len())).collect();
        let calls: Vec<_> = texts.iter().map(|(way, start, text)| (*way, *start, text.as_bytes())).collect();
        let emitted = exchanges_of(&calls, &lost);
        for line in &emitted {
            if let Some((asked, answered)) = line.trim_start_matches("1: ").split_once('=') {
                assert_eq!(Some(asked), answered.split(' ').next(), "{calls:?} without {lost:?}");
            }
        }
        let expected = if lost.is_empty() { 8..=8 } else { 8 - lost.len()..=16 };
        assert!(expected.contains(&emitted.len()), "{emitted:?}: {calls:?} without {lost:?}");
    }
}
