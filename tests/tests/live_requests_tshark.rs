//! `ctrace requests` against tshark: packets of the same connections are captured and decrypted with the
//! client's key log, and both ends of each connection must have what tshark makes of them. Needs root, BPF,
//! Docker, tshark, and once the machine's package sources.

#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::third_party::grpc::{CallDirectory, PlannedCall, PlannedEnd, plan, status_name};
use ctrace_tests::third_party::http::{
    self, CurlRun, Gate, JoinedExchanges, LoggedExchange, PlanDirectory, check_joined, files_plan,
};
use ctrace_tests::third_party::{HTTP, Pair, PairSetup, Release, TRIXIE};
use ctrace_tests::{Child, RunningTrace, program};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

const PORT: u16 = 8443;
const PATIENCE: Duration = Duration::from_secs(30);
const TRACE: [&str; 7] = ["requests", "--no-cleartext", "--messages", "--body", "1m", "-o", "json"];
const MAPPED: [&str; 3] =
    ["/usr/lib/x86_64-linux-gnu/libssl.so.3", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "/tls-tonic"];
const CADDY: &[&str] =
    &["/usr/bin/caddy", "run", "--config", "/programs/requests-caddy.conf", "--adapter", "caddyfile"];
const CURL: &[&str] = &["/usr/bin/curl", "--config", "/plan/curl.conf"];
const TONIC: &[&str] = &["/tls-tonic"];

/// What programs of [`HTTP`] use.
const MAPPED_BY_HTTP: [&str; 4] = [MAPPED[0], MAPPED[1], "/usr/bin/node", "/http-pair"];

/// The requests of a client.
const REQUESTS: usize = 60;
/// The sizes of their bodies.
const SIZES: [usize; 4] = [1, 900, 17_000, 50_000];
/// The calls of gRPC, of which some are left out.
const CALLS: usize = 80;

/// An exchange, by whomever it was decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Exchange {
    /// What keeps it apart from the others of its connection: the path is the same for many calls.
    target: Option<String>,
    method: Option<String>,
    status: Option<u64>,
    call_status: Option<String>,
    up: u64,
    down: u64,
}

/// The packets of a container's loopback interface.
struct PacketCapture {
    dumpcap: Child,
    file: PathBuf,
}

impl PacketCapture {
    fn start(pair: &Pair, directory: &Path) -> Result<Self> {
        let file = directory.join("packets.pcapng");
        let network = format!("--net=/proc/{}/ns/net", pair.server.pid());
        let filter = format!("tcp port {PORT}");
        let mut command = Command::new("nsenter");
        // In MiB, so that nothing is dropped.
        command.args([&network, "dumpcap", "-q", "-i", "lo", "-B", "64", "-f", &filter, "-w"]).arg(&file);
        let mut dumpcap = Child::start(&mut command)
            .context("cannot run nsenter and dumpcap: `cargo xtask setup` installs tshark")?;
        let stderr = dumpcap.stderr.as_mut().context("dumpcap has no standard error")?;
        stderr.wait("line with the file", PATIENCE, |line| line.starts_with("File:"))?;
        Ok(Self { dumpcap, file })
    }

    /// Ends the capture, and returns the packets as tshark decodes them.
    fn packets(mut self, keys: &Path) -> Result<Vec<Value>> {
        // What was sent last may still be in the buffer.
        std::thread::sleep(Duration::from_millis(500));
        self.dumpcap.signal(Signal::INT)?;
        self.dumpcap.wait(PATIENCE)?;
        let (_, said) = self.dumpcap.output()?;
        let dropped = said.iter().find_map(|line| line.split_once("interface").map(|(_, rest)| rest));
        ensure!(dropped.is_some_and(|line| line.contains("/0 (")), "packets are missing: {said:?}");
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(&self.file).args(["-Y", "http or http2", "-T", "json", "--no-duplicate-keys"]);
        // Our messages are no protocol buffers: it gives up the whole packet.
        tshark.args(["--disable-protocol", "protobuf"]);
        tshark.args(["-o", "http.decompress_body:FALSE", "-d", &format!("tcp.port=={PORT},tls"), "-o"]);
        tshark.arg(format!("tls.keylog_file:{}", keys.display()));
        let output = tshark.stdin(Stdio::null()).output().context("`cargo xtask setup` installs tshark")?;
        ensure!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("tshark wrote something else than JSON")
    }
}

