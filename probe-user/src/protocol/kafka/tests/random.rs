//! Random connections, with random gaps and joined anywhere, in which each response names the request that it
//! answers.

use super::*;

/// A connection whose client sends up to `window` requests at a time, each with its own topic or group.
fn connection(rng: &mut TestRng, window: usize) -> TestCalls {
    let mut calls = TestCalls::default();
    let first = i32::try_from(rng.below(1000)).unwrap();
    let mut number = first;
    for _ in 0..(3 + rng.below(10)) {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for _ in 0..=rng.below(window) {
            number += 1;
            let topic = format!("topic-{number}");
            let records = batch(number, 0, rng.below(200));
            match rng.below(4) {
                0 => {
                    up.push(produce(number, -1, &topic, &records));
                    down.push(produced(number, &topic, 0));
                }
                1 => up.push(produce(number, 0, &topic, &records)),
                2 => {
                    up.push(fetch(number, &topic));
                    down.push(fetched(number, &topic, &records));
                }
                _ => {
                    up.push(heartbeat(number, &topic));
                    down.push(beaten(number, i16::try_from(number).unwrap() + 1000));
                }
            }
        }
        calls.up(up.concat());
        match rng.below(2) {
            _ if down.is_empty() => {}
            0 => drop(calls.down(down.concat()).list.len()),
            _ => {
                for data in down {
                    calls.down(data);
                }
            }
        }
    }
    calls
}

fn belongs(request: &Message, response: &Message) -> bool {
    let topic = field_text(request, &TOPIC).or_else(|| field_text(request, &GROUP));
    let number = topic.as_deref().and_then(|topic| topic.strip_prefix("topic-")).map(str::to_owned);
    match (number, field_text(response, &TOPIC), field_text(response, &ERROR_TYPE)) {
        (Some(number), Some(topic), _) if topic != "?" => topic == format!("topic-{number}"),
        (Some(number), _, Some(error)) => error == (number.parse::<i32>().unwrap() + 1000).to_string(),
        _ => true,
    }
}

/// Whether what a message says is what was sent.
fn is_right(message: &Message) -> bool {
    let texts = [&TOPIC, &GROUP].map(|field| field_text(message, field));
    let named = texts.iter().flatten().all(|text| text == "?" || text.starts_with("topic-"));
    let count = message.number(&COUNT);
    let topic = texts[0].as_deref().and_then(|topic| topic.strip_prefix("topic-")?.parse::<u64>().ok());
    named && count.zip(topic).is_none_or(|(count, topic)| count == topic || !message.partial.is_whole())
}

#[test]
fn no_pair_is_wrong() {
    let (mut all, mut paired) = ([0; 4], [0; 4]);
    for seed in 1..=cases(2000) {
        let mut rng = TestRng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        rng.bytes(b"");
        let window = [1, 4][rng.below(2)];
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
        let decoded = decode(Conversation::new(ALL, hints), &calls, split, Some((&mut rng, late)));
        let answered: Vec<Message> =
            decoded.messages.iter().filter(|message| !message.is_one_way).cloned().collect();
        for message in &decoded.messages {
            assert!(is_right(message), "seed {seed}: {}", line_of(message, SHOWN));
        }
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
        let mut calls = connection(&mut rng, 4);
        for call in &mut calls.list {
            if rng.below(3) == 0 {
                let at = rng.below(call.data.len());
                rng.damage(&mut call.data, at);
            }
        }
        let hints = Hints { role: None, ..if seed % 2 == 0 { client() } else { joined() } };
        let split = 1 + rng.below(50);
        check_any_cut(&KAFKA, &hints, &calls, split);
    }
}
