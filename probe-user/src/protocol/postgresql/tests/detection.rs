//! Which connections are taken for PostgreSQL.

use super::*;
use crate::protocol::{Detect, Input, Prefix};
use crate::test_rng::{TestRng, cases};

fn detected(hints: &Hints, sent: &[u8], received: &[u8]) -> Detect {
    let mark = CallMark { offset: 0, call: 1, time: start_time(), starts_call: true };
    let marks = [mark];
    let input = |data| Input { data, offset: 0, marks: &marks };
    (POSTGRESQL.detect)(&Prefix { transmit: input(sent), receive: input(received), hints })
}

#[test]
fn beginnings() {
    let [Happening::Call(_, startup), _] = startup() else { return };
    let server = Hints { role: Some(Role::Server), ..client() };
    let unknown = Hints { role: None, ..client() };
    for (hints, sent, received, expected) in [
        (client(), &startup[..], &b""[..], Detect::Yes),
        (server.clone(), b"", &startup, Detect::Yes),
        (unknown.clone(), &startup, b"", Detect::Yes),
        (client(), b"\0\0\0\x08\x04\xd2\x16\x2f", b"", Detect::Yes),
        (client(), &startup[..5], b"", Detect::NeedMore),
        (client(), b"", b"R\0\0\0", Detect::NeedMore),
        (client(), b"", b"\x4a\0\0\0\x0a5.5.5", Detect::No),
        (client(), b"GET / HTTP/1.1\r\n\r\n", b"", Detect::No),
        (server, b"GET / HTTP/1.1\r\n\r\n", b"", Detect::No),
        (client(), b"\x16\x03\x01\x02\0\x01\0\x01", b"", Detect::No),
        (client(), b"\0\0\0\x10\0\x02\0\0xxxxxxxx", b"", Detect::No),
        (Hints { alpn: Some("h2".into()), ..client() }, &startup, b"", Detect::No),
    ] {
        assert_eq!(detected(&hints, sent, received), expected, "{sent:?} {received:?}");
    }
}

#[test]
fn in_the_middle() {
    let answer = [m('D', [0, 0]), done("SELECT 1"), ready('I')].concat();
    let extended = [parse("", "SELECT 1"), bind("", ""), execute(""), sync()].concat();
    for (sent, received, expected) in [
        (&q("SELECT 1")[..], &answer[..], Detect::Yes),
        (&q("/* a */ select 1"), &answer, Detect::Yes),
        (&extended, &answer, Detect::Yes),
        (&extended, b"", Detect::NeedMore),
        (b"", &answer, Detect::NeedMore),
        (&q("SELECT 1"), b"HTTP/1.1 200 OK\r\n", Detect::NeedMore),
        (&q("hello"), b"HTTP/1.1 200 OK\r\n", Detect::No),
        (b"POST / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", Detect::No),
    ] {
        assert_eq!(detected(&joined(), sent, received), expected, "{sent:?}");
        let unknown = Hints::default();
        assert_eq!(detected(&unknown, sent, received), expected, "{sent:?}");
        assert_eq!(detected(&unknown, received, sent), expected, "{sent:?}");
    }
}

#[test]
fn random_bytes() {
    let mut rng = TestRng(0x7777_1234_5678_9abc);
    for _ in 0..cases(20_000) {
        let (sent, received) = (rng.bytes(b""), rng.bytes(b"QPBESZ\0\x04\x05I"));
        for hints in [client(), joined(), Hints::default()] {
            assert_ne!(detected(&hints, &sent, &received), Detect::Yes, "{sent:?} {received:?}");
        }
    }
}
