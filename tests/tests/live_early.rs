//! What is short is seen: files are attached to before anybody maps them, and stay attached to while their
//! container runs. Needs root, BPF, Docker, and once the machine's package sources.

use std::collections::BTreeSet;
use std::fs;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::third_party::{BOOKWORM, Certificate};
use ctrace_tests::{
    Ctrace, ImageTree, JsonRecord, RunningTrace, Server, TestContainer, TestImage, answer, images, json,
    list, program, require_live, script,
};
use rustix::process::Signal;
use serde_json::Value;

/// How long ctrace may take for what it does beside a trace.
const PATIENCE: Duration = Duration::from_secs(40);
/// Longer than a file stays attached to that nobody uses.
const QUIET: Duration = Duration::from_millis(10_500);

/// A program that another container serves, and the library that it uses.
struct Client {
    name: &'static str,
    /// `PORT` and `NAME` stand for the server's port, and for a path of the request.
    command: &'static [&'static str],
}

const CLIENTS: [Client; 3] = [
    Client {
        name: "curl",
        command: &["/usr/bin/curl", "-sSk", "-o", "/tmp/a", "https://localhost:PORT/NAME"],
    },
    Client {
        name: "wget",
        command: &[
            "/usr/bin/wget",
            "-q",
            "--no-check-certificate",
            "-O",
            "/tmp/b",
            "https://localhost:PORT/NAME",
        ],
    },
    Client {
        name: "python",
        command: &[
            "/usr/bin/python3",
            "-c",
            "import ssl, urllib.request as r; \
             r.urlopen('https://localhost:PORT/NAME', context=ssl._create_unverified_context()).read()",
        ],
    },
];

/// A client and a server in one static program.
const GO: [&str; 5] = ["/tls-go", "-up", "5", "-down", "7"];

/// Runs each client once in a container, and returns the names in its requests.
fn run_clients(server: &Server, container: &TestContainer, round: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for client in &CLIENTS {
        let name = format!("{round}-{}-", client.name);
        let word = |word: &&str| word.replace("PORT", server.port()).replace("NAME", &name);
        let command: Vec<String> = client.command.iter().map(word).collect();
        container.exec(&command.iter().map(String::as_str).collect::<Vec<_>>())?;
        names.insert(name);
    }
    Ok(names)
}

/// The names in the requests of a trace.
fn requested(trace: &RunningTrace) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for record in trace.records()? {
        let payload = String::from_utf8_lossy(&record.payload()?).into_owned();
        let path = payload.strip_prefix("GET /").and_then(|rest| rest.split(' ').next());
        names.extend(path.map(str::to_owned));
    }
    Ok(names)
}

/// Waits until ctrace has said all of these on standard error.
fn wait_for(ctrace: &mut Ctrace, texts: &[&str]) -> Result<()> {
    let stderr = ctrace.child().stderr.as_mut().context("ctrace has no standard error")?;
    for text in texts {
        if !stderr.seen().iter().any(|line| line.contains(text)) {
            stderr.wait(text, PATIENCE, |line| line.contains(text))?;
        }
    }
    Ok(())
}

/// The links of ctrace to functions.
fn links(ctrace: &Ctrace) -> Result<usize> {
    let mut links = 0;
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", ctrace.id()))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        links +=
            usize::from(text.lines().any(|line| line.starts_with("link_type:") && line.contains("multi")));
    }
    Ok(links)
}

/// It is inspected before anybody maps it. When a process has mapped it, and before ctrace reads of that, the
/// process ends, and the file is removed.
#[test]
fn the_reason_of_a_file_is_told_although_nobody_could_open_it() -> Result<()> {
    const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";
    require_live()?;
    let broken = tempfile::NamedTempFile::new()?;
    fs::write(broken.path(), fs::read(program("tls-client-static")?)?.get(..4096).context("short")?)?;
    let tree = ImageTree::new()
        .program(&program("idle")?, "/idle")?
        .program(&program("mapper")?, "/mapper")?
        .file(broken.path(), LIBRARY);
    let container = TestContainer::start(&TestImage::build("broken", &tree)?, "broken", &[], &["/idle"])?;
    let mut ctrace = Ctrace::json(&["--wait", "--container", container.name()])?;
    thread::sleep(Duration::from_secs(2));
    ctrace.child().signal(Signal::STOP)?;
    container.exec(&["/mapper", "--fork", "0", LIBRARY])?;
    fs::remove_file(container.path(LIBRARY))?;
    ctrace.child().signal(Signal::CONT)?;
    thread::sleep(Duration::from_secs(2));
    let said = ctrace.finish()?.stderr;
    let reasons: Vec<&str> = said.lines().filter(|line| line.contains("libssl.so.3: ")).collect();
    let [reason] = reasons[..] else { anyhow::bail!("not once: {said}") };
    ensure!(!reason.contains("could not be opened"), "{reason}");
    Ok(())
}

