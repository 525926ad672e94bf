//! Gaps in recordings: nothing may be paired or named wrongly.

use super::oracle::{Findings, SMALL, Shape, compare, record};
use super::*;
use crate::test_rng::TestRng;

/// The number of bytes of a direction.
fn length(events: &[Event], direction: Direction) -> usize {
    let lengths = events.iter().map(|event| match event {
        Event::Call(has, bytes) if *has == direction => bytes.len(),
        _ => 0,
    });
    lengths.sum()
}

/// The events without `length` bytes of a direction from `start` on.
fn without(events: &[Event], direction: Direction, start: usize, length: usize) -> Vec<Event> {
    let mut offset = 0;
    let mut result = Vec::new();
    let mut missing = 0;
    for event in events {
        let bytes = match event {
            Event::Call(has, bytes) if *has == direction => bytes,
            _ => {
                result.push(event.clone());
                continue;
            }
        };
        let (from, to) = (offset, offset + bytes.len());
        offset = to;
        let cut = (start.clamp(from, to) - from, (start + length).clamp(from, to) - from);
        if cut.0 == cut.1 {
            result.push(event.clone());
            continue;
        }
        missing += cut.1 - cut.0;
        if cut.0 > 0 {
            result.push(Event::Call(direction, bytes[..cut.0].to_vec()));
        }
        if missing == length {
            result.push(Event::Gap(direction, missing as u64));
        }
        if cut.1 < bytes.len() {
            result.push(Event::Rest(direction, bytes[cut.1..].to_vec()));
        }
    }
    result
}

/// The offsets at which frames of a direction begin.
fn frame_starts(events: &[Event], direction: Direction) -> Vec<usize> {
    let calls = events.iter().filter_map(|event| match event {
        Event::Call(has, bytes) if *has == direction => Some(bytes.clone()),
        _ => None,
    });
    let bytes: Vec<u8> = calls.flatten().collect();
    let mut at = if bytes.starts_with(PREFACE) { PREFACE.len() } else { 0 };
    let mut starts = Vec::new();
    while let Some(head) = FrameHead::parse(&bytes[at..]) {
        starts.push(at);
        at += HEAD + head.payload();
    }
    starts
}

/// The number of random gaps.
const CASES: u64 = 400;

/// The same bytes in other calls: each is divided into calls of at most `size` bytes, as a reader with a
/// small buffer does.
fn divided(events: &[Event], size: usize) -> Vec<Event> {
    let calls = events.iter().flat_map(|event| match event {
        Event::Call(direction, bytes) => {
            bytes.chunks(size).map(|part| Event::Call(*direction, part.to_vec()))
        }
        _ => panic!("{event:?}"),
    });
    calls.collect()
}

/// Counts over many recordings.
#[derive(Debug, Default)]
struct Totals {
    cases: usize,
    /// Messages that could have come.
    sent: usize,
    messages: usize,
    pairs: usize,
    whole: usize,
    right: usize,
    unknown: usize,
}

impl Totals {
    fn add(&mut self, sent: usize, messages: &[Message], findings: Findings) {
        let requests = messages.iter().filter(|message| message.kind == MessageKind::Request);
        let is_answered = |request: &&Message| {
            messages.iter().any(|other| other.kind == MessageKind::Response && other.key() == request.key())
        };
        self.cases += 1;
        self.sent += sent * 2;
        self.messages += messages.len();
        self.pairs += requests.filter(is_answered).count();
        self.whole += findings.whole;
        self.right += findings.right;
        self.unknown += findings.unknown;
    }
}

#[test]
fn a_gap_at_every_frame() {
    let mut totals = Totals::default();
    for table in [None, Some(300)] {
        let recording = record(Shape { seed: 11, table, exchanges: 16, ..SMALL });
        for direction in [UP, DOWN] {
            let starts = frame_starts(&recording.events, direction);
            for pair in starts.windows(2) {
                for length in [1, pair[1] - pair[0], pair[1] - pair[0] + 1] {
                    let events = without(&recording.events, direction, pair[0], length);
                    let (messages, _) = run(&client(), &events, 1000);
                    let findings = compare(&recording, &messages);
                    totals.add(recording.exchanges.len(), &messages, findings);
                }
            }
        }
    }
    eprintln!("{totals:?}");
    assert!(totals.messages * 100 > totals.sent * 90, "{totals:?}");
}

#[test]
fn gaps_anywhere() {
    let mut totals = Totals::default();
    let mut rng = TestRng(5);
    let cases = 20;
    for seed in 20..20 + crate::test_rng::cases(CASES) / cases {
        let shape = Shape { seed, table: [None, Some(0), Some(300)][rng.below(3)], ..SMALL };
        let recording = record(shape);
        let divided = divided(&recording.events, [9, 100, 1000, 16_384][rng.below(4)]);
        for case in 0..cases {
            let mut events = if case % 2 == 0 { recording.events.clone() } else { divided.clone() };
            let sides: &[Direction] = [&[UP][..], &[DOWN], &[UP, DOWN]][rng.below(3)];
            for &direction in sides {
                let all = length(&recording.events, direction);
                let start = rng.below(all);
                let longest = [3, 30, 300, 3000][rng.below(4)];
                events = without(&events, direction, start, (1 + rng.below(longest)).min(all - start));
            }
            let (messages, _) = run(&client(), &events, [13, 1000][rng.below(2)]);
            let findings = compare(&recording, &messages);
            totals.add(recording.exchanges.len(), &messages, findings);
        }
    }
    eprintln!("{totals:?}");
    assert!(totals.messages * 100 > totals.sent * 80, "{totals:?}");
}
