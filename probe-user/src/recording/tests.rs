//! Checks the records that lines give, and how lines that are not records are handled.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::BufReader;

use super::*;
use crate::event::{Body, Record};
use crate::test_rng::TestRng;

const CALL: &str = r#"{"schema":1,"type":"ssl","time":"2026-01-02T03:04:05.001000123Z","container":null,"process":{"pid":5,"vpid":null,"comm":"curl","executable":null},"thread":{"id":5},"library":{"name":"libssl.so.3","path":"/l","implementation":null,"version":null},"function":"SSL_write","network":{"transport":"tcp","type":"ipv4","local":null,"peer":{"address":"192.0.2.9","port":443},"io":{"direction":"transmit"}},"tls":{"protocol":{"name":"tls","version":"1.3"},"cipher":"C\u001b","client":{"server_name":"a","supported_protocols":["h2"]},"next_protocol":null},"connection":{"id":7,"from_start":true,"offset":12,"role":"client","socket":"seen"},"call":{"number":3,"length":9,"captured":5,"offset":2,"truncated":true},"data":"abc"}"#;

fn read(text: &[u8]) -> (Vec<Recorded>, ReadCounts) {
    let mut reader = RecordingReader::new(BufReader::new(text));
    let mut records = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        records.push(record);
    }
    (records, reader.counts().clone())
}

/// What is wrong with a line.
fn check_bad(line: &str, expected: &str) {
    let (records, counts) = read(line.as_bytes());
    let (number, why) = counts.first_bad.unwrap();
    assert!(why.contains(expected), "{why}: {line}");
    assert_eq!((records.len(), counts.bad, number), (0, 1, 1), "{line}");
}

#[test]
fn a_call_has_all_that_its_line_says() {
    let (records, counts) = read(CALL.as_bytes());
    let [Recorded::Record(record)] = records.as_slice() else { panic!("{records:?}") };
    let Record { context, body: Body::Ssl(ssl) } = &**record else { panic!("{record:?}") };
    let position = ssl.position.unwrap();
    assert_eq!((&*ssl.data.0, ssl.offset, ssl.captured, ssl.length), (&b"abc"[..], 2, 5, 9));
    assert_eq!((position.call, position.stream_offset), (3, 10));
    assert_eq!(context.connection.as_ref().unwrap().id, 7);
    assert_eq!(context.socket().unwrap().peer.as_ref().unwrap().to_string(), "192.0.2.9:443");
    assert_eq!(context.thread().unwrap().1.name(), b"curl");
    assert!(context.tls().unwrap().is_first);
    assert_eq!(counts, ReadCounts { lines: 1, records: 1, ..ReadCounts::default() });
    assert!(!format!("{record:?}").contains("abc"), "payload is not shown");
}

#[test]
fn a_handshake_is_shown_where_it_is_new() {
    let other = CALL.replace("\"1.3\"", "\"1.2\"");
    let elsewhere = CALL.replace("\"id\":7", "\"id\":8");
    let (records, _) = read([CALL, CALL, &elsewhere, &other, CALL].join("\n").as_bytes());
    let is_first = |recorded: &Recorded| match recorded {
        Recorded::Record(record) => record.context.tls().unwrap().is_first,
        Recorded::Summary(summary) => panic!("{summary:?}"),
    };
    assert_eq!(records.iter().map(is_first).collect::<Vec<_>>(), [true, false, true, true, true]);
}

#[test]
fn what_this_version_does_not_have_is_passed_over_and_counted() {
    let more = CALL
        .replace("\"pid\":5", "\"pid\":5,\"new\":{\"a\":[1]}")
        .replace("\"call\":{", "\"x\":1,\"call\":{");
    let text = [
        &more,
        r#"{"schema":1,"type":"exec","whatever":1}"#,
        r#"{"type":"new","schema":1}"#,
        &CALL.replace("\"schema\":1", "\"schema\":2"),
        "",
        CALL,
    ]
    .join("\n");
    let (records, counts) = read(text.as_bytes());
    let expected = ReadCounts { lines: 6, records: 2, others: 3, unknown_fields: 2, ..ReadCounts::default() };
    assert_eq!((records.len(), counts), (2, expected));
}

