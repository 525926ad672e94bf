//! Which pairs are formed after a loss, and which are not.

use super::Event::{Down, DownGap, Pause, Up, UpGap};
use super::*;

fn get(path: &str) -> String {
    format!("GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

fn post(path: &str) -> String {
    format!("POST /{path} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 201 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn gaps_within_bodies_of_known_length() {
    // Nothing but bytes of the body is missing.
    check(
        &client(),
        &[
            Up("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nab"),
            UpGap(5),
            Up(&format!("hi{}", get("b"))),
            Down("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na"),
            DownGap(4),
            Down(OK),
        ],
        &[">1 POST host:h /a 'ab' -5", ">2 GET host:h /b", "<1 200 'a' -4", "<2 200"],
    );
    // The same of a chunk, whose line end is in the same call.
    check(
        &client(),
        &[
            Up(&get("a")),
            Down(CHUNKED),
            Down("9\r\nab"),
            DownGap(5),
            Down("hi\r\n9\r\nabc"),
            DownGap(8),
            Down("0\r\n\r\n"),
            Up(&get("b")),
            Down(OK),
        ],
        &[">1 GET host:h /a", "<1 201 'ab' -11", ">2 GET host:h /b", "<2 200"],
    );
    // Up to the end of the connection.
    check(
        &client(),
        &[Up(&get("a")), Down("HTTP/1.1 200 OK\r\n\r\nab"), DownGap(5), Down("c")],
        &[">1 GET host:h /a", "<1 200 'ab' -5"],
    );
}

#[test]
fn lost_responses() {
    // The first response is lost in part. It can only have been that of the first request, and the second
    // request shows that it was complete.
    check(
        &client(),
        &[
            Up(&get("a")),
            Down(&format!("{CHUNKED}3\r\nab")),
            DownGap(12),
            Down("5\r\nhello\r\n0\r\n\r\n"),
            Down(OK),
            Up(&get("b")),
            Down(OK),
        ],
        &[">1 GET host:h /a", "<1 201 'ab' -1 $ size:?", "<? 200", ">? GET host:h /b", "<? 200"],
    );
    // Whether the response that is seen is that to the first or to the second request is unknown, but after
    // it the client has both.
    check(
        &client(),
        &[
            Up(&get("a")),
            DownGap(30),
            Down(OK),
            Up(&get("b")),
            Down(OK),
            Up(&get("c")),
            DownGap(60),
            Up(&get("d")),
            Down(OK),
            Pause,
            Up(&get("e")),
            Down(OK),
        ],
        &[
            ">1 GET host:h /a",
            "<? 200",
            ">2 GET host:h /b",
            "<2 200",
            ">3 GET host:h /c",
            ">? GET host:h /d",
            "<? 200",
            ">5 GET host:h /e",
            "<5 200",
        ],
    );
    // The client pipelines, so a pause shows nothing.
    check(
        &client(),
        &[
            Up(&(get("a") + &get("b"))),
            Down(OK),
            Up(&get("c")),
            DownGap(60),
            Down(OK),
            Pause,
            Up(&get("d")),
            Down(OK),
        ],
        &[
            ">1 GET host:h /a",
            ">2 GET host:h /b",
            "<1 200",
            ">3 GET host:h /c",
            "<? 200",
            ">? GET host:h /d",
            "<? 200",
        ],
    );
    // As many responses begin after the gap as were outstanding, and the client is silent after them.
    check(
        &client(),
        &[
            Up(&(get("a") + &get("b") + &get("c"))),
            Down(&format!("{CHUNKED}3\r\nab")),
            DownGap(20),
            Down(OK),
            Down(OK),
            Pause,
            Up(&get("d")),
            Down(OK),
        ],
        &[
            ">1 GET host:h /a",
            ">2 GET host:h /b",
            ">3 GET host:h /c",
            "<1 201 'ab' -1 $ size:?",
            "<? 200",
            "<? 200",
            ">4 GET host:h /d",
            "<4 200",
        ],
    );
}

#[test]
fn lost_requests() {
    // What was asked before the loss is answered first.
    check(
        &client(),
        &[
            Up(&get("a")),
            Up(&get("b")),
            UpGap(100),
            Up(&get("c")),
            Down(OK),
            Down(OK),
            Down(OK),
            Down(OK),
            Pause,
            Up(&get("d")),
            Down(OK),
        ],
        &[
            ">1 GET host:h /a",
            ">2 GET host:h /b",
            ">? GET host:h /c",
            "<1 200",
            "<2 200",
            "<? 200",
            "<? 200",
            ">? GET host:h /d",
            "<? 200",
        ],
    );
    // Within a head.
    check(
        &client(),
        &[Up("GET /a HTTP/1.1\r\nHo"), UpGap(7), Up("\r\n"), Down(OK), Pause, Up(&get("b")), Down(OK)],
        &["<? 200", ">1 GET host:h /b", "<1 200"],
    );
}

#[test]
fn connections_joined_in_the_middle() {
    check(
        &joined(),
        &[
            Down("the end of a body"),
            Up(&get("a")),
            Down(OK),
            Up(&get("b")),
            Down(OK),
            Pause,
            Up(&get("c")),
            Down(OK),
            Up(&get("d")),
            Down(OK),
        ],
        &[
            ">? GET host:h /a",
            "<? 200",
            ">? GET host:h /b",
            "<? 200",
            ">3 GET host:h /c",
            "<3 200",
            ">4 GET host:h /d",
            "<4 200",
        ],
    );
    // Clients do not pipeline after POST, and a client that might was seen to not do that.
    let posts: Vec<String> = (1..=18).map(|number| post(&number.to_string())).collect();
    let events: Vec<Event<'_>> = posts.iter().flat_map(|post| [Up(post), Down(OK)]).collect();
    let ids: Vec<_> = run(&joined(), &events, 1000).messages.iter().map(|message| message.id).collect();
    let (unpaired, paired) = ids.split_at(32);
    assert!(unpaired.iter().all(Option::is_none));
    assert_eq!(paired, [Some(17), Some(17), Some(18), Some(18)]);
    // A pause with a response outstanding is none. This client keeps two requests in flight.
    check(
        &joined(),
        &[
            Down(OK),
            Up(&get("b")),
            Down(OK),
            Up(&get("c")),
            Up(&get("d")),
            Down(OK),
            Down(OK),
            Pause,
            Up(&get("e")),
        ],
        &[
            "<? 200",
            ">? GET host:h /b",
            "<? 200",
            ">? GET host:h /c",
            ">? GET host:h /d",
            "<? 200",
            "<? 200",
            ">? GET host:h /e",
        ],
    );
    // The response to a HEAD has no body, and what looks like one is the next response.
    check(
        &joined(),
        &[Down("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"), Down(OK), Pause, Up(&get("b")), Down(OK)],
        &["<? 200 $ size:?", "<? 200", ">1 GET host:h /b", "<1 200"],
    );
}

/// On a connection that was joined in the middle.
#[test]
fn a_pause_after_a_response_without_body() {
    const LENGTH_ALONE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    let head = "HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n";
    check(
        &joined(),
        &[Up(head), Down(LENGTH_ALONE), Pause, Up(&get("b")), Down(OK), Up(head), Down(LENGTH_ALONE)],
        &[
            ">? HEAD host:h /a",
            "<? 200 $ size:?",
            ">2 GET host:h /b",
            "<2 200",
            ">3 HEAD host:h /a",
            "<3 200",
        ],
    );
    // The responses to the GETs after it are not taken for such ones.
    check(
        &joined(),
        &[
            Up(head),
            Down(LENGTH_ALONE),
            Up(&get("b")),
            Down("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
            Down("ab"),
            Pause,
            Up(&get("c")),
            Down(OK),
        ],
        &[
            ">? HEAD host:h /a",
            ">? GET host:h /b",
            "<? 200 $ size:?",
            "<? 200 'ab'",
            ">3 GET host:h /c",
            "<3 200",
        ],
    );
    // The body comes late: the pause was none.
    check(
        &joined(),
        &[Up(&get("a")), Down(LENGTH_ALONE), Pause, Up(&get("b")), Down("a body"), Down(OK)],
        &[">? GET host:h /a", "<? 200 $ size:?", ">2 GET host:h /b", "<? 200"],
    );
}

/// The call that receives the first response waited for it when the trace began, so it is not seen.
#[test]
fn the_first_response_after_joining_is_not_seen() {
    check(
        &joined(),
        &[Up(&get("a")), Up(&get("b")), Down(OK), Pause, Up(&get("c")), Down(OK)],
        &[">? GET host:h /a", ">? GET host:h /b", "<? 200", ">3 GET host:h /c", "<3 200"],
    );
    // A client that pipelines shows it later.
    check(
        &joined(),
        &[
            Up(&get("a")),
            Up(&get("b")),
            Down(OK),
            Up(&get("c")),
            Up(&get("d")),
            Down(OK),
            Down(OK),
            Pause,
            Up(&get("e")),
            Down(OK),
        ],
        &[
            ">? GET host:h /a",
            ">? GET host:h /b",
            "<? 200",
            ">? GET host:h /c",
            ">? GET host:h /d",
            "<? 200",
            "<? 200",
            ">? GET host:h /e",
            "<? 200",
        ],
    );
}

#[test]
fn a_pause_that_was_none() {
    // The response to an earlier request comes late: its record, and then its bytes.
    check(
        &joined(),
        &[Down(OK), Pause, Up(&get("a")), DownGap(10), Down(OK)],
        &["<? 200", ">1 GET host:h /a", "<? 200"],
    );
}

/// Go's server reads the first byte of a request alone, if it comes while the response to the previous one is
/// being sent.
#[test]
fn a_method_whose_first_byte_came_before() {
    let (first, rest) = ("P", "OST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
    let paired = [">? GET host:h /b", "<? 200"];
    // It was captured, or not.
    let posted = [&[">? POST host:h /a 'x'"], paired.as_slice()].concat();
    check(&joined(), &[Up(first), Up(rest), Up(&get("b")), Down(OK)], &posted);
    check(&joined(), &[Up(rest), Up(&get("b")), Down(OK)], &paired);
    check(&joined(), &[Up("the end of a bod"), Up("y"), Up(&get("b")), Down(OK)], &paired);
    // Another method is none that lacks its beginning.
    check(&joined(), &[Up("OSTRICH /a HTTP/1.1\r\nHost: h\r\n\r\n")], &[">? OSTRICH host:h /a"]);
}
