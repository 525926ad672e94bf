//! Bytes of the ring → what a user reads, compared with checked-in output.
//!
//! `UPDATE_EXPECT=1 cargo test -p ctrace --test replay` rewrites the files in tests/data: review the
//! difference before you commit it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ctrace::clock::Clock;
use ctrace::event::Container;
use ctrace::event::Containment;
use ctrace::event::Executable;
use ctrace::event::HarmCause;
use ctrace::event::Harmed;
use ctrace::event::Image;
use ctrace::event::Library;
use ctrace::event::Pod;
use ctrace::event::Process;
use ctrace::event::ProcessContext;
use ctrace::event::Role;
use ctrace::event::Runtime;
use ctrace::event::Socket as SocketEvent;
use ctrace::event::StopReason;
use ctrace::event::Summary;
use ctrace::output::Options;
use ctrace::output::Payload;
use ctrace::output::RecordWriter;
use ctrace::output::TextStyle;
use ctrace::output::Tree;
use ctrace::output::format;
use ctrace::output::text;
use ctrace::pipeline::ProcessInfo;
use ctrace::pipeline::Setup;
use ctrace::pipeline::Site;
use ctrace::plan::ProcessCode;
use ctrace::protocol;
use ctrace::recording::{Recorded, RecordingReader};
use ctrace::terminal::Colour;
use expect_test::expect_file;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use probe_common::{
    Call, CgroupEvent, FAMILY_INET, FAMILY_UNIX, FLAG_FAULT, FLAG_FROM_START, FLAG_TRANSMIT, HELLO_SENT,
    Header, KIND_CALL, KIND_CGROUP_CREATED, KIND_CGROUP_REMOVED, KIND_SIGNAL, KIND_TASK_EXEC, Loss,
    LossCount, SOCKET_GUESSED,
};
use zerocopy::{FromZeros, IntoBytes};

#[path = "replay/bytes.rs"]
mod bytes;
#[path = "replay/connection.rs"]
mod connection;
#[path = "replay/exec.rs"]
mod exec;
#[path = "replay/function.rs"]
mod function;
#[path = "replay/kept.rs"]
mod kept;
#[path = "replay/missed.rs"]
mod missed;
#[path = "replay/recording.rs"]
mod recording;
#[path = "replay/requests.rs"]
mod requests;
#[path = "replay/schema.rs"]
mod schema;
#[path = "replay/traced.rs"]
mod traced;

use bytes::{ANSWERED, ASKED, Raw, call, chunks, exit, header, hello, socket, whole};
use traced::Traced;

/// Start of `CLOCK_BOOTTIME`: 2026-01-02T03:04:00Z.
const BOOT: i64 = 1_767_323_040_000_000_000;

#[derive(Debug)]
struct Fixed {
    forgotten: Arc<Mutex<Vec<u32>>>,
}

impl ProcessInfo for Fixed {
    fn origin(&mut self, header: &Header) -> Arc<ProcessContext> {
        let process = |vpid, path: Option<&str>| Process {
            pid: header.pid,
            vpid,
            executable: path.map(|path| Executable { path: path.into() }),
            entered: None,
        };
        Arc::new(match header.pid {
            1234 => ProcessContext {
                process: process(Some(1), Some("/server")),
                container: Containment::In(Arc::new(Container {
                    id: "5f".repeat(32),
                    name: Some("web".into()),
                    runtime: Some(Runtime { name: "docker".into() }),
                    image: Some(Image { name: "web:latest".into() }),
                    ..Container::default()
                })),
            },
            2000 => ProcessContext {
                process: process(Some(7), Some("/a b\n\u{1b}[31m")),
                container: Containment::In(Arc::new(Container {
                    id: "c0ffee".repeat(8),
                    pod: Some(Arc::new(Pod {
                        name: "web-0\u{1b}".into(),
                        namespace: Some("prod".into()),
                        uid: Some("3c0ffee5".into()),
                        labels: None,
                    })),
                    ..Container::default()
                })),
            },
            _ => ProcessContext { process: process(None, None), container: Containment::Host },
        })
    }

