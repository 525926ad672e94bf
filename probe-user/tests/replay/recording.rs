//! Recorded JSON Lines → the same text and the same JSON as those of the trace.

use std::io::BufReader;

use ctrace::output::Options;
use ctrace::pipeline::stream::{Piece, StreamLimits, StreamPart, Streams};
use ctrace::protocol::{Gap, GapCause};
use ctrace::recording::{Recorded, RecordingReader};

use super::{Shared, kept, plain};

pub(crate) fn data(name: &str) -> String {
    std::fs::read_to_string(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

pub(crate) fn records(json: &str) -> Vec<Recorded> {
    let mut reader = RecordingReader::new(BufReader::new(json.as_bytes()));
    let mut records = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        records.push(record);
    }
    let counts = reader.counts();
    assert_eq!((counts.bad, counts.others, counts.unknown_fields), (0, 0, 0), "{counts:?}");
    assert_eq!(counts.records, counts.lines);
    records
}

fn written(name: &str, json: &str, options: Options) -> String {
    let shared = Shared::default();
    let mut output = kept::output(name, &shared, options);
    for record in records(json) {
        match record {
            Recorded::Summary(summary) => output.finish(&mut summary.clone()).unwrap(),
            Recorded::Record(record) => output.write(&record).unwrap(),
        }
    }
    output.flush().unwrap();
    String::from_utf8(shared.0.lock().unwrap().clone()).unwrap()
}

fn check(name: &str) {
    let json = data(&format!("{name}.jsonl"));
    assert_eq!(written("json", &json, plain()), json);
    // What is no UTF-8 in a name is U+FFFD in JSON; all else is as it was.
    let text = data(&format!("{name}.txt")).replace("\\xff", "\u{fffd}");
    assert_eq!(written("text", &json, plain()), text);
}

#[test]
fn text_and_json_of_a_recording_are_those_of_the_trace() {
    check("records");
    check("connections");
}

#[test]
fn what_a_recording_lacks_is_a_gap_of_the_streams() {
    let (mut streams, mut gaps, mut bytes) = (Streams::new(StreamLimits::default()), Vec::new(), 0);
    let mut emit = |connection, _, part: StreamPart<'_>| {
        match part {
            StreamPart::Chunk(chunk) => bytes += chunk.data.len(),
            StreamPart::Gap(Gap { length, cause, .. }) => gaps.push((connection, length, cause)),
        }
        Ok(())
    };
    for recorded in records(&data("records.jsonl")) {
        if let Recorded::Record(record) = recorded
            && let Some(piece) = Piece::of(&record)
        {
            streams.piece(&piece, &mut emit).unwrap();
        }
    }
    streams.end_all(&mut emit).unwrap();
    // Calls of 70,000 bytes of which 10 and none were captured, and one of which a chunk was lost.
    let of = |wanted: GapCause| {
        gaps.iter().filter(move |(_, _, cause)| *cause == wanted).map(|gap| (gap.0, gap.1))
    };
    assert_eq!(of(GapCause::Truncated).collect::<Vec<_>>(), [(7, 69_990), (7, 70_000)]);
    assert!(of(GapCause::Lost).any(|gap| gap == (8, 16)), "{gaps:?}");
    assert!(bytes > 500, "{bytes}");
}
