//! Checks the joining of chunks, for every order in which they can come.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::HashMap;

use probe_common::CHUNK_BYTES;
use zerocopy::FromZeros;

use super::*;
use crate::event::{Containment, Process};
use crate::test_rng::TestRng;

/// A chunk, or something that happens between chunks.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The thread, the number of the call, its captured bytes, the offset and the length of the chunk.
    Chunk(u32, u64, u32, u32, u32),
    /// A process ends. Each thread here is a process of its own.
    Exit(u32),
    /// The ring is empty, this many milliseconds after the start.
    Idle(u64),
}
use Step::{Chunk, Exit, Idle};

/// The byte at this offset of a call.
fn byte(number: u64, offset: u32) -> u8 {
    let mixed = u64::from(offset).wrapping_mul(31) ^ u64::from(offset >> 8) ^ number.wrapping_mul(97);
    mixed.to_le_bytes()[0]
}

fn payload(number: u64, offset: u32, length: u32) -> Vec<u8> {
    (offset..offset + length).map(|offset| byte(number, offset)).collect()
}

fn call(tid: u32, number: u64, captured: u32, offset: u32, chunk: u32) -> Call {
    let mut call = Call::new_zeroed();
    (call.header.pid, call.header.tid) = (tid, tid);
    (call.connection, call.number, call.length, call.captured) = (1, number, captured.into(), captured);
    (call.offset, call.chunk) = (offset, chunk);
    call
}

fn origin() -> Arc<ProcessContext> {
    Arc::new(ProcessContext {
        process: Process { pid: 1, vpid: None, executable: None, entered: None },
        container: Containment::Host,
    })
}

/// Runs the steps. The pieces are (number of the call, offset, length), and their bytes are checked.
fn run(bound: usize, steps: &[Step]) -> Vec<(u64, u32, u32)> {
    let mut join = CallAssembler::new(PendingLimits { bytes: bound, ..LIMITS });
    let mut pieces = Vec::new();
    let emit = &mut |piece: Segment<'_>| {
        let (number, length) = (piece.call.number, u32::try_from(piece.data.len()).unwrap());
        assert_eq!(piece.data, payload(number, piece.offset, length), "bytes of call {number}");
        pieces.push((number, piece.offset, length));
        Ok(())
    };
    let start = Instant::now();
    for step in steps {
        match *step {
            Chunk(tid, number, captured, offset, chunk) => {
                let head = call(tid, number, captured, offset, chunk);
                let data = payload(number, offset, chunk);
                if join.is_continuation(&head) {
                    join.append(&head, Plaintext::of(&data), emit).unwrap();
                } else {
                    join.end_thread(&head.header, emit).unwrap();
                    join.begin(&head, Plaintext::of(&data), origin(), emit).unwrap();
                }
            }
            Exit(pid) => join.end_process(pid, emit).unwrap(),
            Idle(after) => join.idle(start + Duration::from_millis(after), emit).unwrap(),
        }
        assert!(join.waiting.bytes() <= bound);
    }
    join.end_all(emit).unwrap();
    assert!(join.is_empty() && join.waiting.bytes() == 0);
    pieces
}

fn check(steps: &[Step], expected: &[(u64, u32, u32)]) {
    assert_eq!(run(1 << 20, steps), expected, "{steps:?}");
}

#[test]
fn one_chunk_passes_through() {
    check(&[Chunk(1, 1, 5, 0, 5)], &[(1, 0, 5)]);
    check(&[Chunk(1, 1, 0, 0, 0)], &[(1, 0, 0)]);
}

#[test]
fn chunks_become_one_piece() {
    check(&[Chunk(1, 1, 25, 0, 10), Chunk(1, 1, 25, 10, 10), Chunk(1, 1, 25, 20, 5)], &[(1, 0, 25)]);
}

#[test]
fn threads_interleave() {
    let steps = [
        Chunk(1, 1, 20, 0, 10),
        Chunk(2, 2, 30, 0, 10),
        Chunk(3, 3, 7, 0, 7),
        Chunk(2, 2, 30, 10, 10),
        Chunk(1, 1, 20, 10, 10),
        Chunk(2, 2, 30, 20, 10),
    ];
    check(&steps, &[(3, 0, 7), (1, 0, 20), (2, 0, 30)]);
}

#[test]
fn lost_chunks_leave_pieces() {
    // The first chunk is lost.
    check(&[Chunk(1, 1, 30, 10, 10), Chunk(1, 1, 30, 20, 10)], &[(1, 10, 20)]);
    // The first two of three are lost.
    check(&[Chunk(1, 1, 30, 20, 10)], &[(1, 20, 10)]);
    // One in the middle is lost.
    check(
        &[Chunk(1, 1, 40, 0, 10), Chunk(1, 1, 40, 20, 10), Chunk(1, 1, 40, 30, 10)],
        &[(1, 0, 10), (1, 20, 20)],
    );
    // The last is lost, and another call follows.
    check(&[Chunk(1, 1, 30, 0, 10), Chunk(1, 1, 30, 10, 10), Chunk(1, 2, 5, 0, 5)], &[(1, 0, 20), (2, 0, 5)]);
    // The last of one call and the first of the next, which is as long, are lost.
    check(&[Chunk(1, 1, 20, 0, 10), Chunk(1, 2, 20, 10, 10)], &[(1, 0, 10), (2, 10, 10)]);
}

