//! What the options of `ctrace requests` do, on live traffic of curl and servers of HTTP that others have
//! written. Needs root, BPF, Docker, and once the machine's package sources.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::third_party::http::{LOG, PlanDirectory, captured, check_equal, logged};
use ctrace_tests::third_party::{Certificate, HTTP, Pair, PairSetup};
use ctrace_tests::{
    Child, Ctrace, OutputLines, RunningTrace, Server, TestContainer, program, require_live, script,
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 8443;
const ORIGIN: &str = "https://localhost:8443";
const MAPPED: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/libssl.so.3", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3"];
/// What `third-party-server.py` sends as a body.
const BODY_SIZE: usize = 70_022;

/// A server in Go, which does what targets say (`/STATUS/SIZE/KIND/NUMBER`), and curl next to it.
struct Scene {
    pair: Pair,
    directory: PlanDirectory,
}

impl Scene {
    fn start(label: &str, protocol: &str) -> Result<Self> {
        let directory = PlanDirectory::new(&[])?;
        let volumes =
            [directory.volume(), format!("--volume={}:/http-pair:ro", program("http-pair")?.display())];
        let options = volumes.each_ref().map(String::as_str);
        let server = ["/http-pair", "server", protocol];
        let setup = PairSetup { release: &HTTP, label, options: &options, server: &server, mapped: &MAPPED };
        let pair = Pair::start(&setup)?;
        pair.wait_for_port(PORT)?;
        Ok(Self { pair, directory })
    }

    /// `ctrace requests` of the client.
    fn trace(&self, options: &[&str]) -> Result<Ctrace> {
        Ctrace::start(&[&["requests"], options, &["--container", self.pair.client.name()]].concat())
    }

    /// Sends requests on one connection.
    fn curl(&self, options: &[&str], targets: &[&str]) -> Result<()> {
        self.pair
            .client
            .exec(&curl(options, targets).iter().map(String::as_str).collect::<Vec<_>>())
            .map(drop)
    }
}

fn curl(options: &[&str], targets: &[&str]) -> Vec<String> {
    let mut command: Vec<String> =
        ["/usr/bin/curl", "-sS"].iter().chain(options).map(|&word| word.to_owned()).collect();
    for target in targets {
        command.extend(["-o", "/dev/null"].map(str::to_owned));
        command.push(format!("{ORIGIN}{target}"));
    }
    command
}

fn requests(trace: &RunningTrace) -> Result<Vec<Value>> {
    Ok(trace.lines()?.into_iter().filter(|line| line["type"] == "request").collect())
}

fn string_at<'a>(record: &'a Value, pointer: &str) -> Option<&'a str> {
    record.pointer(pointer)?.as_str()
}

fn paths(trace: &RunningTrace) -> Result<BTreeSet<String>> {
    requests(trace)?
        .iter()
        .map(|line| Ok(string_at(line, "/url/path").context("no path")?.to_owned()))
        .collect()
}

#[test]
fn a_command_from_its_first_byte() -> Result<()> {
    require_live()?;
    let certificate = Certificate::get()?;
    let server = ["http".into(), certificate.server().into_os_string()];
    let mut python = Command::new("/usr/bin/python3");
    let python = python.arg(script("third-party-server.py")).args(server);
    let mut server = Child::start_with_stdout(python, Stdio::piped())?;
    let mut lines = OutputLines::of(server.take_stdout().context("no output")?);
    let line = lines.wait("line with the port", PATIENCE, |line| line.starts_with("listening "))?;
    let url = format!("https://localhost:{}/orders/42?page=2", line.trim_start_matches("listening "));
    let directory = tempfile::tempdir()?;
    let records = directory.path().join("records");
    let json = format!("json={}", records.display());
    let authority = certificate.authority().display().to_string();
    let curl = ["/usr/bin/curl", "-sS", "--cacert", &authority, &url];
    let options = ["requests", "--hold-limit", "20s", "-o", &json, "--"];
    let run = Ctrace::run_to_end(&[options.as_slice(), &curl].concat())?;
    ensure!(run.code() == Some(0) && run.stdout.len() == BODY_SIZE, "{:?}: {}", run.status, run.stderr);
    let trace = RunningTrace { stdout: std::fs::read(records)?, ..run };
    let requests = requests(&trace)?;
    let [request] = requests.as_slice() else { anyhow::bail!("not one request: {requests:?}") };
    let expected = [
        ("/http/request/method", Value::from("GET")),
        ("/url/path", "/orders/42".into()),
        ("/url/query", "page=2".into()),
        ("/http/response/status_code", 200.into()),
        ("/http/response/body/size", BODY_SIZE.into()),
        ("/complete", true.into()),
        ("/connection/from_start", true.into()),
        ("/connection/role", "client".into()),
        ("/process/comm", "curl".into()),
    ];
    for (pointer, value) in expected {
        ensure!(request.pointer(pointer) == Some(&value), "{pointer} is not {value}: {request}");
    }
    Ok(())
}

