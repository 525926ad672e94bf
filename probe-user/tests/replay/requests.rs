//! Recorded calls → the requests that they are made of, compared with checked-in output.

use std::time::Duration;

use ctrace::event::{Output as _, Redaction, RequestKey, Secrets};
use ctrace::output::Options;
use ctrace::pipeline::requests::{RequestFilter, RequestLimits, RequestSettings, Requests};
use ctrace::protocol;
use ctrace::protocol::content::Schema;
use ctrace::recording::Recorded;

use super::recording::{data, records};
use super::{Colour, Payload, Shared, golden, kept, options, plain, schema};

/// curl's requests to nginx, by HTTP/1.1 and HTTP/2: a body that is compressed, one that is missing, and
/// events.
const RECORDINGS: [&str; 2] = ["calls-http1.jsonl", "calls-http2.jsonl"];

fn shown(format: &str, options: &Options, settings: &RequestSettings, skip: usize) -> String {
    RECORDINGS.iter().map(|recording| shown_of(recording, format, options, settings, skip)).collect()
}

fn shown_of(
    recording: &str,
    format: &str,
    options: &Options,
    settings: &RequestSettings,
    skip: usize,
) -> String {
    let shared = Shared::default();
    let output = kept::output(format, &shared, options.clone());
    let mut requests = Requests::new(protocol::ALL, settings.clone(), RequestLimits::default(), output);
    for recorded in records(&data(recording)).into_iter().skip(skip) {
        match recorded {
            Recorded::Record(record) => requests.write(&record).unwrap(),
            Recorded::Summary(mut summary) => requests.finish(&mut summary).unwrap(),
        }
    }
    requests.flush().unwrap();
    let shown = shared.0.lock().unwrap().clone();
    String::from_utf8(shown).unwrap()
}

fn all() -> RequestSettings {
    RequestSettings { headers: true, body: Some(4096), messages: true, ..RequestSettings::default() }
}

#[test]
fn requests_are_as_checked_in() {
    let json = shown("json", &plain(), &all(), 0);
    golden("requests.jsonl", json.as_bytes());
    for line in json.lines() {
        schema::check(&serde_json::from_str(line).unwrap());
    }
    golden("requests.txt", shown("text", &plain(), &RequestSettings::default(), 0).as_bytes());
    golden("requests-whole.txt", shown("text", &plain(), &all(), 0).as_bytes());
}

#[test]
fn requests_of_connections_that_are_joined_in_the_middle_are_as_checked_in() {
    // The opening of the connection, the first request and its response are not seen.
    let text = shown("text", &plain(), &all(), 3);
    golden("requests-joined.txt", text.as_bytes());
}

/// A client of gRPC, whose bodies have the names of their schema.
#[test]
fn bodies_with_the_names_of_a_schema_are_as_checked_in() {
    let mut compiler = protox::Compiler::new([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data")]).unwrap();
    compiler.include_imports(true).open_file("shop.proto").unwrap();
    let mut schema = Schema::default();
    schema.add(&compiler.encode_file_descriptor_set()).unwrap();
    let settings = RequestSettings { body: Some(4096), schema: Some(schema), ..RequestSettings::default() };
    let shown = |format, settings: &RequestSettings, skip| {
        shown_of("calls-grpc.jsonl", format, &plain(), settings, skip)
    };
    golden("requests-grpc.txt", shown("text", &settings, 0).as_bytes());
    // The first requests are not seen: what refers to them is unknown.
    golden("requests-grpc-joined.txt", shown("text", &settings, 9).as_bytes());
    let json = shown("json", &RequestSettings { messages: true, ..settings }, 0);
    golden("requests-grpc.jsonl", json.as_bytes());
    for line in json.lines() {
        schema::check(&serde_json::from_str(line).unwrap());
    }
}

#[test]
fn exchanges_that_go_on_are_as_checked_in() {
    // After each call, all exchanges that are not complete are reported.
    let settings = RequestSettings { interval: Some(Duration::from_nanos(1)), ..RequestSettings::default() };
    golden("requests-open.txt", shown("text", &plain(), &settings, 0).as_bytes());
    let mut open = std::collections::HashSet::new();
    for line in shown("json", &plain(), &settings, 0).lines() {
        let record = serde_json::from_str(line).unwrap();
        schema::check(&record);
        let exchange = record["exchange"].as_str().map(str::to_owned);
        match (&record["open_for"], exchange) {
            (serde_json::Value::Number(_), Some(exchange)) => _ = open.insert(exchange),
            (_, Some(exchange)) => _ = open.remove(&exchange),
            (_, None) => {}
        }
    }
    assert!(open.is_empty(), "the last record of each exchange is the one of its end: {open:?}");
}

#[test]
fn figures_are_as_checked_in() {
    let settings = RequestSettings { stats: Some(RequestKey::Path), ..RequestSettings::default() };
    let json = shown("json", &plain(), &settings, 0);
    golden("request-stats.jsonl", json.as_bytes());
    for line in json.lines() {
        schema::check(&serde_json::from_str(line).unwrap());
    }
    golden("request-stats.txt", shown("text", &plain(), &settings, 0).as_bytes());
}

#[test]
fn secrets_are_hidden_unless_they_are_asked_for() {
    for (secrets, expected) in [(Secrets::Redacted, false), (Secrets::Shown, true)] {
        let redaction = Redaction::new(secrets, ["page"]);
        for format in ["text", "json"] {
            let text = shown(format, &plain(), &RequestSettings { redaction: redaction.clone(), ..all() }, 0);
            for secret in ["s3cr3t", "token=abc", "page=2"] {
                // The body of the response, in which nothing is hidden, has the target.
                let text: String =
                    text.lines().filter(|line| !line.contains("\"path\": ")).flat_map(str::chars).collect();
                let is_shown =
                    text.replace(r#""data":"{\"path\":\"/orders/7?page=2&token=abc"#, "").contains(secret);
                assert_eq!(is_shown, expected, "{secret}: {text}");
            }
        }
    }
}

#[test]
fn lines_on_a_terminal_fit_and_have_colours() {
    let mut options = options(Payload::Hex, Colour::On);
    options.look.columns = Some(120);
    let filter = RequestFilter { slower_than: Some(Duration::from_nanos(1)), ..RequestFilter::default() };
    let text = shown("text", &options, &RequestSettings { filter, ..RequestSettings::default() }, 0);
    let mut shown = text.lines().map(|line| {
        let parts = line.split('\u{1b}').map(|part| part.split_once('m').map_or(part, |(_, rest)| rest));
        parts.map(|part| part.chars().count()).sum::<usize>()
    });
    assert!(text.contains("\u{1b}[32m200") && text.contains("\u{1b}[33m404"), "{text}");
    assert!(shown.all(|columns| columns <= 122), "{text}");
}