#[test]
fn a_line_that_is_no_record_is_left_out_and_named_without_its_content() {
    check_bad("secret", "no JSON (column 1)");
    check_bad(r#"{"schema":1,"type":"ssl""#, "cut off");
    check_bad(r#"{"schema":1,"type":"ssl"}"#, "shape");
    check_bad(r#"{"schema":"secret","type":"ssl"}"#, "shape");
    check_bad(&CALL.replace("\"thread\":{\"id\":5},", ""), "no thread");
    check_bad(&CALL.replace("\"function\":\"SSL_write\",", ""), "shape");
    check_bad(&CALL.replace("\"pid\":5", "\"pid\":-5"), "shape");
    check_bad(&CALL.replace("\"pid\":5", "\"pid\":4294967296"), "shape");
    check_bad(&CALL.replace("\"pid\":5", "\"pid\":5,\"pid\":6"), "shape");
    check_bad(&CALL.replace("2026-01-02", "2026-13-02"), "shape");
    check_bad(&CALL.replace("\"data\"", "\"data_base64\""), "no base64");
    check_bad(&CALL.replace("\"data\"", "\"data_base64\":\"\",\"data\""), "data and data_base64");
    check_bad(&CALL.replace("\"captured\":5", "\"captured\":4"), "lengths");
    check_bad(&CALL.replace("\"length\":9", "\"length\":4"), "lengths");
    check_bad(&CALL.replace("\"number\":3", "\"number\":null"), "not both");
    check_bad(&format!("{CALL}{CALL}"), "no JSON");
    let deep = format!("{{\"schema\":1,\"type\":\"ssl\",\"x\":{}", "[".repeat(100_000));
    // Skipped values are not descended into.
    check_bad(&deep, "cut off");
    let text = format!("{CALL}\nsecret\n{CALL}\n\u{1b}[2J\n");
    let (records, counts) = read(text.as_bytes());
    assert_eq!((records.len(), counts.bad, counts.lines), (2, 2, 4));
    assert_eq!(counts.first_bad, Some((2, "it is no JSON (column 1)".to_owned())));
}

#[test]
fn a_line_without_end_takes_no_more_memory_than_a_line_may() {
    let long = vec![b'x'; 3 * LINE_BYTES];
    let text = [&long, b"\n".as_slice(), CALL.as_bytes(), b"\n", &long].concat();
    let mut reader = RecordingReader::new(BufReader::new(text.as_slice()));
    assert!(reader.next_record().unwrap().is_some());
    assert!(reader.next_record().unwrap().is_none());
    assert!(reader.line.capacity() <= 2 * LINE_BYTES + 2, "{}", reader.line.capacity());
    let counts = reader.counts();
    assert_eq!((counts.lines, counts.bad, counts.records), (3, 2, 1));
    assert!(counts.first_bad.as_ref().unwrap().1.contains("longer than"));
}

/// Damaged lines: nothing panics, and every record that is read can be written.
#[test]
fn damaged_lines_do_no_harm() {
    let mut noise = TestRng(2_463_534_242);
    for _ in 0..3000 {
        let mut line = CALL.as_bytes().to_vec();
        for _ in 0..=noise.below(3) {
            let at = noise.below(line.len());
            if noise.below(2) == 0 {
                line.remove(at);
            } else {
                noise.damage(&mut line, at);
            }
        }
        let (records, counts) = read(&line);
        // Damage may make empty lines, which are not counted as any of these.
        assert!(counts.records + counts.bad + counts.others <= counts.lines, "{counts:?}");
        for record in &records {
            assert!(format!("{record:?}").len() > 10);
        }
    }
}
