//! What ctrace has not seen, or was not attached to in time, is reported: once, and whenever it comes. Needs
//! root, BPF and Docker.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ctrace_tests::third_party::Certificate;
use ctrace_tests::{
    Child, Ctrace, OutputLines, RunningTrace, Server, Transfer, count_lines, json, list, program,
    require_bpf, require_live, text, trace_shell, wait_until,
};
use rustix::process::Signal;
use serde_json::Value;

/// How long a trace may take to end after its target.
const ENDING: Duration = Duration::from_mins(1);

/// The kernel's ring of mappings overflows while ctrace stands still.
#[test]
fn programs_whose_mappings_were_lost_are_counted() -> Result<()> {
    const PROGRAMS: u64 = 2_000;
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let done = directory.path().join("done");
    let mut shell = Command::new("sh");
    shell.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut shell = Child::start_with_streams(&mut shell, Stdio::piped(), Stdio::null())?;
    let mut stdin = shell.take_stdin().context("no standard input")?;
    let mut ctrace = Ctrace::start(&["ssl", "-o", "json", "--wait", "--pid", &shell.id().to_string()])?;
    ctrace.child().signal(Signal::STOP)?;
    let loops = format!("i=0; while [ $i -lt {PROGRAMS} ]; do /bin/true; i=$((i + 1)); done");
    writeln!(stdin, "{loops}; : > {}", done.display())?;
    wait_until("end of the programs", ENDING, || Ok(done.exists().then_some(())))?;
    ctrace.child().signal(Signal::CONT)?;
    drop(stdin);
    let trace = ctrace.wait(ENDING)?;
    ensure!(trace.code() == Some(0), "{}", trace.stderr);
    let missed = trace.counted("/missed/processes")?;
    ensure!((100..=PROGRAMS).contains(&missed), "{}", trace.summary()?);
    ensure!(!trace.stderr.contains("nothing lost"), "{}", trace.stderr);
    let lines = trace.lines()?;
    let missed = of_type(&lines, "missed");
    ensure!(missed.iter().all(|record| at(record, "/library").is_null() && at(record, "/ended") == true));
    Ok(())
}

fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line.get("type").and_then(Value::as_str) == Some(kind)).collect()
}

fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

/// Copies a program to where nobody has seen it.
fn copied(name: &str, directory: &Path, to: &str) -> Result<PathBuf> {
    let path = directory.join(to);
    fs::copy(program(name)?, &path).with_context(|| format!("cannot copy {name}"))?;
    Ok(path)
}

/// Files come when the trace runs: each copy is made right before it is executed, so that nothing can have
/// been attached to it before.
#[test]
fn late_files_and_late_processes() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let path = directory.path();
    let source = |name: &str| Ok::<_, anyhow::Error>(program(name)?.display().to_string());
    let (ended, half, late) = (source("tls-client-static")?, source("half-tls")?, source("tls-late")?);
    let (plugin, mapper, named) = (source("exchange-static.so")?, source("mapper")?, source("untraceable")?);
    let begin: Vec<u8> = fs::read(&ended)?.into_iter().take(4096).collect();
    let here = path.display();
    fs::write(path.join("broken"), begin)?;
    let script = format!(
        "cd {here}
        cp {ended} ended; ./ended --no-such-option
        cp {late} tls-late; cp {plugin} exchange-static.so
        ./tls-late --library exchange-static.so --after 1500
        ./tls-late --library exchange-static.so
        cp {half} half; sleep 1 | ./half; sleep 1 | ./half
        cp {named} named; for i in 1 2; do ./named & sleep 0.5; kill $!; done
        for i in 1 2; do {mapper} broken & sleep 0.5; kill $!; done
        true\n"
    );
    let trace = trace_shell(&["ssl"], &script)?;
    ensure!(trace.code() == Some(0), "{}", trace.stderr);
    for reason in [
        "half: OpenSSL API: what it sends is not seen: no function that does it was found",
        "named: Zig TLS (std.crypto.tls) cannot be traced",
        "broken: ",
    ] {
        ensure!(count_lines(&trace.stderr, reason) == 1, "not once: {reason}\n{}", trace.stderr);
    }
    // What merely has no TLS is no reason.
    for other in ["dash", "libc.so", "sleep", "mapper"] {
        ensure!(count_lines(&trace.stderr, &format!(", {other}")) == 0, "{other}: {}", trace.stderr);
    }
    let lines = trace.lines()?;
    let missed = of_type(&lines, "missed");
    let of = |comm: &str| -> Vec<&Value> {
        missed.iter().copied().filter(|record| at(record, "/process/comm") == comm).collect()
    };
    let [record] = of("ended")[..] else { anyhow::bail!("{missed:#?}\n{}", trace.stderr) };
    ensure!(
        at(record, "/library/path") == &Value::from(path.join("ended").display().to_string()),
        "{record}"
    );
    ensure!(at(record, "/ended") == true && at(record, "/unattached").as_u64() > Some(0), "{record}");
    // It is attached to when the second process maps it.
    let [record] = of("tls-late")[..] else { anyhow::bail!("{missed:#?}\n{}", trace.stderr) };
    ensure!(at(record, "/library/name") == "exchange-static.so" && at(record, "/ended") == false, "{record}");
    ensure!(at(record, "/container").is_null() && at(record, "/process/pid").is_u64(), "{record}");
    ensure!(missed.len() == 2 + of("half").len() && of("half").len() <= 2, "{missed:#?}");
    check_summary(&trace, missed.len() as u64)?;
    // The first process waits for longer than an attach takes.
    let pid = at(record, "/process/pid").as_u64();
    ensure!(of_type(&lines, "ssl").iter().any(|call| at(call, "/process/pid").as_u64() == pid));
    Ok(())
}

