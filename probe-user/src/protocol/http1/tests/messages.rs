//! What messages are made of.

use super::Event::{Down, Up};
use super::*;

const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const GOT: &str = ">1 GET host:h /a";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// One request, which is answered if it can be.
#[track_caller]
fn check_request(request: &str, expected: &[&str]) {
    check(&client(), &[Up(request)], expected);
}

/// One response to a GET.
#[track_caller]
fn check_response(response: &str, expected: &[&str]) {
    let expected: Vec<&str> = [GOT].into_iter().chain(expected.iter().copied()).collect();
    check(&client(), &[Up(GET), Down(response)], &expected);
}

#[test]
fn requests() {
    check_request(
        "GET /hello.txt?a=1&b HTTP/1.1\r\nUser-Agent: curl/7.64.1\r\nHost: www.example.com:8080\r\n\r\n",
        &[">1 GET host:www.example.com port:8080 /hello.txt ?a=1&b"],
    );
    check_request("GET /a HTTP/1.0\r\n\r\n", &[">1 GET /a"]);
    // Any method.
    check_request("M-SEARCH * HTTP/1.1\r\nHost: h\r\n\r\n", &[">1 M-SEARCH host:h *"]);
    check_request("x!y /a HTTP/1.1\r\nHost:h\r\n\r\n", &[">1 x!y host:h /a"]);
    // RFC 9112, 3.2: the forms of a target. What an absolute one says takes precedence.
    check_request(
        "GET http://u:p@www.example.org:81/pub/WWW?q HTTP/1.1\r\nHost: other\r\n\r\n",
        &[">1 GET scheme:http host:www.example.org port:81 /pub/WWW ?q"],
    );
    check_request(
        "OPTIONS http://www.example.org:8001 HTTP/1.1\r\nHost: h\r\n\r\n",
        &[">1 OPTIONS scheme:http host:www.example.org port:8001"],
    );
    check_request("GET /go?to=http://x/ HTTP/1.1\r\nHost: h\r\n\r\n", &[">1 GET host:h /go ?to=http://x/"]);
    check_request("OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", &[">1 OPTIONS host:::1 port:80 *"]);
    check_request(
        "CONNECT www.example.com:443 HTTP/1.1\r\nHost: h\r\n\r\n",
        &[">1 CONNECT host:www.example.com port:443"],
    );
    // Pipelined, with bodies, and with an empty line in between.
    check_request(
        "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello\r\nPUT /b HTTP/1.1\r\nHost: h\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=\"y\"\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n\
         GET /c HTTP/1.1\r\nHost: h\r\n\r\n",
        &[">1 POST host:h /a 'hello'", ">2 PUT host:h /b 'abcdefg' trailers:x-sum=7", ">3 GET host:h /c"],
    );
}

#[test]
fn responses() {
    check_response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", &["<1 200 'hello'"]);
    check_response("HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", &["<1 404"]);
    check_response("HTTP/1.1 200 \r\n\r\nuntil the end", &["<1 200 'until the end'"]);
    check_response(
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n??",
        &["<1 200 '??' (Transfer-Encoding in HTTP/1.0)"],
    );
    check_response(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\nA \r\n0123456789\r\n0\r\n\r\n",
        &["<1 200 '0123456789'"],
    );
    // Without a body, whatever the header fields say.
    check_response("HTTP/1.1 204 No Content\r\n\r\n", &["<1 204"]);
    check_response("HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n", &["<1 304"]);
    check_response(
        "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n",
        &["<1 204 (Transfer-Encoding of a response that has no body)"],
    );
    // Interim responses are not the answer.
    check_response(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        &["!1 100", "!1 103", "<1 200 'x'"],
    );
    // Cut off by the end of the connection.
    check_response("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", &["<1 200 'hello' $ size:?"]);
    check_response(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello",
        &["<1 200 'hello' $ size:?"],
    );
}

#[test]
fn responses_answer_in_order() {
    check(
        &client(),
        &[
            Up("HEAD /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n"),
            Down(
                "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nHTTP/1.1 201 OK\r\nContent-Length: 1\r\n\r\nx",
            ),
            Up(GET),
            Down(OK),
        ],
        &[">1 HEAD host:h /a", ">2 GET host:h /b", "<1 200", "<2 201 'x'", ">3 GET host:h /a", "<3 200"],
    );
    // The record of a response may come before that of its request.
    check(&client(), &[Down(OK), Up(GET), Down(OK), Up(GET)], &[GOT, "<1 200", ">2 GET host:h /a", "<2 200"]);
    // A server may answer without a request, before it closes the connection.
    check(&client(), &[Down("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")], &["<? 408 $"]);
    // A response may begin, and end, before its request ends.
    check(
        &client(),
        &[
            Up("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab"),
            Down("HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n"),
            Up("cd"),
        ],
        &["<1 413", ">1 POST host:h /a 'abcd'"],
    );
    // The traced process is the server, which the hints need not say.
    let server = Hints { role: None, ..client() };
    check(&server, &[Down(GET), Up(OK)], &[GOT, "<1 200"]);
}

