//! `ctrace requests` with servers and clients of HTTP that others have written: both ends of each connection
//! are traced, from its first byte and joined in the middle, and what is reported is what each end has
//! logged. Needs root, BPF, Docker, and once the machine's package sources.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::third_party::client::Start;
use ctrace_tests::third_party::http::{
    CapturedExchange, CurlRun, Gate, LOG, LoggedExchange, PORT, PeerCase, PeerTransport, PlanDirectory,
    PlannedRequest, REQUESTS, TRACE, captured, check_equal, check_joined, check_peers, check_same,
    files_plan, logged,
};
use ctrace_tests::third_party::{HTTP, Pair, PairSetup};
use ctrace_tests::{RunningTrace, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
/// What clients use, so that ctrace has attached to it before.
const MAPPED: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/libssl.so.3",
    "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "/usr/bin/node",
    "/http-pair",
];
/// The same of curl and h2load.
const LIBSSL: [&str; 2] = [MAPPED[0], MAPPED[1]];

const HYPERCORN: &[&str] = &["/usr/bin/python3", "/programs/http-peers.py", "hypercorn"];
const HTTPX: &[&str] = &["/usr/bin/python3", "/programs/http-peers.py", "httpx"];
const AIOHTTP_SERVER: &[&str] = &["/usr/bin/python3", "/programs/http-peers.py", "aiohttp-server"];
const AIOHTTP: &[&str] = &["/usr/bin/python3", "/programs/http-peers.py", "aiohttp"];
const NODE_SERVER: &[&str] = &["/usr/bin/node", "/programs/http-peers.mjs", "server"];
const NODE: &[&str] = &["/usr/bin/node", "--use-system-ca", "/programs/http-peers.mjs", "client"];
const GO_SERVER: &[&str] = &["/http-pair", "server"];
const GO: &[&str] = &["/http-pair", "client"];
const UV: [&str; 7] = [
    "/usr/bin/uv",
    "pip",
    "install",
    "--dry-run",
    "--python=/usr/bin/python3",
    "--break-system-packages",
    "--no-cache",
];

const BASE: PeerCase = PeerCase {
    release: &HTTP,
    label: "",
    environment: &[],
    server: &[],
    client: &[],
    mapped: &MAPPED,
    protocol: "h1",
    client_start: Start::Seen,
    transport: PeerTransport::Tls,
    least_complete: 0,
};

/// By HTTP/1.1 and by HTTP/2.
fn check_both(case: &PeerCase) -> Result<()> {
    check_peers(case)?;
    check_peers(&PeerCase { protocol: "h2", least_complete: 50, ..*case })
}

#[test]
fn hypercorn_and_httpx() -> Result<()> {
    check_both(&PeerCase { label: "hypercorn", server: HYPERCORN, client: HTTPX, ..BASE })
}

#[test]
fn aiohttp() -> Result<()> {
    check_peers(&PeerCase { label: "aiohttp", server: AIOHTTP_SERVER, client: AIOHTTP, ..BASE })
}

#[test]
fn node() -> Result<()> {
    check_both(&PeerCase { label: "node", server: NODE_SERVER, client: NODE, ..BASE })
}

#[test]
fn go() -> Result<()> {
    check_both(&PeerCase { label: "go", server: GO_SERVER, client: GO, ..BASE })
}

#[test]
fn go_and_node() -> Result<()> {
    check_both(&PeerCase { label: "go-node", server: GO_SERVER, client: NODE, ..BASE })
}

/// Without TLS. HTTP/2 begins at once, as both know that the other speaks it.
#[test]
fn hypercorn_and_httpx_without_tls() -> Result<()> {
    let case = PeerCase { label: "hypercorn", server: HYPERCORN, client: HTTPX, ..BASE };
    check_both(&PeerCase { transport: PeerTransport::Tcp, ..case })
}

#[test]
fn aiohttp_without_tls() -> Result<()> {
    let case = PeerCase { label: "aiohttp", server: AIOHTTP_SERVER, client: AIOHTTP, ..BASE };
    check_peers(&PeerCase { transport: PeerTransport::Tcp, ..case })
}

#[test]
fn node_without_tls() -> Result<()> {
    let case = PeerCase { label: "node", server: NODE_SERVER, client: NODE, ..BASE };
    check_both(&PeerCase { transport: PeerTransport::Tcp, ..case })
}