/// Traces a program that maps a file and forks at once. Returns the records of the parent and the child,
/// which ends after this time.
fn missed_by_a_fork(child_ends_after: Duration) -> Result<(Value, Value)> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let source = |name: &str| Ok::<_, anyhow::Error>(program(name)?.display().to_string());
    let (mapper, plugin) = (source("mapper")?, source("exchange-static.so")?);
    let script = format!(
        "cd {}; cp {plugin} exchange-static.so; {mapper} --fork {} exchange-static.so\n",
        directory.path().display(),
        child_ends_after.as_millis()
    );
    let trace = trace_shell(&["ssl"], &script)?;
    let lines = trace.lines()?;
    let mut missed: Vec<&Value> = of_type(&lines, "missed");
    missed.sort_by_key(|record| at(record, "/process/pid").as_u64());
    let [parent, child] = missed[..] else { anyhow::bail!("{missed:#?}\n{}", trace.stderr) };
    ensure!(at(parent, "/process/pid") != at(child, "/process/pid"), "{parent} {child}");
    let unattached = |record: &Value| at(record, "/unattached").as_u64();
    ensure!(
        0 < unattached(child).unwrap_or(0) && unattached(child) <= unattached(parent),
        "{parent} {child}"
    );
    for record in [parent, child] {
        ensure!(at(record, "/library/name") == "exchange-static.so", "{record}");
    }
    ensure!(trace.counted("/missed/processes")? == 2, "{}", trace.summary()?);
    Ok((parent.clone(), child.clone()))
}

/// It is forked right after its parent has mapped the file, and maps nothing itself. If it is forked while
/// the file is being attached to, it may not be counted: see docs/limits.md.
#[test]
fn a_child_that_inherits_a_library_is_counted() -> Result<()> {
    let missed = || missed_by_a_fork(Duration::from_secs(2));
    let (parent, child) = missed().or_else(|_| missed())?;
    ensure!(at(&parent, "/ended") == false && at(&child, "/ended") == false, "{parent} {child}");
    Ok(())
}

/// It has ended before ctrace is attached, unless the attach is faster than its end.
#[test]
fn a_child_that_ends_at_once_is_counted() -> Result<()> {
    let mut last = None;
    for _ in 0..10 {
        let (parent, child) = missed_by_a_fork(Duration::ZERO)?;
        ensure!(at(&parent, "/ended") == false, "{parent} {child}");
        ensure!(at(&child, "/process/comm") == "mapper", "{child}");
        if at(&child, "/ended") == true {
            return Ok(());
        }
        last = Some(child);
    }
    bail!("it has never ended: {last:?}")
}

/// One thread sends what nobody reads, and another one ends the process.
const UNFINISHED: &str = "
import os, socket, ssl, sys, threading, time
near, far = socket.socketpair()
def serve():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    connection = context.wrap_socket(far, server_side=True)
    time.sleep(60)
