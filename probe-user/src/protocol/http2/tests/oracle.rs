//! Compares what is decoded with what a client and a server of the `h2` crate have sent.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::io::Cursor;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use ::http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::*;
use crate::protocol::http as fields;
use crate::test_rng::TestRng;

type Bytes = Cursor<Vec<u8>>;

/// A connection whose calls are recorded.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) events: Vec<Event>,
    /// The exchanges by the ids of their streams.
    pub(super) exchanges: BTreeMap<u64, Sent>,
}

/// What an exchange consisted of.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    method: String,
    pub(super) path: String,
    query: Option<String>,
    request: DataPart,
    pub(super) status: u16,
    response: DataPart,
}

#[derive(Clone, Debug, Default)]
struct DataPart {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
}

/// What kind of connection is recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) seed: u64,
    pub(super) exchanges: usize,
    /// How many are open at once.
    pub(super) at_once: usize,
    /// The size of the header tables. None if no end mentions it.
    pub(super) table: Option<u32>,
    pub(super) longest_body: usize,
    pub(super) longest_header: usize,
}

pub(super) const SMALL: Shape =
    Shape { seed: 1, exchanges: 40, at_once: 8, table: None, longest_body: 2000, longest_header: 100 };

struct Recorder {
    stream: DuplexStream,
    direction: Direction,
    events: Arc<Mutex<Vec<Event>>>,
}

impl AsyncRead for Recorder {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(length)) = result {
            self.events.lock().unwrap().push(Event::Call(self.direction, buf[..length].to_vec()));
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Fields of which some recur and some are unique to the exchange.
fn random_fields(rng: &mut TestRng, token: &str, longest: usize) -> Vec<(String, String)> {
    let mut fields = vec![("x-token".to_owned(), token.to_owned())];
    for name in ["accept", "x-trace", "cookie", "cache-control", "x-a", "x-b"] {
        let value = match rng.below(4) {
            0 => continue,
            1 => format!("{name}-{}", rng.below(5)),
            2 => format!("{name}-{token}"),
            _ => "v".repeat(1 + rng.below(longest)),
        };
        fields.push((name.to_owned(), value));
    }
    fields
}

fn map(fields: &[(String, String)]) -> HeaderMap {
    let pair = |(name, value): &(String, String)| {
        let mut value = HeaderValue::from_str(value).unwrap();
        value.set_sensitive(name == "cookie");
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), value)
    };
    fields.iter().map(pair).collect()
}

impl DataPart {
    fn random(rng: &mut TestRng, token: &str, shape: &Shape) -> Self {
        let headers = random_fields(rng, token, shape.longest_header);
        let length = if rng.below(3) == 0 { 0 } else { rng.below(shape.longest_body) };
        let body = format!("{token} ").into_bytes().into_iter().cycle().take(length).collect();
        let trailers = if rng.below(3) == 0 { random_fields(rng, token, 50) } else { Vec::new() };
        Self { headers, body, trailers }
    }
}

impl Sent {
    fn random(rng: &mut TestRng, number: usize, shape: &Shape) -> Self {
        let token = format!("token-{number}");
        let statuses = [200, 200, 201, 204, 404, 500, 302, 418];
        Self {
            method: ["GET", "POST", "PUT", "PURGE"][rng.below(4)].to_owned(),
            path: format!("/{token}/{}", rng.below(3)),
            query: (rng.below(2) == 0).then(|| format!("q={token}")),
            request: DataPart::random(rng, &token, shape),
            status: statuses[rng.below(statuses.len())],
            response: DataPart::random(rng, &token, shape),
        }
    }

    fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

fn send_body(stream: &mut h2::SendStream<Bytes>, part: &DataPart) {
    let trailers = map(&part.trailers);
    if !part.body.is_empty() {
        stream.send_data(Cursor::new(part.body.clone()), trailers.is_empty()).unwrap();
    }
    if !trailers.is_empty() {
        stream.send_trailers(trailers).unwrap();
    } else if part.body.is_empty() {
        stream.send_data(Cursor::new(Vec::new()), true).unwrap();
    }
}

async fn read_all(mut body: h2::RecvStream) {
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    body.trailers().await.unwrap();
}

/// Records a connection of a client and a server, with many streams at once.
pub(super) fn record(shape: Shape) -> Recording {
    let mut rng = TestRng(shape.seed);
    let all: Vec<Sent> = (0..shape.exchanges).map(|number| Sent::random(&mut rng, number, &shape)).collect();
    let by_path: Arc<BTreeMap<String, Sent>> =
        Arc::new(all.iter().map(|sent| (sent.path.clone(), sent.clone())).collect());
    let events = Arc::new(Mutex::new(Vec::new()));
    let (near, far) = tokio::io::duplex(32 * 1024);
    let recorder = |stream, direction| Recorder { stream, direction, events: Arc::clone(&events) };
    let (near, far) = (recorder(near, UP), recorder(far, DOWN));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let exchanges = runtime.block_on(async {
        tokio::spawn(async move {
            let mut builder = h2::server::Builder::new();
            if let Some(size) = shape.table {
                builder.header_table_size(size);
            }
            let mut connection = builder.handshake::<_, Bytes>(far).await.unwrap();
            while let Some(request) = connection.accept().await {
                let (request, mut respond) = request.unwrap();
                let by_path = Arc::clone(&by_path);
                tokio::spawn(async move {
                    let sent = &by_path[request.uri().path()];
                    read_all(request.into_body()).await;
                    let mut response = Response::builder().status(sent.status).body(()).unwrap();
                    *response.headers_mut() = map(&sent.response.headers);
                    let has_body = !sent.response.body.is_empty() || !sent.response.trailers.is_empty();
                    let mut stream = respond.send_response(response, !has_body).unwrap();
                    if has_body {
                        send_body(&mut stream, &sent.response);
                    }
                });
            }
        });
        let mut builder = h2::client::Builder::new();
        if let Some(size) = shape.table {
            builder.header_table_size(size);
        }
        let (client, connection) = builder.handshake::<_, Bytes>(near).await.unwrap();
        tokio::spawn(connection);
        let mut exchanges = BTreeMap::new();
        for together in all.chunks(shape.at_once) {
            let mut tasks = Vec::new();
            for sent in together {
                let sent = sent.clone();
                let mut client = client.clone().ready().await.unwrap();
                tasks.push(tokio::spawn(async move {
                    let uri = format!("https://example:8443{}", sent.target());
                    let mut request = Request::builder().method(&*sent.method).uri(uri).body(()).unwrap();
                    *request.headers_mut() = map(&sent.request.headers);
                    let has_body = !sent.request.body.is_empty() || !sent.request.trailers.is_empty();
                    let (response, mut stream) = client.send_request(request, !has_body).unwrap();
                    let id = u64::from(response.stream_id().as_u32());
                    if has_body {
                        send_body(&mut stream, &sent.request);
                    }
                    read_all(response.await.unwrap().into_body()).await;
                    (id, sent)
                }));
            }
            for task in tasks {
                let (id, sent) = task.await.unwrap();
                exchanges.insert(id, sent);
            }
        }
        exchanges
    });
    drop(runtime);
    Recording { events: Arc::try_unwrap(events).unwrap().into_inner().unwrap(), exchanges }
}

/// What was found out about the values of messages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Findings {
    /// Messages that lack nothing.
    pub(super) whole: usize,
    /// Values that are right.
    pub(super) right: usize,
    /// Values that are unknown.
    pub(super) unknown: usize,
}

