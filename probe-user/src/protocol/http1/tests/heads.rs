//! Heads as httparse reads them.

use super::super::head::{MessageHead, StartLine, may_start};
use crate::event::HeaderField;
use crate::test_rng::TestRng;

/// The start line and the fields, in text, or None if they are not those of a message.
fn read(data: &[u8]) -> Option<(String, Vec<HeaderField>)> {
    let head = MessageHead::parse(data)?;
    let start = match head.start {
        StartLine::Request { method, target, version } => format!("{method} {target} {version}"),
        StartLine::Status { version, code } => format!("{version} {code}"),
    };
    Some((start, head.headers))
}

/// The same by httparse, which accepts less.
fn oracle(data: &[u8]) -> Option<(String, Vec<HeaderField>)> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut fields);
    let (start, headers) = if matches!(request.parse(data), Ok(httparse::Status::Complete(_))) {
        let (method, target, version) = (request.method?, request.path?, request.version?);
        (format!("{method} {target} {version}"), request.headers.to_vec())
    } else {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut fields);
        if !matches!(response.parse(data), Ok(httparse::Status::Complete(_))) {
            return None;
        }
        (format!("{} {}", response.version?, response.code?), response.headers.to_vec())
    };
    let header = |header: &httparse::Header<'_>| HeaderField {
        name: Some(header.name.to_ascii_lowercase()),
        value: Some(String::from_utf8_lossy(header.value).into_owned()),
    };
    Some((start, headers.iter().map(header).collect()))
}

#[test]
fn heads_are_read_as_httparse_reads_them() {
    let heads: [&[u8]; 4] = [
        b"GET /a?b HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\nX-Empty:\r\n\r\n",
        b"POST * HTTP/1.0\r\nCookie: a=b; c=\"d\"\r\nContent-Length:5 \r\n\r\n",
        b"HTTP/1.1 200 OK\r\nServer: nginx\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n",
        b"HTTP/1.0 404 \r\nDate:\t Mon, 30 Nov 2026 \t\r\n\r\n",
    ];
    let mut rng = TestRng(9112);
    let mut accepted = 0;
    for case in 0..40_000 {
        let mut head = heads.get(rng.below(4)).copied().unwrap().to_vec();
        for _ in 0..case % 4 {
            let at = rng.below(head.len());
            let byte = b"\r\n \t:/HTP.1a\0\x7f\x80\xe9".get(rng.below(16)).copied().unwrap();
            match rng.below(3) {
                0 => head[at] = byte,
                1 => head.insert(at, byte),
                _ => drop(head.remove(at)),
            }
        }
        if let Some(expected) = oracle(&head) {
            accepted += 1;
            let text = || String::from_utf8_lossy(&head).into_owned();
            let (start, headers) = read(super::super::head::skip_empty_lines(&head)).unwrap_or_default();
            assert_eq!(start, expected.0, "{:?}", text());
            assert!(headers == expected.1, "{:?}: {headers:?}, but {:?}", text(), expected.1);
        }
    }
    assert!(accepted > 15_000, "{accepted}");
}

#[test]
fn each_part_of_a_start_line_may_be_one() {
    for line in ["I * HTTP/1.0\x0c", "GET / HTTP/1.1 \t\x0c\r", "A  b\tHTTP/1.1", "HTTP/1.0 404 \r"] {
        let head = format!("{line}\n\r\n");
        assert!(MessageHead::parse(head.as_bytes()).is_some(), "{line:?}");
        for end in 0..head.len() {
            assert!(may_start(&head.as_bytes()[..end]), "{line:?} to {end}");
        }
    }
}