def send():
    context = ssl._create_unverified_context()
    context.wrap_socket(near).sendall(bytes(50_000_000))
time.sleep(1.5)
for act in (serve, send):
    threading.Thread(target=act).start()
time.sleep(1)
os._exit(0)
";

/// A call is reported when it returns.
#[test]
fn calls_that_send_when_their_process_ends_are_counted() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("unfinished.py"), UNFINISHED)?;
    let script = format!(
        "cd {}; /usr/bin/python3 -I unfinished.py {}; {{ sleep 1.5; echo; }} | {} -up 50000000 -unread 1000\n",
        directory.path().display(),
        Certificate::get()?.server().display(),
        program("tls-go")?.display()
    );
    let trace = trace_shell(&["ssl"], &script)?;
    let lines = trace.lines()?;
    // Python sends one record in a call.
    let of_python = |call: &&Value| at(call, "/library/name") == "libssl.so.3";
    let others: Vec<&Value> = of_type(&lines, "ssl").into_iter().filter(|call| !of_python(call)).collect();
    ensure!(others.is_empty(), "{others:?}");
    ensure!(trace.counted("/lost/reasons/unfinished/events")? == 2, "{}", trace.summary()?);
    ensure!(!trace.stderr.contains("nothing lost"), "{}", trace.stderr);
    Ok(())
}

/// The summary has what the records have, in JSON and in the text of a replay.
fn check_summary(trace: &RunningTrace, missed: u64) -> Result<()> {
    ensure!(trace.counted("/missed/processes")? == missed, "{}", trace.summary()?);
    ensure!(trace.counted("/missed/ended")? >= 1, "{}", trace.summary()?);
    let (longest, total) =
        (trace.counted("/missed/unattached/longest")?, trace.counted("/missed/unattached/total")?);
    ensure!(0 < longest && longest < total, "{}", trace.summary()?);
    // Programs and libraries: one process may have used several, and several one.
    ensure!((1..=missed).contains(&trace.counted("/attached_late")?), "{}", trace.summary()?);
    ensure!(trace.stderr.contains("missed first calls of "), "{}", trace.stderr);
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&trace.stdout)?;
    let path = file.path().to_str().context("path")?;
    let replayed = Ctrace::run_to_end(&["ssl", "--read", path, "-o", "text"])?;
    ensure!(text(&replayed).contains("missed: exchange-static.so was mapped "), "{}", text(&replayed));
    let said = &replayed.stderr;
    ensure!(said.contains("missed first calls of ") && !said.contains("nothing lost"), "{said}");
    Ok(())
}

#[test]
fn half_of_a_library_is_not_traceable() -> Result<()> {
    const REASON: &str = "OpenSSL API: what it sends is not seen";
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let mut half = Command::new(copied("half-tls", directory.path(), "half")?);
    let mut half = Child::start_with_streams(&mut half, Stdio::piped(), Stdio::piped())?;
    let mut lines = OutputLines::of(half.take_stdout().context("no output")?);
    lines.wait("line that it is ready", ENDING, |line| line == "ready")?;
    let pid = half.id().to_string();
    let listed = json(&Ctrace::run_to_end(&["ps", "-o", "json", "--pid", &pid])?)?;
    let rows = list(&listed, "processes")?;
    let row = rows.iter().find(|row| at(row, "/process/pid") == half.id()).context("ps does not list it")?;
    ensure!(
        at(row, "/traceable") == false && at(row, "/missing") == &serde_json::json!(["transmit"]),
        "{row}"
    );
    ensure!(at(row, "/why/0").as_str().is_some_and(|why| why.starts_with(REASON)), "{row}");
    let table = text(&Ctrace::run_to_end(&["ps", "--pid", &pid])?);
    ensure!(table.contains(&format!("only what it receives: {REASON}")), "{table}");
    let explained = text(&Ctrace::run_to_end(&["doctor", &pid])?);
    ensure!(explained.contains(REASON), "{explained}");
    // Without -v, and although its other half is attached to.
    let said = Ctrace::start(&["ssl", "--pid", &pid])?.finish()?.stderr;
    ensure!(count_lines(&said, REASON) == 1 && said.contains("1 function"), "{said}");
    // It ran before the trace began.
    ensure!(said.contains("nothing lost"), "{said}");
    Ok(())
}

