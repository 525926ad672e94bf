//! Requests and responses of each kind.

use super::*;

#[test]
fn requests_and_responses_are_paired_by_their_numbers() {
    let mut calls = TestCalls::default();
    let two = [batch(3, 0, 50), batch(1, 0x20, 20), batch(4, 1, 10)].concat();
    calls.up(produce(1, -1, "orders", &two)).down(produced(1, "orders", 6));
    calls.up([fetch(2, "orders"), heartbeat(3, "group")].concat());
    // The last batch is cut off by a limit of the broker.
    let cut = [batch(5, 0, 30), batch(7, 0, 30)].concat();
    calls.down([fetched(2, "orders", &cut[..cut.len() - 1]), beaten(3, 27)].concat());
    check(
        &client(),
        &calls,
        &[
            ">1 Produce 7 app orders 7",
            "<1 orders NOT_LEADER_OR_FOLLOWER",
            ">2 Fetch 11 app orders",
            ">3 Heartbeat 1 app group",
            "<2 orders 5",
            "<3 REBALANCE_IN_PROGRESS",
        ],
    );
}

#[test]
fn records_that_are_not_acknowledged_have_no_response() {
    let mut calls = TestCalls::default();
    calls.up([produce(1, 0, "logs", &batch(2, 0, 5)), heartbeat(2, "group")].concat()).down(beaten(2, 0));
    check(&client(), &calls, &[">1 Produce 7 app logs 2 one-way", ">2 Heartbeat 1 app group", "<2"]);
}

#[test]
fn messages_of_old_forms_are_counted() {
    let old = |magic: i8, attributes: i8| {
        Bytes::default().i64(0).i32(14).i32(0).i8(magic).i8(attributes).i32(-1).i32(-1).0
    };
    let mut calls = TestCalls::default();
    calls.up(produce(1, 1, "a", &[old(0, 0), old(1, 0)].concat())).down(produced(1, "a", 0));
    calls.up(produce(2, 1, "a", &[old(0, 0), old(1, 2)].concat())).down(produced(2, "a", 0));
    check(&client(), &calls, &[">1 Produce 7 app a 2", "<1 a", ">2 Produce 7 app a", "<2 a"]);
}

#[test]
fn credentials_are_not_read() {
    let mut calls = TestCalls::default();
    calls.up(request(17, 1, 1).text("PLAIN").framed()).down(response(1).i16(0).i32(1).text("PLAIN").framed());
    calls.up(request(36, 0, 2).bytes(b"\0user\0pa55").framed());
    calls.down(response(2).i16(58).text("no pa55").bytes(b"").framed());
    // The old way has no headers.
    calls.up(request(17, 0, 3).text("PLAIN").framed()).down(response(3).i16(0).i32(1).text("PLAIN").framed());
    calls.up(Bytes::default().bytes(b"\0user\0pa55").0).down(Bytes::default().bytes(b"").0);
    calls.up(heartbeat(4, "group")).down(beaten(4, 0));
    let expected = [
        ">1 SaslHandshake 1 app",
        "<1",
        ">2 SaslAuthenticate 0 app",
        "<2 SASL_AUTHENTICATION_FAILED",
        ">3 SaslHandshake 0 app",
        "<3",
        ">4 Heartbeat 1 app group",
        "<4",
    ];
    check(&client(), &calls, &expected);
    let decoded = run(&client(), &calls, 1000);
    let all = decoded.messages.iter().flat_map(|message| message.fields.iter()).map(|(field, _)| field.path);
    let texts =
        decoded.messages.iter().flat_map(|message| all.clone().filter_map(|_| field_text(message, &TOPIC)));
    assert_eq!(texts.count(), 0);
}

#[test]
fn large_batches_do_not_wait() {
    let records = batch(1000, 0, 10 << 20);
    let (up, down) = (produce(1, -1, "orders", &records), fetched(2, "orders", &records));
    let mut calls = TestCalls::default();
    calls.up(heartbeat(0, "group")).down(beaten(0, 0));
    calls.up(up.clone()).down(produced(1, "orders", 0)).up(fetch(2, "orders")).down(down.clone());
    let mut decoded = run(&client(), &calls, 16_384);
    decoded.messages.drain(..2);
    let shown: Vec<String> = decoded.messages.iter().map(|message| line_of(message, SHOWN)).collect();
    let expected = [">2 Produce 7 app orders 1000", "<2 orders", ">3 Fetch 11 app orders", "<3 orders 1000"];
    assert_eq!(shown, expected);
    assert_eq!(decoded.messages[0].length, up.len() as u64);
    assert_eq!(decoded.messages[3].length, down.len() as u64);
    assert!(decoded.held < 100_000, "{}", decoded.held);
}

