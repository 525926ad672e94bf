//! Calls of a small protocol → the requests that come out.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod limits;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::*;
use crate::event::{
    CallPosition, Cleartext, CloseReason, Connection, Containment, Library, Lost, MissedTotal, Origin,
    Plaintext, Process, ProcessContext, RequestSide, Role, Socket, SocketEvidence, Ssl, SslClose, StopReason,
    Thread,
};
use crate::glob::Glob;
use crate::protocol::tests::PROTOCOLS;
use probe_common::{Loss, LossCount};

/// What was written, a line a record.
#[derive(Clone, Debug, Default)]
struct Written(Arc<Mutex<Vec<String>>>);

impl Output for Written {
    fn write(&mut self, Record { context, body }: &Record<'_>) -> io::Result<()> {
        let id = |exchange: &Option<String>| exchange.clone().unwrap_or_default();
        let line = match body {
            Body::Request(request) => {
                let parts = [&request.request, &request.response].map(|side| match side {
                    Some(side) => {
                        format!("{}{}", side.length, if side.partial.is_whole() { "" } else { "!" })
                    }
                    None => "-".to_owned(),
                });
                let why = request.unpaired.or(request.cut_off).map(|why| format!(" {why:?}"));
                let age = request.open_for.map(|age| format!(" for {age:?}"));
                let took = request.duration().map_or("?".to_owned(), |took| format!("{took:?}"));
                let why = why.unwrap_or_default() + &age.unwrap_or_default();
                let has = |is: bool, words: &'static str| if is { words } else { "" };
                let early = has(request.answered_early, " answered early");
                let is_shown = |side: &RequestSide| side.body.as_ref().is_some_and(|body| body.in_messages);
                let in_messages = has(request.sides().any(is_shown), " in messages");
                let socket = context.socket().and_then(|socket| socket.role);
                let role = request.role.filter(|_| socket.is_none());
                let role = role.map_or_else(String::new, |role| format!(" {role:?}"));
                let marks = format!("{why}{early}{in_messages}{role}");
                format!("{} {} {took}{marks}", id(&request.exchange), parts.join(" "))
            }
            Body::Message(message) => format!("{} #{:?}", id(&message.exchange), message.number),
            Body::RequestStats(stats) => {
                let shown = |group: &crate::event::RequestGroup| format!("{:?}={}", group.value, group.count);
                stats.groups.iter().map(shown).collect::<Vec<_>>().join(" ")
            }
            other => format!("{:?} of {:?}", other.kind(), context.connection.as_ref().map(|it| it.id)),
        };
        self.0.lock().unwrap().push(line);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: &mut Summary) -> io::Result<()> {
        Ok(())
    }
}

/// A trace of several connections.
struct Calls {
    requests: Requests,
    written: Written,
    /// The number of the next call, and the next offset of both directions, by connection.
    next: HashMap<u64, (u64, [u64; 2])>,
    second: i64,
    /// What the socket shows of the process.
    role: Option<Role>,
}

impl Calls {
    fn new(settings: RequestSettings, limits: RequestLimits) -> Self {
        Self::of(PROTOCOLS, settings, limits)
    }