#[test]
fn a_body_that_waits_for_an_interim_response() {
    let post = "POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    check(
        &client(),
        &[Up(post), Down("HTTP/1.1 100 Continue\r\n\r\n"), Up("GET "), Down(OK)],
        &["!1 100", ">1 POST host:h /a 'GET '", "<1 200"],
    );
    // The server does not want it.
    check(
        &client(),
        &[Up(post), Down("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n"), Up(GET), Down(OK)],
        &["<1 417", ">1 POST host:h /a", ">2 GET host:h /a", "<2 200"],
    );
    check(
        &client(),
        &[Up(post), Down("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n"), Up("abcd"), Up(GET), Down(OK)],
        &["<1 417", ">1 POST host:h /a 'abcd'", ">2 GET host:h /a", "<2 200"],
    );
}

/// RFC 9112, 6.3 and 11.2: the requests that recipients do not agree on.
#[test]
fn bodies_of_disputed_length() {
    let request = |fields: &str, rest: &str| format!("POST /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n{rest}");
    let check = |fields: &str, rest: &str, expected: &[&str]| {
        check_request(&request(fields, rest), expected);
    };
    let smuggled = "GET /admin HTTP/1.1\r\nHost: h\r\n\r\n";
    // Transfer-Encoding overrides Content-Length.
    check(
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        &format!("0\r\n\r\n{smuggled}"),
        &[">1 POST host:h /a (Content-Length beside Transfer-Encoding)", ">2 GET host:h /admin"],
    );
    let differ = &[">1 POST host:h /a $ size:? (different values of Content-Length)"];
    check("Content-Length: 0\r\nContent-Length: 44", smuggled, differ);
    check("Content-Length: 0, 44", smuggled, differ);
    check(
        "Content-Length: 4\r\nContent-Length: 4",
        "abcd",
        &[">1 POST host:h /a 'abcd' (repeated Content-Length)"],
    );
    for value in ["+4", "-4", "0x4", "4 4", "", "99999999999999999999", "4;a"] {
        check(
            &format!("Content-Length: {value}"),
            smuggled,
            &[">1 POST host:h /a $ size:? (Content-Length that is not a number)"],
        );
    }
    let not_chunked =
        ">1 POST host:h /a $ size:? (Transfer-Encoding of a request that does not end in chunked)";
    for value in ["xchunked", "chunked;a=1", "gzip", "\"chunked\"", "chunked gzip", ""] {
        check(&format!("Transfer-Encoding: {value}"), smuggled, &[not_chunked]);
    }
    check(
        "Transfer-Encoding: chunked, identity",
        smuggled,
        &[
            ">1 POST host:h /a $ size:? (chunked is not the last Transfer-Encoding, Transfer-Encoding of a request \
         that does not end in chunked)",
        ],
    );
    check("Transfer-Encoding: Chunked", "1\r\nx\r\n0\r\n\r\n", &[">1 POST host:h /a 'x'"]);
    check(
        "Transfer-Encoding : chunked",
        smuggled,
        &[">1 POST host:h /a $ size:? (whitespace before the colon of a header field)"],
    );
    check(
        "X : y",
        smuggled,
        &[">1 POST host:h /a (whitespace before the colon of a header field)", ">2 GET host:h /admin"],
    );
    check(
        "Transfer-Encoding:\u{b}chunked",
        smuggled,
        &[
            ">1 POST host:h /a $ size:? (control character in the value of a header field, Transfer-Encoding of a \
         request that does not end in chunked)",
        ],
    );
    check(
        "X: y\r\n Content-Length: 5",
        smuggled,
        &[">1 POST host:h /a (folded header field)", ">2 GET host:h /admin"],
    );
}

#[test]
fn chunks_that_are_not_valid() {
    let check = |chunks: &str, expected: &str| {
        let head = "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        check_request(&format!("{head}{chunks}"), &[&format!(">1 POST host:h /a {expected}")]);
    };
    check("3\r\nabc\r\nx\r\n", "'abc' $ size:? (chunk with an invalid size)");
    check("0x3\r\nabc\r\n", "$ size:? (chunk with an invalid size)");
    check("-3\r\nabc\r\n", "$ size:? (chunk with an invalid size)");
    check("\r\nabc\r\n", "$ size:? (chunk with an invalid size)");
    check("fffffffffffffffff\r\nabc\r\n", "$ size:? (chunk with an invalid size)");
    check("3\r\nabcd\r\n0\r\n\r\n", "'abc' $ size:? (chunk that does not end after its size)");
    check("3\nabc\n0\n\n", "'abc' (line feed without a carriage return)");
    check("ffffffffffffffff\r\nabc", "'abc' $ size:?");
}