/// All values of a key, at any depth.
fn all<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Array(values) if name == key => found.extend(values),
                    value if name == key => found.push(value),
                    value => all(value, key, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| all(value, key, found)),
        _ => {}
    }
}

fn texts<'v>(value: &'v Value, key: &str) -> Vec<&'v str> {
    let mut found = Vec::new();
    all(value, key, &mut found);
    found.into_iter().filter_map(Value::as_str).collect()
}

fn number(value: &Value, key: &str) -> Option<u64> {
    texts(value, key).first()?.parse().ok()
}

/// The exchanges of connections, in the order in which they began, by connection and stream.
#[derive(Default)]
struct Decoded {
    exchanges: Vec<((u64, u64), Exchange)>,
    /// The lengths of the messages of gRPC, up and down.
    messages: [Vec<u64>; 2],
}

impl Decoded {
    fn of(packets: &[Value]) -> Result<Self> {
        let mut decoded = Self::default();
        for packet in packets {
            let layers = &packet["_source"]["layers"];
            let connection = number(layers, "tcp.stream").context("no connection")?;
            let is_up = number(&layers["tcp"], "tcp.dstport") == Some(PORT.into());
            let mut frames = Vec::new();
            all(layers, "http2.stream", &mut frames);
            for frame in frames {
                let body: fn(&mut Exchange) -> &mut u64 =
                    if is_up { |exchange| &mut exchange.up } else { |exchange| &mut exchange.down };
                decoded.frame(connection, frame, body);
            }
            decoded.http1(connection, &layers["http"]);
            let lengths = texts(layers, "grpc.message_length");
            let lengths = lengths.into_iter().filter_map(|length| length.parse::<u64>().ok());
            decoded.messages[usize::from(!is_up)].extend(lengths);
        }
        Ok(decoded)
    }

    fn exchange(&mut self, key: (u64, u64)) -> &mut Exchange {
        let at = self.exchanges.iter().position(|(has, _)| *has == key).unwrap_or(self.exchanges.len());
        if at == self.exchanges.len() {
            self.exchanges.push((key, Exchange::default()));
        }
        &mut self.exchanges[at].1
    }

