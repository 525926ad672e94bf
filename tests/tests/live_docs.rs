//! What README.md and docs/*.md show is what happens: transcripts, command lines, recipes. Needs root, BPF,
//! Docker.
//!
//! Names and process ids of the documents are replaced by those of containers of the tests; what differs from
//! run to run (times, ids, ports, versions) is masked on both sides. A line `…` stands for any number of
//! lines.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ctrace_tests::docs::{self, Exchange, Shown};
use ctrace_tests::{Child, Container, Ctrace, Demo, Lines, Server, ctrace_binary, images, require_live};
use regex::Regex;
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

/// How long anything may take: a hang is a failure, slowness of the machine is not, and `--all` looks into
/// each of its programs.
const PATIENCE: Duration = Duration::from_mins(3);
/// How long a trace lasts that is not shown to be interrupted.
const DURATION: &str = "300ms";

/// What differs from run to run.
const MASKS: &[(&str, &str)] = &[
    // Where hierarchies of cgroup v1 have the containers, that of a process is unknown once it has ended.
    (r"\d{2}:\d{2}:\d{2}\.\d{6} [-?] ", "TIME - "),
    (r"\d{2}:\d{2}:\d{2}\.\d{6}", "TIME"),
    (r"(\w)\[\d+\]", "$1[PID]"),
    // A port that the kernel has chosen.
    (r":\d{5}\b", ":PORT"),
    (r"OpenSSL \d+\.\d+\.\d+\w*", "OpenSSL VERSION"),
    (r"#\d+ ", "#N "),
    (r"\[[\d.]+ (ns|µs|ms|s)\]", "[DURATION]"),
    (r"\b\d+ calls?, \d+ bytes", "N calls, N bytes"),
    // Columns of tables are as wide as what is in them.
    (r" {2,}", "  "),
    (r"demo-web:[0-9a-f]+", "demo-web:TAG"),
    (r"\b\d+  tls-server", "PID  tls-server"),
    (r" in [\d.]+ m?s ", " in N s "),
];

/// A shell finds these before anything else.
const PROGRAMS: &[(&str, &str)] = &[
    // The tests run as root, as the reader does with it.
    ("sudo", "#!/bin/sh\nexec \"$@\"\n"),
    (
        "ctrace",
        "#!/bin/sh\n\
         case \"$DURATION $* \" in ' '*|*' --limit '*|*' --list '*|*' --dry-run '*) exec \"$CTRACE\" \"$@\";; esac\n\
         case $1 in ssl|exec|uprobe) ;; *) exec \"$CTRACE\" \"$@\";; esac\n\
         command=$1; shift; exec \"$CTRACE\" \"$command\" --duration \"$DURATION\" \"$@\"\n",
    ),
];

/// What looks up a name again and again.
const APP: &str = "import socket, time\n\
                   while True:\n    socket.getaddrinfo('example.org', 443)\n    time.sleep(0.2)\n";

/// The containers that the documents speak of, and a directory to work in.
struct Scene {
    directory: TempDir,
    demo: Demo,
    app: Container,
    go: Container,
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
        let demo = Demo::start_named(&format!("ctrace-test-{}-docs-web", process::id()))?;
        let host = ["--add-host=example.org:192.0.2.1"];
        let app = ["/usr/bin/python3", "-I", "-c", APP];
        let app = Container::start(&images::python()?, "docs-app", &host, &app)?;
        let go = ["/functions-go", "idle"];
        let go = Container::start(&images::functions()?, "docs-go", &[], &go)?;
        Ok(Self { directory, demo, app, go })
    }

    fn web(&self) -> String {
        let [_, name] = self.demo.selector();
        name
    }

    fn work(&self) -> std::path::PathBuf {
        self.directory.path().join("work")
    }

    /// A line of a document, of these containers.
    fn real(&self, line: &str) -> Result<String> {
        // A pattern of functions of Go is for a program in Go.
        let pid = if line.contains(":main.") { self.go.pid() } else { self.demo.pid() };
        let line = Regex::new(r"\bweb\b")?.replace_all(line, self.web()).into_owned();
        let line = Regex::new(r"\bapp\b")?.replace_all(&line, self.app.name()).into_owned();
        Ok(line.replace("2543", &pid.to_string()))
    }

    /// What was written, with the names of the documents, and without what differs from run to run.
    fn masked(&self, line: &str) -> Result<String> {
        let mut line = line.replace(&self.web(), "web").replace(self.app.name(), "app");
        for (pattern, mask) in MASKS {
            line = Regex::new(pattern)?.replace_all(&line, *mask).into_owned();
        }
        Ok(line.trim_end().to_owned())
    }

    fn masked_all(&self, lines: &[String]) -> Result<Vec<String>> {
        lines.iter().map(|line| self.masked(line)).collect()
    }

    /// Starts a shell with a line in a process group of its own, as at a terminal: both outputs are one.
    fn shell(&self, line: &str, duration: &str) -> Result<(Child, Lines)> {
        let (reader, writer) = std::io::pipe()?;
        let mut shell = Command::new("/bin/sh");
        // Standard error is the shell's own, so that the harness's copy of it stays empty.
        shell.arg("-c").arg(format!("exec 2>&1\n{line}")).process_group(0).current_dir(self.work());
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env("PATH", format!("{}:{path}", self.directory.path().display()));
        shell.env("CTRACE", ctrace_binary()?.canonicalize()?).env("DURATION", duration);
        let child = Child::start_with_stdout(&mut shell, writer)?;
        drop(shell);
        Ok((child, Lines::of(reader)))
    }

    /// Runs a line to its end.
    fn run(&self, line: &str) -> Result<(process::ExitStatus, Vec<String>)> {
        let (mut child, lines) = self.shell(&self.real(line)?, DURATION)?;
        let status = child.wait(PATIENCE).with_context(|| line.to_owned())?;
        Ok((status, lines.rest()))
    }

    /// Plays a command of a transcript, and compares.
    fn play(&self, exchange: &Exchange) -> Result<()> {
        let line = self.real(&exchange.command)?;
        let mut shown = exchange.output.clone();
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

/// Whether lines are those that are shown.
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
        let Shown::Transcript(exchanges) = block.shown() else { continue };
        for exchange in exchanges.iter().filter(|exchange| docs::excuse(&exchange.command).is_none()) {
            scene.play(exchange).with_context(|| format!("{}: $ {}", block.place, exchange.command))?;
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

/// What the recipes are for: connections with data and one without, and programs with their ends.
fn traces(directory: &Path) -> Result<()> {
    // It serves one after the other.
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
    let client = Container::start(&images::python()?, "docs-client", &[&network], &["/idle"])?;
    client.exec(&no_tls)?;
    // Until the server has seen the end of it.
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

/// The number of a connection that received something.
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
        // Which numbers connections get, and which of them have data, is not the same in every trace.
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