#[test]
fn go_without_tls() -> Result<()> {
    let case = PeerCase { label: "go", server: GO_SERVER, client: GO, ..BASE };
    check_peers(&PeerCase { transport: PeerTransport::Tcp, ..case })
}

#[test]
fn node_and_go() -> Result<()> {
    let case = PeerCase { label: "node-go", server: NODE_SERVER, client: GO, ..BASE };
    check_peers(&PeerCase { protocol: "h2", least_complete: 50, ..case })
}

/// rustls, stripped: uv asks an index for packages.
#[test]
fn hypercorn_and_uv() -> Result<()> {
    let server = [HYPERCORN, &["h2"]].concat();
    let certificates = "--env=SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt";
    let setup = PairSetup {
        release: &HTTP,
        label: "uv",
        options: &[certificates],
        server: &server,
        mapped: &["/usr/bin/uv"],
    };
    let pair = Pair::start(&setup)?;
    pair.wait_for_port(PORT)?;
    let ctrace = pair.trace(&TRACE)?;
    for number in 0..3 {
        let index = format!("--index-url=https://localhost:{PORT}/404/{}/length/{number}", 1000 * number);
        let command = [&UV, [index.as_str(), "one", "two", "three"].as_slice()].concat();
        // It does not find them.
        let mut uv = pair.client.exec_background(&command)?;
        uv.wait(PATIENCE)?;
    }
    let trace = ctrace.finish()?;
    let server = logged(&pair.server.logs()?)?;
    ensure!(server.len() >= 9, "{server:?}");
    for container in [&pair.client, &pair.server] {
        // It breaks off responses that say that there is nothing, so they are complete or not.
        let counts = check_joined(&captured(&trace, container.name())?, &server, &server)?;
        println!("uv: {} {counts:?}", container.name());
        ensure!(counts.missing == 0 && counts.unpaired == 0, "{}: {counts:?}", container.name());
    }
    Ok(())
}

const NGINX: &[&str] = &["/usr/bin/python3", "/programs/http-peers.py", "nginx"];
const CADDY: &[&str] =
    &["/usr/bin/caddy", "run", "--config", "/programs/http-caddy.conf", "--adapter", "caddyfile"];
const CURL: [&str; 3] = ["/usr/bin/curl", "-K", "/plan/curl.conf"];

/// The request with which curl waits, and the size of the body of its response.
const WAITS: &str = "/200/waits?page=half";
const WAITS_BODY: u64 = 27;

/// How what was captured is compared with a log.
type Comparison = fn(&[CapturedExchange], &[LoggedExchange]) -> Result<()>;

/// curl breaks off a stream when it has the whole body. A server of several threads may have read that before
/// its call that sends the body has returned.
fn check_broken_off(captured: &[CapturedExchange], logged: &[LoggedExchange]) -> Result<()> {
    let counts = check_joined(captured, logged, logged)?;
    let is_there = counts.missing == 0 && counts.unpaired == 0 && 10 * counts.complete >= 9 * counts.logged;
    ensure!(is_there, "{counts:?}");
    Ok(())
}

/// A server of files, with curl, which sends eight requests at a time.
fn check_with_curl(
    label: &str,
    server: &[&str],
    log_of: fn(&str) -> Result<Vec<LoggedExchange>>,
    of_server: Comparison,
) -> Result<()> {
    let plan = files_plan(REQUESTS);
    let directory = PlanDirectory::new(&plan)?;
    let gate = Gate::new(&directory)?;
    let volume = directory.volume();
    let pair =
        Pair::start(&PairSetup { release: &HTTP, label, options: &[&volume], server, mapped: &LIBSSL })?;
    pair.wait_for_port(PORT)?;
    let mut before = 0;
    for version in ["http1.1", "http2"] {
        CurlRun { plan: &plan, version, waits_after: None }.write(&directory)?;
        let ctrace = pair.trace(&TRACE)?;
        let client = logged(&pair.client.exec(&CURL)?)?;
        ensure!(client.len() == REQUESTS, "{} of curl", client.len());
        before += REQUESTS;
        let server = server_log(&pair, log_of, before, &client)?;
        let trace = ctrace.finish()?;
        for (container, logged, check) in
            [(&pair.client, &client, check_equal as Comparison), (&pair.server, &server, of_server)]
        {
            check(&captured(&trace, container.name())?, logged)
                .with_context(|| format!("{version}, {}: {}", container.name(), trace.stderr))?;
        }

        CurlRun { waits_after: Some(REQUESTS / 2), plan: &plan, version }.write(&directory)?;
        let running = pair.start_client(&CURL)?;
        let waiting = gate.wait()?;
        let ctrace = pair.trace(&TRACE)?;
        drop(waiting);
        let mut client = logged(&running.finish()?)?;
        // curl counts the mark of the end of a chunked body as a part of it.
        let waits = client.iter_mut().find(|exchange| exchange.target == WAITS);
        waits.context("curl did not wait")?.request = 0;
        before += REQUESTS + 1;
        let server = server_log(&pair, log_of, before, &client)?;
        let trace = ctrace.finish()?;
        for (container, logged) in [(&pair.client, &client), (&pair.server, &server)] {
            let since = logged.get(REQUESTS / 2..).unwrap_or_default();
            let captured = captured(&trace, container.name())?;
            let counts = check_joined(&captured, logged, since)
                .with_context(|| format!("{version}, joined, {}", container.name()))?;
            println!("{label} {version}: {} {counts:?}", container.name());
            let least = if version == "http2" { counts.logged / 2 } else { 0 };
            let is_there = counts.complete >= least && 4 * counts.missing <= counts.logged;
            ensure!(is_there, "{version}, joined, {}: {counts:?}; {}", container.name(), trace.stderr);
        }
    }
    Ok(())
}

