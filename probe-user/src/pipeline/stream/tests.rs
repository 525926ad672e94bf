//! Checks the parts that streams emit, for every order in which pieces can come, and for any numbers in them.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::HashMap;

use super::*;
use crate::test_rng::TestRng;

/// A sent piece of connection 1: the offset of the call in the stream, its length, its captured bytes, and
/// the offset and the length of the piece in the call.
#[derive(Clone, Copy, Debug)]
struct Part(u64, u64, u64, u64, u64);

fn whole(offset: u64, length: u64) -> Part {
    Part(offset, length, length, 0, length)
}

/// The byte at this offset of a stream.
fn byte(offset: u64) -> u8 {
    (offset.wrapping_mul(31) ^ (offset >> 8)).to_le_bytes()[0]
}

fn bytes(from: u64, length: u64) -> Vec<u8> {
    (0..length).map(|index| byte(from.wrapping_add(index))).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    /// The offset, the length, and whether the first byte is the first of a call.
    Bytes(u64, u64, bool),
    Gap(u64, u64, GapCause),
}
use GapCause::{Lost, Truncated};
use Given::{Bytes, Gap as Missing};

/// The emitted parts, checked to follow each other in each stream.
#[derive(Debug, Default)]
struct Log {
    next: HashMap<(u64, bool), u64>,
    given: Vec<(u64, Given)>,
}

impl Log {
    fn take(&mut self, connection: u64, direction: Direction, part: StreamPart<'_>) {
        let next = self.next.entry((connection, direction == Direction::Transmit)).or_default();
        let (offset, length, given) = match part {
            StreamPart::Chunk(Chunk { offset, data, mark }) => {
                let length = data.len() as u64;
                assert_eq!(data, bytes(offset, length), "bytes at {offset}");
                assert_eq!(mark.offset, offset);
                (offset, length, Bytes(offset, length, mark.starts_call))
            }
            StreamPart::Gap(gap) => (gap.offset, gap.length, Missing(gap.offset, gap.length, gap.cause)),
        };
        assert_eq!(*next, offset, "{part:?} of {connection} follows on what was given before");
        assert!(length > 0, "{part:?}");
        *next = offset + length;
        self.given.push((connection, given));
    }

    fn of(&self, connection: u64) -> Vec<Given> {
        self.given.iter().filter(|(id, _)| *id == connection).map(|(_, given)| *given).collect()
    }
}

fn take(streams: &mut Streams, log: &mut Log, connection: u64, part: Part) {
    let Part(stream_offset, length, captured, offset, size) = part;
    let data = bytes(stream_offset.wrapping_add(offset), size);
    let piece = Piece {
        connection,
        direction: Direction::Transmit,
        stream_offset,
        call: 1,
        time: Timestamp::UNIX_EPOCH,
        length,
        captured,
        offset,
        data: Plaintext::of(&data),
    };
    streams.piece(&piece, &mut log.emit()).unwrap();
    let held = streams.connections.iter().map(|(_, streams)| streams.bytes()).sum::<usize>();
    assert_eq!(streams.bytes, held);
    let waiting = streams.connections.iter().filter(|(_, streams)| streams.bytes() > 0).count();
    assert_eq!(streams.waiting.len(), waiting);
    assert!(streams.bytes <= streams.limits.bytes, "{streams:?}");
}

impl Log {
    fn emit(&mut self) -> impl FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()> {
        |connection, direction, part| {
            self.take(connection, direction, part);
            Ok(())
        }
    }
}

fn run(parts: &[Part]) -> (Vec<Given>, StreamCounts) {
    let (mut streams, mut log) = (Streams::new(StreamLimits::default()), Log::default());
    for part in parts {
        take(&mut streams, &mut log, 1, *part);
    }
    streams.end_all(&mut log.emit()).unwrap();
    assert!(streams.bytes == 0 && streams.waiting.is_empty() && streams.connections.is_empty());
    (log.of(1), streams.counts())
}

