//! Recorded beginnings and ends of connections → what a user reads.

use std::time::{Duration, Instant};

use ctrace::clock::Clock;
use ctrace::event::StopReason;
use probe_common::{
    Call, ConnectionClose, ConnectionKey, ConnectionOpen, ConnectionState, END_CLOSED, END_HANDLE_REUSED,
    END_SOCKET_CLOSED, FAMILY_INET, FLAG_FROM_START, FLAG_TRANSMIT, HELLO_SENT, KIND_CONNECTION_CLOSE,
    KIND_CONNECTION_OPEN, KIND_TASK_EXEC, KIND_TASK_EXIT, Loss, LossCount, NO_SITE,
};
use zerocopy::{FromZeros, IntoBytes};

use super::{
    ANSWERED, ASKED, BOOT, Raw, Traced, call, header, hello, pipeline, plain, schema, socket, whole,
};

const START: u64 = 5_000_000_000;

/// A connection of a process begins, so many microseconds after the start.
fn opened(pid: u32, connection: u64, micros: u64) -> ConnectionOpen {
    let mut opened = ConnectionOpen::new_zeroed();
    opened.header = header(KIND_CONNECTION_OPEN, pid, b"tls-server");
    opened.header.time = START + micros * 1000;
    (opened.connection, opened.handle, opened.flags) = (connection, connection << 12, FLAG_FROM_START);
    opened
}

/// It has ended, with so many calls and bytes in each direction.
fn closed(pid: u32, connection: u64, micros: u64, counts: (u64, u64, u64), end: u32) -> Raw {
    let mut closed = ConnectionClose::new_zeroed();
    closed.header = header(KIND_CONNECTION_CLOSE, pid, b"other");
    closed.header.time = START + micros * 1000;
    (closed.connection, closed.flags, closed.site, closed.end) = (connection, FLAG_FROM_START, NO_SITE, end);
    (closed.calls, closed.received, closed.transmitted) = counts;
    Raw::new(&[closed.as_bytes()])
}

fn raw(opened: ConnectionOpen) -> Raw {
    Raw::new(&[opened.as_bytes()])
}

fn on(connection: u64, port: u16) -> Raw {
    socket(connection, 0, FAMILY_INET, (&[10, 0, 0, 7], 443), (&[192, 0, 2, 9], port))
}

/// A call of a connection that has sent `data`, after `offset` bytes.
fn sent(pid: u32, connection: u64, number: u64, offset: u64, data: &[u8]) -> Raw {
    let mut call = Call { connection, stream_offset: offset, ..call(number, data.len()) };
    (call.header.pid, call.header.tid) = (pid, pid);
    call.flags = FLAG_TRANSMIT | FLAG_FROM_START;
    whole(call, data)
}

fn bare(kind: u32, pid: u32, micros: u64) -> Raw {
    let mut header = header(kind, pid, b"last");
    header.time = START + micros * 1000;
    Raw::new(&[header.as_bytes()])
}

/// Each way to begin and to end, once.
fn recording() -> Vec<Raw> {
    // Prepared in two steps, and used.
    let mut all = vec![raw(opened(1234, 1, 100)), raw(opened(1234, 1, 200))];
    all.extend(hello(1, 0, ASKED, 4096));
    all.push(on(1, 51_000));
    all.extend(hello(1, HELLO_SENT, ANSWERED, 4096));
    all.push(sent(1234, 1, 1, 0, b"hello"));
    all.push(closed(1234, 1, 20_200, (1, 0, 5), END_CLOSED));
    // The handshake has failed: the server has not answered.
    all.push(raw(opened(1234, 2, 30_000)));
    all.extend(hello(2, 0, ASKED, 4096));
    all.push(on(2, 52_000));
    all.push(closed(1234, 2, 30_500, (0, 0, 0), END_CLOSED));
    // It began before the trace, and its library is known by the call alone; the kernel has seen more than
    // has come.
    let earlier = ConnectionOpen { flags: 0, site: NO_SITE, ..opened(2000, 3, 40_000) };
    all.extend([raw(earlier), sent(2000, 3, 1, 0, b"a"), sent(2000, 3, 2, 1, b"bc")]);
    all.push(closed(2000, 3, 50_000, (7, 100, 9), END_HANDLE_REUSED));
    // Nothing of it was seen but that it was there.
    all.extend([
        raw(ConnectionOpen { site: NO_SITE, ..opened(1234, 4, 51_000) }),
        closed(1234, 4, 52_000, (0, 0, 0), END_SOCKET_CLOSED),
    ]);
    // Two that end with their process, one of them is told again; the third is another process's.
    all.extend([raw(opened(1234, 5, 60_000)), raw(opened(1234, 6, 61_000)), raw(opened(2000, 7, 62_000))]);
    all.extend([sent(1234, 6, 1, 0, b"open still"), sent(2000, 7, 1, 0, b"open, too")]);
    all.extend([
        bare(KIND_TASK_EXIT, 1234, 70_000),
        closed(1234, 6, 70_100, (1, 0, 10), END_SOCKET_CLOSED),
        bare(KIND_TASK_EXEC, 2000, 71_000),
    ]);
    // That it began was lost.
    all.push(closed(1234, 8, 80_000, (3, 4, 5), END_CLOSED));
    // Not to be understood.
    all.push(closed(1234, 9, 81_000, (0, 0, 0), 99));
    // The trace ends first.
    all.extend([raw(opened(1234, 10, 90_000)), raw(opened(1234, 11, 91_000))]);
    all.push(sent(1234, 10, 1, 0, b"the last"));
    all
}