/// The last exchanges of the log of a server, as many as curl's. A server that does not log the sizes of
/// bodies that it receives has those of curl.
fn server_log(
    pair: &Pair,
    log_of: fn(&str) -> Result<Vec<LoggedExchange>>,
    count: usize,
    client: &[LoggedExchange],
) -> Result<Vec<LoggedExchange>> {
    let all = || Ok(Some(log_of(&pair.server.logs()?)?).filter(|all| all.len() >= count));
    let mut all = wait_until("line in the server's log", PATIENCE, all)?;
    ensure!(all.len() == count, "{} exchanges in the server's log, not {count}", all.len());
    let mut server = all.split_off(count - client.len());
    for exchange in &mut server {
        let of_curl = client.iter().find(|other| other.target == exchange.target);
        let of_curl = of_curl.with_context(|| format!("curl did not send {exchange:?}"))?;
        exchange.request = exchange.request.max(of_curl.request);
        // caddy does not count what curl had already got when it broke off the stream.
        exchange.response = exchange.response.max(of_curl.response);
        // nginx counts the interim response (100) as a part of the body.
        exchange.response = if exchange.target == WAITS { WAITS_BODY } else { exchange.response };
    }
    Ok(server)
}

/// The exchanges in caddy's log.
fn logged_by_caddy(output: &str) -> Result<Vec<LoggedExchange>> {
    let lines = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_access = lines.filter(|line| line["request"].is_object());
    let exchange = |line: &Value| -> Option<LoggedExchange> {
        let text = |pointer: &str| Some(line.pointer(pointer)?.as_str()?.to_owned());
        let (method, target) = (text("/request/method")?, text("/request/uri")?);
        let (status, response) = (line.get("status")?.as_u64()?, line.get("size")?.as_u64()?);
        Some(LoggedExchange { method, target, status, request: 0, response })
    };
    of_access.map(|line| exchange(&line).with_context(|| format!("a line of caddy: {line}"))).collect()
}

#[test]
fn nginx_and_curl() -> Result<()> {
    check_with_curl("nginx", NGINX, logged, check_equal)
}

#[test]
fn caddy_and_curl() -> Result<()> {
    check_with_curl("caddy", CADDY, logged_by_caddy, check_broken_off)
}

/// The requests of h2load, its connections and the requests that are under way on each of them.
const LOAD: [&str; 4] = ["-n4000", "-c4", "-m100", "-t1"];
const LOAD_REQUESTS: usize = 4000;

/// Requests of h2load, a hundred streams at a time on each connection, whose responses come in another order.
struct Load {
    pair: Pair,
    trace: RunningTrace,
    /// What h2load says of them.
    said: String,
    server_log: String,
}

