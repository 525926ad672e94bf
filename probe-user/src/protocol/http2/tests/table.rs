//! Connections frame by frame. Calls are numbered from 1: the preface, the server's settings, and what
//! follows.

use super::*;

/// A connection from its start.
fn check_start(events: &[Event], expected: &[&str]) {
    let all = [&[up(&[preface()]), down(&[frame(4, 0, 0, &[])])], events].concat();
    check(&client(), &all, expected);
}

fn ok(flags: u8, stream: u32) -> Vec<u8> {
    headers(flags, stream, &[(":status", "200")])
}

fn reset(stream: u32, code: u8) -> Vec<u8> {
    frame(3, 0, stream, &[0, 0, 0, code])
}

const ASKED: &str = "method=GET address=example port=8443";

#[test]
fn requests_and_responses() {
    check_start(
        &[
            up(&[get(END, 1, "/a?x=1"), get(OPEN, 3, "/b")]),
            up(&[data(0, 3, "one "), get(END, 5, "/c"), data(1, 3, "two")]),
            down(&[headers(OPEN, 5, &[(":status", "200"), ("server", "s")]), data(0, 5, "fi")]),
            down(&[headers(END, 1, &[(":status", "404")]), data(0, 5, "v")]),
            down(&[headers(OPEN, 3, &[(":status", "500")]), data(1, 5, "e"), data(1, 3, "")]),
        ],
        &[
            &format!(">1 3-3 {ASKED} path=/a query=x=1"),
            &format!(">5 4-4 {ASKED} path=/c"),
            &format!(">3 3-4 {ASKED} path=/b size=7 \"one two\""),
            "<1 6-6 status_code=404 type=404",
            "<5 5-7 status_code=200 header=[server=s] size=4 \"five\"",
            "<3 7-7 status_code=500 type=500",
        ],
    );
}

#[test]
fn a_response_may_come_before_its_request() {
    check_start(
        &[down(&[ok(OPEN, 1), data(1, 1, "x"), ok(OPEN, 3)]), up(&[get(END, 1, "/"), get(END, 3, "/")])],
        &[
            "<1 3-3 status_code=200 size=1 \"x\"",
            &format!(">1 4-4 {ASKED} path=/"),
            &format!(">3 4-4 {ASKED} path=/"),
            "<3 3-3 status_code=200 $",
        ],
    );
}

#[test]
fn frames_of_all_types() {
    let padded =
        |kind, flags, stream, body: &[u8]| frame(kind, flags | 8, stream, &[&[3], body, &[0; 3]].concat());
    let request = list(&[(":method", "GET"), (":path", "/")]);
    let (first, rest) = request.split_at(5);
    check_start(
        &[
            // A header list in three frames, of which one is empty.
            up(&[frame(1, 0x28 | 1, 1, &[&[2, 0, 0, 0, 0, 9], first, &[0; 2]].concat())]),
            up(&[frame(9, 0, 1, &[]), frame(9, 4, 1, rest)]),
            // Frames without a meaning for exchanges, and one of an unknown type.
            up(&[frame(8, 0, 0, &[0, 0, 1, 0]), frame(6, 0, 0, &[7; 8]), frame(2, 0, 3, &[0, 0, 0, 0, 1])]),
            down(&[frame(4, 1, 0, &[]), frame(0xbe, 0xff, 1, b"whatever"), frame(0x10, 0, 0, b"u=1")]),
            down(&[
                padded(1, OPEN, 1, &list(&[(":status", "200")])),
                padded(0, 0, 1, b"body"),
                padded(0, 1, 1, b""),
            ]),
        ],
        &[">1 3-4 method=GET path=/", "<1 7-7 status_code=200 size=4 \"body\""],
    );
}

#[test]
fn interim_responses_and_trailers() {
    check_start(
        &[
            up(&[headers(OPEN, 1, &[(":method", "POST"), (":path", "/"), ("expect", "100-continue")])]),
            down(&[headers(OPEN, 1, &[(":status", "100")])]),
            up(&[data(0, 1, "x"), headers(END, 1, &[("x-sum", "1")])]),
            down(&[headers(OPEN, 1, &[(":status", "103"), ("link", "l")])]),
            down(&[ok(OPEN, 1), data(0, 1, "y")]),
            down(&[headers(END, 1, &[("x-sum", "2")])]),
        ],
        &[
            ">1 3-5 method=POST path=/ header=[expect=100-continue] trailer=[x-sum=1] size=1 \"x\"",
            "<1 7-8 status_code=200 trailer=[x-sum=2] size=1 \"y\"",
        ],
    );
}

#[test]
fn a_promise_is_a_request() {
    let promised = [&[0, 0, 0, 2][..], &list(&[(":method", "GET"), (":path", "/style")])].concat();
    check_start(
        &[
            up(&[get(END, 1, "/")]),
            down(&[frame(5, OPEN, 1, &promised), ok(END, 1)]),
            down(&[ok(OPEN, 2), data(1, 2, "css")]),
        ],
        &[
            &format!(">1 3-3 {ASKED} path=/"),
            ">2 4-4 method=GET path=/style",
            "<1 4-4 status_code=200",
            "<2 5-5 status_code=200 size=3 \"css\"",
        ],
    );
}