    fn role(&mut self, _: u32, _: u32, socket: &SocketEvent) -> Option<Role> {
        (socket.local.as_ref()?.port == Some(443)).then_some(Role::Server)
    }

    fn forget(&mut self, pid: u32) {
        self.forgotten.lock().unwrap().push(pid);
    }
}

fn sites() -> HashMap<u32, Site> {
    let openssl = Arc::new(Library {
        name: "libssl.so.3".into(),
        path: "/usr/lib/x86_64-linux-gnu/libssl.so.3".into(),
        implementation: Some("OpenSSL".into()),
        version: Some("3.0.17".into()),
    });
    let unknown = Arc::new(Library {
        name: "libssl-3a1b2c.so".into(),
        path: "/app/libssl-3a1b2c.so".into(),
        implementation: None,
        version: None,
    });
    let sites = [
        Site {
            library: openssl,
            function: "SSL_write".into(),
            callers: Vec::new(),
            reading: None,
            complete_since: 0,
        },
        Site {
            library: unknown,
            function: "SSL_read, SSL_read_ex".into(),
            callers: vec![(0x123, "SSL_read"), (0x456, "SSL_read_ex")],
            reading: None,
            complete_since: 0,
        },
    ];
    (0..).zip(sites).collect()
}

#[derive(Clone, Debug, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pipeline(name: &str, options: Options, count: Option<u64>) -> (Traced, Shared, Arc<Mutex<Vec<u32>>>) {
    let (shared, forgotten) = (Shared::default(), Arc::default());
    let sink = kept::output(name, &shared, options);
    let clock = Clock::new(BOOT);
    let origins = Fixed { forgotten: Arc::clone(&forgotten) };
    let setup = Setup {
        sites: sites(),
        clock,
        sink,
        started: clock.timestamp(0),
        count,
        symbols: None,
        executions: None,
    };
    (Traced::new(setup, origins), shared, forgotten)
}

fn options(payload: Payload, colour: Colour) -> Options {
    Options { look: TextStyle { colour, payload, tree: Tree::Flat, columns: None }, zone: TimeZone::UTC }
}

fn plain() -> Options {
    options(Payload::Auto, Colour::Off)
}

