//! Each limit: what is beyond it is shown as incomplete, with the reason.

use std::fmt::Write as _;

use super::*;
use crate::event::{FieldValue, Request};

/// The requests that were written.
#[derive(Clone, Debug, Default)]
struct KeptRequests(Arc<Mutex<Vec<Request>>>);

impl Output for KeptRequests {
    fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        if let Body::Request(request) = &record.body {
            self.0.lock().unwrap().push(request.as_ref().clone());
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: &mut Summary) -> io::Result<()> {
        Ok(())
    }
}

/// An exchange in a line: what it asks for, and what it lacks and why.
fn shown(request: &Request) -> String {
    let target = request.overview.target.as_deref().unwrap_or("?");
    let mut line = format!("{target}{}", if request.is_complete() { "" } else { " incomplete" });
    for reason in [request.unpaired, request.cut_off].into_iter().flatten() {
        write!(line, " {reason:?}").unwrap();
    }
    if request.missing() > 0 {
        write!(line, " gap of {}", request.missing()).unwrap();
    }
    for side in request.sides() {
        let violations = side.fields.iter().filter(|(field, _)| field.path.ends_with(".violations"));
        for (_, value) in violations {
            let FieldValue::List(list) = value else { continue };
            write!(line, " ({})", list.join("; ")).unwrap();
        }
        if let Some(body) = &side.body {
            write!(line, " body of {}{}", body.data.len(), if body.is_cut { ", cut" } else { "" }).unwrap();
        }
    }
    line
}

/// The first exchanges that come out of these calls.
fn check(settings: RequestSettings, limits: RequestLimits, feed: impl FnOnce(&mut Calls), expected: &[&str]) {
    let kept = KeptRequests::default();
    let requests = Requests::new(crate::protocol::ALL, settings, limits, Box::new(kept.clone()));
    let mut calls =
        Calls { requests, written: Written::default(), next: HashMap::new(), second: 0, role: None };
    feed(&mut calls);
    calls.finish(&[]);
    let lines: Vec<String> = kept.0.lock().unwrap().iter().map(shown).collect();
    assert_eq!(lines.get(..expected.len()).unwrap_or(&lines), expected);
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A frame of HTTP/2 with bytes that are text.
fn frame(kind: u8, flags: u8, stream: u32, payload: &str) -> String {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    String::from_utf8(head).unwrap() + payload
}

/// A header list with a path, whose fields are literals.
fn list(path: &str) -> String {
    let field = |name: &str, value: &str| {
        let length = |text: &str| char::from(u8::try_from(text.len()).unwrap());
        format!("\0{}{name}{}{value}", length(name), length(value))
    };
    [(":method", "GET"), (":scheme", "https"), (":path", path)]
        .map(|(name, value)| field(name, value))
        .concat()
}

const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[test]
fn header_lists() {
    let http1 = |fields: &str| format!("GET /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let long = http1(&format!("X: {}\r\n", "x".repeat(200_000)));
    let many = http1(&"x: y\r\n".repeat(1100));
    for (request, expected) in [
        (long, "/a incomplete (head longer than 128 KiB)"),
        (many, "/a incomplete (more than 1024 header fields)"),
    ] {
        let feed = |calls: &mut Calls| {
            calls.ask(1, &request);
            calls.answer(1, OK);
        };
        check(RequestSettings::default(), RequestLimits::default(), feed, &[expected]);
    }
    // The bytes of the length are text.
    let long = list("/a") + &"x".repeat(0x01_0101 - list("/a").len());
    let feed = |calls: &mut Calls| {
        calls.ask(1, &(PREFACE.to_owned() + &frame(4, 0, 0, "") + &frame(1, 5, 1, &long)));
    };
    let expected = "? incomplete Open (header list longer than 64 KiB in a frame, or 256 KiB in all)";
    check(RequestSettings::default(), RequestLimits::default(), feed, &[expected]);
}

#[test]
fn streams_of_a_connection() {
    let feed = |calls: &mut Calls| {
        calls.ask(1, &(PREFACE.to_owned() + &frame(4, 0, 0, "")));
        // Bytes from 0x80 on are no text.
        for id in (1..0x2000).step_by(2).filter(|id| id & 0x80 == 0).take(1030) {
            calls.ask(1, &frame(1, 4, id, &list(&format!("/{id}"))));
        }
    };
    check(RequestSettings::default(), RequestLimits::default(), feed, &["/1 incomplete Evicted Evicted"]);
}

#[test]
fn bodies_that_are_kept() {
    let settings = RequestSettings { body: Some(10), ..RequestSettings::default() };
    let feed = |calls: &mut Calls| {
        calls.ask(1, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
        calls.answer(1, &format!("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "b".repeat(100)));
    };
    // All of it was seen, and counted.
    check(settings, RequestLimits::default(), feed, &["/a body of 10, cut"]);
}

#[test]
fn bytes_that_wait_for_missing_ones() {
    // More than a connection may have waiting, and more than all may.
    let all = StreamLimits { bytes: 300_000, ..StreamLimits::default() };
    for (streams, parts) in [(StreamLimits::default(), 20), (all, 5)] {
        let limits = RequestLimits { streams, ..RequestLimits::default() };
        let feed = |calls: &mut Calls| {
            let length = 10 + parts * 100_000;
            calls.ask(1, &format!("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"));
            calls.call(1, Direction::Transmit, &"b".repeat(100_000), 10);
            for _ in 1..parts {
                calls.ask(1, &"b".repeat(100_000));
            }
            calls.answer(1, OK);
        };
        check(RequestSettings::default(), limits, feed, &["/a incomplete gap of 10"]);
    }
}

#[test]
fn connections_and_what_they_hold() {
    let head = "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n\r\n";
    let connections = NonZeroUsize::new(1).unwrap();
    let few = RequestLimits { connections, ..RequestLimits::default() };
    let little = RequestLimits { messages: 3000, ..RequestLimits::default() };
    let exchanges = ExchangeLimits { bytes: 3000, ..ExchangeLimits::default() };
    let waiting = RequestLimits { exchanges, ..RequestLimits::default() };
    let settings = RequestSettings { body: Some(4000), ..RequestSettings::default() };
    for (limits, body, expected) in [
        (few, 10, "/a incomplete Evicted Evicted body of 10"),
        (little, 3000, "/a incomplete Evicted Evicted body of 3000"),
        (waiting, 5000, "/a incomplete Evicted body of 4000, cut"),
    ] {
        let feed = |calls: &mut Calls| {
            calls.ask(1, &format!("{head}{}", "b".repeat(body)));
            calls.ask(2, "GET /b HTTP/1.1\r\nHost: h\r\n\r\n");
        };
        check(settings.clone(), limits, feed, &[expected]);
    }
}