/// What the kernel knows when processes have ended: more than has come of one, and another connection with
/// the handle of the second.
fn counted(key: ConnectionKey) -> Option<ConnectionState> {
    let state =
        |id| ConnectionState { id, calls: 30, received: 20, transmitted: 10, ..ConnectionState::default() };
    match (key.pid, key.handle >> 12) {
        (2000, 7) => Some(state(7)),
        (1234, 6) => Some(state(66)),
        _ => None,
    }
}

fn output(name: &str) -> String {
    let (mut pipeline, shared, _) = pipeline(name, plain(), None);
    for raw in recording() {
        pipeline.bytes(raw.0.as_bytes()).unwrap();
        pipeline.emit_closes(counted).unwrap();
    }
    let at = |seconds: u64| Clock::new(BOOT).timestamp(seconds * 1_000_000_000);
    pipeline.lost(at(6), &[(Loss::RingFull, LossCount { events: 1, bytes: 0 })]).unwrap();
    let summary = pipeline.finish(at(7), StopReason::Interrupted).unwrap();
    assert_eq!((summary.calls, summary.undecodable), (6, 1));
    String::from_utf8(shared.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn connections_replay_to_the_same_text() {
    super::golden("connections.txt", output("text").as_bytes());
}

#[test]
fn connections_replay_to_the_same_json() {
    let lines = output("json");
    super::golden("connections.jsonl", lines.as_bytes());
    lines.lines().for_each(|line| schema::check(&serde_json::from_str(line).unwrap()));
}

fn lines(pipeline: &mut Traced, shared: &super::Shared) -> usize {
    pipeline.flush().unwrap();
    String::from_utf8(shared.0.lock().unwrap().clone()).unwrap().lines().count()
}

#[test]
fn a_connection_without_a_call_is_told_after_a_while() {
    let (mut pipeline, shared, _) = pipeline("text", plain(), None);
    let start = Instant::now();
    pipeline.bytes(raw(opened(1234, 1, 0)).0.as_bytes()).unwrap();
    pipeline.idle(start).unwrap();
    pipeline.bytes(on(1, 51_000).0.as_bytes()).unwrap();
    pipeline.idle(start + Duration::from_millis(900)).unwrap();
    assert_eq!(lines(&mut pipeline, &shared), 0);
    pipeline.idle(start + Duration::from_millis(1001)).unwrap();
    assert_eq!(lines(&mut pipeline, &shared), 1);
    let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains(" open  #1 10.0.0.7:443↔192.0.2.9:51000 "), "{text}");
    pipeline.finish(Clock::new(BOOT).timestamp(START), StopReason::Interrupted).unwrap();
    let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "told once: {text}");
}

#[test]
fn connections_are_no_calls_to_count() {
    let (mut pipeline, shared, _) = pipeline("json", plain(), Some(1));
    for raw in [raw(opened(1234, 1, 0)), closed(1234, 1, 1, (0, 0, 0), END_CLOSED), raw(opened(1234, 2, 2))] {
        pipeline.bytes(raw.0.as_bytes()).unwrap();
    }
    assert!(!pipeline.is_complete());
    pipeline.bytes(sent(1234, 2, 1, 0, b"x").0.as_bytes()).unwrap();
    assert!(pipeline.is_complete());
    pipeline.bytes(closed(1234, 2, 3, (1, 0, 1), END_CLOSED).0.as_bytes()).unwrap();
    let summary = pipeline.finish(Clock::new(BOOT).timestamp(START), StopReason::Count).unwrap();
    assert_eq!(summary.calls, 1);
    let json = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
    assert_eq!(json.lines().count(), 5, "two beginnings, an end, a call, the summary: {json}");
}
