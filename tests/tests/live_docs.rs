//! README.md and docs/*.md show what really happens: transcripts, command lines, recipes. Needs root, BPF,
//! Docker.
//!
//! Names and process ids in the documents are replaced by those of test containers. What differs from run to
//! run (times, ids, ports, versions) is masked on both sides. A line `…` stands for any number of lines.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ctrace_tests::docs::{self, Shown, TranscriptCommand};
use ctrace_tests::{
    Child, Ctrace, Demo, DemoProtocol, OutputLines, Server, TestContainer, ctrace_binary, images,
    require_live,
};
use regex::Regex;
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

/// How long anything may take. A hang is a failure, a slow machine is not; and `--all` inspects every program
/// of the machine.
const PATIENCE: Duration = Duration::from_mins(3);
/// How long a trace lasts whose document does not show a Ctrl-C.
const DURATION: &str = "300ms";

/// What differs from run to run.
const MASKS: &[(&str, &str)] = &[
    // With cgroup v1, the container of a process is unknown once the process has ended.
    (r"\d{2}:\d{2}:\d{2}\.\d{6} [-?] ", "TIME - "),
    (r"\d{2}:\d{2}:\d{2}\.\d{6}", "TIME"),
    (r"(\w)\[\d+\]", "$1[PID]"),
    // A port that the kernel chose.
    (r":\d{5}\b", ":PORT"),
    (r"OpenSSL \d+\.\d+\.\d+\w*", "OpenSSL VERSION"),
    (r"#\d+ ", "#N "),
    (r"\[[\d.]+ (ns|µs|ms|s)\]", "[DURATION]"),
    // Of a request; the size of its head differs with the port.
    (r" [\d.]+ (ns|µs|ms|s) ↑\d+ B ↓\d+ B", " DURATION ↑N ↓N"),
    (r"\b\d+ calls?, \d+ bytes", "N calls, N bytes"),
    // Whether the first one was under way when the trace began.
    (r"\b\d+ requests?( \(\d+ incomplete\))? in", "N requests in"),
    // Columns of tables are as wide as their content.
    (r" {2,}", "  "),
    (r"demo-web:[0-9a-f]+", "demo-web:TAG"),
    (r"\b\d+  tls-server", "PID  tls-server"),
    (r" in [\d.]+ m?s ", " in N s "),
];

/// Programs that a shell finds before all others.
const PROGRAMS: &[(&str, &str)] = &[
    // The tests already run as root.
    ("sudo", "#!/bin/sh\nexec \"$@\"\n"),
    (
        "ctrace",
        "#!/bin/sh\n\
         case \"$DURATION $* \" in ' '*|*' --limit '*|*' --list '*|*' --dry-run '*) exec \"$CTRACE\" \"$@\";; esac\n\
         case $1 in ssl|requests|exec|uprobe) ;; *) exec \"$CTRACE\" \"$@\";; esac\n\
         command=$1; shift; exec \"$CTRACE\" \"$command\" --duration \"$DURATION\" \"$@\"\n",
    ),
];

/// A program that resolves a name again and again.
const APP: &str = "import socket, time\n\
                   while True:\n    socket.getaddrinfo('example.org', 443)\n    time.sleep(0.2)\n";

/// The containers that the documents name, and a directory to work in.
struct Scene {
    directory: TempDir,
    demo: Demo,
    http2: Demo,
    app: TestContainer,
    go: TestContainer,
}

