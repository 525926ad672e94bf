//! A server and a client of gRPC with tonic and rustls, without generated code: messages are bytes. What they
//! do and log is as in grpc-peers.py. Argument: `server` or `client`.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{env, fs, future};

use bytes::{Buf as _, BufMut as _};
use http::uri::PathAndQuery;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::StreamingService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status, Streaming};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
type Answers = ReceiverStream<std::result::Result<Vec<u8>, Status>>;

const AUTHORITY: &str = "/etc/ssl/certs/ca-certificates.crt";
const WORKERS: usize = 8;
const GZIP: CompressionEncoding = CompressionEncoding::Gzip;

/// Messages as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> std::result::Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> std::result::Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

/// What an end did in a call. It is logged when the call ends, however that is.
struct Log {
    number: String,
    path: String,
    status: Mutex<String>,
    up: Mutex<Vec<usize>>,
    down: Mutex<Vec<usize>>,
}

impl Log {
    fn new(number: &str, path: &str, status: &str) -> Arc<Self> {
        let (number, path, status) = (number.to_owned(), path.to_owned(), Mutex::new(status.to_owned()));
        Arc::new(Self { number, path, status, up: Mutex::default(), down: Mutex::default() })
    }

    /// Adds a message of the client, and returns how many there are.
    fn received_up(&self, size: usize) -> usize {
        let mut up = self.up.lock().unwrap();
        up.push(size);
        up.len()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let Self { number, path, status, up, down } = self;
        let (status, up, down) = (status.get_mut().unwrap(), up.get_mut().unwrap(), down.get_mut().unwrap());
        println!(
            "{{\"call\": {number}, \"path\": \"{path}\", \"status\": \"{status}\", \"up\": {up:?}, \"down\": {down:?}}}"
        );
    }
}

/// To which call a message belongs, it says itself.
fn message(number: &str, side: &str, index: usize, size: usize) -> Vec<u8> {
    format!("{number} {side} {index} ").into_bytes().into_iter().cycle().take(size).collect()
}

fn sizes(text: &str) -> Vec<usize> {
    text.split(',').filter_map(|size| size.parse().ok()).collect()
}

/// The name of a code, as the specification has it.
fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

async fn wait_for_go() {
    while !Path::new("/plan/go").exists() {
        sleep(Duration::from_millis(10)).await;
    }
}

/// The server's part in a call.
struct Handler {
    log: Arc<Log>,
    method: String,
    down: Vec<usize>,
    status: String,
    what: String,
}

impl Handler {
    fn failure(&self) -> Option<Status> {
        let code = (1..17).map(Code::from).find(|code| name(*code) == self.status)?;
        // A text that has to be escaped.
        Some(Status::new(code, format!("call {}: 100 % schl\u{e4}gt fehl", self.log.number)))
    }