#[test]
fn patterns_that_match_nothing_are_named() -> Result<()> {
    require_bpf()?;
    let script = "sleep 0.7; sleep 0.7; sleep 0.7\n";
    let patterns = ["libc.so.6:getadrinfo(str)", "libc.so.6:getpid", ":no_such_function"];
    let trace = trace_shell(&[&["uprobe"], &patterns[..]].concat(), script)?;
    ensure!(trace.code() == Some(0), "{}", trace.stderr);
    let said = &trace.stderr;
    ensure!(
        count_lines(said, "libc.so.6: no function `getadrinfo`; similar names: getaddrinfo") == 1,
        "{said}"
    );
    ensure!(count_lines(said, "sleep: no function `no_such_function`") == 1, "{said}");
    let end = "nothing has matched `libc.so.6:getadrinfo(str)`, `:no_such_function`";
    ensure!(count_lines(said, end) == 1, "{said}");
    // With a command, what its process will map is searched for the function.
    let traced = Ctrace::run_to_end(&["uprobe", ":getenv", "--", "true"])?;
    ensure!(traced.code() == Some(3), "{:?}: {}", traced.code(), traced.stderr);
    let hint = "no function `getenv`; libc.so.6 defines it: write 'libc.so.6:getenv'";
    ensure!(count_lines(&traced.stderr, hint) == 1, "{}", traced.stderr);
    ensure!(traced.stderr.contains("nothing has matched `:getenv`"), "{}", traced.stderr);
    Ok(())
}

/// While ctrace is stopped, its ring has room for a part of the calls.
#[test]
fn lost_calls_count_with_what_a_limit_would_have_cut() -> Result<()> {
    require_live()?;
    let server = Server::start("beyond", &[])?;
    let name = server.container.name();
    let mut ctrace = Ctrace::json(&["--ring-size", "64K", "--max-bytes", "100", "--container", name])?;
    ctrace.child().signal(Signal::STOP)?;
    server.client_outside(&["--up", "16000*1000", "--down", "5000*1000"])?;
    let transfers = server.transfers(1)?;
    ctrace.child().signal(Signal::CONT)?;
    let trace = ctrace.finish()?;
    let moved: u64 = transfers.iter().map(Transfer::bytes).sum();
    let lost = trace.counted("/lost/bytes")?;
    let reported: u64 = trace.records()?.iter().map(|record| record.call.length).sum();
    ensure!(lost > 0 && reported > 0, "{lost} lost, {reported} reported: this test shows nothing");
    ensure!(reported + lost == moved, "{reported} and {lost} lost are not {moved}: {}", trace.summary()?);
    Ok(())
}

/// With a link for each probe, attaching mostly takes long enough for calls of busy connections in between.
#[test]
fn a_connection_that_was_seen_while_its_probes_were_attached() -> Result<()> {
    require_live()?;
    let server = Server::start("partial", &["--threads"])?;
    let client = || {
        let mut client = Command::new("nsenter");
        client.arg(format!("--net=/proc/{}/ns/net", server.container.pid()));
        Child::start(client.arg(program("tls-client")?).args(["--port", server.port(), "--http", "1"]))
    };
    let _busy = (0..16).map(|_| client()).collect::<Result<Vec<_>>>()?;
    thread::sleep(Duration::from_secs(1));
    for _ in 0..10 {
        let ctrace = Ctrace::json(&["--probe-link", "perf", "--container", server.container.name()])?;
        server.client_outside(&["--up", "10", "--down", "10"])?;
        let lines = ctrace.finish()?.lines()?;
        let of_connections = of_type(&lines, "ssl").into_iter().map(|record| at(record, "/connection"));
        let (partial, whole): (Vec<_>, Vec<_>) =
            of_connections.partition(|connection| at(connection, "/partial_attach") == true);
        ensure!(partial.iter().all(|connection| at(connection, "/from_start") == false), "{partial:?}");
        let is_whole = |connection: &Value| {
            connection.pointer("/partial_attach").is_none() && at(connection, "/from_start") == true
        };
        ensure!(whole.iter().any(|connection| is_whole(connection)), "{whole:?}");
        if !partial.is_empty() {
            return Ok(());
        }
    }
    bail!("no connection has had a call in between")
}