/// Everything that can come, once.
fn recording() -> Vec<Raw> {
    let request = b"GET / HTTP/1.1\r\nHost: \"web\"\r\n\r\n";
    let receive = |number, stream_offset, caller: u64, length| Call {
        site: 1,
        flags: FLAG_FROM_START,
        caller: 0x7f00_0000_0000 + caller,
        stream_offset,
        ..call(number, length)
    };
    let transmit = |number, stream_offset, length| Call { stream_offset, ..call(number, length) };
    let mut all = hello(7, 0, ASKED, 400);
    all.extend([
        socket(7, 0, FAMILY_INET, (&[10, 0, 0, 7], 443), (&[192, 0, 2, 9], 51_234)),
        whole(receive(1, 0, 0x5123, request.len()), request),
    ]);
    all.extend(hello(7, HELLO_SENT, ANSWERED, 4096));
    all.extend([
        whole(transmit(2, 0, 5), b"hi\x1b[m"),
        whole(transmit(3, 5, 4), &[0xff, 0, 0xfe, b'x']),
        whole(receive(4, 31, 0x6456, 11), "grö\u{202e}ße\r".as_bytes()),
        whole(receive(5, 42, 0x6999, 1), b"?"),
        // Cut by a limit, and with no payload wanted.
        whole(Call { length: 70_000, ..transmit(6, 9, 10) }, b"0123456789"),
        whole(Call { length: 70_000, captured: 0, ..transmit(7, 70_009, 0) }, b""),
    ]);
    // A guess, of a unix socket whose path is meant to do harm.
    all.push(socket(8, SOCKET_GUESSED, FAMILY_UNIX, (b"/s\x1b[2J\0", 0), (b"", 0)));
    // Two threads in turns, of two processes; the second has names that are meant to do harm.
    let hostile = |number, length| {
        let call = Call { connection: 8, stream_offset: 5, flags: FLAG_TRANSMIT, ..call(number, length) };
        let time = call.header.time;
        Call { header: Header { tid: 2001, time, ..header(KIND_CALL, 2000, b"x\x1b[1A\xff\n") }, ..call }
    };
    let long = |byte: u8| [[byte; 15].as_slice(), b"\n"].concat().repeat(30);
    let (ours, theirs) = (long(b'a'), long(b'b'));
    let turns =
        chunks(transmit(8, 140_009, 480), &ours, 200).into_iter().zip(chunks(hostile(1, 480), &theirs, 200));
    all.extend(turns.flat_map(|(ours, theirs)| [ours, theirs]));
    // Of four chunks the second was lost and the last could not be read.
    let mut broken = chunks(Call { stream_offset: 1000, ..hostile(2, 64) }, &[b'c'; 64], 16);
    broken.remove(1);
    let fault = Call { offset: 48, stream_offset: 1000, ..hostile(2, 64) };
    let fault = Call { flags: FLAG_TRANSMIT | FLAG_FAULT, ..fault };
    *broken.last_mut().unwrap() = Raw::new(&[fault.as_bytes()]);
    all.extend(broken);
    all.push(exit(2000, b"x"));
    // No connection, and a process of which nothing is known.
    let time = 6_000_000_000;
    let stray = Call { header: Header { time, ..header(KIND_CALL, 3000, b"") }, connection: 0, ..call(0, 3) };
    all.push(whole(stray, b"abc"));
    all.push(Raw::new(&[header(KIND_TASK_EXEC, 3000, b"").as_bytes()]));
    // Not to be understood: a kind, a hook.
    all.push(Raw::new(&[header(77, 1, b"").as_bytes()]));
    all.push(whole(Call { site: 99, ..call(9, 1) }, b"z"));
    // The rest of it never comes.
    all.push(chunks(transmit(10, 140_489, 80), &[b'd'; 50], 50).remove(0));
    all
}

/// A probe has harmed a process with a name that is meant to do harm.
fn harmed(pipeline: &mut Traced) {
    let name = "no\x1b[2Jde".to_owned();
    let library = Library { path: format!("/usr/bin/{name}"), name, implementation: None, version: None };
    let (function, detached) = (Some("SSL_write\u{202e}".to_owned()), vec![Arc::new(library)]);
    let harmed = Harmed { cause: HarmCause::CopiedCode, signal: 5, function, detached };
    let header = Header { time: 9_500_000_000, ..header(KIND_SIGNAL, 2000, b"x") };
    pipeline.harm(&header, harmed).unwrap();
}

/// A process speaks TLS of which no call is seen.
fn unknown_tls(pipeline: &mut Traced) {
    const ASKED: &[u8] = include_bytes!("../src/protocol/tls/hello/data/retry-c0.bin");
    for part in hello(77, HELLO_SENT, ASKED, 300) {
        pipeline.bytes(part.0.as_bytes()).unwrap();
    }
    assert_eq!(pipeline.take_unattributed(u64::MAX), [1234]);
    assert!(pipeline.code_inspected(1234, ProcessCode::Unprobed).unwrap().is_some());
    assert!(pipeline.code_inspected(1234, ProcessCode::Unprobed).unwrap().is_none());
}

fn replay(name: &str, options: Options) -> (Vec<u8>, Summary) {
    let (mut pipeline, shared, forgotten) = pipeline(name, options, None);
    for raw in recording() {
        pipeline.bytes(raw.0.as_bytes()).unwrap();
    }
    let at = |seconds: u64| Clock::new(BOOT).timestamp(seconds * 1_000_000_000);
    let sums = |ring, connections| {
        [
            (Loss::RingFull, LossCount { events: ring, bytes: ring * 1000 }),
            (Loss::ReadFault, LossCount { events: 1, bytes: 16 }),
            (Loss::ConnectionsFull, LossCount { events: connections, bytes: 0 }),
        ]
    };
    pipeline.lost(at(7), &sums(2, 0)).unwrap();
    pipeline.lost(at(8), &sums(2, 0)).unwrap();
    pipeline.lost(at(9), &sums(5, 1)).unwrap();
    harmed(&mut pipeline);
    unknown_tls(&mut pipeline);
    let summary = pipeline.finish(at(10), StopReason::TargetEnded).unwrap();
    assert_eq!(*forgotten.lock().unwrap(), [2000, 3000]);
    let bytes = shared.0.lock().unwrap().clone();
    (bytes, summary)
}

