//! Messages of each form.

use super::*;

#[test]
fn old_forms_are_read() {
    let hello = document(&[
        ("isMaster", Number(1)),
        ("speculativeAuthenticate", Document(document(&[("payload", Text("pa55"))]))),
    ]);
    let query = |id: u32, name: &[u8], document: &[u8]| {
        message(id, 0, 2004, &[&[0; 4][..], name, &[0], &[0; 4], &(-1_i32).to_le_bytes(), document].concat())
    };
    let reply = |id: u32, to: u32, documents: &[Vec<u8>]| {
        let count = u32::try_from(documents.len()).unwrap().to_le_bytes();
        message(id, to, 1, &[&[0; 16][..], &count, &documents.concat()].concat())
    };
    let mut calls = TestCalls::default();
    calls.up(query(1, b"admin.$cmd", &hello)).down(reply(9, 1, &[document(&[("ok", Real(1.0))])]));
    calls.up(query(2, b"shop.orders", &document(&[("name", Text("secret"))])));
    calls.down(reply(10, 2, &[document(&[("a", Number(1))]), document(&[("b", Number(1))])]));
    calls.up(message(3, 0, 2002, b"\0\0\0\0shop.orders\0")).up(query(
        4,
        b"admin.$cmd",
        &document(&[("ping", Number(1))]),
    ));
    calls.down(reply(
        11,
        4,
        &[document(&[("ok", Real(0.0)), ("errmsg", Text("no 'x'")), ("code", Number(13))])],
    ));
    check(
        &client(),
        &calls,
        &[
            ">1 admin isMaster speculativeAuthenticate: ***",
            "<1 1",
            ">2 shop orders find orders {name: \"secret\"}",
            "<2 2",
            ">3 one-way",
            ">4 admin ping",
            "<4 13 no '?' 1 13",
        ],
    );
}

#[test]
fn checksums_and_lists_before_the_command_are_passed_over() {
    let command = document(&[("insert", Text("orders")), ("$db", Text("shop"))]);
    let list = [document(&[("a", Number(1))]), document(&[("b", Number(2))])].concat();
    let length = u32::try_from(list.len() + 4 + 10).unwrap().to_le_bytes();
    let sequence = [&[1][..], &length, b"documents\0", &list].concat();
    let mut calls = TestCalls::default();
    let checksum = &[9, 9, 9, 9][..];
    calls.up(message(1, 0, 2013, &[&1_u32.to_le_bytes()[..], &sequence, &[0], &command, checksum].concat()));
    calls.down(msg(2, 1, 1, &document(&[("n", Number(2)), ("ok", Real(1.0))])));
    check(&client(), &calls, &[">1 shop orders insert orders 2", "<1 2"]);
}

#[test]
fn responses_that_follow_another_are_events() {
    let reply = |id, to, flags| msg(id, to, flags, &document(&[("ok", Real(1.0))]));
    let mut calls = TestCalls::default();
    let hello = document(&[("hello", Number(1)), ("maxAwaitTimeMS", Number(10))]);
    calls.up(msg(1, 0, 1 << 16, &hello)).down(reply(5, 1, 2)).down(reply(6, 5, 2)).down(reply(7, 6, 0));
    calls.up(find(2, "a")).down(found(8, 2, "a", 3));
    check(&client(), &calls, &[">1 hello maxAwaitTimeMS: 10", "<1", "!1", "!1", ">2 shop a find a", "<2 3"]);
}

#[test]
fn large_results_do_not_wait() {
    let text = "x".repeat(100_000);
    let names: Vec<String> = (0..50).map(|index| index.to_string()).collect();
    let documents: Vec<_> =
        names.iter().map(|name| (&**name, Document(document(&[("x", Text(&text))])))).collect();
    let insert =
        document(&[("insert", Text("a")), ("documents", Array(document(&documents))), ("$db", Text("shop"))]);
    let cursor = document(&[("firstBatch", Array(document(&documents)))]);
    let reply = msg(2, 2, 0, &document(&[("cursor", Document(cursor)), ("ok", Real(1.0))]));
    let mut calls = TestCalls::default();
    calls.up(msg(1, 0, 0, &insert)).down(msg(1, 1, 0, &document(&[("n", Number(50)), ("ok", Real(1.0))])));
    calls.up(find(2, "a")).down(reply);
    let decoded = run(&client(), &calls, 16_384);
    assert!(decoded.held < 100_000, "{}", decoded.held);
    let number = |index: usize, field| decoded.messages[index].number(field);
    assert_eq!(
        (number(0, &BATCH), number(1, &AFFECTED_ROWS), number(3, &RETURNED_ROWS)),
        (Some(50), Some(50), Some(50))
    );
    assert_eq!(decoded.messages[0].text(&NAMESPACE), Some("shop"));
    let statement = field_text(&decoded.messages[0], &QUERY).unwrap();
    assert!(statement.len() < 20_000 && statement.ends_with('…'), "{}", statement.len());
}