fn check(parts: &[Part], expected: &[Given]) {
    assert_eq!(run(parts).0, expected, "{parts:?}");
}

#[test]
fn calls_in_order_pass_through() {
    check(&[whole(0, 5), whole(5, 0), whole(5, 7)], &[Bytes(0, 5, true), Bytes(5, 7, true)]);
    // In pieces.
    check(&[Part(0, 9, 9, 0, 4), Part(0, 9, 9, 4, 5)], &[Bytes(0, 4, true), Bytes(4, 5, false)]);
}

#[test]
fn what_comes_too_early_waits() {
    check(
        &[whole(5, 7), whole(12, 1), whole(0, 5)],
        &[Bytes(0, 5, true), Bytes(5, 7, true), Bytes(12, 1, true)],
    );
}

#[test]
fn what_does_not_come_is_a_gap() {
    check(&[whole(0, 5), whole(8, 4)], &[Bytes(0, 5, true), Missing(5, 3, Lost), Bytes(8, 4, true)]);
    // The pieces of one call come in order, so the gap is certain at once.
    let (mut streams, mut log) = (Streams::new(StreamLimits::default()), Log::default());
    take(&mut streams, &mut log, 1, Part(0, 30, 30, 20, 10));
    assert_eq!(log.of(1), [Missing(0, 20, Lost), Bytes(20, 10, false)]);
    // Bytes that come too late are dropped.
    take(&mut streams, &mut log, 1, Part(0, 30, 30, 0, 20));
    assert_eq!((log.given.len(), streams.counts().repeated), (2, 20));
}

#[test]
fn what_a_limit_cut_is_a_gap_within_its_call() {
    check(
        &[Part(0, 100, 10, 0, 10), Part(100, 5, 0, 0, 0), whole(105, 1)],
        &[Bytes(0, 10, true), Missing(10, 90, Truncated), Missing(100, 5, Truncated), Bytes(105, 1, true)],
    );
    // The same for a call that comes too early, and in pieces.
    check(
        &[Part(9, 50, 10, 0, 5), Part(9, 50, 10, 5, 5), whole(0, 9)],
        &[Bytes(0, 9, true), Bytes(9, 5, true), Bytes(14, 5, false), Missing(19, 40, Truncated)],
    );
}

#[test]
fn no_byte_is_given_twice() {
    let parts = [whole(0, 5), whole(0, 5), whole(3, 4), whole(9, 3), whole(9, 5), whole(8, 4), whole(7, 1)];
    let expected = [Bytes(0, 5, true), Bytes(5, 2, false), Bytes(7, 1, true), Bytes(8, 4, true)];
    let (given, counts) = run(&parts);
    assert_eq!(given, [&expected[..], &[Bytes(12, 2, false)]].concat());
    assert_eq!(counts.repeated, 5 + 2 + 3 + 3);
}

#[test]
fn numbers_that_contradict_each_other_are_left_out() {
    let malformed = [
        Part(0, 5, 6, 0, 5),               // more captured than moved
        Part(0, 9, 5, 4, 2),               // beyond what was captured
        Part(u64::MAX, 2, 2, 0, 2),        // beyond all streams
        Part(5, u64::MAX, 5, 0, 5),        // likewise
        Part(0, u64::MAX, 5, u64::MAX, 5), // likewise
        Part(2, u64::MAX, u64::MAX, 3, 1), // likewise
    ];
    let (given, counts) = run(&malformed);
    assert_eq!((given.len(), counts.malformed), (0, 6));
    let end = u64::MAX - 3;
    let (given, _) = run(&[whole(end, 3), whole(0, 4)]);
    assert_eq!(given, [Bytes(0, 4, true), Missing(4, end - 4, Lost), Bytes(end, 3, true)]);
}