/// Compares messages with what was sent. No value may be wrong.
pub(super) fn compare(recording: &Recording, messages: &[Message]) -> Findings {
    let mut findings = Findings::default();
    let mut seen = BTreeSet::new();
    for message in messages {
        let id = message.id.unwrap();
        let sent = recording.exchanges.get(&id).unwrap_or_else(|| panic!("no stream {id}"));
        let is_request = message.kind == MessageKind::Request;
        assert_eq!(is_request, message.direction == UP, "{message:?}");
        assert!(seen.insert((id, is_request)), "{message:?} came twice");
        let part = if is_request { &sent.request } else { &sent.response };
        let is_whole = message.partial.is_whole();
        findings.whole += usize::from(is_whole);
        for (field, has) in &message.fields {
            if *has == FieldValue::Unknown {
                assert!(!is_whole || !field.path.contains("size"), "{message:?}");
                findings.unknown += 1;
                continue;
            }
            findings.right += 1;
            let expected = match field.path {
                path if path == fields::VERSION.path => "2".to_owned(),
                path if path == fields::METHOD.path => sent.method.clone(),
                path if path == fields::SCHEME.path => "https".to_owned(),
                path if path == fields::HOST.path => "example".to_owned(),
                path if path == fields::PORT.path => "8443".to_owned(),
                path if path == fields::PATH.path => sent.path.clone(),
                path if path == fields::QUERY.path => sent.query.clone().unwrap(),
                path if path == fields::STATUS.path => sent.status.to_string(),
                path if path == fields::ERROR_TYPE.path => {
                    assert!(sent.status >= 400, "{message:?}");
                    sent.status.to_string()
                }
                path if path == fields::REQUEST_BODY_SIZE.path || path == fields::RESPONSE_BODY_SIZE.path => {
                    if !message.partial.lacks_end && !message.partial.lacks_start {
                        assert_eq!(
                            message.body_length,
                            part.body.len() as u64,
                            "{message:?} {}",
                            shown(message)
                        );
                    }
                    assert!(message.body_length <= part.body.len() as u64, "{message:?}");
                    message.body_length.to_string()
                }
                _ => {
                    let FieldValue::Headers(list) = has else { panic!("{}", field.path) };
                    let expected =
                        if field.path.ends_with("trailer") { &part.trailers } else { &part.headers };
                    findings.unknown += compare_headers(list, expected);
                    continue;
                }
            };
            assert_eq!(value(has), expected, "{}", field.path);
        }
        let kept = message.body();
        assert!(part.body.starts_with(&kept.0) || message.partial.lacks_start, "{message:?}");
    }
    findings
}

/// Compares a header list. Returns how many fields of it are unknown.
fn compare_headers(list: &[HeaderField], expected: &[(String, String)]) -> usize {
    // An unknown field may be the pseudo-header `:authority`.
    let may_have_more = usize::from(list.iter().any(|header| header.name.is_none()));
    assert!((expected.len()..=expected.len() + may_have_more).contains(&list.len()), "{list:?}");
    let mut unknown = 0;
    for header in list {
        match (&header.name, &header.value) {
            (Some(name), Some(value)) => {
                assert!(expected.iter().any(|has| has.0 == *name && has.1 == *value), "{name}: {value}");
            }
            (None, Some(value)) => {
                unknown += 1;
                assert!(expected.iter().any(|has| has.1 == *value), "?: {value}");
            }
            (_, None) => unknown += 1,
        }
    }
    unknown
}

#[test]
fn everything_that_was_sent_is_decoded() {
    let shapes = [
        SMALL,
        Shape { seed: 2, exchanges: 200, at_once: 100, ..SMALL },
        Shape { seed: 3, table: Some(0), ..SMALL },
        Shape { seed: 4, table: Some(200), ..SMALL },
        Shape { seed: 5, table: Some(65_536), exchanges: 200, ..SMALL },
        // Header lists that need CONTINUATION, and bodies that need several windows.
        Shape { seed: 6, longest_header: 12_000, ..SMALL },
        Shape { seed: 7, longest_body: 300_000, exchanges: 10, ..SMALL },
    ];
    for shape in shapes {
        let recording = record(shape);
        for split in [1, 7, 1000, 1_000_000] {
            let (messages, conversation) = run(&client(), &recording.events, split);
            let findings = compare(&recording, &messages);
            assert_eq!((findings.whole, findings.unknown), (shape.exchanges * 2, 0), "{shape:?}");
            assert_eq!((conversation.waiting_bytes(), conversation.undecoded_bytes()), (0, 0));
        }
    }
}

/// A connection is joined at each of its calls. What is unknown is said to be, and nothing is wrong.
#[test]
fn joined_at_every_call() {
    let mut all = Findings::default();
    let recording = record(Shape { exchanges: 100, ..SMALL });
    for start in 1..recording.events.len() {
        let (messages, _) = run(&joined(), &recording.events[start..], 1000);
        let findings = compare(&recording, &messages);
        all.whole += findings.whole;
        all.right += findings.right;
        all.unknown += findings.unknown;
    }
    assert!(all.right > all.unknown, "{all:?}");
    eprintln!("joined at {} calls: {all:?}", recording.events.len() - 1);
}
