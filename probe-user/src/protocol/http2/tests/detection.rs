//! Which bytes are taken for HTTP/2.

use super::*;
use crate::protocol::{Detect, Prefix, http2::detect::detect};
use crate::test_rng::TestRng;

fn detected(hints: &Hints, sent: &[u8], received: &[u8]) -> Detect {
    let mark = CallMark { offset: 0, call: 1, time: Timestamp::UNIX_EPOCH, starts_call: true };
    let input =
        |data| Input { data, offset: 0, marks: if data == b"" { &[] } else { std::slice::from_ref(&mark) } };
    detect(&Prefix { transmit: input(sent), receive: input(received), hints })
}

#[test]
fn at_the_start() {
    let unnamed = Hints { alpn: None, ..client() };
    let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]);
    let check = |sent: &[u8], received: &[u8], expected| {
        assert_eq!(detected(&unnamed, sent, received), expected, "{sent:?} {received:?}");
        let server = Hints { role: Some(Role::Server), ..unnamed.clone() };
        assert_eq!(detected(&server, received, sent), expected, "{sent:?} {received:?}");
        let no_role = Hints { role: None, ..unnamed.clone() };
        assert_eq!(detected(&no_role, received, sent), expected, "{sent:?} {received:?}");
    };
    check(b"", b"", Detect::NeedMore);
    check(b"PRI", b"", Detect::NeedMore);
    check(&preface(), b"", Detect::Yes);
    check(b"", &settings, Detect::NeedMore);
    check(&preface(), &settings, Detect::Yes);
    check(b"GET / HTTP/1.1\r\n\r\n", b"", Detect::No);
    check(b"PRI * HTTP/1.1\r\n", b"", Detect::No);
    check(b"", b"HTTP/1.1 200 OK\r\n", Detect::No);
    // What both ends have agreed on is certain.
    let named = |name: &str| Hints { alpn: Some(name.to_owned()), ..client() };
    assert_eq!(detected(&named("h2"), b"", b""), Detect::Yes);
    assert_eq!(detected(&named("http/1.1"), &preface(), b""), Detect::No);
}

#[test]
fn in_the_middle() {
    let update = frame(8, 0, 0, &[0, 0, 1, 0]);
    let response = headers(OPEN, 7, &[(":status", "200")]);
    let check = |received: &[u8], expected| {
        assert_eq!(detected(&joined(), b"", received), expected, "{received:?}");
    };
    check(&response, Detect::Yes);
    check(&response[..response.len() - 1], Detect::NeedMore);
    check(&[update.clone(), update.clone()].concat(), Detect::Yes);
    check(&update, Detect::NeedMore);
    let body = data(0, 7, "x");
    check(&[&*body, &body, &body, &data(1, 7, "z")].concat(), Detect::Yes);
    check(&[&*body, &body, &body].concat(), Detect::NeedMore);
    check(&[&*body, &body, &frame(6, 0, 0, b"12345678")].concat(), Detect::Yes);
    check(&[&*data(1, 7, "x"), &body, &body, &body, &body].concat(), Detect::NeedMore);
    check(&[&*body, &body, &data(0, 7 << 24, "far"), &body, &body].concat(), Detect::NeedMore);
    // A client's header list from a server, flags that do not exist, an even stream, unlawful contents.
    let unlawful = [
        get(END, 7, "/"),
        frame(0, 0x10, 7, b"x"),
        frame(0, 0, 8, b"x"),
        frame(0, 0, 0, b"x"),
        frame(0, 0, 7, b""),
        frame(8, 0, 0, &[0; 4]),
        frame(3, 0, 7, &[0, 0, 0, 99]),
        frame(4, 0, 0, &[0xff; 6]),
        frame(1, OPEN, 7, &[0x80]),
        frame(1, OPEN, 7, &[]),
        frame(0, 0, 1 << 31 | 7, b"x"),
        frame(0, 0, 7, &vec![0; 20_000]),
        vec![0; 9],
        b"{\"json\": true}".to_vec(),
    ];
    for bytes in unlawful {
        check(&[bytes, update.clone(), update.clone(), update.clone()].concat(), Detect::NeedMore);
    }
}

/// Bodies that begin a call are not taken for frames.
#[test]
fn other_bytes() {
    let mut rng = TestRng(3);
    let alphabets: [&[u8]; 5] =
        [b"", &[0, 1], &[0, 0, 0, 0, 1, 4, 5, 8, 255], b"0123456789abcdef \r\n\"{}", &[0, 1, 2, 3, 4]];
    let mut taken = [0; 5];
    for case in 0..50_000 {
        let alphabet = case % alphabets.len();
        let bytes = rng.bytes(alphabets[alphabet]);
        taken[alphabet] += usize::from(detected(&joined(), b"", &bytes) == Detect::Yes);
    }
    assert_eq!(taken, [0; 5]);
}

/// Any bytes, and damaged recordings, whatever is known beside them.
#[test]
fn any_bytes() {
    let mut rng = TestRng(9);
    let recording = oracle::record(oracle::SMALL);
    for case in 0..100 {
        let hints = [client(), joined(), Hints::default(), Hints { role: Some(Role::Server), ..client() }];
        let mut events = recording.events.clone();
        for event in &mut events {
            if let (Event::Call(_, bytes), 0) = (event, rng.below(10)) {
                let at = rng.below(bytes.len());
                rng.damage(bytes, at);
            }
        }
        let (messages, conversation) = run(&hints[case % 4], &events, 1000);
        assert!(messages.len() < 1000);
        assert_eq!(conversation.waiting_bytes(), 0);
        let junk: Vec<Event> = (0..20)
            .map(|_| {
                if rng.below(5) == 0 {
                    Event::Gap(UP, 9)
                } else {
                    up(&[rng.bytes(&[0, 0, 0, 1, 4, 5, 9, 255])])
                }
            })
            .collect();
        run(&hints[case % 4], &junk, 7);
    }
}

/// Frames are found before it is known who sends them: a later frame shows it, or the socket.
#[test]
fn a_role_that_is_shown_later() {
    let check = |events: &[Event], then: Option<Role>| {
        let mut conversation = Conversation::new(crate::protocol::ALL, Hints::default());
        let (mut out, mut offsets) = (Messages::new(1000), [0_u64; 2]);
        for (call, event) in (1..).zip(events) {
            let Event::Call(direction, data) = event else { continue };
            let offset = &mut offsets[usize::from(*direction == DOWN)];
            let mark = CallMark { offset: *offset, call, time: Timestamp::UNIX_EPOCH, starts_call: true };
            conversation.data(*direction, &Chunk { offset: *offset, data, mark }, &mut out);
            *offset += data.len() as u64;
            conversation.hints_mut().role = then;
        }
        conversation.end(&mut out);
        let of_stream = out.drain().filter(|message| message.id == Some(3)).count();
        assert_eq!((of_stream, conversation.undecoded_bytes()), (2, 0), "{events:?}");
    };
    let bodies = vec![frame(8, 0, 0, &[0, 0, 1, 0]), data(0, 1, "x"), data(0, 1, "y"), data(0, 1, "z")];
    let request = [bodies.clone(), vec![get(END, 3, "/late")]].concat();
    let response = [bodies.clone(), vec![headers(END, 3, &[(":status", "200")])]].concat();
    check(&[up(&request), down(&response)], None);
    check(&[down(&request), up(&response)], None);
    let late = [bodies, vec![data(0, 3, "w")]].concat();
    check(&[up(&late), down(&late), up(&[data(0, 3, "v")])], Some(Role::Client));
}