fn golden(name: &str, got: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    expect_file![path].assert_eq(std::str::from_utf8(got).unwrap());
}

#[test]
fn json_is_as_checked_in() {
    let (json, summary) = replay("json", plain());
    golden("records.jsonl", &json);
    assert_eq!((summary.calls, summary.truncated, summary.undecodable), (12, 2, 2));
    assert_eq!(summary.missing(), LossCount { events: 6, bytes: 5016 });
    for line in json.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        schema::check(&serde_json::from_slice(line).unwrap());
    }
}

#[test]
fn what_is_attached_late_is_counted_in_the_summary() {
    let (mut pipeline, shared, _) = pipeline("json", plain(), None);
    pipeline.attached_late(1);
    pipeline.attached_late(2);
    pipeline.finish(Timestamp::UNIX_EPOCH, StopReason::TargetEnded).unwrap();
    let json = shared.0.lock().unwrap().clone();
    golden("attached-late.jsonl", &json);
    schema::check(&serde_json::from_slice(&json).unwrap());
    match RecordingReader::new(json.as_slice()).next_record().unwrap() {
        Some(Recorded::Summary(summary)) => assert_eq!(summary.attached_late, 3),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_documentation_names_every_field_and_value() {
    let docs = include_str!("../../docs/events.md");
    for name in schema::names() {
        let shown = [format!("`{name}`"), format!(".{name}`"), format!("`{name}."), format!(".{name}.")];
        assert!(shown.iter().any(|shown| docs.contains(shown)), "docs/events.md does not have {name}");
    }
    for field in protocol::ALL.iter().flat_map(|protocol| protocol.fields) {
        let row = format!("\n| `{}` | ", field.path);
        assert!(docs.contains(&row), "docs/events.md has no row of {}", field.path);
    }
}

#[test]
fn text_is_as_checked_in() {
    let (text, summary) = replay("text", plain());
    golden("records.txt", &text);
    golden("summary.txt", format!("{}\n", text::summary_line(&summary)).as_bytes());
    let harmless = |c: char| c == '\n' || !c.is_control();
    assert!(String::from_utf8(text).unwrap().chars().all(harmless));
}

#[test]
fn hex_and_colour_are_as_checked_in() {
    let (mut pipeline, shared, _) = pipeline("text", options(Payload::Hex, Colour::On), None);
    for raw in recording().iter().take(6) {
        pipeline.bytes(raw.0.as_bytes()).unwrap();
    }
    let lost = [(Loss::RingFull, LossCount { events: 1, bytes: 1 })];
    pipeline.lost(Timestamp::UNIX_EPOCH, &lost).unwrap();
    pipeline.flush().unwrap();
    golden("hex-colour.txt", &shared.0.lock().unwrap());
}

#[test]
fn control_records_disturb_no_call() {
    let (mut pipeline, shared, forgotten) = pipeline("json", plain(), None);
    let data = b"0123456789abcdefghij";
    let mut parts = chunks(call(1, 20), data, 10);
    let last = parts.pop().unwrap();
    pipeline.bytes(parts[0].0.as_bytes()).unwrap();
    let cgroup = |kind, path: &[u8]| {
        let mut event = CgroupEvent::new_zeroed();
        (event.header, event.id, event.level) = (header(kind, 77, b"dockerd"), 4711, 2);
        event.path.fill(b'?');
        event.path[..path.len()].copy_from_slice(path);
        Raw::new(&[event.as_bytes()])
    };
    let executed = Raw::new(&[header(KIND_TASK_EXEC, 4242, b"other").as_bytes()]);
    let others = [
        cgroup(KIND_CGROUP_CREATED, b"/docker/c\xffe\0"),
        cgroup(KIND_CGROUP_CREATED, b"no end"),
        // Processes that are not the call's.
        executed,
        exit(4242, b"other"),
        cgroup(KIND_CGROUP_REMOVED, b"/docker/c\0"),
    ];
    for raw in others {
        pipeline.bytes(raw.0.as_bytes()).unwrap();
    }
    pipeline.bytes(last.0.as_bytes()).unwrap();
    assert_eq!(*forgotten.lock().unwrap(), [4242, 4242]);
    let summary = pipeline.finish(Timestamp::UNIX_EPOCH, StopReason::Interrupted).unwrap();
    assert_eq!((summary.calls, summary.bytes, summary.undecodable), (1, 20, 1));
    let json = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
    assert_eq!(json.lines().count(), 2, "one whole call and the summary: {json}");
}

#[test]
fn count_counts_calls_and_not_pieces() {
    let (mut pipeline, shared, _) = pipeline("json", plain(), Some(2));
    let data = [b'x'; 64];
    let mut broken = chunks(call(1, 64), &data, 16);
    broken.remove(1);
    let last = broken.pop().unwrap();
    for raw in broken {
        pipeline.bytes(raw.0.as_bytes()).unwrap();
    }
    let other = |number| {
        let call = call(number, 64);
        whole(Call { header: Header { tid: 99, ..call.header }, ..call }, &data)
    };
    pipeline.bytes(other(2).0.as_bytes()).unwrap();
    assert!(!pipeline.is_complete(), "the first call has not ended");
    pipeline.bytes(other(3).0.as_bytes()).unwrap();
    pipeline.bytes(last.0.as_bytes()).unwrap();
    assert!(pipeline.is_complete());
    pipeline.bytes(other(4).0.as_bytes()).unwrap();
    let summary = pipeline.finish(Timestamp::UNIX_EPOCH, StopReason::Count).unwrap();
    assert_eq!((summary.calls, summary.bytes), (2, 64 + 48));
    let json = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
    assert_eq!(json.lines().count(), 4, "a call, two pieces of the other, the summary: {json}");
}

#[test]
fn an_unfinished_call_is_reported_after_a_while_if_records_were_lost() {
    let (mut pipeline, shared, _) = pipeline("text", plain(), None);
    let start = Instant::now();
    pipeline.bytes(chunks(call(1, 20), b"0123456789abcdefghij", 10)[0].0.as_bytes()).unwrap();
    // A thread that was stopped while it is copied.
    pipeline.idle(start).unwrap();
    pipeline.idle(start + Duration::from_hours(1)).unwrap();
    let start = start + Duration::from_hours(2);
    pipeline.lost(Timestamp::UNIX_EPOCH, &[(Loss::RingFull, LossCount { events: 1, bytes: 10 })]).unwrap();
    let written = || {
        let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains('→')).collect::<Vec<_>>().join("\n")
    };
    pipeline.flush().unwrap();
    assert_eq!(written(), "");
    pipeline.idle(start).unwrap();
    pipeline.idle(start + Duration::from_millis(2_100)).unwrap();
    pipeline.flush().unwrap();
    assert!(written().contains("→ 10 of 20 B  #7"), "{}", written());
}

#[test]
fn a_closed_output_ends_without_error() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let sink = (format("json").unwrap().open)(RecordWriter::new(Box::new(writer)), plain());
    let origins = Fixed { forgotten: Arc::default() };
    let (clock, started) = (Clock::new(BOOT), Timestamp::UNIX_EPOCH);
    let setup = Setup { sites: sites(), clock, sink, started, count: None, symbols: None, executions: None };
    let mut pipeline = Traced::new(setup, origins);
    pipeline.bytes(whole(call(1, 3), b"abc").0.as_bytes()).unwrap();
    assert_eq!(pipeline.flush().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let summary = pipeline.finish(Timestamp::UNIX_EPOCH, StopReason::Interrupted).unwrap();
    assert_eq!((summary.end, summary.calls), (StopReason::OutputClosed, 1));
}