#[test]
fn the_end_tells_what_is_missing_at_the_end() {
    let (mut streams, mut log) = (Streams::new(StreamLimits::default()), Log::default());
    take(&mut streams, &mut log, 1, whole(0, 5));
    let counted = Traffic { calls: 3, received: 7, transmitted: 9 };
    streams.end(1, Some(counted), &mut log.emit()).unwrap();
    assert_eq!(log.of(1), [Bytes(0, 5, true), Missing(5, 4, Lost), Missing(0, 7, Lost)]);
    streams.end(1, Some(counted), &mut log.emit()).unwrap();
    assert_eq!(log.given.len(), 3, "an end is told once");
}

#[test]
fn waiting_ends_when_nothing_comes_any_more() {
    let (mut streams, mut log) = (Streams::new(StreamLimits::default()), Log::default());
    for connection in [1, 2] {
        take(&mut streams, &mut log, connection, whole(2, 1));
        take(&mut streams, &mut log, connection, whole(6, 1));
    }
    assert_eq!(log.given, []);
    streams.settle(&mut log.emit()).unwrap();
    let expected = [Missing(0, 2, Lost), Bytes(2, 1, true), Missing(3, 3, Lost), Bytes(6, 1, true)];
    assert_eq!((log.of(1), log.of(2)), (expected.to_vec(), expected.to_vec()));
    assert_eq!(streams.waiting_bytes(), 0);
}

#[test]
fn bounds_hold() {
    let limits = StreamLimits { direction_pieces: 2, ..StreamLimits::default() };
    let (mut streams, mut log) = (Streams::new(limits), Log::default());
    for index in 1..4 {
        take(&mut streams, &mut log, 1, whole(index * 10, 10));
    }
    assert_eq!(log.of(1)[..2], [Missing(0, 10, Lost), Bytes(10, 10, true)]);

    // The limit of all bytes: the connection that has waited longest makes room.
    let limits = StreamLimits { bytes: 2 * OVERHEAD + 20, ..StreamLimits::default() };
    let (mut streams, mut log) = (Streams::new(limits), Log::default());
    for connection in 1..4 {
        take(&mut streams, &mut log, connection, whole(10, 10));
    }
    assert_eq!(log.given, [(1, Missing(0, 10, Lost)), (1, Bytes(10, 10, true))]);
    assert_eq!(streams.counts().released, 1);

    // The limit of connections: the least recently used one makes room.
    let limits = StreamLimits { connections: NonZeroUsize::new(2).unwrap(), ..StreamLimits::default() };
    let (mut streams, mut log) = (Streams::new(limits), Log::default());
    take(&mut streams, &mut log, 1, whole(1, 1));
    take(&mut streams, &mut log, 2, whole(1, 1));
    take(&mut streams, &mut log, 1, whole(3, 1));
    take(&mut streams, &mut log, 3, whole(1, 1));
    assert_eq!(log.given, [(2, Missing(0, 1, Lost)), (2, Bytes(1, 1, true))]);
    assert_eq!(streams.counts().evicted, 1);
}