impl Scene {
    fn start() -> Result<Self> {
        require_live()?;
        let directory = tempfile::tempdir()?;
        for (name, text) in PROGRAMS {
            let path = directory.path().join(name);
            fs::write(&path, text)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        let work = directory.path().join("work");
        fs::create_dir(&work)?;
        fs::write(work.join("Makefile"), "all:\n\ttrue\n")?;
        fs::write(work.join("a b"), "")?;
        for schema in ["api/shop.proto", "shop/v1/api.proto"] {
            let schema = work.join(schema);
            fs::create_dir_all(schema.parent().context("no directory")?)?;
            fs::write(schema, docs::SCHEMA)?;
        }
        fs::create_dir(work.join("third_party"))?;
        // The same, compiled.
        let method = "\x0a\x01R\x12\x02.M\x1a\x02.M";
        let compiled = format!(
            "\x0a\x28\x0a\x07a.proto\x22\x03\x0a\x01M\x32\x10\x0a\x01S\x12\x0b{method}\x62\x06proto3"
        );
        fs::write(work.join("shop.pb"), compiled)?;
        let name = |of: &str| format!("ctrace-test-{}-docs-{of}", process::id());
        let demo = Demo::start_named(&name("web"), DemoProtocol::Http1)?;
        let http2 = Demo::start_named(&name("http2"), DemoProtocol::Http2)?;
        let host = ["--add-host=example.org:192.0.2.1"];
        let app = ["/usr/bin/python3", "-I", "-c", APP];
        let app = TestContainer::start(&images::python()?, "docs-app", &host, &app)?;
        let go = ["/functions-go", "idle"];
        let go = TestContainer::start(&images::functions()?, "docs-go", &[], &go)?;
        Ok(Self { directory, demo, http2, app, go })
    }

    /// The container `web` of a line.
    fn web(&self, line: &str) -> String {
        let demo = if line.contains("ctrace requests") { &self.http2 } else { &self.demo };
        let [_, name] = demo.selector();
        name
    }

    fn work(&self) -> std::path::PathBuf {
        self.directory.path().join("work")
    }

    /// A line of a document, with the names and process ids of these containers.
    fn real(&self, line: &str) -> Result<String> {
        // A pattern of Go functions needs a Go program.
        let pid = if line.contains(":main.") { self.go.pid() } else { self.demo.pid() };
        let line = Regex::new(r"\bweb\b")?.replace_all(line, self.web(line)).into_owned();
        let line = Regex::new(r"\bapp\b")?.replace_all(&line, self.app.name()).into_owned();
        Ok(line.replace("2543", &pid.to_string()))
    }

    /// A line of output, with the names that the documents use, and with everything masked that differs from
    /// run to run.
    fn masked(&self, line: &str) -> Result<String> {
        let mut line = line.replace(self.app.name(), "app");
        for demo in [&self.demo, &self.http2] {
            let [_, name] = demo.selector();
            line = line.replace(&name, "web");
        }
        for (pattern, mask) in MASKS {
            line = Regex::new(pattern)?.replace_all(&line, *mask).into_owned();
        }
        Ok(line.trim_end().to_owned())
    }

    fn masked_all(&self, lines: &[String]) -> Result<Vec<String>> {
        lines.iter().map(|line| self.masked(line)).collect()
    }

    /// Starts a shell with a line in its own process group, as at a terminal: both outputs are one.
    fn shell(&self, line: &str, duration: &str) -> Result<(Child, OutputLines)> {
        let (reader, writer) = std::io::pipe()?;
        let mut shell = Command::new("/bin/sh");
        // The shell redirects its own standard error, so the harness's copy of it stays empty.
        shell.arg("-c").arg(format!("exec 2>&1\n{line}")).process_group(0).current_dir(self.work());
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env("PATH", format!("{}:{path}", self.directory.path().display()));
        shell.env("CTRACE", ctrace_binary()?.canonicalize()?).env("DURATION", duration);
        let child = Child::start_with_stdout(&mut shell, writer)?;
        drop(shell);
        Ok((child, OutputLines::of(reader)))
    }

    /// Runs a line until it ends.
    fn run(&self, line: &str) -> Result<(process::ExitStatus, Vec<String>)> {
        let (mut child, lines) = self.shell(&self.real(line)?, DURATION)?;
        let status = child.wait(PATIENCE).with_context(|| line.to_owned())?;
        Ok((status, lines.rest()))
    }

    /// Runs a command of a transcript, and compares its output.
    fn play(&self, command: &TranscriptCommand) -> Result<()> {
        let line = self.real(&command.command)?;
        let mut shown = command.output.clone();
        while shown.last().is_some_and(String::is_empty) {
            shown.pop();
        }
        let interrupted = shown.iter().position(|line| line.starts_with("^C"));
        let (mut child, mut lines) = self.shell(&line, if interrupted.is_some() { "" } else { DURATION })?;
        if let Some(at) = interrupted {
            let mut before = self.masked_all(shown.get(..at).unwrap_or_default())?;
            before.push("…".to_owned());
            let mut seen = Vec::new();
            lines.wait(&format!("output such as\n{}\n", before.join("\n")), PATIENCE, |line| {
                seen.extend(self.masked(line));
                fits(&before, &seen)
            })?;
            let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no process group")?;
            kill_process_group(group, Signal::INT)?;
        }
        child.wait(PATIENCE)?;
        let written = self.masked_all(&lines.rest())?;
        let shown: Vec<String> = shown.iter().map(|line| line.trim_start_matches("^C").to_owned()).collect();
        let shown = self.masked_all(&shown)?;
        let (shown_text, written_text) = (shown.join("\n"), written.join("\n"));
        ensure!(fits(&shown, &written), "shown:\n{shown_text}\n\nwritten:\n{written_text}");
        Ok(())
    }
}

/// Whether the lines match those that the document shows.
fn fits(shown: &[String], lines: &[String]) -> bool {
    match (shown, lines) {
        ([], lines) => lines.is_empty(),
        ([first, shown @ ..], lines) if first == "…" => {
            (0..=lines.len()).any(|skipped| lines.get(skipped..).is_some_and(|rest| fits(shown, rest)))
        }
        ([first, shown @ ..], [line, lines @ ..]) => first == line && fits(shown, lines),
        (_, []) => false,
    }
}

#[test]
fn each_transcript_is_what_is_written() -> Result<()> {
    let scene = Scene::start()?;
    let mut played = 0;
    for block in docs::blocks()? {
        let Shown::Transcript(commands) = block.shown() else { continue };
        for command in commands.iter().filter(|command| docs::excuse(&command.command).is_none()) {
            scene.play(command).with_context(|| format!("{}: $ {}", block.place, command.command))?;
            played += 1;
        }
    }
    ensure!(played >= 3, "{played} transcripts: are they still found?");
    Ok(())
}

#[test]
fn each_command_line_does_what_it_is_for() -> Result<()> {
    let scene = Scene::start()?;
    let mut run = 0;
    for block in docs::blocks()? {
        let Shown::Lines(lines) = block.shown() else { continue };
        for line in lines.iter().filter(|line| docs::excuse(line).is_none()) {
            let (status, written) = scene.run(line)?;
            let written = written.join("\n");
            ensure!(status.success(), "{}: {line}: {status}\n{written}", block.place);
            ensure!(!written.trim().is_empty(), "{}: {line}: nothing is said", block.place);
            run += 1;
        }
    }
    ensure!(run >= 15, "{run} command lines: are they still found?");
    Ok(())
}

/// Makes traces for the recipes: connections with data and one without, and programs that end.
fn traces(directory: &Path) -> Result<()> {
    // The server serves one connection after the other.
    let server = Server::start("docs-recipes", &[])?;
    let ctrace = Ctrace::json(&["--connections", "--container", server.container.name()])?;
    for _ in 0..8 {
        server.client(&["--text", "GET / HTTP/1.1\r\n"])?;
    }
    let network = format!("--network=container:{}", server.container.name());
    let talk = format!(
        "import socket; socket.create_connection(('127.0.0.1', {}), 5).send(b'no TLS\\r\\n' * 9)",
        server.port()
    );
    let no_tls = ["/usr/bin/python3", "-I", "-c", &talk];
    let client = TestContainer::start(&images::python()?, "docs-client", &[&network], &["/idle"])?;
    client.exec(&no_tls)?;
    // Once this is served, the server has seen the end of the connection before it.
    server.client(&["--text", "the last"])?;
    let trace = ctrace.finish()?;
    ensure!(trace.status.success(), "{}", trace.stderr);
    fs::write(directory.join("ssl.jsonl"), trace.stdout)?;
    let programs = directory.join("exec.jsonl");
    let exec = Command::new(ctrace_binary()?)
        .args(["exec", "--exits", "-o", "json", "--output"])
        .arg(&programs)
        .args(["--", "sh", "-c", "/bin/true; sh -c 'exit 3'; /bin/true"])
        .stdin(Stdio::null())
        .output()?;
    ensure!(exec.status.success(), "{}", String::from_utf8_lossy(&exec.stderr));
    Ok(())
}

/// The id of a connection that received something.
fn connection_that_received(trace: &Path) -> Result<u64> {
    for line in fs::read_to_string(trace)?.lines() {
        let record: serde_json::Value = serde_json::from_str(line)?;
        if record.pointer("/network/io/direction").is_some_and(|direction| direction == "receive") {
            return record.pointer("/connection/id").and_then(serde_json::Value::as_u64).context("no number");
        }
    }
    bail!("no connection received anything: {}", trace.display())
}

#[test]
fn each_recipe_finds_something_in_a_trace() -> Result<()> {
    require_live()?;
    let directory = tempfile::tempdir()?;
    traces(directory.path())?;
    let mut run = 0;
    let received = connection_that_received(&directory.path().join("ssl.jsonl"))?;
    for block in docs::blocks()?.into_iter().filter(|block| block.shown() == Shown::Script) {
        let of = if block.text.contains("\"exec\"") { "exec.jsonl" } else { "ssl.jsonl" };
        fs::copy(directory.path().join(of), directory.path().join("trace.jsonl"))?;
        // The ids of connections, and which of them have data, differ between traces.
        let script = block.text.replace("connection.id == 7", &format!("connection.id == {received}"));
        let output = Command::new("/bin/sh").args(["-c", &script]).current_dir(directory.path()).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && error.is_empty(), "{}: {}: {error}", block.place, output.status);
        ensure!(!output.stdout.is_empty(), "{}: it finds nothing: {}", block.place, block.text);
        std::io::stdout().write_all(&output.stdout)?;
        run += 1;
    }
    ensure!(run >= 5, "{run} recipes: are they still found?");
    Ok(())
}

#[test]
fn lines_are_compared_one_by_one() {
    let lines = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    let check = |shown: &str, written: &str, expected: bool| {
        assert_eq!(fits(&lines(shown), &lines(written)), expected, "{shown}: {written}");
    };
    check("a b", "a b", true);
    check("a b", "a", false);
    check("a", "a b", false);
    check("a …", "a", true);
    check("a … c", "a b b c", true);
    check("… c d", "a c b c d", true);
    check("… c", "a b", false);
}
