//! Calls of gRPC.

use super::*;

fn call(flags: u8, stream: u32, extra: &[(&str, &str)]) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":path", "/shop.Orders/Get"),
        ("content-type", "application/grpc+proto"),
        ("te", "trailers"),
    ];
    headers(flags, stream, &[&fields, extra].concat())
}

fn answer(flags: u8, stream: u32, extra: &[(&str, &str)]) -> Vec<u8> {
    headers(flags, stream, &[&[(":status", "200"), ("content-type", "application/grpc")], extra].concat())
}

fn message(flag: u8, text: &str) -> String {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    let prefix = [&[flag][..], &length].concat();
    format!("{}{text}", str::from_utf8(&prefix).unwrap())
}

/// Decodes what follows the beginning of a connection. The headers are left out of the lines.
fn check(events: &[Event], expected: &[&str]) {
    let all = [&[up(&[preface()]), down(&[frame(4, 0, 0, &[])])], events].concat();
    for split in [1, 2, 3, 5, 7, 1000] {
        let (mut messages, conversation) = run(&client(), &all, split);
        for message in &mut messages {
            message
                .fields
                .retain(|(field, _)| !field.path.ends_with("header") && !field.path.ends_with("trailer"));
        }
        assert_eq!(messages.iter().map(shown).collect::<Vec<_>>(), expected, "split after each {split}");
        assert_eq!(conversation.waiting_bytes(), 0);
    }
}

const CALLED: &str = "method=POST path=/shop.Orders/Get name=grpc method=shop.Orders/Get";

#[test]
fn unary_calls_and_streams() {
    let hidden = message(0, "b");
    check(
        &[
            up(&[call(OPEN, 1, &[]), data(1, 1, &message(0, "one"))]),
            down(&[
                answer(OPEN, 1, &[]),
                data(0, 1, &message(0, "two")),
                headers(END, 1, &[("grpc-status", "0")]),
            ]),
            // Messages in any frames, of which one is empty.
            up(&[call(OPEN, 3, &[]), data(0, 3, &format!("{}{}", message(0, ""), &hidden[..3]))]),
            up(&[data(0, 3, &hidden[3..])]),
            down(&[answer(OPEN, 3, &[]), data(0, 3, &message(0, "x")), data(0, 3, &message(0, "y"))]),
            up(&[data(1, 3, "")]),
            down(&[headers(END, 3, &[("grpc-status", "5"), ("grpc-message", "no%20such%20%E2%82%AC")])]),
        ],
        &[
            "!1 3-3 \"one\"",
            &format!(">1 3-3 {CALLED} messages=1 size=8 {:?}", message(0, "one")),
            "!1 4-4 \"two\"",
            &format!(
                "<1 4-4 status_code=200 name=grpc status_code=OK messages=1 size=8 {:?}",
                message(0, "two")
            ),
            "!3 5-5",
            "!3 5-6 \"b\"",
            "!3 7-7 \"x\"",
            "!3 7-7 \"y\"",
            &format!(">3 5-8 {CALLED} messages=2 size=11 {:?}", format!("{}{hidden}", message(0, ""))),
            &format!(
                "<3 7-9 status_code=200 name=grpc status_code=NOT_FOUND status_message=no such € messages=2 \
                 size=12 type=NOT_FOUND {:?}",
                format!("{}{}", message(0, "x"), message(0, "y"))
            ),
        ],
    );
}

#[test]
fn calls_that_fail() {
    check(
        &[
            up(&[call(END, 1, &[]), call(END, 3, &[]), call(END, 5, &[])]),
            // A response of trailers only.
            down(&[answer(END, 1, &[("grpc-status", "14"), ("grpc-message", "down")])]),
            // A proxy answers.
            down(&[headers(END, 3, &[(":status", "503")])]),
            // The deadline is over.
            down(&[answer(OPEN, 5, &[])]),
            up(&[frame(3, 0, 5, &[0, 0, 0, 8])]),
        ],
        &[
            &format!(">1 3-3 {CALLED} messages=0"),
            &format!(">3 3-3 {CALLED} messages=0"),
            &format!(">5 3-3 {CALLED} messages=0"),
            "<1 4-4 status_code=200 name=grpc status_code=UNAVAILABLE status_message=down messages=0 type=UNAVAILABLE",
            "<3 5-5 status_code=503 type=503",
            "<5 6-7 status_code=200 name=grpc messages=0 type=CANCEL $",
        ],
    );
}

#[test]
fn compressed_messages() {
    check(
        &[
            up(&[call(OPEN, 1, &[("grpc-encoding", "gzip")]), data(0, 1, &message(1, "zip"))]),
            up(&[data(1, 1, &message(0, "plain"))]),
        ],
        &[
            "!1 3-3 compressed=gzip \"zip\"",
            "!1 4-4 \"plain\"",
            &format!(">1 3-4 {CALLED} messages=2 size=18 {:?}", message(1, "zip") + &message(0, "plain")),
        ],
    );
}