    /// Adds a frame, whose body has its length in the place that `body` names.
    fn frame(&mut self, connection: u64, frame: &Value, body: fn(&mut Exchange) -> &mut u64) {
        let (Some(kind), Some(stream)) = (number(frame, "http2.type"), number(frame, "http2.streamid"))
        else {
            return;
        };
        match kind {
            0 => {
                let length = number(frame, "http2.length").unwrap_or_default();
                *body(self.exchange((connection, stream))) += length;
            }
            1 => {
                let mut fields = Vec::new();
                all(frame, "http2.header", &mut fields);
                let exchange = self.exchange((connection, stream));
                for field in fields {
                    let value = field["http2.header.value"].as_str().unwrap_or_default();
                    match field["http2.header.name"].as_str() {
                        Some(":method") => exchange.method = Some(value.to_owned()),
                        Some(":path") => exchange.target = Some(value.to_owned()),
                        Some(":status") => exchange.status = value.parse().ok(),
                        Some("grpc-status") => {
                            exchange.call_status = value.parse().ok().and_then(status_name);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn http1(&mut self, connection: u64, layer: &Value) {
        let text = |key: &str| texts(layer, key).first().map(|text| (*text).to_owned());
        let chunks =
            || texts(layer, "http.chunk_size").into_iter().filter_map(|size| size.parse::<u64>().ok());
        let body = || number(layer, "http.content_length").unwrap_or_else(|| chunks().sum());
        let of_it = self.exchanges.iter().filter(|((has, _), _)| *has == connection).count() as u64;
        if let Some(method) = text("http.request.method") {
            let (target, up) = (text("http.request.uri"), body());
            let exchange = self.exchange((connection, of_it));
            (exchange.method, exchange.target, exchange.up) = (Some(method), target, up);
        }
        if let Some(status) = number(layer, "http.response.code") {
            // Without pipelining, a response is that of the last request.
            let exchange = self.exchange((connection, of_it.saturating_sub(1)));
            // The length that the response to a HEAD names is that of a body that it does not have.
            let down = if exchange.method.as_deref() == Some("HEAD") { 0 } else { body() };
            (exchange.status, exchange.down) = (Some(status), down);
        }
    }

    /// As an end would log them. Each target was requested once.
    fn logged(self) -> Result<Vec<LoggedExchange>> {
        let logged = |exchange: Exchange| {
            let (request, response) = (exchange.up, exchange.down);
            let (method, target) = exchange.method.zip(exchange.target).context("tshark has no request")?;
            let status = exchange.status.context("tshark has no status")?;
            Ok(LoggedExchange { method, target, status, request, response })
        };
        self.sorted().into_iter().map(logged).collect()
    }

    fn sorted(self) -> Vec<Exchange> {
        let mut exchanges: Vec<Exchange> = self.exchanges.into_iter().map(|(_, exchange)| exchange).collect();
        // Frames of the whole connection have stream 0, and none that an exchange has.
        exchanges.retain(|exchange| *exchange != Exchange::default());
        exchanges.sort();
        exchanges
    }
}

/// The complete exchanges that ctrace reports of a container.
fn captured(trace: &RunningTrace, container: &str) -> Result<Vec<Exchange>> {
    let mut exchanges = Vec::new();
    for line in trace.lines()? {
        if line["type"] != "request" || line["container"]["name"] != container {
            continue;
        }
        // The server may have closed the connection before its last call returned.
        ensure!(line["complete"] == true || line["cut_off"] == "closed", "incomplete: {line}");
        let text = |pointer: &str| line.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let size = |pointer: &str| line.pointer(pointer).and_then(Value::as_u64).context("no size");
        let query = text("/url/query").map_or(String::new(), |query| format!("?{query}"));
        exchanges.push(Exchange {
            target: text("/url/path").map(|path| path + &query),
            method: text("/http/request/method"),
            status: line.pointer("/http/response/status_code").and_then(Value::as_u64),
            call_status: text("/rpc/response/status_code"),
            up: size("/http/request/body/size")?,
            down: size("/http/response/body/size")?,
        });
    }
    exchanges.sort();
    Ok(exchanges)
}

/// The lengths of the messages of gRPC that ctrace reports of a container, in one direction of the calls.
fn message_lengths(
    trace: &RunningTrace,
    container: &str,
    is_up: impl Fn(&Value) -> bool,
) -> Result<Vec<u64>> {
    let lines = trace.lines()?;
    let of_it =
        lines.iter().filter(|line| line["type"] == "message" && line["container"]["name"] == container);
    let lengths = of_it.filter(|line| is_up(line)).filter_map(|line| line["message"]["length"].as_u64());
    let mut lengths: Vec<u64> = lengths.map(|length| length - 5).collect();
    lengths.sort_unstable();
    Ok(lengths)
}

/// A pair of a release's programs, and the directory that is `/plan` in both containers.
fn start(release: &Release, mapped: &[&str], label: &str, server: &[&str], directory: &Path) -> Result<Pair> {
    let plan = format!("--volume={}:/plan", directory.display());
    let of_ours = |name: &str| Ok(format!("--volume={}:/{name}:ro", program(name)?.display()));
    let (tonic, go): (Result<String>, Result<String>) = (of_ours("tls-tonic"), of_ours("http-pair"));
    let options = [plan, tonic?, go?, "--env=SSLKEYLOGFILE=/plan/keys".to_owned()];
    let options = options.each_ref().map(String::as_str);
    let pair = Pair::start(&PairSetup { release, label, options: &options, server, mapped })?;
    pair.wait_for_port(PORT)?;
    Ok(pair)
}

/// Runs a client, and checks that both ends have `count` exchanges, as tshark has them.
fn check(pair: &Pair, directory: &Path, client: &[&str], count: usize) -> Result<()> {
    let packets = PacketCapture::start(pair, directory)?;
    let ctrace = pair.trace(&TRACE)?;
    pair.client.exec(client)?;
    let packets = packets.packets(&directory.join("keys"))?;
    let trace = ctrace.finish()?;
    let mut decoded = Decoded::of(&packets)?;
    let messages = std::mem::take(&mut decoded.messages);
    let expected = decoded.sorted();
    ensure!(expected.len() == count, "tshark has {} exchanges: {expected:?}", expected.len());
    for container in [pair.client.name(), pair.server.name()] {
        let captured = captured(&trace, container)?;
        let differs = expected.iter().zip(&captured).find(|(tshark, ctrace)| tshark != ctrace);
        ensure!(
            differs.is_none() && captured.len() == expected.len(),
            "{container}: {} exchanges, tshark has {}; the first that differ: {differs:?}",
            captured.len(),
            expected.len()
        );
        for (is_up, mut expected) in [true, false].into_iter().zip(messages.clone()) {
            expected.sort_unstable();
            let is_client = container == pair.client.name();
            let of_way = |line: &Value| is_up == (is_client == (line["message"]["direction"] == "transmit"));
            let captured = message_lengths(&trace, container, of_way)?;
            ensure!(captured == expected, "{container}: messages {captured:?}, tshark has {expected:?}");
        }
    }
    let lost = trace.counted("/lost/events")?;
    ensure!(lost == 0, "{lost} lost");
    Ok(())
}

/// Writes the requests of curl.
fn write_requests(directory: &Path, version: &str) -> Result<()> {
    for size in SIZES {
        fs::write(directory.join(size.to_string()), "x".repeat(size))?;
    }
    let mut file = fs::File::create(directory.join("curl.conf"))?;
    if version == "http2" {
        // The others wait until the first one has connected.
        writeln!(file, "parallel\nparallel-max = 8")?;
    }
    for request in 0..REQUESTS {
        let has_body = request % 3 == 1;
        // That answer does not wait for a body.
        let path = if request % 5 == 4 && !has_body { "missing" } else { "orders" };
        writeln!(file, "url = \"https://localhost:{PORT}/{path}?number={request}\"\n{version}\nsilent")?;
        writeln!(file, "output = \"/dev/null\"")?;
        if has_body {
            let size = SIZES[request / 3 % SIZES.len()];
            writeln!(file, "data-binary = \"@/plan/{size}\"\nheader = \"Content-Type: text/plain\"")?;
        }
        if request + 1 < REQUESTS {
            writeln!(file, "next")?;
        }
    }
    Ok(())
}

#[test]
fn http_1() -> Result<()> {
    let directory = TempDir::new()?;
    write_requests(directory.path(), "http1.1")?;
    check(
        &start(&TRIXIE, &MAPPED, "tshark-http-1", CADDY, directory.path())?,
        directory.path(),
        CURL,
        REQUESTS,
    )
}

#[test]
fn http_2() -> Result<()> {
    let directory = TempDir::new()?;
    write_requests(directory.path(), "http2")?;
    check(
        &start(&TRIXIE, &MAPPED, "tshark-http-2", CADDY, directory.path())?,
        directory.path(),
        CURL,
        REQUESTS,
    )
}

#[test]
fn grpc() -> Result<()> {
    // What was sent of calls that were broken off, or not waited for, depends on which end was faster.
    let is_waited_for = |call: &PlannedCall| {
        matches!(call.end, PlannedEnd::Status(_)) && call.path.starts_with("/ctrace.Test/")
    };
    let calls: Vec<_> = plan(CALLS).into_iter().filter(is_waited_for).collect();
    let directory = CallDirectory::new(&calls)?;
    directory.go()?;
    let pair = start(&TRIXIE, &MAPPED, "tshark-grpc", &[TONIC, &["server"]].concat(), directory.path())?;
    check(&pair, directory.path(), &[TONIC, &["client"]].concat(), calls.len())
}

/// Checks what was captured since a client has sent half of its requests: a part of what tshark has, and
/// nothing else. `run` attaches in between.
fn check_in_the_middle(
    pair: &Pair,
    directory: &Path,
    count: usize,
    run: impl FnOnce() -> Result<RunningTrace>,
) -> Result<()> {
    let packets = PacketCapture::start(pair, directory)?;
    let trace = run()?;
    let expected = Decoded::of(&packets.packets(&directory.join("keys"))?)?.logged()?;
    ensure!(expected.len() == count, "tshark has {} exchanges: {expected:?}", expected.len());
    for container in [&pair.client, &pair.server] {
        let captured = http::captured(&trace, container.name())?;
        let counts = check_joined(&captured, &expected, &expected)?;
        println!("{}: {counts:?}", container.name());
        let JoinedExchanges { complete, partial, unpaired, .. } = counts;
        ensure!(complete + partial + unpaired >= count / 4, "{}: {counts:?}", container.name());
    }
    Ok(())
}

/// Checks peers that do what `http-peers.py` says: from the first byte, and joined in the middle.
fn check_peers(label: &str, server: &[&str], client: &[&str]) -> Result<()> {
    let plan = PlanDirectory::new(&http::plan(REQUESTS))?;
    plan.go()?;
    let pair = start(&HTTP, &MAPPED_BY_HTTP, label, server, plan.path())?;
    check(&pair, plan.path(), client, REQUESTS).context("from the first byte")?;
    plan.hold()?;
    let held = pair.server.logs()?.lines().filter(|line| *line == "held").count();
    check_in_the_middle(&pair, plan.path(), REQUESTS, || {
        let mut running = pair.start_client(client)?;
        // The last two of the half are held by the server.
        running.wait_for_lines(REQUESTS / 2 - 2)?;
        pair.server_lines("held", held + 2)?;
        let ctrace = pair.trace(&TRACE)?;
        plan.go()?;
        running.finish()?;
        ctrace.finish()
    })
    .context("joined in the middle")
}

const PYTHON: [&str; 2] = ["/usr/bin/python3", "/programs/http-peers.py"];
const NODE: &str = "/programs/http-peers.mjs";

#[test]
fn node_by_http_2() -> Result<()> {
    let client = ["/usr/bin/node", "--use-system-ca", "--tls-keylog=/plan/keys", NODE, "client", "h2"];
    check_peers("tshark-node", &["/usr/bin/node", NODE, "server", "h2"], &client)
}

#[test]
fn go_by_http_1() -> Result<()> {
    check_peers("tshark-go-1", &["/http-pair", "server", "h1"], &["/http-pair", "client", "h1"])
}

#[test]
fn go_by_http_2() -> Result<()> {
    check_peers("tshark-go-2", &["/http-pair", "server", "h2"], &["/http-pair", "client", "h2"])
}

#[test]
fn python_by_http_2() -> Result<()> {
    let of = |program| [&PYTHON[..], &[program, "h2"]].concat();
    check_peers("tshark-python", &of("hypercorn"), &of("httpx"))
}

fn check_nginx(label: &str, version: &str) -> Result<()> {
    let requests = files_plan(REQUESTS);
    let plan = PlanDirectory::new(&requests)?;
    let gate = Gate::new(&plan)?;
    let pair = start(&HTTP, &MAPPED_BY_HTTP, label, &[&PYTHON[..], &["nginx"]].concat(), plan.path())?;
    let run = CurlRun { plan: &requests, version, waits_after: None };
    run.write(&plan)?;
    check(&pair, plan.path(), CURL, REQUESTS).context("from the first byte")?;
    CurlRun { waits_after: Some(REQUESTS / 2), ..run }.write(&plan)?;
    check_in_the_middle(&pair, plan.path(), REQUESTS + 1, || {
        let running = pair.start_client(CURL)?;
        let waiting = gate.wait()?;
        let ctrace = pair.trace(&TRACE)?;
        drop(waiting);
        running.finish()?;
        ctrace.finish()
    })
    .context("joined in the middle")
}

#[test]
fn nginx_by_http_1() -> Result<()> {
    check_nginx("tshark-nginx-1", "http1.1")
}

#[test]
fn nginx_by_http_2() -> Result<()> {
    check_nginx("tshark-nginx-2", "http2")
}