#[test]
fn limits_hold() {
    let deep = (0..5000).fold(document(&[]), |inner, _| document(&[("a", Document(inner))]));
    let claims = |compressor: u8, data: &[u8]| {
        let head = [2013_u32.to_le_bytes(), u32::MAX.to_le_bytes()].concat();
        message(1, 0, 2012, &[&head[..], &[compressor], data].concat())
    };
    for up in [
        msg(1, 0, 0, &document(&[("find", Text("a")), ("filter", Document(deep))])),
        claims(1, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0]),
        claims(2, &[0; 100]),
        claims(3, &[0; 100]),
        claims(9, &[0; 100]),
        claims(1, &vec![7; 1 << 20]),
        message(1, 0, 2013, &[&[0; 4][..], &[0], &[0xff; 200]].concat()),
    ] {
        let mut calls = TestCalls::default();
        calls.up(up).up(find(2, "a")).down(found(8, 2, "a", 1));
        let decoded = decode(Conversation::of(&MONGODB, client()), &calls, 10_000, None);
        assert!(decoded.held < 1 << 20, "{}", decoded.held);
        let shown: Vec<String> = decoded.messages.iter().skip(1).map(|it| line_of(it, SHOWN)).collect();
        assert_eq!(shown, [">2 shop a find a", "<2 1"]);
    }
}

#[test]
fn gaps_within_messages_are_exact() {
    let text = "x".repeat(5000);
    let filter = document(&[("find", Text("a")), ("comment", Text(&text)), ("$db", Text("shop"))]);
    let mut calls = TestCalls::default();
    calls.up(msg(1, 0, 0, &filter)).down(found(5, 1, "a", 2)).up(find(2, "b")).down(found(6, 2, "b", 3));
    calls.list[0].missing = vec![(3000, 4000)];
    let decoded = run(&client(), &calls, 2000);
    let shown: Vec<String> = decoded.messages.iter().map(|message| line_of(message, &[&NAMESPACE])).collect();
    assert_eq!(shown, [">1 shop -1000", "<1", ">2 shop", "<2"]);
}

#[test]
fn other_protocols_are_not_taken_for_it() {
    let time = jiff::Timestamp::UNIX_EPOCH;
    let mark = crate::protocol::CallMark { offset: 0, call: 1, time, starts_call: true };
    let check = |from_start: bool, up: &[u8], expected: Detect| {
        let hints = Hints { from_start, ..Hints::default() };
        let transmit = Input { data: up, offset: 0, marks: std::slice::from_ref(&mark) };
        let prefix = Prefix { transmit, receive: Input::EMPTY, hints: &hints };
        assert_eq!((MONGODB.detect)(&prefix), expected, "{from_start} {up:?}");
    };
    for from_start in [true, false] {
        check(from_start, &find(1, "a"), Detect::Yes);
        check(from_start, &find(1, "a")[..10], Detect::NeedMore);
        check(from_start, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Detect::No);
        check(from_start, b"*1\r\n$4\r\nPING\r\n", Detect::No);
        check(from_start, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x01\x02\x03\x04\x05", Detect::No);
        check(from_start, &[0; 64], Detect::No);
        check(from_start, b"\0\0\0\x25\0\x03\0\0user\0bob\0database\0shop\0\0\0\0\0\0\0\0", Detect::No);
    }
    let mut rng = TestRng(7);
    for _ in 0..2000 {
        let (up, down) = (rng.bytes(b""), rng.bytes(b"\0\0\0\0\x01\xdd\x07a"));
        let input = |data| Input { data, offset: 0, marks: std::slice::from_ref(&mark) };
        let prefix = Prefix { transmit: input(&down), receive: input(&up), hints: &joined() };
        assert_ne!((MONGODB.detect)(&prefix), Detect::Yes, "{down:?}");
    }
}