/// The command is in no container, and its connection is shared by all requests.
#[test]
fn a_command_with_many_streams_from_its_first_byte() -> Result<()> {
    let scene = Scene::start("command-h2", "h2")?;
    let authority = Certificate::get()?.authority().display().to_string();
    let kinds = ["200/60000/length", "404/70/length", "200/9000/pieces", "500/1/length", "204/0/length"];
    let kinds = kinds.iter().cycle().zip(0..40);
    let targets: Vec<String> =
        kinds.map(|(kind, number)| format!("/{kind}/{number}?page={number}")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let directory = tempfile::tempdir()?;
    let records = directory.path().join("records");
    let json = format!("json={}", records.display());
    // It becomes curl in the network of the server.
    let network = format!("--net=/proc/{}/ns/net", scene.pair.server.pid());
    let options = ["--http2", "--parallel", "--parallel-max", "20", "--cacert", &authority];
    let command = [vec!["nsenter".to_owned(), network], curl(&options, &targets)].concat();
    let command = command.iter().map(String::as_str);
    let arguments = ["requests", "--hold-limit", "20s", "-o", &json, "--"].into_iter().chain(command);
    let run = Ctrace::run_to_end(&arguments.collect::<Vec<_>>())?;
    ensure!(run.code() == Some(0), "{:?}: {}", run.status, run.stderr);
    let trace = RunningTrace { stdout: std::fs::read(records)?, ..run };
    let server = logged(&scene.pair.server_lines(LOG, targets.len())?)?;
    ensure!(server.len() == targets.len(), "{} of {} were sent", server.len(), targets.len());
    check_equal(&captured(&trace, None)?, &server).with_context(|| trace.stderr.clone())?;
    let requests = requests(&trace)?;
    for request in &requests {
        let is_seen = request.pointer("/connection/from_start") == Some(&Value::from(true))
            && string_at(request, "/network/protocol/version") == Some("2")
            && string_at(request, "/process/comm") == Some("curl")
            && request["duration"].as_u64() >= request["time_to_first_byte"].as_u64();
        ensure!(is_seen && request["time_to_first_byte"].is_u64(), "{request}");
    }
    let connections: BTreeSet<_> =
        requests.iter().map(|request| request.pointer("/connection/id").and_then(Value::as_u64)).collect();
    ensure!(connections.len() < targets.len() / 4, "curl made {} connections", connections.len());
    ensure!(trace.counted("/requests/exchanges")? == server.len() as u64, "{}", trace.summary()?);
    Ok(())
}

const SECRET: [&str; 8] = [
    "-H",
    "Authorization: Bearer abcdef-credential",
    "-H",
    "Cookie: session=abcdef-cookie",
    "-H",
    "Content-Type: application/json",
    "--data-binary",
    r#"{"order":7,"items":["coffee"]}"#,
];

#[test]
fn headers_bodies_and_secrets() -> Result<()> {
    let scene = Scene::start("headers", "h2")?;
    let directory = tempfile::tempdir()?;
    for (option, shows) in [(None, false), (Some("--show-secrets"), true)] {
        let json = directory.path().join(format!("json-{shows}"));
        let output = format!("json={}", json.display());
        let options = [&["--headers", "--body", "-o", "text", "-o", &output], option.as_slice()].concat();
        let ctrace = scene.trace(&options)?;
        scene.curl(&SECRET, &["/500/200/length/1?token=abcdef-token"])?;
        let run = ctrace.finish()?;
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        let expected = [
            "HTTP/2 POST localhost:8443/500/200/length/1?token=",
            "\"items\": [",
            " 500 ",
            "/500/200/length/1?",
        ];
        for part in expected {
            ensure!(text.contains(part), "no {part}: {text}");
        }
        ensure!(text.contains("Bearer ***(17)") != shows, "{text}");
        let trace = RunningTrace { stdout: std::fs::read(&json)?, ..run };
        let [request] = requests(&trace)?.try_into().ok().context("not one request")?;
        let authorization = string_at(&request, "/http/request/header/authorization/0");
        ensure!(authorization.is_some_and(|value| value.starts_with("Bearer ")), "{request}");
        ensure!(string_at(&request, "/http/response/header/content-length/0") == Some("200"), "{request}");
        ensure!(string_at(&request, "/request/body/data") == Some(SECRET[7]), "{request}");
        let media_type = string_at(&request, "/response/body/media_type");
        ensure!(media_type.is_some_and(|media_type| media_type.starts_with("text/plain")), "{request}");
        for secret in ["abcdef-credential", "abcdef-cookie", "abcdef-token"] {
            let of_request = format!("{:?} {:?}", request.pointer("/http"), request.pointer("/url"));
            ensure!(of_request.contains(secret) == shows, "{secret}: {request}");
            // The body of the response repeats the target, and bodies are shown as they are.
            let elsewhere = text.lines().filter(|line| !line.contains("< /500/"));
            ensure!(elsewhere.collect::<String>().contains(secret) == shows, "{secret}: {text}");
        }
    }
    Ok(())
}

/// Each filter with the numbers of the requests that it lets through.
const FILTERS: &[(&[&str], &[u8])] = &[
    (&[], &[1, 2, 3, 4, 5]),
    (&["--errors"], &[2, 3]),
    (&["--status", "404"], &[2]),
    (&["--status", "5xx", "--status", "404"], &[2, 3]),
    (&["--method", "POST"], &[4]),
    (&["--path", "/200/*/length/*"], &[1, 4]),
    (&["--path", "/200/*", "--method", "GET"], &[1, 5]),
    (&["--host", "localhost"], &[1, 2, 3, 4, 5]),
    (&["--host", "*.example"], &[]),
    (&["--slower-than", "300ms"], &[5]),
];

#[test]
fn filters_and_figures() -> Result<()> {
    let scene = Scene::start("filters", "h1")?;
    let traces: Result<Vec<Ctrace>> =
        FILTERS.iter().map(|(options, _)| scene.trace(&[&["-o", "json"], *options].concat())).collect();
    let traces = traces?;
    let by_path = scene.trace(&["-o", "json", "--stats", "path"])?;
    let as_text = scene.trace(&["-o", "text", "--stats", "status"])?;
    scene.curl(&[], &["/200/50/length/1", "/404/60/length/2", "/503/70/length/3"])?;
    scene.curl(&["-d", "body"], &["/200/50/length/4"])?;
    let held = curl(&[], &["/200/9000/held/5"]);
    let held = scene.pair.start_client(&held.iter().map(String::as_str).collect::<Vec<_>>())?;
    scene.pair.server_lines("held", 1)?;
    thread::sleep(Duration::from_millis(400));
    scene.directory.go()?;
    held.finish()?;
    for ((options, numbers), ctrace) in FILTERS.iter().zip(traces) {
        let trace = ctrace.finish()?;
        let found: BTreeSet<String> =
            paths(&trace)?.iter().filter_map(|path| Some(path.rsplit('/').next()?.to_owned())).collect();
        let expected: BTreeSet<String> = numbers.iter().map(u8::to_string).collect();
        ensure!(found == expected, "{options:?}: {found:?}, not {expected:?}; {}", trace.stderr);
    }
    check_figures(&by_path.finish()?)?;
    let table = String::from_utf8_lossy(&as_text.finish()?.stdout).into_owned();
    let rows: Vec<&str> = table.lines().filter_map(|line| line.split_whitespace().next_back()).collect();
    ensure!(["STATUS", "200", "404", "503"].iter().all(|word| rows.contains(word)), "{table}");
    Ok(())
}

fn check_figures(trace: &RunningTrace) -> Result<()> {
    ensure!(requests(trace)?.is_empty(), "requests besides figures");
    let lines = trace.lines()?;
    let figures = lines.iter().find(|line| line["type"] == "request_stats").context("no figures")?;
    let mut groups = BTreeSet::new();
    for group in figures["groups"].as_array().context("no groups")? {
        ensure!(slowest(group) > Some(0), "{group}");
        groups.insert(format!("{} {} {}", group["value"], group["count"], group["errors"]));
    }
    let expected = ["\"/*/*/length/*\" 4 2", "\"/*/*/held/*\" 1 0"].map(str::to_owned);
    ensure!(groups == BTreeSet::from(expected), "{groups:?}");
    let held = figures["groups"].as_array().and_then(|all| all.iter().find(|group| group["count"] == 1));
    ensure!(held.and_then(slowest) > Some(400_000_000), "{held:?}");
    Ok(())
}

/// In nanoseconds.
fn slowest(group: &Value) -> Option<u64> {
    group.pointer("/duration/max")?.as_u64()
}

#[test]
fn a_limit_ends_the_trace() -> Result<()> {
    let scene = Scene::start("request-limit", "h1")?;
    let ctrace = scene.trace(&["-o", "json", "--limit", "3"])?;
    let targets: Vec<String> = (0..8).map(|number| format!("/200/10/length/{number}")).collect();
    scene.curl(&[], &targets.iter().map(String::as_str).collect::<Vec<_>>())?;
    let trace = ctrace.wait(PATIENCE)?;
    ensure!(trace.code() == Some(0), "{:?}: {}", trace.status, trace.stderr);
    let expected: BTreeSet<String> = targets.into_iter().take(3).collect();
    ensure!(paths(&trace)? == expected && requests(&trace)?.len() == 3, "{:?}", paths(&trace)?);
    ensure!(trace.counted("/requests/shown")? == 3, "{}", trace.summary()?);
    Ok(())
}

#[test]
fn containers_of_one_image_and_ctrl_c() -> Result<()> {
    let scene = Scene::start("apart", "h2")?;
    let authority = format!("--volume={}:/authority.pem:ro", Certificate::get()?.authority().display());
    let network = format!("--network=container:{}", scene.pair.server.id());
    let other = TestContainer::start(&HTTP.image()?, "apart-other", &[&authority, &network], &["/idle"])?;
    let json = scene.trace(&["-o", "json"])?;
    let text = scene.trace(&["-o", "text"])?;
    let command = curl(&["--cacert", "/authority.pem"], &["/200/10/length/other"; 4]);
    other.exec(&command.iter().map(String::as_str).collect::<Vec<_>>())?;
    scene.curl(&[], &["/200/10/length/own"; 4])?;
    let json = json.finish()?;
    let found = requests(&json)?;
    ensure!(
        found.len() == 4 && paths(&json)? == BTreeSet::from(["/200/10/length/own".to_owned()]),
        "{found:?}"
    );
    let client = scene.pair.client.name();
    let is_its = |line: &Value| {
        string_at(line, "/container/name") == Some(client)
            && string_at(line, "/connection/role") == Some("client")
    };
    ensure!(found.iter().all(is_its), "{found:?}");
    let run = text.finish()?;
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    ensure!(
        run.code() == Some(0) && text.matches("localhost:8443/200/10/length/own 200 ").count() == 4,
        "{text}"
    );
    let is_summary = |line: &&str| {
        line.contains("summary: 4 requests in ") && line.ends_with("(interrupted); nothing lost")
    };
    ensure!(run.stderr.lines().chain(text.lines()).any(|line| is_summary(&line)), "{text}\n{}", run.stderr);
    Ok(())
}

#[test]
fn a_closed_pipe() -> Result<()> {
    let scene = Scene::start("requests-pipe", "h1")?;
    let targets = ["/200/10/length/1"; 20];
    for format in ["text", "json"] {
        let arguments = ["requests", "-o", format, "--container", scene.pair.client.name()];
        let mut ctrace = Ctrace::start_with_stdout(&arguments, Stdio::piped())?;
        let mut pipe = ctrace.child().take_stdout().context("no pipe")?;
        scene.curl(&[], &targets)?;
        pipe.read_exact(&mut [0; 64])?;
        drop(pipe);
        scene.curl(&[], &targets)?;
        let trace = ctrace.wait(PATIENCE)?;
        ensure!(trace.code() == Some(0), "{format}: {:?}: {}", trace.code(), trace.stderr);
    }
    Ok(())
}

#[test]
fn bytes_names_requests_once_at_http_2() -> Result<()> {
    let scene = Scene::start("notice", "h2")?;
    let ctrace = Ctrace::start(&["ssl", "-o", "json", "--container", scene.pair.client.name()])?;
    for _ in 0..3 {
        scene.curl(&[], &["/200/10/length/1"])?;
    }
    let trace = ctrace.finish()?;
    ensure!(!trace.records()?.is_empty(), "nothing was traced: {}", trace.stderr);
    ensure!(trace.stderr.matches("`ctrace requests`").count() == 1, "{}", trace.stderr);
    Ok(())
}

/// A connection on which nothing known is spoken.
#[test]
fn unknown_protocols_are_counted_and_shown_on_request() -> Result<()> {
    require_live()?;
    let server = Server::start("unknown-protocol", &[])?;
    let counted = Ctrace::start(&["requests", "-o", "json", "--container", server.container.name()])?;
    let shown =
        Ctrace::start(&["requests", "-o", "json", "--unknown", "--container", server.container.name()])?;
    server.client(&["--up", "500,700", "--down", "900,1100"])?;
    server.transfers(1)?;
    let (counted, shown) = (counted.finish()?, shown.finish()?);
    for trace in [&counted, &shown] {
        // Both ends are in the container.
        ensure!(trace.counted("/requests/unknown_connections")? == 2, "{}", trace.summary()?);
        ensure!(trace.counted("/requests/exchanges")? == 0, "{}", trace.summary()?);
    }
    ensure!(counted.records()?.is_empty(), "calls without --unknown");
    let bytes: u64 = shown.records()?.iter().map(|record| record.call.captured).sum();
    ensure!(bytes > 2 * 3200, "{bytes} bytes: {:?}", shown.records()?);
    ensure!(counted.counted("/requests/undecoded_bytes")? == bytes, "{}", counted.summary()?);
    Ok(())
}
