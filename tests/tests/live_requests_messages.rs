//! `ctrace requests` with exchanges that have many messages, of servers and clients that others have written:
//! WebSocket with compression, and server-sent events. Both ends are traced, from the first byte and joined
//! in the middle, and the messages are what each end has logged. Needs root, BPF, Docker, and once the
//! machine's package sources.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use base64_simd::STANDARD;
use ctrace_tests::third_party::http::{PeerTransport, PlanDirectory};
use ctrace_tests::third_party::{HTTP, Pair, PairSetup};
use ctrace_tests::{RunningTrace, TestContainer};
use serde::Deserialize;
use serde_json::Value;

const PORT: u16 = 8443;
const TRACE: [&str; 6] = ["requests", "-v", "--body=1m", "--messages", "-o", "json"];
const MAPPED: [&str; 3] =
    ["/usr/lib/x86_64-linux-gnu/libssl.so.3", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "/usr/bin/node"];
const PYTHON: [&str; 2] = ["/usr/bin/python3", "/programs/http-peers.py"];
const NODE: [&str; 3] = ["/usr/bin/node", "--use-system-ca", "/programs/http-peers.mjs"];

/// The connections of a client, and the messages that it sends on each.
const CONNECTIONS: usize = 3;
const MESSAGES: usize = 24;
/// The events of a response.
const EVENTS: usize = 20;

/// A message of WebSocket, as an end logs it: in base64 if it is binary.
#[derive(Debug, Deserialize)]
struct LoggedMessage {
    direction: String,
    connection: String,
    r#type: String,
    data: String,
}

/// The types and payloads of the messages of one connection in one direction, in their order. What could not
/// be decoded is none.
type Messages<T> = BTreeMap<(String, String), Vec<(String, T)>>;
type Sent = (String, Vec<u8>);
type Seen = (String, Option<Vec<u8>>);

fn logged(output: &str) -> Result<Messages<Vec<u8>>> {
    let mut all = Messages::new();
    for line in output.lines().filter(|line| line.starts_with("{\"direction\"")) {
        let message: LoggedMessage = serde_json::from_str(line)?;
        let is_text = message.r#type == "text";
        let data = message.data.as_bytes();
        let data = if is_text { data.to_vec() } else { STANDARD.decode_to_vec(data)? };
        all.entry((message.connection, message.direction)).or_default().push((message.r#type, data));
    }
    Ok(all)
}

/// The records of messages whose processes are in a container.
fn messages(trace: &RunningTrace, container: &TestContainer) -> Result<Vec<Value>> {
    let mut lines = trace.lines()?;
    lines.retain(|line| line["type"] == "message" && text(line, "/container/name") == Some(container.name()));
    Ok(lines)
}

fn text<'a>(line: &'a Value, pointer: &str) -> Option<&'a str> {
    line.pointer(pointer)?.as_str()
}

/// The messages with payload that were captured in a container, by the connection's number instead of its
/// name.
fn captured(trace: &RunningTrace, container: &TestContainer) -> Result<Messages<Option<Vec<u8>>>> {
    let mut all = Messages::new();
    for line in messages(trace, container)? {
        let kind = text(&line, "/websocket/message/type").unwrap_or_default();
        if !["text", "binary"].contains(&kind) {
            continue;
        }
        let direction = text(&line, "/message/direction").context("no direction")?;
        let is_whole = text(&line, "/websocket/message/not_decoded").is_none();
        let data = match (text(&line, "/data"), text(&line, "/data_base64")) {
            (Some(text), _) => text.as_bytes().to_vec(),
            (None, Some(text)) => STANDARD.decode_to_vec(text)?,
            (None, None) => Vec::new(),
        };
        let connection = line.pointer("/connection/id").context("no connection")?;
        let key = (connection.to_string(), direction.to_owned());
        all.entry(key).or_default().push((kind.to_owned(), is_whole.then_some(data)));
    }
    Ok(all)
}

/// A server and a client, and the least number of messages of which the content is known after joining in the
/// middle, over all connections and both directions of an end.
struct Case {
    label: &'static str,
    server: &'static [&'static str],
    client: &'static [&'static str],
    transport: PeerTransport,
    least_joined: usize,
}

const BASE: Case =
    Case { label: "", server: &[], client: &[], transport: PeerTransport::Tls, least_joined: 60 };

fn start(label: &str, transport: PeerTransport, server: &[&str], directory: &PlanDirectory) -> Result<Pair> {
    let volume = directory.volume();
    let options = [&[volume.as_str()], transport.options()].concat();
    let pair = Pair::start(&PairSetup { release: &HTTP, label, options: &options, server, mapped: &MAPPED })?;
    pair.wait_for_port(PORT)?;
    Ok(pair)
}