#[test]
fn streams_are_broken_off() {
    check_start(
        &[
            // The client no longer wants the response, of which a part has come, or nothing.
            up(&[get(END, 1, "/"), get(END, 3, "/"), get(OPEN, 5, "/"), get(OPEN, 7, "/")]),
            down(&[ok(OPEN, 1), data(0, 1, "par")]),
            up(&[reset(1, 8), reset(3, 8)]),
            // What is under way is ignored.
            down(&[data(1, 1, "tial"), ok(END, 3)]),
            // The server refuses a request, and does not need all of another one.
            down(&[reset(5, 7), ok(END, 7), reset(7, 0)]),
            up(&[data(1, 5, "late"), data(1, 7, "late")]),
        ],
        &[
            &format!(">1 3-3 {ASKED} path=/"),
            &format!(">3 3-3 {ASKED} path=/"),
            "<1 4-5 status_code=200 size=3 type=CANCEL \"par\" $",
            "<3 5-5 type=CANCEL $",
            "<7 7-7 status_code=200",
            &format!(">5 3-3 {ASKED} path=/ $"),
            "<5 7-7 type=REFUSED_STREAM $",
            // The response is complete, so nothing of the request is missing.
            &format!(">7 3-3 {ASKED} path=/ %"),
        ],
    );
}

/// A server's thread that reads may be faster than the one that returns from a write: the record of the
/// response comes after that of the reset that answers it.
#[test]
fn a_response_may_come_after_the_reset_that_answers_it() {
    let hints = Hints { role: Some(Role::Server), ..client() };
    let (received, sent) = (DOWN, UP);
    let check = |calls: &[(Direction, i64, Vec<Vec<u8>>)], settle: Option<i64>, expected: &[&str]| {
        let mut conversation = Conversation::new(crate::protocol::ALL, hints.clone());
        let (mut out, mut offsets) = (Messages::new(1000), [0_u64; 2]);
        let begin = [
            (received, 1, vec![preface(), get(END, 1, "/")]),
            (sent, 2, vec![frame(4, 0, 0, &[]), ok(OPEN, 1), data(0, 1, "par")]),
        ];
        for (number, (direction, second, frames)) in (1..).zip(begin.iter().chain(calls)) {
            let time = Timestamp::from_second(*second).unwrap();
            let offset = &mut offsets[usize::from(*direction == DOWN)];
            let mark = CallMark { offset: *offset, call: number, time, starts_call: true };
            let bytes = frames.concat();
            conversation.data(*direction, &Chunk { offset: *offset, data: &bytes, mark }, &mut out);
            *offset += bytes.len() as u64;
        }
        if let Some(second) = settle {
            conversation.settle(Timestamp::from_second(second).unwrap(), &mut out);
        } else {
            conversation.end(&mut out);
        }
        let lines: Vec<String> = out.drain().map(|message| shown(&message)).collect();
        assert_eq!(lines, expected);
    };
    let asked = &*format!(">1 1-1 {ASKED} path=/");
    let cut = |last: i64| format!("<1 2-{last} status_code=200 size=3 type=CANCEL \"par\" $");
    let reset = || (received, 5, vec![reset(1, 8)]);
    let late = |second| (sent, second, vec![data(1, 1, "tial")]);
    // It was sent before.
    let whole = "<1 2-4 status_code=200 size=7 \"partial\"";
    check(&[reset(), late(4)], None, &[asked, whole]);
    check(&[reset(), late(5)], Some(1), &[asked, "<1 2-5 status_code=200 size=7 \"partial\""]);
    let other = (received, 6, vec![get(END, 3, "/")]);
    let asked_later = &*format!(">3 6-6 {ASKED} path=/");
    check(&[reset(), other.clone(), late(4)], None, &[asked, asked_later, whole]);
    // It was sent later: it is none of the stream any more.
    check(&[reset(), late(6)], Some(1), &[asked, &cut(5)]);
    check(&[reset(), (sent, 6, vec![frame(6, 0, 0, &[0; 8])]), late(7)], Some(1), &[asked, &cut(5)]);
    // Nothing comes.
    check(&[reset()], Some(5), &[asked]);
    check(&[reset()], Some(6), &[asked, &cut(5)]);
    check(&[reset()], None, &[asked, &cut(5)]);
    check(&[reset(), other], None, &[asked, asked_later, &cut(5)]);
}

/// curl breaks off a stream when it has the announced number of bytes, before the stream's end has come.
#[test]
fn a_stream_of_which_everything_has_come_is_complete() {
    let three = headers(OPEN, 1, &[(":status", "200"), ("content-length", "3")]);
    let whole = [
        &format!(">1 3-3 {ASKED} path=/"),
        "<1 4-4 status_code=200 header=[content-length=3] size=3 \"all\"",
    ];
    let cut = |error, size, body| {
        format!("<1 4-5 status_code=200 header=[content-length=3] size={size} type={error} \"{body}\" $")
    };
    let check = |body: &str, by: fn(&[Vec<u8>]) -> Event, last: &str| {
        let events = [up(&[get(END, 1, "/")]), down(&[three.clone(), data(0, 1, body)]), by(&[reset(1, 5)])];
        check_start(&events, &[whole[0], last]);
    };
    check("all", up, whole[1]);
    check("al", up, &cut("STREAM_CLOSED", 2, "al"));
    // The server says that something was wrong.
    check("all", down, &cut("STREAM_CLOSED", 3, "all"));
}

