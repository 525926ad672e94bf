//! What was in use before ctrace had attached, and connections that were seen while it attached.

use std::sync::Arc;
use std::time::Duration;

use ctrace::clock::Clock;
use ctrace::event::{
    Container, Containment, Library, Missed, MissedTotal, Process, ProcessContext, StopReason, Summary,
};
use ctrace::output::{Options, text};
use ctrace::recording::{Recorded, RecordingReader};
use probe_common::Header;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::bytes::{call, whole};
use super::{BOOT, golden, pipeline, plain, schema};

/// Two processes of a container, of which one ends before ctrace has attached, one on the host that nobody
/// could inspect, and a connection that was seen between the attach of the first probe and of the last.
fn replay(name: &str, options: Options) -> (Vec<u8>, Summary) {
    let (mut pipeline, shared, _) = pipeline(name, options, None);
    let library = Library {
        name: "libssl.so.3".into(),
        path: "/usr/lib/libssl.so.3".into(),
        implementation: Some("OpenSSL".into()),
        version: None,
    };
    let library = Arc::new(library);
    let container = Container { id: "5f".repeat(32), name: Some("w\x1beb".into()), ..Container::default() };
    let container = Containment::In(Arc::new(container));
    let mut missed = |pid, millis, (library, ended), container| {
        let process = Process { pid, vpid: None, executable: None, entered: None };
        let header = Header { pid, tid: pid, time: 7_000_000_000 + u64::from(pid), ..Header::new_zeroed() };
        let header = Header { comm: *b"cu\x1brl\0\0\0\0\0\0\0\0\0\0\0", ..header };
        let missed = Missed { library, unattached: Duration::from_micros(millis), ended };
        pipeline.missed(&header, &ProcessContext { process, container }, missed).unwrap();
    };
    missed(41, 12_345, (Some(Arc::clone(&library)), false), container.clone());
    missed(42, 3_500, (Some(library), true), container);
    missed(43, 900, (None, true), Containment::Host);
    let first = call(1, 3);
    pipeline.set_complete(0..1, first.header.time + 1);
    pipeline.bytes(whole(first, b"abc").0.as_bytes()).unwrap();
    pipeline.bytes(whole(call(2, 3), b"def").0.as_bytes()).unwrap();
    let end = Clock::new(BOOT).timestamp(10_000_000_000);
    let summary = pipeline.finish(end, StopReason::TargetEnded).unwrap();
    let bytes = shared.0.lock().unwrap().clone();
    (bytes, summary)
}

#[test]
fn what_was_missed_is_as_checked_in() {
    let (json, summary) = replay("json", plain());
    golden("missed.jsonl", &json);
    for line in json.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        schema::check(&serde_json::from_slice(line).unwrap());
    }
    let (longest, total) = (Duration::from_micros(12_345), Duration::from_micros(16_745));
    assert_eq!(summary.missed, MissedTotal { processes: 3, ended: 2, longest, total });
    assert_eq!((summary.attached_late, summary.is_whole()), (2, false));
    let mut reader = RecordingReader::new(json.as_slice());
    let mut read = None;
    while let Some(recorded) = reader.next_record().unwrap() {
        if let Recorded::Summary(summary) = recorded {
            read = Some(summary.missed);
        }
    }
    assert_eq!(read, Some(summary.missed));
    let (text, summary) = replay("text", plain());
    golden("missed.txt", &[text, text::summary_line(&summary).into_bytes(), b"\n".to_vec()].concat());
}