    async fn answer(self, requests: Streaming<Vec<u8>>) -> std::result::Result<Response<Answers>, Status> {
        let mut requests = requests;
        let (sender, answers) = mpsc::channel(1);
        if ["Unary", "Up"].contains(&&*self.method) {
            while let Some(request) = requests.message().await? {
                self.log.up.lock().unwrap().push(request.len());
            }
            if ["deadline", "cancel"].contains(&&*self.what) {
                return future::pending().await;
            }
            if let Some(failure) = self.failure() {
                return Err(failure);
            }
        }
        tokio::spawn(async move {
            let failure = self.failure();
            let waits = ["deadline", "cancel"].contains(&&*self.what);
            let result = self.stream(requests, &sender).await;
            match (result, failure) {
                (Ok(()), Some(failure)) => drop(sender.send(Err(failure)).await),
                (Ok(()), None) if waits => sender.closed().await,
                _ => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn stream(
        &self,
        mut requests: Streaming<Vec<u8>>,
        answers: &mpsc::Sender<std::result::Result<Vec<u8>, Status>>,
    ) -> Result<()> {
        let send = async |index: usize| {
            let size = self.down[index];
            answers.send(Ok(message(&self.log.number, "down", index, size))).await?;
            self.log.down.lock().unwrap().push(size);
            Result::Ok(())
        };
        let mut sent = 0;
        while let Some(request) = requests.message().await? {
            let due = self.log.received_up(request.len()).min(self.down.len());
            // The answers are between the requests.
            while self.method == "Both" && sent < due {
                send(sent).await?;
                sent += 1;
            }
        }
        for index in sent..self.down.len() {
            send(index).await?;
        }
        Ok(())
    }
}

/// What tonic calls for a request.
struct Method(Option<Handler>);

impl StreamingService<Vec<u8>> for Method {
    type Response = Vec<u8>;
    type ResponseStream = Answers;
    type Future = BoxFuture<Response<Answers>, Status>;

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Self::Future {
        let handler = self.0.take().unwrap();
        Box::pin(handler.answer(request.into_inner()))
    }
}

/// All services.
#[derive(Clone)]
struct Services;

impl Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let call = request.headers().get("x-call").and_then(|call| call.to_str().ok()).unwrap_or_default();
        let call: Vec<String> = call.split('/').map(str::to_owned).collect();
        let [number, down, status, what] = call.try_into().unwrap();
        Box::pin(async move {
            let Some(method) = path.strip_prefix("/ctrace.Test/").map(str::to_owned) else {
                drop(Log::new(&number, &path, "UNIMPLEMENTED"));
                return Ok(Status::unimplemented("no such service").into_http());
            };
            let log = Log::new(&number, &path, &status);
            let mut grpc = tonic::server::Grpc::new(Raw).max_decoding_message_size(usize::MAX);
            if what == "gzip" {
                grpc = grpc.accept_compressed(GZIP).send_compressed(GZIP);
            }
            let handler = Handler { log, method, down: sizes(&down), status, what };
            Ok(grpc.streaming(Method(Some(handler)), request).await)
        })
    }
}

async fn server() -> Result<()> {
    let pem = fs::read_to_string("/server.pem")?;
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(&pem, &pem)).use_key_log();
    Ok(Server::builder().tls_config(tls)?.serve("127.0.0.1:8443".parse()?, Services).await?)
}

/// The messages of the client, as they are sent. It waits before the one at the index `held`.
fn requests(log: Arc<Log>, up: Vec<usize>, held: Option<usize>) -> ReceiverStream<Vec<u8>> {
    let (sender, requests) = mpsc::channel(1);
    tokio::spawn(async move {
        for (index, size) in up.into_iter().enumerate() {
            if held == Some(index) {
                println!("held");
                wait_for_go().await;
            }
            if sender.send(message(&log.number, "up", index, size)).await.is_err() {
                return;
            }
            log.up.lock().unwrap().push(size);
        }
    });
    ReceiverStream::new(requests)
}

async fn call(channel: Channel, line: String) -> Result<()> {
    let words: Vec<&str> = line.split(' ').collect();
    let [number, kind, path, up, down, status, what] = words[..] else { return Err("not a call".into()) };
    let log = Log::new(number, path, "OK");
    let mut grpc = Grpc::new(channel).max_decoding_message_size(usize::MAX);
    if what == "gzip" {
        grpc = grpc.accept_compressed(GZIP).send_compressed(GZIP);
    }
    let made = make(grpc, &log, [kind, path, up, what], format!("{number}/{down}/{status}/{what}"));
    let result = if what == "cancel" {
        timeout(Duration::from_millis(200), made).await.unwrap_or_else(|_| Err(Status::cancelled("by us")))
    } else {
        made.await
    };
    if let Err(failure) = result {
        *log.status.lock().unwrap() = name(failure.code());
    }
    Ok(())
}

async fn make(
    mut grpc: Grpc<Channel>,
    log: &Arc<Log>,
    [kind, path, up, what]: [&str; 4],
    header: String,
) -> std::result::Result<(), Status> {
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let path: PathAndQuery = path.parse().map_err(|_| Status::unknown("not a path"))?;
    let up = sizes(up);
    let mut metadata = tonic::metadata::MetadataMap::new();
    metadata.insert("x-call", header.parse().map_err(|_| Status::unknown("not a header"))?);
    if what == "deadline" {
        metadata.insert("grpc-timeout", tonic::metadata::MetadataValue::from_static("300m"));
    }
    let single = |size: usize| {
        log.up.lock().unwrap().push(size);
        Request::from_parts(metadata.clone(), Default::default(), message(&log.number, "up", 0, size))
    };
    let many = || {
        let requests = requests(log.clone(), up.clone(), (what == "hold").then_some(1));
        Request::from_parts(metadata.clone(), Default::default(), requests)
    };
    let received = |message: Vec<u8>| log.down.lock().unwrap().push(message.len());
    let mut answers = match kind {
        "unary" => {
            received(grpc.unary(single(up[0]), path, Raw).await?.into_inner());
            return Ok(());
        }
        "up" => {
            received(grpc.client_streaming(many(), path, Raw).await?.into_inner());
            return Ok(());
        }
        "down" => grpc.server_streaming(single(up[0]), path, Raw).await?.into_inner(),
        _ => grpc.streaming(many(), path, Raw).await?.into_inner(),
    };
    while let Some(answer) = answers.message().await? {
        received(answer);
    }
    Ok(())
}

async fn client() -> Result<()> {
    let authority = Certificate::from_pem(fs::read_to_string(AUTHORITY)?);
    let tls = ClientTlsConfig::new().ca_certificate(authority).domain_name("localhost").use_key_log();
    let channel = Endpoint::from_static("https://localhost:8443").tls_config(tls)?.connect().await?;
    // tonic moves a connection after the handshake, and rustls knows it by its address: requests that come
    // together with the end of the handshake are taken for those of another connection.
    sleep(Duration::from_millis(500)).await;
    let plan = fs::read_to_string("/plan/calls")?;
    let calls: Vec<&str> = plan.lines().collect();
    let (first, second) = calls.split_at(calls.len() / 2);
    let permits = Arc::new(Semaphore::new(WORKERS));
    let mut held = JoinSet::new();
    for (half, part) in [first, second].into_iter().enumerate() {
        let mut running = JoinSet::new();
        for line in part {
            let (channel, line) = (channel.clone(), (*line).to_owned());
            if line.ends_with(" hold") {
                held.spawn(call(channel, line));
                continue;
            }
            let permits = permits.clone();
            running.spawn(async move {
                let _permit = permits.acquire().await?;
                call(channel, line).await
            });
        }
        while let Some(done) = running.join_next().await {
            done??;
        }
        if half == 0 {
            println!("half");
            wait_for_go().await;
        }
    }
    while let Some(done) = held.join_next().await {
        done??;
    }
    Ok(())
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match env::args().nth(1).as_deref() {
        Some("server") => runtime.block_on(server()),
        Some("client") => runtime.block_on(client()),
        _ => Err("server or client?".into()),
    }
}