fn check_websocket(case: &Case) -> Result<()> {
    let directory = PlanDirectory::new(&[])?;
    directory.go()?;
    let server = [case.server, &["websockets-server", "h1"]].concat();
    let client = [case.client, &["websockets", "h1"]].concat();
    let pair = start(case.label, case.transport, &server, &directory)?;
    let ctrace = pair.trace(&TRACE)?;
    let of_client = logged(&pair.client.exec(&client)?)?;
    let lines = 2 * CONNECTIONS * MESSAGES;
    let of_server = logged(&pair.server_lines("{\"direction\"", lines)?)?;
    let trace = ctrace.finish()?;
    for (container, logged) in [(&pair.client, &of_client), (&pair.server, &of_server)] {
        check_all(&captured(&trace, container)?, logged)
            .with_context(|| format!("from the first byte, {}: {}", container.name(), trace.stderr))?;
    }

    directory.hold()?;
    let mut running = pair.start_client(&client)?;
    // Each connection reports when it waits, and before that each message twice.
    running.wait_for_lines(CONNECTIONS * (MESSAGES + 1))?;
    let ctrace = pair.trace(&TRACE)?;
    directory.go()?;
    let of_client = logged(&running.finish()?)?;
    pair.server_lines("{\"direction\"", 2 * lines)?;
    let trace = ctrace.finish()?;
    for container in [&pair.client, &pair.server] {
        let of_end =
            if container.name() == pair.client.name() { of_client.clone() } else { mirrored(&of_client) };
        let known = check_joined(&captured(&trace, container)?, &of_end)
            .with_context(|| format!("joined, {}", container.name()))?;
        println!("{}: {} {known} of {lines} known", case.label, container.name());
        ensure!(known >= case.least_joined, "{}: only {known} are known", container.name());
    }
    Ok(())
}

/// What the other end logs.
fn mirrored(log: &Messages<Vec<u8>>) -> Messages<Vec<u8>> {
    let other = |direction: &str| if direction == "transmit" { "receive" } else { "transmit" };
    log.iter().map(|((name, way), list)| ((name.clone(), other(way).to_owned()), list.clone())).collect()
}

/// Checks that the messages are exactly those that were logged, each on its connection and in its order.
fn check_all(captured: &Messages<Option<Vec<u8>>>, logged: &Messages<Vec<u8>>) -> Result<()> {
    let mut left: Vec<_> = logged.iter().collect();
    for ((connection, direction), messages) in captured {
        let is_same = |list: &[Sent]| {
            let same = |(seen, sent): (&Seen, &Sent)| seen.0 == sent.0 && seen.1.as_ref() == Some(&sent.1);
            list.len() == messages.len() && messages.iter().zip(list).all(same)
        };
        let at = left.iter().position(|((_, way), list)| way == direction && is_same(list));
        let at = at.with_context(|| format!("connection {connection}, {direction}: {}", shown(messages)))?;
        left.swap_remove(at);
    }
    ensure!(left.is_empty(), "{} of {} streams are not there", left.len(), logged.len());
    Ok(())
}

/// Checks that what is known of the messages is right: they are the last of a connection. Returns how many
/// are known.
fn check_joined(captured: &Messages<Option<Vec<u8>>>, logged: &Messages<Vec<u8>>) -> Result<usize> {
    let mut known = 0;
    for ((connection, direction), messages) in captured {
        let ends_so = |list: &[Sent]| {
            let fits = |(seen, sent): (&Seen, &Sent)| {
                seen.0 == sent.0 && seen.1.as_ref().is_none_or(|data| *data == sent.1)
            };
            messages.len() <= MESSAGES / 2 && messages.iter().rev().zip(list.iter().rev()).all(fits)
        };
        let fits = logged.iter().any(|((_, way), list)| way == direction && ends_so(list));
        ensure!(fits, "connection {connection}, {direction}: {}", shown(messages));
        known += messages.iter().filter(|(_, data)| data.is_some()).count();
    }
    Ok(known)
}

fn shown(messages: &[Seen]) -> String {
    let shown = messages.iter().map(|(kind, data)| {
        let beginning =
            data.as_ref().map(|data| String::from_utf8_lossy(data).chars().take(30).collect::<String>());
        format!("{kind} of {:?}: {beginning:?}", data.as_ref().map(Vec::len))
    });
    shown.collect::<Vec<_>>().join("; ")
}

