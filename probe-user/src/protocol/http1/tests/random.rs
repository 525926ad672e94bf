//! Random exchanges with random gaps, in which each response names the request that it answers.

use super::*;
use crate::protocol::http::RESPONSE_HEADERS;
use crate::protocol::http1::pairing::Method;
use crate::test_rng::{TestRng, cases};

/// The cases of each run of the tests.
const CASES: u64 = 400;

/// A call, or the part of one that was captured.
#[derive(Clone, Debug)]
struct Call {
    direction: Direction,
    time: Timestamp,
    data: Vec<u8>,
    /// The parts of it that are missing, as ranges of bytes.
    missing: Vec<(usize, usize)>,
}

/// What became of the exchanges of a run.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    exchanges: u64,
    paired: u64,
    wrong: u64,
    unpaired: u64,
}

/// What is seen of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Captured {
    All,
    Gaps,
    Joined,
    JoinedWithGaps,
}

/// How the client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// One request at a time.
    Sequential,
    /// Up to this many at a time.
    Pipelining(usize),
}

fn request(rng: &mut TestRng, number: u64) -> (Vec<u8>, Method) {
    let method = ["GET", "GET", "HEAD", "POST", "PUT"].get(rng.below(5)).copied().unwrap();
    let head = format!("{method} /r{number} HTTP/1.1\r\nHost: h\r\n");
    let body = "b".repeat(rng.below(60));
    let rest = match (method, rng.below(2)) {
        ("POST" | "PUT", 0) => format!("Content-Length: {}\r\n\r\n{body}", body.len()),
        ("POST" | "PUT", _) => {
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}x\r\n0\r\n\r\n", body.len() + 1)
        }
        _ => "\r\n".to_owned(),
    };
    ((head + &rest).into_bytes(), Method::of(method))
}

/// A response, in one or two calls. Some bodies look like responses.
fn response(rng: &mut TestRng, (number, method): (u64, Method)) -> Vec<Vec<u8>> {
    let interim = ["", "", "", "HTTP/1.1 103 Early Hints\r\n\r\n"].get(rng.below(4)).copied().unwrap();
    let head = format!("{interim}HTTP/1.1 200 OK\r\nX-Answers: /r{number}\r\n");
    let body = match rng.below(8) {
        0 => "HTTP/1.1 200 OK\r\nX-Answers: /r0\r\nContent-Length: 0\r\n\r\n".repeat(rng.below(3) + 1),
        size => "b".repeat(size * 40),
    };
    let (head, mut calls) = match rng.below(3) {
        0 => (format!("{head}Content-Length: {}\r\n\r\n", body.len()), vec![body]),
        1 => (
            format!("{head}Transfer-Encoding: chunked\r\n\r\n"),
            vec![format!("{:x}\r\n{body}\r\n", body.len()), "0\r\n\r\n".to_owned()],
        ),
        // Each part of the framing in a call of its own.
        _ => (
            format!("{head}Transfer-Encoding: chunked\r\n\r\n"),
            vec![format!("{:x}\r\n", body.len()), body, "\r\n0\r\n\r\n".to_owned()],
        ),
    };
    if method == Method::Head {
        calls.clear();
    }
    let whole = rng.below(2) == 0;
    let calls = [head].into_iter().chain(calls).map(String::into_bytes);
    if whole { vec![calls.flatten().collect()] } else { calls.collect() }
}

