//! Random connections, with random gaps and joined anywhere, in which each response names the request that it
//! answers.

use super::*;
use crate::protocol::mongodb::snappy;

fn connection(rng: &mut TestRng) -> TestCalls {
    let mut calls = TestCalls::default();
    for number in 1..(4 + u32::try_from(rng.below(12)).unwrap()) {
        // Drivers take any numbers.
        let id = u32::try_from(rng.next() >> 33).unwrap() | 1;
        let name = format!("c{number}");
        match rng.below(4) {
            0 => {
                let insert = document(&[("insert", Text(&name)), ("$db", Text("shop"))]);
                calls.up(msg(id, 0, 2, &insert));
            }
            1 => {
                let bytes = found(number, id, &name, usize::try_from(number).unwrap());
                let at = 20 + rng.below(bytes.len() - 20);
                calls.up(find(id, &name)).down(&bytes[..at]).down(&bytes[at..]);
            }
            _ => {
                calls.up(find(id, &name)).down(found(number, id, &name, usize::try_from(number).unwrap()));
            }
        }
    }
    calls
}

fn belongs(request: &Message, response: &Message) -> bool {
    let number = request.text(&COLLECTION).and_then(|name| name.strip_prefix('c')?.parse::<u64>().ok());
    match (number, response.number(&RETURNED_ROWS)) {
        (Some(number), Some(rows)) => number == rows || !response.partial.is_whole(),
        _ => true,
    }
}

#[test]
fn no_pair_is_wrong() {
    let (mut all, mut paired) = ([0; 4], [0; 4]);
    for seed in 1..=cases(2000) {
        let mut rng = TestRng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        rng.bytes(b"");
        let whole = connection(&mut rng);
        let kind = usize::try_from(seed % 4).unwrap();
        let first = if kind >= 2 { 1 + rng.below(whole.list.len() - 1) } else { 0 };
        let mut calls = whole.joined_at(first);
        if kind % 2 == 1 {
            calls = calls.with_gaps(&mut rng);
        }
        let hints = if first == 0 { client() } else { joined() };
        let split = 1 + rng.below(100);
        let late = rng.below(3);
        let decoded = decode(Conversation::new(ALL, hints), &calls, split, Some((&mut rng, late)));
        let answered: Vec<Message> =
            decoded.messages.iter().filter(|message| !message.is_one_way).cloned().collect();
        let (requests, pairs) = count_pairs(&answered, belongs, &(seed, kind));
        all[kind] += requests;
        paired[kind] += pairs;
        if kind == 0 {
            assert_eq!(requests, pairs, "seed {seed}");
        }
    }
    eprintln!("whole, gaps, joined, joined with gaps: {paired:?} of {all:?} are paired");
    assert!(paired[1] * 2 > all[1] && paired[2] * 2 > all[2], "{paired:?} of {all:?}");
}

#[test]
fn any_bytes_are_taken() {
    let mut rng = TestRng(11);
    for seed in 0..cases(1000) {
        let mut calls = connection(&mut rng);
        for call in &mut calls.list {
            if rng.below(3) == 0 {
                let at = rng.below(call.data.len());
                rng.damage(&mut call.data, at);
            }
        }
        let hints = Hints { role: None, ..if seed % 2 == 0 { client() } else { joined() } };
        let split = 1 + rng.below(50);
        check_any_cut(&MONGODB, &hints, &calls, split);
    }
}

#[test]
fn snappy_takes_any_bytes() {
    let mut rng = TestRng(13);
    for _ in 0..cases(2000) {
        let out = snappy::decompress(&rng.bytes(b""), 10_000);
        assert!(out.is_none_or(|out| out.len() <= 10_000));
    }
}
