//! Programs that copy their own code to anonymous memory, as Node.js and PHP do for huge pages: the copy has
//! the breakpoints of whoever had probes in the code, and is not seen. Needs root and BPF.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{
    Child, Ctrace, OutputLines, RunningTrace, TracedCommand, Transfer, json, list, program, require_bpf, text,
};
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_mins(1);
/// The option of Node.js, which the program of the tests has as well.
const OPTION: &str = "--use-largepages=on";
const ASKED: &str = "is asked to copy its code";
const COPIED: &str = "executes a copy of this code in anonymous memory";

fn self_copy() -> Result<String> {
    Ok(program("self-copy")?.to_str().context("path")?.to_owned())
}

/// A program that does what it is asked for by words on standard input.
struct Obedient {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: OutputLines,
}

impl Obedient {
    fn start(program: &str, options: &[&str]) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("--wait").args(options);
        let mut child = Child::start_with_streams(&mut command, Stdio::piped(), Stdio::piped())?;
        let stdin = child.take_stdin();
        let mut lines = OutputLines::of(child.take_stdout().context("no standard output")?);
        lines.wait("sign of life", PATIENCE, |line| line == "ready")?;
        Ok(Self { child, stdin, lines })
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn say(&mut self, word: &str) -> Result<()> {
        Ok(writeln!(self.stdin.as_ref().context("no standard input")?, "{word}")?)
    }

    fn ask(&mut self, word: &str) -> Result<()> {
        self.say(word)?;
        let done = format!("done {word}");
        self.lines.wait(&done, PATIENCE, |line| line == done).map(drop)
    }

    /// Ends it. Returns what it has moved.
    fn end(mut self) -> Result<Vec<Transfer>> {
        self.say("end")?;
        let status = self.child.wait(PATIENCE)?;
        ensure!(status.success(), "{status}");
        Transfer::all(&self.lines.rest().join("\n"))
    }
}

fn check_unseen(traced: &TracedCommand, status: i32) -> Result<()> {
    let (trace, stderr) = (&traced.trace, &traced.trace.stderr);
    ensure!(trace.code() == Some(status), "{:?}: {stderr}", trace.code());
    ensure!(Transfer::all(&traced.text())?.len() == 2, "{}", traced.text());
    ensure!(trace.records()?.is_empty(), "{stderr}");
    ensure!(stderr.contains(ASKED) && stderr.contains(OPTION), "{stderr}");
    Ok(())
}

#[test]
fn a_command_that_is_asked_to_copy_its_code_is_not_attached_to() -> Result<()> {
    require_bpf()?;
    let program = self_copy()?;
    for _ in 0..5 {
        let traced = TracedCommand::run(&[], &[&program, OPTION])?;
        check_unseen(&traced, 0)?;
        let lines = traced.trace.stderr.lines().filter(|line| line.contains(ASKED)).count();
        ensure!(lines == 1, "{}", traced.trace.stderr);
    }
    // What a command executes is held, and looked into as well.
    let hold = ["--hold-limit", "10s"];
    let traced = TracedCommand::run(&hold, &["sh", "-c", &format!("'{program}' {OPTION}; exit 3")])?;
    check_unseen(&traced, 3)?;
    TracedCommand::run(&hold, &["sh", "-c", &format!("'{program}'; exit 0")])?.check()
}

/// A plain process is traced. Then its command starts another one of the same file that copies its code.
#[test]
fn a_file_is_detached_from_before_a_process_copies_it() -> Result<()> {
    require_bpf()?;
    let program = self_copy()?;
    let text = format!("'{program}'; '{program}' {OPTION}; exit 4");
    let traced = TracedCommand::run(&["--hold-limit", "10s"], &["sh", "-c", &text])?;
    ensure!(traced.trace.code() == Some(4), "{:?}: {}", traced.trace.code(), traced.trace.stderr);
    let transfers = Transfer::all(&traced.text())?;
    ensure!(transfers.len() == 4, "{}", traced.text());
    ensure!(!traced.trace.records()?.is_empty(), "the first was not seen: {}", traced.trace.stderr);
    ensure!(traced.trace.stderr.contains(ASKED), "{}", traced.trace.stderr);
    Ok(())
}

fn check_reported(trace: &RunningTrace, status: i32) -> Result<()> {
    ensure!(trace.code() == Some(status), "{:?}: {}", trace.code(), trace.stderr);
    let text = text(trace) + &trace.stderr;
    ensure!(text.contains(COPIED) && text.contains("self-copy"), "{text}");
    Ok(())
}

#[test]
fn a_process_that_has_copied_its_code_is_reported_as_not_seen() -> Result<()> {
    require_bpf()?;
    let mut copied = Obedient::start(&self_copy()?, &["--copy"])?;
    let pid = copied.pid();
    check_reported(&Ctrace::run_to_end(&["ps", "--pid", &pid])?, 0)?;
    let listed = Ctrace::run_to_end(&["ps", "--pid", &pid, "-o", "json"])?;
    let rows = json(&listed)?;
    let [row] = list(&rows, "processes")?.as_slice() else { anyhow::bail!("{}", text(&listed)) };
    ensure!(row.get("traceable") == Some(&false.into()) && row.to_string().contains(COPIED), "{row}");
    check_reported(&Ctrace::run_to_end(&["doctor", &pid])?, 3)?;
    check_reported(&Ctrace::run_to_end(&["doctor", &pid, "-o", "json"])?, 3)?;
    check_reported(&Ctrace::run_to_end(&["ssl", "--pid", &pid])?, 3)?;
    check_reported(&Ctrace::run_to_end(&["ssl", "--pid", &pid, "--dry-run"])?, 0)?;
    copied.ask("exchange")?;
    ensure!(copied.end()?.len() == 2);
    Ok(())
}