#[test]
fn heads_that_are_not_valid() {
    let get = |fields: &str| format!("GET /a HTTP/1.1\r\n{fields}\r\n\r\n");
    check_request(&get("X: y"), &[">1 GET /a (no Host)"]);
    check_request(&get("Host: a\r\nHost: b"), &[">1 GET host:? /a (several Host fields)"]);
    check_request(&get("Host: a\r\nHost: a"), &[">1 GET host:a /a (several Host fields)"]);
    check_request(&get("Host: a\r\nno colon"), &[">1 GET host:a /a (header field without a colon)"]);
    check_request(
        &get("Host: a\r\n(: b"),
        &[">1 GET host:a /a (invalid character in the name of a header field)"],
    );
    check_request(&get(" X: y\r\nHost: a"), &[">1 GET host:a /a (whitespace before the first header field)"]);
    check_request(
        &format!("{GET}GET  /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        &[GOT, ">2 GET host:a /a b (whitespace within the start line)"],
    );
    check_request(
        "GET /a HTTP/1.1\nHost: h\n\n",
        &[">1 GET host:h /a (line feed without a carriage return)"],
    );
}

/// A message whose head is longer than the limit is shown as far as that, and still counts.
#[test]
fn heads_that_are_too_long() {
    let long = format!("GET /a HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(300_000));
    let many = format!("GET /a HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(5000));
    let next = "GET /b HTTP/1.1\r\nHost: a\r\n\r\n";
    for (head, violation) in [(&long, "head longer than 128 KiB"), (&many, "more than 1024 header fields")] {
        let expected = [
            format!(">1 GET host:a /a $ size:? ({violation})"),
            ">? GET host:a /b".to_owned(),
            "<1 200".to_owned(),
            "<? 200".to_owned(),
        ];
        for split in [1000, 100_000] {
            let events = [Up(head), Up(next), Down(OK), Down(OK)];
            let messages = run(&client(), &events, split).messages;
            assert_eq!(messages.iter().map(shown).collect::<Vec<_>>(), expected);
            assert!(messages.iter().all(|message| message.size() < 256 * 1024));
        }
    }
}

#[test]
fn connections_that_switch_to_another_protocol() {
    let upgrade = "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: x\r\n\r\n";
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    // What follows is not HTTP/1, whatever it looks like.
    let run = run(&client(), &[Up(upgrade), Up("\0\x01"), Down(switched), Down("\0")], 1000);
    assert_eq!(run.messages.iter().map(shown).collect::<Vec<_>>(), [">1 GET host:h /chat", "<1 101"]);
    assert_eq!((run.protocol, run.undecoded), (None, 3));
    // The server does not want to switch, and the next request waits until this is known.
    check(
        &client(),
        &[Up(upgrade), Up(GET), Down(OK), Down(OK)],
        &[">1 GET host:h /chat", "<1 200", ">2 GET host:h /a", "<2 200"],
    );
    // HTTP/1 within a tunnel is another conversation, in which ids start over.
    let connect = "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n";
    check(
        &client(),
        &[Up(connect), Down("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), Up(GET), Down(OK)],
        &[">1 CONNECT host:h port:80", "<1 200", ">1 GET host:h /a", "<1 200"],
    );
    check(
        &client(),
        &[Up(connect), Down("HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno"), Up(GET), Down(OK)],
        &[">1 CONNECT host:h port:80", "<1 407 'no'", ">2 GET host:h /a", "<2 200"],
    );
}

#[test]
fn detection() {
    let check = |hints: &Hints, events: &[Event<'_>], expected: Option<&str>| {
        let protocol = run(hints, events, 1000).protocol;
        assert_eq!(protocol, expected, "{events:?}");
    };
    let alpn = |name: &str, hints: Hints| Hints { alpn: Some(name.to_owned()), ..hints };
    check(&client(), &[Up("GET /a HTTP/1.1\r\n")], Some("http1"));
    check(&client(), &[Down("HTTP/1.1 200 OK\r\n")], Some("http1"));
    check(&alpn("http/1.1", client()), &[Up("BREW /pot HTTP/1.1\r\n")], Some("http1"));
    check(&alpn("h2", client()), &[Up("GET /a HTTP/1.1\r\n")], Some("http2"));
    for text in [
        "G",
        "GET /a HTTP/1.1",
        "GET /a HTTP/2.0\r\n",
        "GET /a\r\n",
        "HTTP/1.1",
        "PRI * HTTP/2.0\r\n",
        "+OK GET / HTTP/1.1\r\n",
        "\0GET / HTTP/1.1\r\n",
        "SSH-2.0-OpenSSH\r\n",
        "hello HTTP/1.1 there\r\n",
    ] {
        check(&client(), &[Up(text)], None);
        check(&joined(), &[Up(text)], None);
        check(&joined(), &[Up("{"), Up(text)], None);
    }
    check(&joined(), &[Up("GET /a HTTP/1.1\r\n")], Some("http1"));
    check(&joined(), &[Up("{}"), Down("x"), Up("GET /a HTTP/1.1\r\n")], Some("http1"));
    // The beginning of a connection is something else.
    check(&client(), &[Up("{}"), Up("GET /a HTTP/1.1\r\n")], None);
    // A start line within a call is part of something else.
    check(&joined(), &[Up("log:\r\nGET /a HTTP/1.1\r\n")], None);
}