    fn of(protocols: &'static [&'static Protocol], settings: RequestSettings, limits: RequestLimits) -> Self {
        let written = Written::default();
        let requests = Requests::new(protocols, settings, limits, Box::new(written.clone()));
        Self { requests, written, next: HashMap::new(), second: 0, role: Some(Role::Client) }
    }

    fn context(&self, connection: u64) -> Context<'static> {
        let process = Process { pid: 7, vpid: None, executable: None, entered: None };
        let process = ProcessContext { process, container: Containment::Host };
        let socket = Socket {
            transport: None,
            ip: None,
            local: None,
            peer: None,
            role: self.role,
            evidence: SocketEvidence::Observed,
        };
        Context {
            time: Timestamp::from_second(self.second).unwrap(),
            origin: Origin::Thread {
                process: Cow::Owned(process),
                thread: Thread { id: 7, comm: [b'a'; 16] },
            },
            connection: Some(Connection {
                id: connection,
                from_start: true,
                partial_attach: false,
                socket: Some(Cow::Owned(socket)),
                tls: None,
            }),
        }
    }

    /// A call a second.
    fn call(&mut self, connection: u64, direction: Direction, data: &str, missing: u64) {
        self.second += 1;
        let (calls, offsets) = self.next.entry(connection).or_default();
        *calls += 1;
        let offset = offsets.get_mut(usize::from(direction == Direction::Receive)).unwrap();
        *offset += missing;
        let position = CallPosition { call: *calls, stream_offset: *offset };
        *offset += data.len() as u64;
        let name = String::new();
        let library = Library { name: name.clone(), path: name, implementation: None, version: None };
        let ssl = Ssl {
            library: Cow::Owned(library),
            function: Cow::Borrowed("SSL_read"),
            direction,
            position: Some(position),
            length: data.len() as u64,
            duration: None,
            captured: u32::try_from(data.len()).unwrap(),
            offset: 0,
            data: Plaintext::of(data.as_bytes()),
        };
        self.requests.write(&Record { context: self.context(connection), body: Body::Ssl(ssl) }).unwrap();
    }

    /// Nothing comes until a time.
    fn pause(&mut self, second: i64) {
        self.second = second;
        self.requests.pause(Timestamp::from_second(second).unwrap()).unwrap();
    }

    fn ask(&mut self, connection: u64, line: &str) {
        self.call(connection, Direction::Transmit, line, 0);
    }

    fn answer(&mut self, connection: u64, line: &str) {
        self.call(connection, Direction::Receive, line, 0);
    }

    fn close(&mut self, connection: u64) {
        self.second += 1;
        let traffic = Traffic::default();
        let close = SslClose { library: None, duration: None, traffic, reason: CloseReason::Closed };
        let context = self.context(connection);
        self.requests.write(&Record { context, body: Body::SslClose(close) }).unwrap();
    }

    fn finish(mut self, expected: &[&str]) -> RequestCounts {
        let time = Timestamp::from_second(self.second).unwrap();
        let mut summary = Summary {
            time,
            started: time,
            end: StopReason::Interrupted,
            calls: 0,
            executions: None,
            bytes: 0,
            truncated: 0,
            lost: Vec::new(),
            undecodable: 0,
            attached_late: 0,
            missed: MissedTotal::default(),
            cleartext: Cleartext::default(),
            requests: None,
        };
        self.requests.finish(&mut summary).unwrap();
        assert_eq!(*self.written.0.lock().unwrap(), expected);
        assert_eq!((self.requests.decoding.held, self.requests.decoding.connections.len()), (0, 0));
        summary.requests.unwrap()
    }
}

fn default() -> Calls {
    Calls::new(RequestSettings::default(), RequestLimits::default())
}

#[test]
fn calls_become_requests() {
    let mut calls = default();
    calls.ask(1, "line a\nli");
    calls.ask(2, "line b\n");
    calls.answer(1, "line c\n");
    calls.ask(1, "ne d\n");
    calls.close(1);
    let lost = Lost { loss: Loss::RingFull, count: LossCount { events: 1, bytes: 1 } };
    let context = Context::of_trace(Timestamp::from_second(calls.second).unwrap());
    calls.requests.write(&Record { context, body: Body::Lost(lost) }).unwrap();
    let counts = calls.finish(&["1.1 0 0 2s", "1.2 0 - ? Closed", "Lost of None", "2.1 0 - ? Open"]);
    assert_eq!((counts.exchanges, counts.incomplete, counts.shown), (3, 2, 3));
}

#[test]
fn what_has_no_protocol_is_counted_and_shown_if_asked_for() {
    for (unknown, expected) in [(false, &[][..]), (true, &["Ssl of Some(1)"; 2])] {
        let mut calls =
            Calls::new(RequestSettings { unknown, ..Default::default() }, RequestLimits::default());
        calls.ask(1, "what is");
        calls.answer(1, "this?");
        let counts = calls.finish(expected);
        assert_eq!((counts.unknown_connections, counts.undecoded_bytes), (1, 12));
    }
}

#[test]
fn only_what_was_asked_for_is_shown() {
    let slow = RequestFilter { slower_than: Some(Duration::from_secs(2)), ..RequestFilter::default() };
    let path = RequestFilter { paths: vec![Glob::new("*")], ..RequestFilter::default() };
    for (filter, expected) in [(slow, &["1.2 0 0 3s"][..]), (path, &[])] {
        let mut calls =
            Calls::new(RequestSettings { filter, ..Default::default() }, RequestLimits::default());
        calls.ask(1, "line a\n");
        calls.answer(1, "line b\n");
        calls.ask(1, "line c\n");
        calls.ask(2, "line d\n");
        calls.ask(2, "line d\n");
        calls.answer(1, "line e\n");
        assert_eq!(calls.finish(expected).exchanges, 4);
    }
}

