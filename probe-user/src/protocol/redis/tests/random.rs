//! Random connections, with random gaps and joined anywhere, in which each reply names the command that it
//! answers.

use super::*;

/// A connection whose client sends up to `window` commands at a time.
fn connection(rng: &mut TestRng, window: usize) -> TestCalls {
    let mut calls = TestCalls::default();
    let mut number = 0;
    for _ in 0..(3 + rng.below(12)) {
        if rng.below(3) == 0 {
            calls.pause(300);
        }
        let count = 1 + rng.below(window);
        let (mut up, mut replies) = (Vec::new(), Vec::new());
        for _ in 0..count {
            number += 1;
            let name = format!("key:{number}");
            let value = match rng.below(6) {
                // Looks like replies.
                0 => "+OK\r\n:1\r\n$3\r\nabc\r\n".repeat(1 + rng.below(3)),
                1 => String::from_utf8(command("GET other")).unwrap(),
                length => "v".repeat(length * 7),
            };
            match rng.below(3) {
                0 => up.extend(
                    format!(
                        "*3\r\n$6\r\nGETSET\r\n${}\r\n{name}\r\n${}\r\n{value}\r\n",
                        name.len(),
                        value.len()
                    )
                    .into_bytes(),
                ),
                _ => up.extend(command(&format!("GET {name}"))),
            }
            replies.push(match rng.below(3) {
                // The status of an error is shown, and names the key.
                0 => format!("-E{number} no\r\n"),
                1 => format!("*2\r\n-E{number} no\r\n${}\r\n{value}\r\n", value.len()),
                _ => format!("${}\r\n{value}\r\n", value.len()),
            });
        }
        calls.up(up);
        if rng.below(2) == 0 {
            calls.down(replies.concat());
        } else {
            for reply in replies {
                calls.down(reply);
            }
        }
    }
    calls
}

fn belongs(request: &Message, response: &Message) -> bool {
    let key = field_text(request, &QUERY).unwrap_or_default();
    let key = key.split(' ').nth(1).map(str::to_owned);
    match (key, field_text(response, &STATUS)) {
        (Some(key), Some(status)) => key == format!("key:{}", &status[1..]) || key.ends_with('…'),
        _ => true,
    }
}

#[test]
fn no_pair_is_wrong() {
    let (mut all, mut paired) = ([0; 4], [0; 4]);
    for seed in 1..=cases(2000) {
        let mut rng = TestRng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        rng.bytes(b"");
        let window = [1, 1, 4, 12][rng.below(4)];
        let whole = connection(&mut rng, window);
        let kind = usize::try_from(seed % 4).unwrap();
        let first = if kind >= 2 { 1 + rng.below(whole.list.len() - 1) } else { 0 };
        let mut calls = whole.joined_at(first);
        if kind % 2 == 1 {
            calls = calls.with_gaps(&mut rng);
        }
        let hints = if first == 0 { client() } else { joined() };
        let split = 1 + rng.below(100);
        let late = rng.below(3);
        let conversation = Conversation::new(ALL, hints);
        let decoded = decode(conversation, &calls, split, Some((&mut rng, late)));
        let (requests, pairs) = count_pairs(&decoded.messages, belongs, &(seed, kind));
        all[kind] += requests;
        paired[kind] += pairs;
        if kind == 0 {
            assert_eq!(requests, pairs, "seed {seed}");
        }
    }
    eprintln!("whole, gaps, joined, joined with gaps: {paired:?} of {all:?} are paired");
    assert!(paired[1] * 3 > all[1] && paired[2] * 8 > all[2], "{paired:?} of {all:?}");
}

#[test]
fn any_bytes_are_taken() {
    let mut rng = TestRng(11);
    for seed in 0..cases(1000) {
        let mut calls = connection(&mut rng, 4);
        for call in &mut calls.list {
            if rng.below(3) == 0 {
                let at = rng.below(call.data.len());
                rng.damage(&mut call.data, at);
            }
            if rng.below(20) == 0 {
                call.data = rng.bytes(b"*$+-:%~>|\r\n0123456789?");
                call.data.push(b'x');
            }
        }
        let hints = Hints { role: None, ..if seed % 2 == 0 { client() } else { joined() } };
        let split = 1 + rng.below(50);
        let decoded = decode(Conversation::of(&REDIS, hints), &calls, split, None);
        assert!(decoded.held < 1 << 20, "{}", decoded.held);
    }
}

#[test]
fn a_busy_connection_is_decoded_fast() {
    let mut calls = TestCalls::default();
    for _ in 0..100 {
        calls.up(command("SET key:000000000001 xxx").repeat(100)).down(b"+OK\r\n".repeat(100));
    }
    let decoded = run(&client(), &calls, usize::MAX);
    let (requests, pairs) = count_pairs(&decoded.messages, |_, _| true, &"");
    assert_eq!((requests, pairs, decoded.undecoded, decoded.protocol), (10_000, 10_000, 0, Some(REDIS.name)));
    assert!(
        decoded.messages.iter().all(|message| message.direction == Direction::Receive || message.length > 40)
    );
}