#[test]
fn a_server_goes_away() {
    let go_away = |last, code| frame(7, 0, 0, &[0, 0, 0, last, 0, 0, 0, code, b'?']);
    check_start(
        &[
            up(&[get(END, 1, "/"), get(END, 3, "/"), get(END, 5, "/")]),
            down(&[go_away(3, 0)]),
            down(&[ok(END, 1), go_away(1, 11)]),
        ],
        &[
            &format!(">1 3-3 {ASKED} path=/"),
            &format!(">3 3-3 {ASKED} path=/"),
            &format!(">5 3-3 {ASKED} path=/"),
            "<5 4-4 type=REFUSED_STREAM $",
            "<1 5-5 status_code=200",
            "<3 5-5 type=ENHANCE_YOUR_CALM $",
        ],
    );
}

#[test]
fn lengths_that_are_wrong_are_violations() {
    check_start(
        &[
            up(&[
                headers(OPEN, 1, &[(":method", "POST"), (":path", "/"), ("content-length", "2")]),
                data(1, 1, "abc"),
            ]),
            // A response to HEAD.
            down(&[headers(END, 1, &[(":status", "200"), ("content-length", "7")])]),
        ],
        &[
            ">1 3-3 method=POST path=/ header=[content-length=2] size=3 violations=the body has 3 bytes, but \
             Content-Length says 2 \"abc\"",
            "<1 4-4 status_code=200 header=[content-length=7]",
        ],
    );
}

#[test]
fn gaps_within_a_frame_are_exact() {
    let request = get(END, 1, "/one");
    let body = data(1, 3, "0123456789");
    let second = get(OPEN, 3, "/two");
    let calls = |cut: std::ops::Range<usize>, frames: &[u8]| {
        let gap = Event::Gap(UP, cut.len() as u64);
        [up(&[frames[..cut.start].to_vec()]), gap, Event::Rest(UP, frames[cut.end..].to_vec())]
    };
    // In a body.
    check_start(
        &calls(
            request.len() + second.len() + 11..request.len() + second.len() + 14,
            &[&*request, &second, &body].concat(),
        ),
        &[&format!(">1 3-3 {ASKED} path=/one"), &format!(">3 3-5 {ASKED} path=/two size=10 \"01\" -3")],
    );
    // In a header list, which is lost with it. The next stream is whole.
    check_start(
        &calls(12..14, &[&*request, &second, &body].concat()),
        &[
            ">1 3-5 method=? address=? path=? header=? -5 ^",
            &format!(">3 5-5 {ASKED} path=/two size=10 \"0123456789\""),
        ],
    );
}

#[test]
fn gaps_beyond_a_frame() {
    // The frame's end is known, but not what follows.
    check_start(
        &[
            up(&[get(OPEN, 1, "/one"), frame(0, 1, 1, b"0123456789")[..13].to_vec()]),
            Event::Gap(UP, 40),
            Event::Rest(UP, b"and so on".to_vec()),
            up(&[get(END, 9, "/two")]),
            down(&[ok(END, 1), ok(END, 9), ok(END, 5)]),
        ],
        &[
            &format!(">1 3-3 {ASKED} path=/one size=10 \"0123\" -6"),
            &format!(">9 6-6 {ASKED} path=/two"),
            "<1 7-7 status_code=200",
            "<9 7-7 status_code=200",
            "<5 7-7 status_code=200",
        ],
    );
    // The end of a request, and the beginning of a response, may be in a gap.
    check_start(
        &[
            up(&[
                headers(OPEN, 1, &[(":method", "POST"), (":path", "/"), ("content-length", "3")]),
                data(0, 1, "a"),
            ]),
            up(&[get(OPEN, 3, "/"), data(0, 3, "a")]),
            Event::Gap(UP, 40),
            up(&[data(0, 3, "b"), get(END, 5, "/"), data(1, 1, "c")]),
            down(&[ok(END, 1), ok(END, 3)]),
            Event::Gap(DOWN, 40),
            down(&[data(0, 5, "d"), data(1, 5, "e"), frame(6, 0, 0, &[0; 8])]),
        ],
        &[
            &format!(">5 6-6 {ASKED} path=/"),
            ">1 3-6 method=POST path=/ header=[content-length=3] size=3 \"a\" -1",
            "<1 7-7 status_code=200",
            "<3 7-7 status_code=200",
            &format!(">3 4-6 {ASKED} path=/ size=? \"a\" $ ~"),
            "<5 9-9 status_code=? header=? size=? ^ ~",
        ],
    );
}