#[test]
fn calls_without_connection_are_told_apart_by_time() {
    let mut join = CallAssembler::new(LIMITS);
    let emit = &mut |_: Segment<'_>| Ok(());
    let at = |time, offset| {
        let mut call = call(1, 0, 20, offset, 10);
        (call.header.time, call.connection) = (time, 0);
        call
    };
    join.begin(&at(1, 0), Plaintext::of(&[0; 10]), origin(), emit).unwrap();
    assert!(join.is_continuation(&at(1, 10)));
    assert!(!join.is_continuation(&at(2, 10)));
}

#[test]
fn unreadable_chunks_are_gaps() {
    let fault = |offset| Chunk(1, 1, 30, offset, 0);
    check(&[fault(0), Chunk(1, 1, 30, 10, 10), Chunk(1, 1, 30, 20, 10)], &[(1, 10, 20)]);
    check(&[Chunk(1, 1, 30, 0, 10), fault(10), Chunk(1, 1, 30, 20, 10)], &[(1, 0, 10), (1, 20, 10)]);
    check(&[Chunk(1, 1, 30, 0, 10), Chunk(1, 1, 30, 10, 10), fault(20)], &[(1, 0, 20)]);
    // No byte could be read, but the call is still reported, once.
    check(&[fault(0), fault(10), fault(20), Chunk(1, 2, 3, 0, 3)], &[(1, 0, 0), (2, 0, 3)]);
}

#[test]
fn the_end_of_a_process_ends_its_calls() {
    check(
        &[Chunk(1, 1, 30, 0, 10), Chunk(2, 2, 30, 0, 30), Exit(1), Chunk(1, 3, 5, 0, 5)],
        &[(2, 0, 30), (1, 0, 10), (3, 0, 5)],
    );
    check(&[Chunk(1, 1, 30, 0, 10), Exit(2), Chunk(1, 1, 30, 10, 20)], &[(1, 0, 30)]);
}

#[test]
fn a_processor_that_stands_still_splits_no_call() {
    check(&[Chunk(1, 1, 30, 0, 10), Idle(1000), Idle(2500), Chunk(1, 1, 30, 10, 20)], &[(1, 0, 30)]);
}

#[test]
fn patience_ends() {
    let first = Chunk(1, 1, 30, 0, 10);
    check(&[first, Idle(1000), Idle(3000), Chunk(1, 1, 30, 10, 20)], &[(1, 0, 30)]);
    check(&[first, Idle(1000), Idle(3001), Chunk(2, 2, 5, 0, 5)], &[(1, 0, 10), (2, 0, 5)]);
    // A chunk in between restarts the timeout.
    let rest = Chunk(1, 1, 30, 20, 10);
    check(&[first, Idle(1000), Chunk(1, 1, 30, 10, 10), Idle(3001), Idle(4000), rest], &[(1, 0, 30)]);
}

#[test]
fn the_oldest_gives_way_at_the_bound() {
    let steps = [
        Chunk(1, 1, 30, 0, 10),
        Chunk(2, 2, 30, 0, 10),
        Chunk(2, 2, 30, 10, 10),
        Chunk(1, 1, 30, 10, 20),
        Chunk(2, 2, 30, 20, 10),
    ];
    assert_eq!(run(25, &steps), [(1, 0, 10), (1, 10, 20), (2, 0, 30)]);
    assert_eq!(run(0, &steps), [(1, 0, 10), (2, 0, 10), (2, 10, 10), (1, 10, 20), (2, 20, 10)]);
}

/// Calls of random sizes on some threads, cut into random chunks, mixed at random, with some lost.
#[test]
fn random_mixtures_keep_every_byte() {
    let mut noise = TestRng(88_172_645_463_325_252);
    let mut random = move |below: u32| u32::try_from(noise.below(below as usize)).unwrap();
    for round in 0..400 {
        let lossy = round % 2 == 1;
        let mut queues: Vec<Vec<Step>> = Vec::new();
        let mut expected: HashMap<u64, Vec<bool>> = HashMap::new();
        for tid in 0..=random(4) {
            let mut queue = Vec::new();
            for index in 0..=random(5) {
                let number = u64::from(tid * 100 + index);
                let captured = 1 + random(60);
                let mut offset = 0;
                let mut kept = vec![false; captured as usize];
                while offset < captured {
                    let chunk = (1 + random(20)).min(captured - offset);
                    if !lossy || random(4) > 0 {
                        queue.push(Chunk(tid, number, captured, offset, chunk));
                        kept[offset as usize..(offset + chunk) as usize].fill(true);
                    }
                    offset += chunk;
                }
                expected.insert(number, kept);
            }
            queue.reverse();
            queues.push(queue);
        }
        let mut steps = Vec::new();
        while !queues.is_empty() {
            let at = random(u32::try_from(queues.len()).unwrap()) as usize;
            match queues[at].pop() {
                Some(step) => steps.push(step),
                None => drop(queues.swap_remove(at)),
            }
        }
        let bound = if round % 3 == 0 { random(100) as usize } else { CHUNK_BYTES };
        let mut got: HashMap<u64, Vec<bool>> =
            expected.iter().map(|(&number, kept)| (number, vec![false; kept.len()])).collect();
        for (number, offset, length) in run(bound, &steps) {
            for seen in &mut got.get_mut(&number).unwrap()[offset as usize..(offset + length) as usize] {
                assert!(!*seen, "call {number} has bytes twice");
                *seen = true;
            }
        }
        assert_eq!(got, expected, "{steps:?}");
        if !lossy && bound == CHUNK_BYTES {
            assert_eq!(run(bound, &steps).len(), expected.len(), "one piece a call: {steps:?}");
        }
    }
}