/// `docker exec` of short commands in a container that idles, more than ten seconds apart, the first one
/// included; of a static program, all but the first. Nothing stays attached to after the container's end.
#[test]
fn short_commands_in_a_container_that_idles() -> Result<()> {
    require_live()?;
    let image = BOOKWORM.image()?;
    let pem = format!("--volume={}:/server.pem:ro", Certificate::get()?.server().display());
    let programs = format!("--volume={}:/programs:ro", script("").display());
    let command = ["/usr/bin/python3", "/programs/third-party-server.py", "http", "/server.pem"];
    let server = Server::start_in(&image, "early-server", &[&programs, &pem], &command)?;
    let label = format!("ctrace-early={}", process::id());
    // Nothing runs yet that would be selected.
    let mut ctrace = Ctrace::json(&["--label", &label])?;

    let network = format!("--network=container:{}", server.container.id());
    let go = format!("--volume={}:/tls-go:ro", program("tls-go-stripped")?.display());
    let options = [&format!("--label={label}"), network.as_str(), &go];
    let container = TestContainer::start(&image, "early", &options, &["/idle"])?;
    let attached = "attached to what its processes may use: ";
    wait_for(&mut ctrace, &[&format!("{attached}libssl.so.3"), &format!("{attached}libgnutls.so.30")])?;

    let mut expected = run_clients(&server, &container, "first")?;
    container.exec(&GO)?;
    wait_for(&mut ctrace, &[", tls-go "])?;
    thread::sleep(QUIET);
    expected.extend(run_clients(&server, &container, "second")?);
    container.exec(&GO)?;
    let with_container = links(&ctrace)?;
    ensure!(with_container > 0, "no links");
    drop(container);
    let ended = Instant::now();
    while links(&ctrace)? > 0 {
        ensure!(ended.elapsed() < Duration::from_secs(30), "{} links are left", links(&ctrace)?);
        thread::sleep(Duration::from_millis(250));
    }

    let trace = ctrace.finish()?;
    trace.check_complete()?;
    let found = requested(&trace)?;
    ensure!(found == expected, "{found:?} of {expected:?}\n{}", trace.stderr);
    let first_run = trace.stderr.lines().find(|line| line.contains(", tls-go ")).context("it was there")?;
    let is_second_run = |record: &&JsonRecord| {
        let first_process = format!("process {},", record.process.pid);
        record.process.comm == "tls-go" && !first_run.contains(&first_process)
    };
    let records = trace.records()?;
    let lengths: Vec<u64> = records.iter().filter(is_second_run).map(|record| record.call.length).collect();
    ensure!(lengths.iter().sum::<u64>() == 2 * (5 + 7), "{lengths:?}\n{}", trace.stderr);
    ensure!(!trace.stderr.contains("because others took their place"), "{}", trace.stderr);
    Ok(())
}

/// The plan has what is attached to early, and does not claim that a process maps it.
#[test]
fn a_plan_tells_what_nobody_maps_yet() -> Result<()> {
    require_live()?;
    let container = TestContainer::start(&images::tls()?, "early-plan", &[], &["/idle"])?;
    let plan = json(&answer(&["ssl", "--dry-run", "--wait", "--container", container.name()])?)?;
    let objects = list(&plan, "objects")?;
    ensure!(objects.len() == 1, "{plan}");
    let object = objects.first().context("no object")?;
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    ensure!(text("/library/name") == Some("libssl.so.3") && text("/library/version").is_some(), "{object}");
    ensure!(list(object, "pids")?.is_empty(), "{object}");
    ensure!(*list(object, "available_to")? == [Value::from(container.pid())], "{object}");
    // Neither does what describes the present.
    let ps = json(&answer(&["ps", "-o", "json", "--container", container.name()])?)?;
    ensure!(!ps.to_string().contains("libssl"), "{ps}");
    Ok(())
}

/// Other code is in the file then, and a breakpoint in the middle of an instruction would end its programs.
#[test]
fn a_file_that_is_written_to_is_detached_from() -> Result<()> {
    require_live()?;
    let container = TestContainer::start(&BOOKWORM.image()?, "early-written", &[], &["/idle"])?;
    let copy = |from: &str| {
        let code =
            format!("open('/usr/lib/x86_64-linux-gnu/libssl.so.9', 'wb').write(open('{from}', 'rb').read())");
        container.exec(&["/usr/bin/python3", "-c", &code])
    };
    copy("/usr/lib/x86_64-linux-gnu/libssl.so.3")?;
    let mut ctrace = Ctrace::json(&["-v", "--wait", "--container", container.name()])?;
    wait_for(&mut ctrace, &["libgnutls.so.30"])?;
    let before = links(&ctrace)?;
    copy("/usr/lib/x86_64-linux-gnu/libz.so.1")?;
    wait_for(
        &mut ctrace,
        &["detached from /usr/lib/x86_64-linux-gnu/libssl.so.9, because it was written to"],
    )?;
    let after = links(&ctrace)?;
    ensure!(0 < after && after < before, "{before} links before, {after} after");
    ctrace.finish()?.check_complete()
}