/// The calls of a connection in the order in which they were made.
fn calls(rng: &mut TestRng, client: Client, exchanges: u64) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut time = start_time();
    let mut outstanding: Vec<(u64, Method)> = Vec::new();
    let window = match client {
        Client::Sequential => 1,
        Client::Pipelining(window) => window,
    };
    let mut sent = 0;
    while sent < exchanges || !outstanding.is_empty() {
        let may_send = sent < exchanges && outstanding.len() < window;
        if may_send && (outstanding.is_empty() || rng.below(3) > 0) {
            // A client that does not pipeline may be silent for long. Servers answer fast.
            let is_pause = outstanding.is_empty() && rng.below(4) == 0;
            time += Duration::from_micros(if is_pause { 300_000 } else { 500 });
            sent += 1;
            let (data, method) = request(rng, sent);
            outstanding.push((sent, method));
            match calls.last_mut() {
                Some(last) if last.direction == Direction::Transmit && rng.below(2) == 0 => {
                    last.data.extend_from_slice(&data);
                }
                _ => calls.push(Call { direction: Direction::Transmit, time, data, missing: Vec::new() }),
            }
        } else {
            for data in response(rng, outstanding.remove(0)) {
                time += Duration::from_micros(200);
                calls.push(Call { direction: Direction::Receive, time, data, missing: Vec::new() });
            }
        }
    }
    calls
}

/// Removes parts of calls and whole calls.
fn lose(rng: &mut TestRng, calls: &mut [Call]) {
    for _ in 0..=rng.below(4) {
        let index = rng.below(calls.len());
        let count = [1, 1, 1, 4].get(rng.below(4)).copied().unwrap();
        for call in calls.iter_mut().skip(index).take(count) {
            let length = call.data.len();
            let range = match rng.below(3) {
                0 => (0, length),
                // What a limit cuts.
                1 => (rng.below(length), length),
                _ => {
                    let start = rng.below(length);
                    (start, start + 1 + rng.below(length - start))
                }
            };
            call.missing = vec![range];
        }
    }
}

/// Decodes the calls from the one at `first` on. Records of the two directions come in the order of the calls
/// or, if `late` is not 0, in one in which a direction may be behind by that many calls.
fn decode(rng: &mut TestRng, calls: &[Call], first: usize, late: usize) -> Vec<Message> {
    let hints = if first == 0 { client() } else { joined() };
    let mut conversation = Conversation::new(ALL, hints);
    let mut out = Messages::new(0);
    let mut order: Vec<(usize, usize)> =
        (first..calls.len()).map(|index| (index + rng.below(late + 1), index)).collect();
    order.sort_unstable();
    // Within a direction, the order is that of the calls.
    let indexes = |direction: Direction| {
        let calls = calls.iter().enumerate().skip(first);
        calls.filter(move |(_, call)| call.direction == direction).map(|(index, _)| index)
    };
    let (mut sent, mut received) = (indexes(Direction::Transmit), indexes(Direction::Receive));
    let mut offsets = [0_u64; 2];
    let mut gaps: [Option<Gap>; 2] = [None; 2];
    for (_, index) in order {
        let direction = calls.get(index).unwrap().direction;
        let side = usize::from(direction == Direction::Receive);
        let index = if side == 0 { sent.next() } else { received.next() }.unwrap();
        let call = calls.get(index).unwrap();
        let (offset, gap) = (offsets.get_mut(side).unwrap(), gaps.get_mut(side).unwrap());
        let call_offset = *offset;
        let split = 1 + rng.below(100);
        let mut start = 0;
        while start < call.data.len() {
            let hole = call.missing.iter().find(|(from, to)| (*from..*to).contains(&start));
            if let Some((_, to)) = hole {
                let length = (to - start) as u64;
                match gap {
                    Some(gap) => gap.length += length,
                    None => *gap = Some(Gap { offset: *offset, length, cause: GapCause::Lost }),
                }
                *offset += length;
                start = *to;
                continue;
            }
            if let Some(gap) = gap.take() {
                conversation.gap(direction, gap, &mut out);
            }
            let next = call.missing.iter().map(|(from, _)| *from).find(|from| *from > start);
            let end = (start + split).min(next.unwrap_or(usize::MAX)).min(call.data.len());
            let mark =
                CallMark { offset: call_offset, call: index as u64, time: call.time, starts_call: true };
            let mark =
                if start == 0 { mark } else { CallMark { offset: *offset, starts_call: false, ..mark } };
            let data = call.data.get(start..end).unwrap();
            conversation.data(direction, &Chunk { offset: *offset, data, mark }, &mut out);
            *offset += data.len() as u64;
            start = end;
        }
    }
    conversation.end(&mut out);
    out.drain().collect()
}