/// Another process of the same file is seen, and the one with the copy is unharmed.
#[test]
fn a_copy_does_not_hide_others() -> Result<()> {
    require_bpf()?;
    let program = self_copy()?;
    let (mut copied, mut plain) = (Obedient::start(&program, &["--copy"])?, Obedient::start(&program, &[])?);
    let (first, second) = (copied.pid(), plain.pid());
    let ctrace = Ctrace::json(&["--pid", &first, "--pid", &second])?;
    plain.ask("exchange")?;
    copied.ask("exchange")?;
    let trace = ctrace.finish()?;
    trace.check_complete()?;
    check_reported(&trace, 0)?;
    let seen = plain.child.id();
    trace.streams(|record| record.process.pid == seen)?.check(&plain.end()?)?;
    ensure!(trace.records()?.iter().all(|record| record.process.pid == seen), "records of a copy");
    ensure!(copied.end()?.len() == 2);
    Ok(())
}

/// What was copied before the process is traced, and what is copied afterwards without being called.
#[test]
fn a_copy_that_is_made_later_is_reported() -> Result<()> {
    require_bpf()?;
    let mut target = Obedient::start(&self_copy()?, &[])?;
    let pid = target.pid();
    let mut ctrace = Ctrace::json(&["--pid", &pid])?;
    target.ask("exchange")?;
    target.ask("copy")?;
    let begin = Instant::now();
    let stderr = ctrace.child().stderr.as_mut().context("no standard error")?;
    stderr.wait("line about the copy", PATIENCE, |line| line.contains(COPIED))?;
    ensure!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let trace = ctrace.finish()?;
    ensure!(!trace.records()?.is_empty(), "{}", trace.stderr);
    target.say("end")?;
    target.child.wait(PATIENCE)?;
    Ok(())
}

/// It copies its code while probes are in it, which nothing has announced.
#[test]
fn a_process_that_executes_a_copied_breakpoint_is_reported_and_its_file_is_detached_from() -> Result<()> {
    require_bpf()?;
    let program = self_copy()?;
    let (mut copying, mut other) = (Obedient::start(&program, &[])?, Obedient::start(&program, &[])?);
    // The one that is harmed is out of scope.
    let mut ctrace = Ctrace::json(&["--pid", &other.pid()])?;
    other.ask("exchange")?;
    copying.ask("copy")?;
    copying.say("exchange")?;
    let status = copying.child.wait(PATIENCE)?;
    ensure!(status.signal() == Some(Signal::TRAP.as_raw()), "{status}");
    let stderr = ctrace.child().stderr.as_mut().context("no standard error")?;
    stderr.wait("line about the harm", PATIENCE, |line| line.contains("has harmed process"))?;
    // Nothing is attached to any more.
    other.ask("copy")?;
    other.ask("exchange")?;
    let trace = ctrace.finish()?;
    ensure!(trace.code() == Some(1), "{:?}: {}", trace.code(), trace.stderr);
    let lines = trace.lines()?;
    let harmed: Vec<_> = lines.iter().filter(|line| line.get("type") == Some(&"harmed".into())).collect();
    let [record] = harmed.as_slice() else { anyhow::bail!("{harmed:?}") };
    let value = |pointer: &str| record.pointer(pointer).cloned().unwrap_or_default();
    ensure!(value("/process/pid") == copying.child.id() && value("/cause") == "copied_code", "{record}");
    ensure!(value("/signal/name") == "SIGTRAP" && value("/detached/0/path") == program.as_str(), "{record}");
    ensure!(value("/function").as_str().is_some_and(|name| name.starts_with("SSL_")), "{record}");
    ensure!(other.end()?.len() == 4, "the other one was harmed as well");
    Ok(())
}

/// Signals of the same kinds that have nothing to do with probes.
#[test]
fn other_deaths_are_only_counted() -> Result<()> {
    require_bpf()?;
    let text = "sh -c 'kill -TRAP $$'; sh -c 'kill -ILL $$'; exit 0";
    let traced = TracedCommand::run(&["-v"], &["sh", "-c", text])?;
    ensure!(traced.trace.code() == Some(0), "{:?}: {}", traced.trace.code(), traced.trace.stderr);
    ensure!(!traced.trace.stderr.contains("harmed"), "{}", traced.trace.stderr);
    ensure!(traced.trace.lines()?.len() == 1, "more than the summary");
    Ok(())
}

/// A program that switches stacks inside of a function whose return the kernel probes.
#[test]
fn a_lost_return_is_reported() -> Result<()> {
    require_bpf()?;
    let text = format!("echo go | '{}' 9 5", program("fibers")?.display());
    let traced = TracedCommand::run(&["--return-probe", "kernel"], &["sh", "-c", &text])?;
    let stderr = &traced.trace.stderr;
    ensure!(traced.trace.code() == Some(128 + Signal::ILL.as_raw()), "{:?}: {stderr}", traced.trace.code());
    let lines = traced.trace.lines()?;
    let is_harm = |line: &&serde_json::Value| line.get("cause") == Some(&"return_probe".into());
    ensure!(lines.iter().filter(is_harm).count() == 1, "{lines:?}");
    ensure!(stderr.contains("has harmed process"), "{stderr}");
    Ok(())
}