/// Calls of some connections, in random pieces, mixed at random as threads mix them, some lost, some
/// repeated.
#[test]
fn random_mixtures_give_what_came_and_say_what_did_not() {
    let mut noise = TestRng(88_172_645_463_325_252);
    let mut random = move |below: u64| u64::try_from(noise.below(usize::try_from(below).unwrap())).unwrap();
    for round in 0..600 {
        let (is_lossy, is_tight) = (round % 2 == 1, round % 3 == 0);
        let limits = if is_tight {
            StreamLimits {
                direction_pieces: 3,
                bytes: 5 * OVERHEAD,
                direction_bytes: 400,
                ..Default::default()
            }
        } else {
            StreamLimits::default()
        };
        let mut came: HashMap<u64, Vec<bool>> = HashMap::new();
        let mut queues: Vec<Vec<(u64, Part)>> = Vec::new();
        for connection in 1..=1 + random(3) {
            let came = came.entry(connection).or_default();
            for _ in 0..=random(8) {
                let (start, length) = (came.len() as u64, random(60));
                let captured = if random(4) == 0 { random(length + 1) } else { length };
                came.resize(came.len() + usize::try_from(length).unwrap(), false);
                let (mut queue, mut offset) = (Vec::new(), 0);
                while offset < captured {
                    let size = (1 + random(20)).min(captured - offset);
                    let copies = if is_lossy { [0, 1, 1, 2][usize::try_from(random(4)).unwrap()] } else { 1 };
                    for _ in 0..copies {
                        queue.push((connection, Part(start, length, captured, offset, size)));
                        let from = usize::try_from(start + offset).unwrap();
                        came[from..from + usize::try_from(size).unwrap()].fill(true);
                    }
                    offset += size;
                }
                queue.reverse();
                queues.push(queue);
            }
        }
        let (mut streams, mut log) = (Streams::new(limits), Log::default());
        while !queues.is_empty() {
            let at = usize::try_from(random(queues.len() as u64)).unwrap();
            match queues[at].pop() {
                Some((connection, part)) => take(&mut streams, &mut log, connection, part),
                None => drop(queues.swap_remove(at)),
            }
        }
        streams.end_all(&mut log.emit()).unwrap();
        assert_eq!(streams.bytes, 0);
        for (connection, came) in came {
            let mut given = vec![false; came.len()];
            for part in log.of(connection) {
                let Bytes(offset, length, _) = part else { continue };
                let from = usize::try_from(offset).unwrap();
                given[from..from + usize::try_from(length).unwrap()].fill(true);
            }
            if is_tight {
                assert!(
                    given.iter().zip(&came).all(|(given, came)| *came || !given),
                    "{connection}: {log:?}"
                );
            } else {
                assert_eq!(given, came, "{connection}: {log:?}");
            }
        }
    }
}

/// Whatever the numbers are, streams stay in order, the bounds hold, and nothing panics.
#[test]
fn hostile_numbers_do_no_harm() {
    let mut noise = TestRng(2_463_534_242);
    let limits = StreamLimits {
        connections: NonZeroUsize::new(3).unwrap(),
        direction_pieces: 4,
        direction_bytes: 1000,
        bytes: 2000,
    };
    for _ in 0..200 {
        let mut streams = Streams::new(limits);
        let mut next: HashMap<(u64, bool), u64> = HashMap::new();
        let mut emit = |connection, direction: Direction, part: StreamPart<'_>| {
            let next = next.entry((connection, direction == Direction::Transmit)).or_default();
            let (offset, length) = match part {
                StreamPart::Chunk(chunk) => (chunk.offset, chunk.data.len() as u64),
                StreamPart::Gap(gap) => (gap.offset, gap.length),
            };
            // A connection that was forgotten starts over.
            assert!(offset == *next || offset == 0, "{part:?} at {next}");
            *next = offset.checked_add(length).unwrap();
            Ok(())
        };
        for _ in 0..100 {
            let mut number = |small: usize| match noise.below(4) {
                0 => noise.next(),
                1 => u64::MAX - noise.below(small) as u64,
                _ => noise.below(small) as u64,
            };
            let (stream_offset, length, captured, offset) = (number(50), number(90), number(70), number(30));
            let data = vec![0; usize::try_from(number(40) % 40).unwrap()];
            let connection = number(6) % 6;
            let direction = DIRECTIONS[usize::try_from(number(2) % 2).unwrap()];
            let time = Timestamp::UNIX_EPOCH;
            let data = Plaintext::of(&data);
            let call = number(5);
            let piece =
                Piece { connection, direction, stream_offset, call, time, length, captured, offset, data };
            streams.piece(&piece, &mut emit).unwrap();
            assert!(streams.bytes <= limits.bytes && streams.connections.len() <= 3);
        }
        streams.end_all(&mut emit).unwrap();
    }
}