/// Counts the pairs, and those of which the response answers another request.
fn count(messages: &[Message]) -> Figures {
    let path = |message: &Message| text(message, &PATH);
    let answers = |message: &Message| match message.field(&RESPONSE_HEADERS) {
        Some(FieldValue::Headers(list)) => {
            list.iter().find(|header| header.name.as_deref() == Some("x-answers"))?.value.clone()
        }
        _ => None,
    };
    let of = |kind: MessageKind| messages.iter().filter(move |message| message.kind == kind);
    let mut figures = Figures::default();
    let mut ids = std::collections::BTreeMap::new();
    for request in of(MessageKind::Request) {
        figures.exchanges += 1;
        if let Some(id) = request.id {
            assert!(ids.insert(id, request).is_none(), "an id was given twice");
        }
    }
    for response in of(MessageKind::Response) {
        let request = response.id.and_then(|id| ids.remove(&id));
        match request {
            Some(request) if answers(response).is_some() && path(request) == answers(response) => {
                figures.paired += 1;
            }
            Some(_) => figures.wrong += 1,
            None => figures.unpaired += 1,
        }
    }
    figures
}

fn case(seed: u64, captured: Captured, late: usize) -> Figures {
    let mut rng = TestRng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    rng.bytes(b"");
    let client = if rng.below(2) == 0 { Client::Sequential } else { Client::Pipelining(2 + rng.below(6)) };
    let exchanges = 5 + rng.below(20) as u64;
    let mut calls = calls(&mut rng, client, exchanges);
    if matches!(captured, Captured::Gaps | Captured::JoinedWithGaps) {
        lose(&mut rng, &mut calls);
    }
    let is_joined = matches!(captured, Captured::Joined | Captured::JoinedWithGaps);
    let first = if is_joined { 1 + rng.below(calls.len() - 1) } else { 0 };
    let messages = decode(&mut rng, &calls, first, late);
    let figures = count(&messages);
    assert_eq!(
        figures.wrong,
        0,
        "seed {seed}, {client:?}: {:?}",
        messages.iter().map(shown).collect::<Vec<_>>()
    );
    if captured == Captured::All {
        assert_eq!(figures.paired, exchanges, "seed {seed}, {client:?}");
    }
    figures
}

fn run_cases(captured: Captured, late: usize) -> Figures {
    let cases = cases(CASES);
    let mut sum = Figures::default();
    for seed in 1..=cases {
        let figures = case(seed, captured, late);
        sum.exchanges += figures.exchanges;
        sum.paired += figures.paired;
        sum.unpaired += figures.unpaired;
    }
    eprintln!("{cases} cases, {captured:?}, late by {late}: {sum:?}");
    sum
}

#[test]
fn every_exchange_is_paired_if_nothing_is_lost() {
    let figures = run_cases(Captured::All, 0);
    assert_eq!((figures.paired, figures.unpaired), (figures.exchanges, 0));
    let figures = run_cases(Captured::All, 3);
    assert_eq!((figures.paired, figures.unpaired), (figures.exchanges, 0));
}

#[test]
fn no_pair_is_wrong_after_losses() {
    let figures = run_cases(Captured::Gaps, 0);
    assert!(figures.paired > figures.exchanges / 3, "{figures:?}");
    run_cases(Captured::Gaps, 3);
}

#[test]
fn no_pair_is_wrong_on_a_connection_joined_in_the_middle() {
    let figures = run_cases(Captured::Joined, 0);
    assert!(figures.paired > figures.exchanges / 6, "{figures:?}");
    run_cases(Captured::JoinedWithGaps, 0);
    run_cases(Captured::JoinedWithGaps, 3);
}