impl Load {
    /// Sends the requests of a plan, again and again, to a server that has written a line of its log for each
    /// when it ends.
    fn run(label: &str, server: &[&str], plan: &[PlannedRequest], log: Option<&str>) -> Result<Self> {
        let directory = PlanDirectory::new(plan)?;
        CurlRun { plan, version: "http2", waits_after: None }.write(&directory)?;
        let uris: Vec<String> =
            plan.iter().map(|request| format!("https://localhost:{PORT}{}", request.target)).collect();
        fs::write(directory.path().join("uris"), uris.join("\n") + "\n")?;
        let volume = directory.volume();
        let options = [volume.as_str()];
        let setup = PairSetup { release: &HTTP, label, options: &options, server, mapped: &LIBSSL };
        let pair = Pair::start(&setup)?;
        pair.wait_for_port(PORT)?;
        let ctrace =
            pair.trace(&["requests", "-v", "--no-cleartext", "--ring-size", "128M", "-o", "json"])?;
        let said =
            pair.client.exec(&[&["/usr/bin/h2load"], LOAD.as_slice(), &["-i", "/plan/uris"]].concat())?;
        ensure!(said.contains("4000 total, 4000 started, 4000 done"), "{said}");
        let server_log = match log {
            Some(start) => pair.server_lines(start, LOAD_REQUESTS)?,
            None => String::new(),
        };
        let trace = ctrace.finish()?;
        ensure!(trace.counted("/lost/events")? == 0, "lost: {}", trace.summary()?);
        Ok(Self { pair, trace, said, server_log })
    }

    fn check(&self, expected: &[LoggedExchange]) -> Result<()> {
        for container in [&self.pair.client, &self.pair.server] {
            check_same(&captured(&self.trace, container.name())?, expected)
                .with_context(|| format!("{}: {}", container.name(), self.trace.stderr))?;
        }
        Ok(())
    }

    /// The number before a word in a line of h2load's, or in the brackets before it.
    fn figure(&self, line: &str, word: &str) -> Result<u64> {
        let line = self.said.lines().find_map(|said| said.trim_start().strip_prefix(line));
        let before = line.and_then(|line| line.split(',').find_map(|part| part.trim().strip_suffix(word)));
        let number = before.and_then(|before| before.split_whitespace().next_back());
        let number = number.and_then(|number| number.trim_matches(['(', ')']).parse().ok());
        number.with_context(|| format!("h2load does not say how many {word}: {}", self.said))
    }
}

#[test]
fn nginx_and_h2load() -> Result<()> {
    let plan: Vec<_> = files_plan(REQUESTS).into_iter().filter(|request| request.method == "GET").collect();
    let load = Load::run("h2load", NGINX, &plan, Some(LOG))?;
    load.check(&logged(&load.server_log)?)
}

/// Its frames are padded, and it logs nothing: what h2load has counted is compared.
#[test]
fn nghttpd_and_h2load() -> Result<()> {
    let server = ["/usr/sbin/nghttpd", "--htdocs=/plan", "--padding=100", "--workers=2"];
    let server = [&server[..], &["8443", "/server.pem", "/server.pem"]].concat();
    let is_asked = |request: &PlannedRequest| request.target.starts_with("/dots/") || request.body.is_none();
    let plan: Vec<_> = files_plan(REQUESTS).into_iter().filter(is_asked).take(40).collect();
    let load = Load::run("nghttpd", &server, &plan, None)?;
    let mut expected: Vec<LoggedExchange> = plan.iter().map(of_file).collect();
    let times = LOAD_REQUESTS / plan.len();
    let missing = expected.iter().filter(|exchange| exchange.status == 404).count() * times;
    let files = expected.iter().map(|exchange| exchange.response).sum::<u64>() * times as u64;
    ensure!(load.figure("status codes:", "4xx")? == missing as u64, "not {missing}: {}", load.said);
    ensure!(load.figure("status codes:", "2xx")? == (LOAD_REQUESTS - missing) as u64, "{}", load.said);
    // The pages that say that there is no such file are of one size.
    let pages = load.figure("traffic:", "data")?.checked_sub(files).context("h2load has fewer bytes")?;
    for exchange in expected.iter_mut().filter(|exchange| exchange.status == 404) {
        exchange.response = pages / missing as u64;
    }
    ensure!(pages.is_multiple_of(missing as u64) && pages > 0, "{pages} bytes: {}", load.said);
    load.check(&vec![expected; times].concat())
}

/// What a server of files answers.
fn of_file(request: &PlannedRequest) -> LoggedExchange {
    let size = request.target.strip_prefix("/dots/").and_then(|rest| rest.split('?').next()?.parse().ok());
    let (method, target) = ("GET".to_owned(), request.target.clone());
    let status = if size.is_some() { 200 } else { 404 };
    LoggedExchange { method, target, status, request: 0, response: size.unwrap_or_default() }
}