#[test]
fn gaps_within_records_are_exact() {
    let mut calls = TestCalls::default();
    calls.up(produce(1, -1, "orders", &batch(3, 0, 500))).down(produced(1, "orders", 0));
    calls.up(heartbeat(2, "group")).down(beaten(2, 0));
    calls.list[0].missing = vec![(300, 400)];
    let decoded = run(&client(), &calls, 1000);
    let shown: Vec<String> = decoded.messages.iter().map(|message| line_of(message, SHOWN)).collect();
    assert_eq!(shown, [">1 Produce 7 app orders 3 -100", "<1 orders", ">2 Heartbeat 1 app group", "<2"]);
    // What it is about is unknown if that is missing. Whether it is answered is, too.
    calls.list[0].missing = vec![(30, 400)];
    let decoded = run(&client(), &calls, 1000);
    let shown: Vec<String> = decoded.messages.iter().map(|message| line_of(message, SHOWN)).collect();
    assert_eq!(shown, [">1 Produce 7 app ? -371", "<1 orders", ">2 Heartbeat 1 app group", "<2"]);
}

#[test]
fn a_connection_is_joined_in_the_middle() {
    let mut calls = TestCalls::default();
    calls.down(fetched(7, "orders", b"")).up(heartbeat(8, "group")).down(beaten(8, 0));
    calls.up([heartbeat(9, "group"), fetch(10, "orders")].concat());
    calls.down([beaten(9, 0), fetched(10, "orders", &batch(1, 0, 3))].concat());
    let decoded = run(&joined(), &calls, 1000);
    let shown: Vec<String> = decoded.messages.iter().map(|message| line_of(message, SHOWN)).collect();
    assert_eq!(
        shown,
        [
            ">1 Heartbeat 1 app group",
            "<1",
            ">2 Heartbeat 1 app group",
            ">3 Fetch 11 app orders",
            "<2",
            "<3 orders 1",
        ]
    );
}

#[test]
fn limits_hold() {
    let many =
        (0..20_000).fold(request(3, 1, 1).i32(20_000), |bytes, index| bytes.text(&format!("topic-{index}")));
    for up in [
        many.framed(),
        request(3, 1, 1).i32(i32::MAX).framed(),
        request(0, 7, 1).i16(-1).i16(1).i32(0).i32(i32::MAX).text("a").i32(i32::MAX).framed(),
        request(0, 9, 1).i8(0).i8(-1).i8(-1).framed(),
    ] {
        let mut calls = TestCalls::default();
        calls.up(up).up(heartbeat(2, "group")).down(beaten(2, 0));
        let decoded = run(&client(), &calls, 10_000);
        assert!(decoded.held < 200_000, "{}", decoded.held);
        assert_eq!(decoded.messages.len(), 3);
    }
}

#[test]
fn other_protocols_are_not_taken_for_it() {
    let time = jiff::Timestamp::UNIX_EPOCH;
    let mark = crate::protocol::CallMark { offset: 0, call: 1, time, starts_call: true };
    let check = |from_start: bool, up: &[u8], expected: Detect| {
        let hints = Hints { from_start, ..Hints::default() };
        let transmit = Input { data: up, offset: 0, marks: std::slice::from_ref(&mark) };
        let prefix = Prefix { transmit, receive: Input::EMPTY, hints: &hints };
        assert_eq!((KAFKA.detect)(&prefix), expected, "{from_start} {up:?}");
    };
    for from_start in [true, false] {
        check(from_start, &heartbeat(1, "group"), Detect::Yes);
        check(from_start, &request(18, 0, 1).framed(), Detect::Yes);
        check(from_start, &request(18, 90, 1).framed(), Detect::No);
        check(from_start, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Detect::No);
        check(from_start, b"*1\r\n$4\r\nPING\r\n", Detect::No);
        check(from_start, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Detect::No);
        check(from_start, &[0; 64], Detect::No);
        // A startup message of PostgreSQL, a hello of MongoDB, a greeting of MySQL.
        check(from_start, b"\0\0\0\x25\0\x03\0\0user\0bob\0database\0shop\0\0\0\0\0\0\0\0", Detect::No);
        check(from_start, b"\x3a\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0", Detect::No);
        check(from_start, b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0", Detect::No);
    }
    let mut rng = TestRng(7);
    for _ in 0..2000 {
        let (up, down) = (rng.bytes(b""), rng.bytes(b"\0\0\0\0\x01\x02\x09a"));
        let input = |data| Input { data, offset: 0, marks: std::slice::from_ref(&mark) };
        let prefix = Prefix { transmit: input(&down), receive: input(&up), hints: &joined() };
        assert_ne!((KAFKA.detect)(&prefix), Detect::Yes, "{down:?}");
        let prefix = Prefix { transmit: input(&up), receive: Input::EMPTY, hints: &client() };
        assert_ne!((KAFKA.detect)(&prefix), Detect::Yes, "{up:?}");
    }
}