#[test]
fn the_limit_is_one_on_what_is_shown() {
    let mut calls =
        Calls::new(RequestSettings { limit: Some(1), ..Default::default() }, RequestLimits::default());
    calls.ask(1, "line a\nline b\n");
    assert!(!calls.requests.is_complete());
    calls.answer(1, "line c\nline d\n");
    assert!(calls.requests.is_complete());
    calls.finish(&["1.1 0 0 1s"]);
}

#[test]
fn figures_are_shown_for_each_interval() {
    let settings = RequestSettings {
        stats: Some(RequestKey::Process),
        interval: Some(Duration::from_secs(4)),
        ..Default::default()
    };
    let mut calls = Calls::new(settings, RequestLimits::default());
    for _ in 0..3 {
        calls.ask(1, "line a\n");
        calls.answer(1, "line b\n");
    }
    let process = format!("Some({:?})", "a".repeat(16));
    calls.finish(&[&format!("{process}=2"), &format!("{process}=1")]);
}

#[test]
fn what_goes_on_is_reported_at_each_interval() {
    let settings = RequestSettings { interval: Some(Duration::from_secs(4)), ..Default::default() };
    let mut calls = Calls::new(settings.clone(), RequestLimits::default());
    calls.ask(1, "line a\n");
    calls.ask(2, "line b\n");
    calls.answer(2, "line c\n");
    calls.pause(5);
    calls.ask(2, "line d\n");
    calls.pause(9);
    calls.answer(2, "line e\n");
    calls.answer(1, "line f\n");
    let counts = calls.finish(&[
        "2.1 0 0 1s",
        "1.1 0 - ? Open for 4s",
        "1.1 0 - ? Open for 8s",
        "2.2 0 0 4s",
        "1.1 0 0 10s",
    ]);
    assert_eq!((counts.exchanges, counts.incomplete, counts.shown), (3, 0, 3));

    // The filters apply, with the time that it has taken so far.
    for (least, expected) in [(6, &["1.1 0 - ? Open for 8s"; 1][..]), (9, &[])] {
        let filter = RequestFilter { slower_than: Some(Duration::from_secs(least)), ..Default::default() };
        let mut calls = Calls::new(RequestSettings { filter, ..settings.clone() }, RequestLimits::default());
        calls.ask(1, "line a\n");
        calls.pause(5);
        calls.pause(9);
        calls.finish(expected);
    }
}