#[test]
fn websockets_of_python() -> Result<()> {
    check_websocket(&Case { label: "ws-python", server: &PYTHON, client: &PYTHON, ..BASE })
}

#[test]
fn websockets_of_node() -> Result<()> {
    check_websocket(&Case { label: "ws-node", server: &NODE, client: &NODE, least_joined: 30, ..BASE })
}

#[test]
fn websockets_of_python_and_node() -> Result<()> {
    check_websocket(&Case { label: "ws-python-node", server: &PYTHON, client: &NODE, ..BASE })
}

#[test]
fn websockets_without_tls() -> Result<()> {
    let case = Case { label: "ws-tcp", server: &PYTHON, client: &PYTHON, ..BASE };
    check_websocket(&Case { transport: PeerTransport::Tcp, ..case })
}

/// An event, as a server logs it, and as it is captured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Event {
    data: String,
    /// None if it is unknown.
    number: Option<u64>,
    /// The bytes of the event in the body, without those of chunks and frames.
    size: u64,
}

/// The events in a container, sorted.
fn events(trace: &RunningTrace, container: &TestContainer) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for line in messages(trace, container)? {
        ensure!(text(&line, "/message/event") == Some("tick"), "another event: {line}");
        let data = text(&line, "/data").with_context(|| format!("no data: {line}"))?.to_owned();
        let number = |pointer: &str| line.pointer(pointer).and_then(Value::as_u64);
        let size = number("/message/length").with_context(|| format!("no length: {line}"))?;
        events.push(Event { data, number: number("/message/number"), size });
    }
    events.sort();
    Ok(events)
}

const HTTPX: &[&str] = &[PYTHON[0], PYTHON[1], "events", "h1"];
/// All streams on one connection.
const CURL: &[&str] =
    &["/usr/bin/curl", "-sSZN", "--http2", "-o", "/dev/null", "https://localhost:8443/events/[0-2]"];

fn check_events(label: &str, transport: PeerTransport, server: &[&str], client: &[&str]) -> Result<()> {
    let directory = PlanDirectory::new(&[])?;
    directory.go()?;
    let pair = start(label, transport, server, &directory)?;
    let all = CONNECTIONS * EVENTS;
    let log = |count: usize| -> Result<Vec<Event>> {
        let text = pair.server_lines("{\"event\"", count)?;
        let lines = text.lines().filter(|line| line.starts_with("{\"event\""));
        lines.skip(count - all).map(|line| Ok(serde_json::from_str(line)?)).collect()
    };

    let ctrace = pair.trace(&TRACE)?;
    pair.client.exec(client)?;
    let mut sent = log(all)?;
    sent.sort();
    let trace = ctrace.finish()?;
    for container in [&pair.client, &pair.server] {
        let seen = events(&trace, container)?;
        ensure!(seen == sent, "{}: {seen:?}, not {sent:?}; {}", container.name(), trace.stderr);
    }

    directory.hold()?;
    let running = pair.start_client(client)?;
    pair.server_lines("held", 2 * CONNECTIONS)?;
    let ctrace = pair.trace(&TRACE)?;
    directory.go()?;
    running.finish()?;
    let sent = log(2 * all)?;
    let trace = ctrace.finish()?;
    for container in [&pair.client, &pair.server] {
        let seen = events(&trace, container)?;
        let is_sent = |seen: &Event| sent.iter().any(|sent| sent.data == seen.data && sent.size == seen.size);
        let unknown = seen.iter().find(|event| !is_sent(event));
        ensure!(unknown.is_none(), "{}: {unknown:?} was not sent", container.name());
        println!("{label}: {} {} of {} known", container.name(), seen.len(), all / 2);
    }
    Ok(())
}

#[test]
fn server_sent_events() -> Result<()> {
    check_events("events", PeerTransport::Tls, &[PYTHON.as_slice(), &["events-server", "h1"]].concat(), HTTPX)
}

#[test]
fn server_sent_events_without_tls() -> Result<()> {
    let server = [PYTHON.as_slice(), &["events-server", "h1"]].concat();
    check_events("events-tcp", PeerTransport::Tcp, &server, HTTPX)
}

#[test]
fn server_sent_events_of_node() -> Result<()> {
    check_events(
        "events-node",
        PeerTransport::Tls,
        &[NODE.as_slice(), &["events-server", "h1"]].concat(),
        HTTPX,
    )
}

#[test]
fn server_sent_events_of_node_by_http_2() -> Result<()> {
    check_events(
        "events-node-h2",
        PeerTransport::Tls,
        &[NODE.as_slice(), &["events-server", "h2"]].concat(),
        CURL,
    )
}