#[test]
fn gaps_in_messages() {
    let body = frame(0, 1, 1, [message(0, "0123456789"), message(0, "next")].concat().as_bytes());
    let gap = |range: std::ops::Range<usize>| {
        [
            up(&[call(OPEN, 1, &[]), body[..range.start].to_vec()]),
            Event::Gap(UP, range.len() as u64),
            Event::Rest(UP, body[range.end..].to_vec()),
        ]
    };
    let kept = |text: &str| format!("{:?}", message(0, "0123456789").replace("0123456789", text));
    // Within a message, whose end is known.
    check(
        &gap(HEAD + 7..HEAD + 9),
        &[
            "!1 3-5 \"01\" -2",
            "!1 5-5 \"next\"",
            &format!(">1 3-5 {CALLED} messages=2 size=24 {} -2", kept("01")),
        ],
    );
    // Over the end of a message: where the next one begins is unknown.
    check(
        &gap(HEAD + 7..HEAD + 17),
        &["!1 3-3 \"01\" $", &format!(">1 3-5 {CALLED} messages=? size=24 {} -10", kept("01"))],
    );
}

#[test]
fn what_names_say() {
    let method = |path| crate::protocol::grpc::method(path);
    assert_eq!(method("/shop.Orders/Get"), Some("shop.Orders/Get"));
    for path in ["/", "/shop", "shop/Get", "/shop/", "//Get", "/a/b/c"] {
        assert_eq!(method(path), None, "{path}");
    }
    let status = |code| crate::protocol::grpc::status_name(code);
    assert_eq!([status("0"), status("16"), status("17"), status("x")], ["OK", "UNAUTHENTICATED", "17", "x"]);
    let text = |text| crate::protocol::grpc::percent_decoded(text);
    assert_eq!([text("a%41%zz%4"), text("%ff")], ["aA%zz%4", "\u{fffd}"]);
}

/// The status of a call that refers to a field that was not seen.
#[test]
fn an_unknown_status_is_not_ok() {
    let head = [&[0x88][..], &field("content-type", "application/grpc")].concat();
    // Index 62: the newest entry of the dynamic table.
    let events = [down(&[frame(1, OPEN, 1, &head), frame(1, END, 1, &[0xbe])])];
    let (messages, _) = run(&joined(), &events, 1000);
    let lines: Vec<String> = messages.iter().map(shown).collect();
    let expected = "<1 1-1 status_code=200 header=[content-type=application/grpc] name=grpc trailer=[?=?] status_code=? \
                    messages=0";
    assert_eq!(lines, [expected]);
}

/// A call of a connection that was joined in the middle, whose media type is in entries of the table that
/// were not seen.
fn check_unnamed(up_body: &str, down_body: &str, end: &[u8], expected: &[&str]) {
    let unknown = [0xbe, 0xbf];
    let request = frame(1, OPEN, 1, &[&[0x83, 0x87][..], &unknown].concat());
    let response = frame(1, OPEN, 1, &[&[0x88][..], &unknown].concat());
    let events =
        [up(&[request, data(1, 1, up_body)]), down(&[response, data(0, 1, down_body), end.to_vec()])];
    for split in [1, 3, 1000] {
        let (mut messages, _) = run(&joined(), &events, split);
        for message in &mut messages {
            message
                .fields
                .retain(|(field, _)| !field.path.ends_with("header") && !field.path.ends_with("trailer"));
        }
        let lines: Vec<String> = messages.iter().map(shown).collect();
        let lines: Vec<&str> = lines.iter().map(|line| line.split(" size=").next().unwrap()).collect();
        assert_eq!(lines, expected, "split after each {split}");
    }
}

/// Trailers, of which one was not seen.
fn unknown_trailers(known: &[u8]) -> Vec<u8> {
    frame(1, END, 1, &[&[0xc0], known].concat())
}

const UNNAMED: &str = ">1 1-1 method=POST address=? path=?";
const UNNAMED_CALL: [&str; 3] =
    ["!1 1-1 \"one\"", "!1 1-1 compressed=?", ">1 1-1 method=POST address=? path=? method=? messages=2"];

/// Bodies show what they are, and trailers that it is gRPC.
#[test]
fn calls_of_unknown_type() {
    let two = format!("{}{}", message(0, "one"), message(1, ""));
    let check = |down_body: &str, end: &[u8], expected: &[&str]| {
        check_unnamed(&two, down_body, end, &[UNNAMED_CALL.as_slice(), expected].concat());
    };
    let answer = "<1 2-2 status_code=200 name=grpc status_code=? messages=1";
    check(&message(0, "answer"), &unknown_trailers(&[]), &["!1 2-2 \"answer\"", answer]);
    // A status that is known, and a failure without messages.
    let failed = unknown_trailers(&field("grpc-status", "5"));
    check("", &failed, &["<1 2-2 status_code=200 name=grpc status_code=NOT_FOUND type=NOT_FOUND"]);
    // Without trailers it is something else that is framed alike.
    let other = ["!1 2-2 \"one\"", "!1 2-2 compressed=?", "<1 2-2 status_code=200 messages=2"];
    check(&two, &data(1, 1, ""), &other);
}

