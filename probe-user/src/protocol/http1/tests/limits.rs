//! What is kept is bounded, whatever the peers send.

use super::Event::{Down, Up};
use super::*;
use crate::test_rng::TestRng;

const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

fn ids(run: &Run, kind: MessageKind) -> Vec<Option<u64>> {
    run.messages.iter().filter(|message| message.kind == kind).map(|message| message.id).collect()
}

#[test]
fn requests_that_wait_for_their_responses() {
    let run = run(&client(), &[Up(&GET.repeat(1100)), Down(&OK.repeat(1100))], 10_000);
    let expected: Vec<Option<u64>> =
        (1..=1100).map(|number| Some(number).filter(|number| *number <= 1024)).collect();
    assert_eq!(ids(&run, MessageKind::Request), expected);
    assert_eq!(ids(&run, MessageKind::Response), expected);
}

#[test]
fn responses_that_wait_for_their_requests() {
    // 300 KiB of responses are more than may wait. Those that come later are not paired by a guess.
    let run = run(&client(), &[Down(&OK.repeat(8000)), Up(GET), Down(OK)], 10_000);
    assert_eq!(ids(&run, MessageKind::Request), [None]);
    assert!(ids(&run, MessageKind::Response).iter().all(Option::is_none));
    assert!(run.undecoded > 200_000);
}

#[test]
fn framing_that_does_not_end() {
    let head = "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let check = |rest: &str, expected: &str| {
        for split in [1000, 50_000] {
            let run = run(&client(), &[Up(&format!("{head}{rest}")), Up(GET)], split);
            let words: Vec<String> = run.messages.iter().map(shown).collect();
            assert_eq!(words, [&format!(">1 POST host:h /a 'abc' $ size:? {expected}"), ">? GET host:h /a"]);
        }
    };
    let long = "x".repeat(200_000);
    check(&format!("4;{long}"), "(line of a chunk longer than 16 KiB)");
    check(&format!("0\r\nX: {long}"), "(head longer than 128 KiB)");
    let many = "x: y\r\n".repeat(1100);
    let run = run(&client(), &[Up(&format!("{head}0\r\n{many}\r\n")), Up(GET)], 1000);
    let trailers = run.messages.first().and_then(|message| message.field(&REQUEST_TRAILERS));
    assert!(matches!(trailers, Some(FieldValue::Headers(list)) if list.len() == 1024));
    assert_eq!(ids(&run, MessageKind::Request), [Some(1), Some(2)]);
}

/// Whatever bytes come in whatever order, with whatever gaps: nothing panics, and not much is held.
#[test]
fn junk() {
    let words: [&[u8]; 16] = [
        b"GET / HTTP/1.1\r\n",
        b"POST /a HTTP/1.1\r\nHost: h\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\n\r\n",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Content-Type: text/event-stream\r\n",
        b"Expect: 100-continue\r\n",
        b"\r\n\r\n",
        b"5",
        b"ffffffffffffffff\r\n",
        b"0\r\n\r\n",
        b"data: x\n\n",
        b"\0\x80\xff",
        b"HEAD",
    ];
    let mut rng = TestRng(161);
    for case in 0..3000 {
        let hints = if case % 2 == 0 { client() } else { joined() };
        let mut conversation = Conversation::of(&HTTP1, hints);
        let mut out = Messages::new(50);
        let mut offsets = [0_u64; 2];
        for call in 0..rng.below(40) as u64 {
            let direction = if rng.below(2) == 0 { Direction::Transmit } else { Direction::Receive };
            let offset = &mut offsets[usize::from(direction == Direction::Receive)];
            if rng.below(6) == 0 {
                let length = [1, 3, 20, u64::MAX / 4].get(rng.below(4)).copied().unwrap();
                conversation.gap(direction, Gap { offset: *offset, length, cause: GapCause::Lost }, &mut out);
                *offset = offset.saturating_add(length);
                continue;
            }
            let data: Vec<u8> = (0..=rng.below(5))
                .flat_map(|_| words.get(rng.below(16)).copied().unwrap().to_vec())
                .collect();
            let time = start_time() + Duration::from_millis(call);
            let mark = CallMark { offset: *offset, call, time, starts_call: rng.below(4) > 0 };
            conversation.data(direction, &Chunk { offset: *offset, data: &data, mark }, &mut out);
            *offset = offset.saturating_add(data.len() as u64);
            assert!(conversation.held_bytes() < 64 * 1024);
        }
        conversation.end(&mut out);
        let known = |message: &Message| message.body().0.len() as u64 <= message.body_length;
        assert!(out.drain().all(|message| known(&message)));
    }
}