#[test]
fn a_response_that_goes_on_is_reported_as_far_as_it_came() {
    let settings = RequestSettings { interval: Some(Duration::from_secs(10)), ..Default::default() };
    let mut calls = Calls::of(crate::protocol::ALL, settings, RequestLimits::default());
    calls.ask(1, "GET /events HTTP/1.1\r\nHost: a\r\n\r\n");
    calls.answer(1, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
    calls.answer(1, "data: 1\n\n");
    calls.pause(11);
    calls.answer(1, "data: 2\n\ndata:");
    calls.pause(21);
    calls.close(1);
    let counts = calls.finish(&["1.1 33 61! ? Open for 10s", "1.1 33 75! ? Open for 20s", "1.1 33 75 11s"]);
    assert_eq!((counts.exchanges, counts.incomplete, counts.shown), (1, 0, 1));
}

/// RFC 9112 (9.5), RFC 9113 (8.1): a server may answer before it has got all of the request, and the client
/// then does not send the rest.
#[test]
fn a_request_that_is_answered_early_lacks_nothing() {
    const REFUSED: &str = "HTTP/1.1 413 Too\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno";
    let begin = || {
        let (settings, limits) = (RequestSettings::default(), RequestLimits::default());
        let mut calls = Calls::of(crate::protocol::ALL, settings, limits);
        calls.ask(1, "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc");
        calls
    };
    let mut calls = begin();
    calls.answer(1, REFUSED);
    calls.close(1);
    let counts = calls.finish(&["1.1 51 60 1s answered early"]);
    assert_eq!(counts.incomplete, 0);
    // The rest comes.
    let mut calls = begin();
    calls.answer(1, REFUSED);
    calls.ask(1, "defghi");
    calls.finish(&["1.1 57 60 1s"]);
    // The rest may still be sent, when the trace ends.
    let mut calls = begin();
    calls.answer(1, REFUSED);
    calls.finish(&["1.1 51! 60 1s Open"]);
    // The response is not complete either.
    let mut calls = begin();
    calls.answer(1, "HTTP/1.1 413 Too\r\nContent-Length: 2\r\n\r\n");
    calls.close(1);
    calls.finish(&["1.1 51! 39! 1s Closed"]);
}

#[test]
fn the_messages_show_the_role_that_the_socket_does_not() {
    let mut calls = Calls::of(crate::protocol::ALL, RequestSettings::default(), RequestLimits::default());
    calls.role = None;
    calls.ask(1, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    calls.answer(1, "HTTP/1.1 204 No\r\n\r\n");
    calls.answer(2, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    calls.ask(2, "HTTP/1.1 204 No\r\n\r\n");
    calls.finish(&["1.1 28 19 1s Client", "2.1 28 19 1s Server"]);
}

#[test]
fn a_body_whose_messages_are_shown_is_marked() {
    let check = |messages: bool, expected: &[&str]| {
        let settings = RequestSettings { messages, body: Some(100), ..Default::default() };
        let mut calls = Calls::of(crate::protocol::ALL, settings, RequestLimits::default());
        calls.ask(1, "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
        calls.answer(1, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
        calls.answer(1, "data: 1\n\n");
        calls.close(1);
        calls.finish(expected);
    };
    check(false, &["1.1 51 61 2s"]);
    check(true, &["1.1 #Some(1)", "1.1 51 61 2s in messages"]);
    // What is no message is shown with the exchange.
    let settings = RequestSettings { messages: true, body: Some(100), ..Default::default() };
    let mut calls = Calls::of(crate::protocol::ALL, settings, RequestLimits::default());
    calls.ask(1, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    calls.answer(1, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
    calls.finish(&["1.1 28 41 1s"]);
}

#[test]
fn connections_are_limited() {
    let connections = NonZeroUsize::new(2).unwrap();
    let mut calls =
        Calls::new(RequestSettings::default(), RequestLimits { connections, ..RequestLimits::default() });
    calls.ask(1, "line a\n");
    calls.ask(2, "line b\n");
    calls.answer(1, "line c\n");
    calls.ask(3, "line d\n");
    // The second one is not known any more.
    calls.answer(2, "line e\n");
    let counts = calls.finish(&["1.1 0 0 2s", "2.1 0 - ? Evicted", "3.1 0 - ? Open", "2.1 - 0 ? NoRequest"]);
    assert_eq!(counts.evicted_connections, 2);
}

#[test]
fn waiting_bytes_are_limited_over_all_connections() {
    let mut calls =
        Calls::new(RequestSettings::default(), RequestLimits { messages: 1000, ..RequestLimits::default() });
    let (large, small) = (format!("line {}", "a".repeat(800)), format!("line {}", "b".repeat(300)));
    calls.ask(1, &small);
    calls.ask(2, &large);
    calls.ask(1, "\n");
    let counts = calls.finish(&["1.1 0 - ? Open"]);
    assert_eq!((counts.evicted_connections, counts.undecoded_bytes), (1, large.len() as u64));
}

#[test]
fn bytes_that_do_not_come_are_not_waited_for_when_it_is_quiet() {
    let mut calls = default();
    calls.ask(1, "line a\n");
    calls.call(1, Direction::Receive, "line b\n", 10);
    assert!(calls.requests.streams.waiting_bytes() > 0);
    calls.requests.pause(Timestamp::from_second(100).unwrap()).unwrap();
    assert_eq!(calls.requests.streams.waiting_bytes(), 0);
    let counts = calls.finish(&["1.1 0 0 1s"]);
    assert_eq!(counts.missing_bytes, 10);
}

#[test]
fn a_response_waits_for_its_request_as_long_as_nothing_is_missing() {
    for (missing, expected) in [(0, &["1.1 0 0 1s"][..]), (1, &["1.1 - 0 ? NoRequest", "1.1 0 - ? Open"])] {
        let mut calls = default();
        // A server may answer before it has read the whole request.
        calls.ask(1, "li");
        calls.call(1, Direction::Receive, "line b\n", missing);
        for second in 10..20 {
            calls.requests.pause(Timestamp::from_second(second).unwrap()).unwrap();
        }
        calls.ask(1, "ne a\n");
        calls.finish(expected);
    }
}