#[test]
fn what_is_no_call_is_not_taken_for_one() {
    // The message says that it is one, but not with which status.
    let named = unknown_trailers(&field("grpc-message", "no"));
    let answer = "<1 2-2 status_code=200 name=grpc status_code=? status_message=no";
    check_unnamed("", "", &named, &[UNNAMED, answer]);
    // Text, zeros, a length that is not the frame's, one that is too long, another flag.
    for body in ["{}", "\0\0\0\0\0\0\0\0\0\0", "\0\0\0\0\u{1}xy", "\0\0\0\0\u{9}x", "\u{2}\0\0\0\u{1}x"] {
        check_unnamed(body, body, &unknown_trailers(&[]), &[UNNAMED, "<1 2-2 status_code=200"]);
    }
}

/// Whose method a message is of, for the names that a schema gives to what is in it.
#[test]
fn the_method_of_each_message() {
    let check = |events: &[Event], expected: &[(&str, Role)]| {
        let all = [&[up(&[preface()]), down(&[frame(4, 0, 0, &[])])], events].concat();
        let (messages, _) = run(&client(), &all, 5);
        let calls: Vec<_> = messages.iter().map(|message| message.call.clone()).collect();
        let call = |(method, sender): &(&str, Role)| {
            (!method.is_empty())
                .then(|| crate::protocol::RpcCall { method: (*method).into(), sender: *sender })
        };
        assert_eq!(calls, expected.iter().map(call).collect::<Vec<_>>());
    };
    let (asked, answered) = (("shop.Orders/Get", Role::Client), ("shop.Orders/Get", Role::Server));
    check(
        &[
            up(&[call(OPEN, 1, &[]), data(0, 1, &message(0, "one"))]),
            down(&[answer(OPEN, 1, &[]), data(0, 1, &message(0, "two"))]),
            up(&[data(1, 1, &message(0, "three"))]),
            down(&[data(0, 1, &message(0, "four")), headers(END, 1, &[("grpc-status", "0")])]),
        ],
        &[asked, answered, asked, asked, answered, answered],
    );
    // A request that has ended, and one that has no body in protocol buffers.
    let (unary, other) = (data(1, 1, &message(0, "one")), get(END, 3, "/shop.Orders/Get"));
    check(
        &[
            up(&[call(OPEN, 1, &[]), unary, other]),
            down(&[answer(END, 1, &[]), headers(END, 3, &[(":status", "200")])]),
        ],
        &[asked, asked, ("", Role::Client), answered, ("", Role::Server)],
    );
}

#[test]
fn calls_of_connect() {
    let ask = |method: &str, path: &str, extra: &[(&str, &str)]| {
        headers(END, 1, &[&[(":method", method), (":path", path)], extra].concat())
    };
    let check = |request: Vec<u8>, answer: &[Vec<u8>], expected: &[&str]| {
        check(&[up(&[request]), down(answer)], expected);
    };
    let called = "path=/shop.Orders/Get";
    check(
        ask(
            "POST",
            "/shop.Orders/Get",
            &[("connect-protocol-version", "1"), ("content-type", "application/json")],
        ),
        &[headers(END, 1, &[(":status", "200"), ("content-type", "application/json")])],
        &[
            &format!(">1 3-3 method=POST {called} name=connectrpc method=shop.Orders/Get"),
            "<1 4-4 status_code=200",
        ],
    );
    check(
        ask("GET", "/shop.Orders/Get?connect=v1&encoding=json", &[]),
        &[headers(END, 1, &[(":status", "200")])],
        &[
            &format!(
                ">1 3-3 method=GET {called} query=connect=v1&encoding=json name=connectrpc \
                 method=shop.Orders/Get"
            ),
            "<1 4-4 status_code=200",
        ],
    );
    let end = message(2, "{\"error\":{\"code\":\"not_found\"}}");
    let types = [("content-type", "application/connect+json")];
    check(
        ask("POST", "/shop.Orders/Get", &types),
        &[headers(OPEN, 1, &[&[(":status", "200")][..], &types].concat()), data(1, 1, &end)],
        &[
            &format!(">1 3-3 method=POST {called} name=connectrpc method=shop.Orders/Get messages=0"),
            &format!(
                "<1 4-4 status_code=200 name=connectrpc messages=0 status_code=NOT_FOUND size=35 \
                 type=NOT_FOUND {end:?}"
            ),
        ],
    );
}
