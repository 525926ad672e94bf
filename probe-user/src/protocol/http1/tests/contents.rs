//! The messages within bodies, and the protocols to which connections switch.

use super::Event::{Down, DownBytes, DownGap, Up};
use super::*;
use crate::protocol::http::{
    ERROR_TYPE, PART_TYPE, RPC_METHOD, RPC_RESPONSES, RPC_STATUS, RPC_STATUS_MESSAGE, RPC_SYSTEM,
};

/// Each message as its protocol, kind, id and body, with some fields.
fn shown_contents(events: &[Event<'_>]) -> Vec<String> {
    let fields =
        [&PART_TYPE, &RPC_SYSTEM, &RPC_METHOD, &RPC_RESPONSES, &RPC_STATUS, &RPC_STATUS_MESSAGE, &ERROR_TYPE];
    let line = |message: &Message| {
        let body = message.body().0.iter().map(|byte| byte.escape_ascii().to_string()).collect::<String>();
        let id = message.id.map_or("?".to_owned(), |id| id.to_string());
        let line = format!("{} {:?} {id} '{body}'", message.protocol, message.kind);
        let known = fields.iter().filter_map(|field| text(message, field));
        [line].into_iter().chain(known).collect::<Vec<_>>().join(" ")
    };
    let whole: Vec<String> = run(&client(), events, 1000).messages.iter().map(line).collect();
    for split in [1, 2, 3, 5, 7] {
        let lines: Vec<String> = run(&client(), events, split).messages.iter().map(line).collect();
        assert_eq!(lines, whole);
    }
    whole
}

#[test]
fn server_sent_events() {
    let events = [
        Up("GET /a HTTP/1.1\r\nHost: h\r\n\r\n"),
        Down(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        Down("1a\r\nevent: add\ndata: 1\n\ndata: \r\n"),
        Down("3\r\n2\n\n\r\n"),
        Down("15\r\ndata: 3\n"),
        DownGap(3),
        Down("a: x\n\ndata\r\n"),
        Down("5\r\n: 4\n\n\r\n0\r\n\r\n"),
    ];
    let expected = [
        "http1 Request 1 ''",
        "http1 Event 1 '1' add",
        "http1 Event 1 '2'",
        "http1 Event 1 '3'",
        "http1 Event 1 '4'",
        r"http1 Response 1 'event: add\ndata: 1\n\ndata: 2\n\ndata: 3\n'",
    ];
    assert_eq!(shown_contents(&events), expected);
}

#[test]
fn calls() {
    let request = |types: &str| {
        format!(
            "POST /shop.v1.Cart/Add HTTP/1.1\r\nHost: h\r\nContent-Type: {types}\r\nContent-Length: 7\r\n\r\n\0\0\0\0\x02ab"
        )
    };
    let response = |types: &str, body: &str| {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {types}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let web = "application/grpc-web+proto";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web+proto\r\nContent-Length: 0\r\ngrpc-status: 5\r\n\r\n";
    assert_eq!(
        shown_contents(&[Up(&request(web)), Down(head)]),
        [
            "http1 Event 1 'ab'",
            r"http1 Request 1 '\x00\x00\x00\x00\x02ab' grpc shop.v1.Cart/Add",
            "http1 Response 1 '' grpc 0 NOT_FOUND NOT_FOUND",
        ]
    );
    // The trailers are behind the last message.
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web+proto\r\n\r\n";
    let body = b"\0\0\0\0\x01x\x80\0\0\0\x2cgrpc-status: 14\r\ngrpc-message: try%20again\r\n";
    let calls = shown_contents(&[Up(&request(web)), Down(head), DownBytes(body)]);
    assert_eq!(calls.get(2).unwrap(), "http1 Event 1 'x'");
    assert!(calls.last().unwrap().ends_with(" grpc 1 UNAVAILABLE try again UNAVAILABLE"), "{calls:?}");
    let connect = "application/connect+json";
    let body = "\0\0\0\0\x02{}\x02\0\0\0\x0b{\"error\":1}";
    assert_eq!(
        shown_contents(&[Up(&request(connect)), Down(&response(connect, body))]),
        [
            "http1 Event 1 'ab'",
            r"http1 Request 1 '\x00\x00\x00\x00\x02ab' connectrpc shop.v1.Cart/Add",
            "http1 Event 1 '{}'",
            r#"http1 Response 1 '\x00\x00\x00\x00\x02{}\x02\x00\x00\x00\x0b{\"error\":1}' connectrpc 1"#,
        ]
    );
    // What the end of a stream of Connect says.
    let check = |end: &str, expected: &str| {
        let length = char::from(u8::try_from(end.len()).unwrap());
        let body = format!("\0\0\0\0\x02{{}}\x02\0\0\0{length}{end}");
        let calls = shown_contents(&[Up(&request(connect)), Down(&response(connect, &body))]);
        assert!(calls.last().unwrap().ends_with(&format!("' connectrpc 1{expected}")), "{calls:?}");
    };
    check("{}", " OK");
    check(r#"{"metadata":{"a":["b"]}}"#, " OK");
    check(r#"{"error":{"code":"not_found","message":"no"}}"#, " NOT_FOUND NOT_FOUND");
    check(r#"{"error": {"code" : "canceled"}}"#, " CANCELLED CANCELLED");
    check(r#"{"error":{"code":"so"}}"#, "");
    check(r#"{"error":{"message":"\"code\":\"internal\""}}"#, "");
    // gRPC-Web in base64.
    let text = "application/grpc-web-text";
    let calls =
        shown_contents(&[Up(&request(web)), Down(&response(text, "AAAAAAF4gAAAABBncnBjLXN0YXR1czogMTQN"))]);
    assert_eq!(calls.get(2).unwrap(), "http1 Event 1 'x'");
    assert!(calls.last().unwrap().ends_with("' grpc 1 UNAVAILABLE UNAVAILABLE"), "{calls:?}");
    // A call of Connect by GET.
    let get = "GET /shop.v1.Cart/Get?connect=v1&encoding=json&message=%7B%7D HTTP/1.1\r\nHost: h\r\n\r\n";
    let calls = shown_contents(&[Up(get)]);
    assert_eq!(calls, ["http1 Request 1 '' connectrpc shop.v1.Cart/Get"]);
}

#[test]
fn websockets() {
    let upgrade = "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switched = "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n";
    let messages = shown_contents(&[Up(upgrade), Down(switched), Down("\x01\x01a"), Up("\0")]);
    assert_eq!(messages[..2], ["http1 Request 1 ''", "http1 Response 1 ''"]);
    let run = run(&client(), &[Up(upgrade), Down(switched), Down("\x01\x01a")], 1000);
    assert_eq!(run.protocol, Some("websocket"));
}
