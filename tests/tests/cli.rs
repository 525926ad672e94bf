//! The command line without tracing: help, usage errors, and output for other programs.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{Ctrace, RunningTrace, check_harmless, ctrace_binary};

fn run(arguments: &[&str]) -> Result<RunningTrace> {
    Ctrace::run_to_end(arguments)
}

fn text(trace: &RunningTrace) -> String {
    String::from_utf8_lossy(&trace.stdout).into_owned()
}

/// Checks for a usage error: status 2, nothing on standard output, and a message that contains `part`.
fn check_usage(arguments: &[&str], part: &str) -> Result<()> {
    let trace = run(arguments)?;
    ensure!(trace.code() == Some(2), "{arguments:?}: {:?}: {}", trace.code(), trace.stderr);
    ensure!(trace.stdout.is_empty(), "{arguments:?}: {}", text(&trace));
    ensure!(trace.stderr.contains(part), "{arguments:?}: {part} is not in: {}", trace.stderr);
    ensure!(!trace.stderr.contains('\u{1b}'), "{arguments:?}: colours without a terminal");
    Ok(())
}

#[test]
fn help_of_everything() -> Result<()> {
    for (arguments, parts) in [
        (["--help"].as_slice(), ["ssl", "ps", "inspect", "doctor", "schema", "completion", "man"].as_slice()),
        (&["ps", "--help"], &["--container", "--image", "--wide", "--format", "--runtime-socket"]),
        (&["inspect", "--help"], &["CONTAINER|[CONTAINER:]PID", "--format", "--runtime-socket"]),
        (&["doctor", "--help"], &["CONTAINER|[CONTAINER:]PID", "--watch", "--format", "Exit status"]),
        (
            &["ssl", "--help"],
            &[
                "--container",
                "--image",
                "--label",
                "--compose-service",
                "--pod",
                "--namespace",
                "--pid",
                "--comm",
                "--exe",
                "--uid",
                "--all",
                "--exclude-container",
                "--exclude-uid",
                "--runtime-socket",
                "--output",
                "--connections",
                "--max-bytes",
                "--ring-size",
                "--limit",
                "The same option again widens",
            ],
        ),
        (&["ssl", "-h"], &["--container", "--duration", "--hex", "--color", "--dry-run"]),
        (&["schema", "--help"], &["schema"]),
        (&["completion", "--help"], &["bash"]),
        (&["man", "--help"], &["man"]),
    ] {
        let trace = run(arguments)?;
        ensure!(trace.code() == Some(0), "{arguments:?}: {:?}: {}", trace.code(), trace.stderr);
        let help = text(&trace);
        for part in parts {
            ensure!(help.contains(part), "{arguments:?}: {part} is not in:\n{help}");
        }
        ensure!(!help.contains('\u{1b}'), "{arguments:?}: colours without a terminal");
        ensure!(help.lines().all(|line| line.chars().count() <= 120), "{arguments:?}: lines too long");
    }
    Ok(())
}

/// `--pid 1` would select the whole machine, although the container's first process is meant.
#[test]
fn a_container_and_the_first_process_of_the_machine() -> Result<()> {
    let function = "libc.so.6:write";
    for command in [&["ssl"][..], &["exec"], &["uprobe", function], &["ps"]] {
        let with = |choice: &[&str], part: &str| check_usage(&[command, choice].concat(), part);
        with(&["--container", "web", "--pid", "1"], "--pid web:1")?;
        with(&["--pid", "7", "--pid", "1", "--container", "docker://web"], "--pid docker://web:1")?;
        with(&["--image", "nginx", "--pid", "1"], "--pid CONTAINER:1")?;
        with(&["--container", "we\u{1b}b", "--pid", "1"], "--pid we\\x1bb:1")?;
    }
    Ok(())
}

#[test]
fn version() -> Result<()> {
    let trace = run(&["--version"])?;
    ensure!(trace.code() == Some(0) && text(&trace).starts_with("ctrace "), "{}", text(&trace));
    Ok(())
}

#[test]
fn usage_errors() -> Result<()> {
    check_usage(&[], "Usage")?;
    check_usage(&["ssl"], "--container")?;
    check_usage(&["nonsense"], "nonsense")?;
    check_usage(&["ssl", "--nonsense"], "--nonsense")?;
    check_usage(&["ssl", "--container", ""], "container")?;
    check_usage(&["ssl", "--all", "--connections=none"], "also")?;
    check_usage(&["ssl", "--all", "--connections=only", "--limit", "3"], "--duration")?;
    check_usage(&["ssl", "--container", "dokcer://web"], "unknown runtime \"dokcer\"")?;
    check_usage(&["ssl", "--container", "docker://"], "name")?;
    check_usage(&["ssl", "--image", ""], "image")?;
    check_usage(&["ssl", "--label", "=web"], "KEY=VALUE")?;
    check_usage(&["ssl", "--pod", "prod/"], "NAMESPACE/NAME")?;
    check_usage(&["ssl", "--exe", "bin/x"], "absolute path")?;
    check_usage(&["ssl", "--uid", "nobody-of-this-name"], "no user")?;
    check_usage(&["ssl", "--uid", "-1"], "-1")?;
    check_usage(&["ssl", "--exclude-container", "web"], "--container")?;
    check_usage(&["ssl", "--all", "--exclude-pod", "a/b/c"], "NAMESPACE/NAME")?;
    check_usage(&["ssl", "--all", "--runtime-socket", "docker"], "docker=")?;
    check_usage(&["ssl", "--all", "--runtime-socket", "rkt=/x"], "unknown runtime \"rkt\"")?;
    check_usage(&["ssl", "--pid", "0"], "0")?;
    check_usage(&["ssl", "--pid", "-1"], "-1")?;
    check_usage(&["ssl", "--pid", "web"], "web")?;
    check_usage(&["ssl", "--pid", "web:"], "CONTAINER:NUMBER")?;
    check_usage(&["ssl", "--pid", "docker://web"], "CONTAINER:NUMBER")?;
    check_usage(&["ssl", "--all", "-o", "xml"], "xml")?;
    check_usage(&["ssl", "--all", "-o", "xml=a"], "possible values: text, json")?;
    check_usage(&["ssl", "--all", "-o", "json="], "-o json=FILE")?;
    check_usage(
        &["ssl", "--all", "-o", "text", "-o", "json"],
        "give all but one a path, such as -o json=FILE",
    )?;
    check_usage(&["ssl", "--all", "-o", "json=a", "-o", "text=a"], "two outputs go to a")?;
    check_usage(&["exec", "-o", "json=-", "-o", "text", "--all"], "two outputs go to standard output")?;
    check_usage(&["ssl", "--all", "-o", "json=a", "--output", "b"], "leave out --output")?;
    check_usage(&["uprobe", "--all", ":f", "--list", "-o", "json=a"], "--list prints to standard output")?;
    check_usage(&["ssl", "--all", "--duration", "soon"], "soon")?;
    check_usage(&["ssl", "--all", "--limit", "0"], "0")?;
    check_usage(&["ssl", "--all", "--limit", "few"], "few")?;
    check_usage(&["ssl", "--all", "--count", "10"], "--limit N")?;
    check_usage(&["exec", "--all", "--count"], "--limit N")?;
    check_usage(&["ssl", "--all", "--max-bytes", "-5"], "-5")?;
    check_usage(&["ssl", "--all", "--ring-size", "4K"], "4K")?;
    check_usage(&["ssl", "--all", "--ring-size", "1X"], "1X")?;
    check_usage(&["ssl", "--all", "--color", "pink"], "pink")?;
    check_usage(&["ps", "-o", "xml"], "xml")?;
    check_usage(&["ps", "--", "true"], "ctrace ssl -- COMMAND")?;
    check_usage(&["inspect"], "CONTAINER|[CONTAINER:]PID")?;
    check_usage(&["inspect", ""], "name")?;
    check_usage(&["inspect", "nosuchruntime://web"], "nosuchruntime")?;
    check_usage(&["doctor", "--watch", "2s"], "CONTAINER|[CONTAINER:]PID")?;
    check_usage(&["doctor", "web", "--watch", "soon"], "soon")?;
    check_usage(&["completion", "nosuchshell"], "nosuchshell")
}

/// Text that must not reach a terminal. A script may pass on such text from anywhere.
const HOSTILE: &str = "x\u{1b}[31m\u{1b}]0;t\u{7}\r\n\u{9b}2J\u{202e}y";

/// What `ctrace ssl --read - ARGUMENTS` makes of lines.
fn read(lines: &[u8], arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(ctrace_binary()?);
    command.args(["ssl", "--read", "-"]).args(arguments);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.uid(65534).gid(65534).spawn()?;
    let mut stdin = child.stdin.take().context("it is piped")?;
    let lines = lines.to_vec();
    // A reader that has seen enough closes the pipe.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&lines)));
    let output = child.wait_with_output()?;
    writer.join().ok().context("the writer panicked")?;
    Ok(output)
}

fn recording(name: &str) -> Result<Vec<u8>> {
    let path = format!("{}/../probe-user/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).with_context(|| path)
}

/// By anybody: neither root nor BPF is needed.
#[test]
fn a_recording_is_read_back() -> Result<()> {
    let json = recording("records.jsonl")?;
    let output = read(&json, &["-o", "json"])?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    ensure!(output.stdout == json, "{}", String::from_utf8_lossy(&output.stdout));

    let output = read(&json, &["--limit", "2", "-o", "json"])?;
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    ensure!(output.status.code() == Some(0) && lines.count() == 3, "two calls and a summary: {output:?}");

    // Two bad lines among others, a type that is not shown, and no summary.
    let calls = json.split_inclusive(|byte| *byte == b'\n').take(3);
    let mut mixed: Vec<u8> = calls.collect::<Vec<_>>().concat();
    mixed.extend_from_slice(b"secret\n{\"schema\":1,\"type\":\"exec\"}\n\x1b[2J\n");
    let output = read(&mixed, &["-o", "json"])?;
    let (shown, said) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.code() == Some(0) && shown.lines().count() == 4, "{shown}: {said}");
    ensure!(shown.contains(r#""end":"recording_ended","calls":3,"#), "{shown}");
    for part in [
        "skipped line 4 of standard input, which is not a record",
        "; and 1 more",
        "1 records of other types",
    ] {
        ensure!(said.contains(part), "{part} is not in: {said}");
    }
    let control = |c: char| c.is_control() && c != '\n';
    ensure!(!said.contains("secret") && !said.contains(control), "{said:?}");
    Ok(())
}

#[test]
fn what_is_no_recording_is_refused() -> Result<()> {
    let output = read(b"no record\n", &[])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(String::from_utf8_lossy(&output.stderr).contains("standard input is not a recording: line 1"));
    let output = read(b"", &[])?;
    ensure!(output.status.code() == Some(0), "nothing was recorded: {output:?}");

    let missing = run(&["ssl", "--read", "/nonexistent/calls.jsonl"])?;
    ensure!(missing.code() == Some(1) && missing.stderr.contains("/nonexistent/calls.jsonl"), "{missing:?}");
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("calls.jsonl");
    std::fs::write(&path, recording("records.jsonl")?)?;
    let path = path.to_string_lossy();
    let own = run(&["ssl", "--read", &path, "-o", "json", "--output", &path])?;
    ensure!(own.code() == Some(1) && own.stderr.contains("is read"), "{own:?}");
    ensure!(std::fs::read(&*path)? == recording("records.jsonl")?, "it is as it was");
    for option in
        ["--container=a", "--all", "--wait", "--dry-run", "--max-bytes=5", "--ring-size=1M", "--guess"]
    {
        check_usage(&["ssl", "--read", "a", option], "cannot be used with")?;
    }
    check_usage(&["ssl", "--read", "a", "--connections"], "cannot be used with")?;
    check_usage(&["ssl", "--read", "a", "--exclude-pod", "b"], "cannot be used with")?;
    check_usage(&["ssl", "--read", "a", "--", "true"], "cannot be used with")?;
    check_usage(&["exec", "--read", "a"], "--read")
}

#[test]
fn files_with_names_of_protocol_buffers_that_cannot_be_used() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let check = |name: &str, source: &[u8], part: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, source)?;
        let path = path.to_string_lossy();
        check_usage(&["requests", "--all", "--proto", &path], part)?;
        check_usage(&["requests", "--read", "/nonexistent/calls.jsonl", "--proto", &path], part)
    };
    check("bad.proto", b"syntax = \"proto3\";\nmessage A { int32 }", "bad.proto:2:19: expected")?;
    check("import.proto", b"import \"b/c.proto\";", "import.proto:1:1: import 'b/c.proto' not found")?;
    check("import.proto", b"import \"b/c.proto\";", "--proto-path")?;
    check("bytes", b"\x00\xff", "neither a .proto file nor a descriptor set")?;
    check("message.proto", b"syntax = \"proto3\"; message A {}", "no service is in")?;
    check_usage(
        &["requests", "--all", "--proto", "/nonexistent/a.proto"],
        "/nonexistent/a.proto cannot be read",
    )?;
    check_usage(&["requests", "--all", "--proto-path", "."], "--proto <FILE>")
}

#[test]
fn the_users_own_words_are_escaped_in_messages() -> Result<()> {
    let words: &[&[&str]] = &[
        &[HOSTILE],
        &["ssl", HOSTILE],
        &["ssl", "--all", "--hostile", HOSTILE],
        &["ssl", "--container", HOSTILE, "--dry-run"],
        &["ssl", "--container", "docker://\u{1b}[2J", "--dry-run"],
        &["ssl", "--container", "\u{1b}[2J://web"],
        &["ssl", "--image", HOSTILE, "--dry-run"],
        &["ssl", "--label", HOSTILE, "--dry-run"],
        &["ssl", "--compose-service", HOSTILE, "--dry-run"],
        &["ssl", "--pod", HOSTILE, "--dry-run"],
        &["ssl", "--namespace", HOSTILE, "--dry-run"],
        &["ssl", "--comm", HOSTILE, "--dry-run"],
        &["ssl", "--exe", HOSTILE, "--dry-run"],
        &["ssl", "--uid", HOSTILE],
        &["ssl", "--pid", HOSTILE],
        &["ssl", "--comm", "x", "--exclude-container", HOSTILE, "--dry-run"],
        &["ssl", "--comm", "x", "--exclude-image", HOSTILE, "--dry-run"],
        &["ssl", "--comm", "x", "--exclude-comm", HOSTILE, "--dry-run"],
        &["ssl", "--all", "--runtime-socket", HOSTILE],
        &["ssl", "--comm", "x", "--runtime-socket", "docker=/x\u{1b}[2J", "--dry-run"],
        &["ssl", "--all", "--format", HOSTILE],
        &["ssl", "--all", "-o", "text=\u{1b}[2J", "-o", "json=\u{1b}[2J"],
        &["ssl", "--all", "--color", HOSTILE],
        &["ssl", "--all", "--limit", HOSTILE],
        &["ssl", "--all", "--duration", HOSTILE],
        &["ssl", "--all", "--max-bytes", HOSTILE],
        &["ssl", "--all", "--ring-size", HOSTILE],
        &["ssl", "--comm", "ctrace-nobody", "--duration", "1s", "--output", "/nowhere\u{1b}[31m\n/x"],
        &["ssl", "--output", "/dev/null", "--", "/nowhere/\u{1b}[31m\n"],
        &["uprobe", "--comm", "x", HOSTILE, "--dry-run"],
        &["uprobe", "--comm", "x", "libc.so.6:\u{1b}[2J", "--list"],
        &["uprobe", "--comm", "x", "--usdt", HOSTILE, "--dry-run"],
        &["exec", "--comm", "x", "--env", HOSTILE, "--dry-run"],
        &["ps", "--container", HOSTILE],
        &["inspect", HOSTILE],
        &["doctor", HOSTILE],
        &["completion", HOSTILE],
        &["schema", HOSTILE],
    ];
    for arguments in words {
        let trace = run(arguments)?;
        check_harmless(&trace).with_context(|| format!("{arguments:?}"))?;
        ensure!(trace.code() != Some(101), "{arguments:?}: {}", trace.stderr);
    }
    Ok(())
}

#[test]
fn too_few_open_files_are_no_panic() -> Result<()> {
    for limit in [6, 8, 12, 16, 24] {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={limit}:{limit}")).arg(ctrace_binary()?);
        let output = command.args(["ssl", "--all", "--dry-run"]).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{limit}: {:?}: {stderr}", output.status);
        ensure!(stderr.contains("ulimit -n") && !stderr.contains("panicked"), "{limit}: {stderr}");
    }
    Ok(())
}

#[test]
fn schema_is_json() -> Result<()> {
    let trace = run(&["schema"])?;
    ensure!(trace.code() == Some(0), "{}", trace.stderr);
    let schema: serde_json::Value = serde_json::from_slice(&trace.stdout)?;
    let text = schema.to_string();
    for part in ["\"$schema\"", "data_base64", "summary", "lost", "transmit"] {
        ensure!(text.contains(part), "{part} is not in {text}");
    }
    Ok(())
}

#[test]
fn completions_and_manual() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let trace = run(&["completion", shell])?;
        ensure!(trace.code() == Some(0) && text(&trace).contains("ctrace"), "{shell}: {}", trace.stderr);
    }
    let trace = run(&["man"])?;
    ensure!(trace.code() == Some(0) && text(&trace).contains(".TH ctrace"), "{}", text(&trace));
    Ok(())
}

#[test]
fn an_ordinary_user_is_told_what_is_missing() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        let trace = run(&["ssl", "--all"])?;
        return check_not_permitted(&trace);
    }
    // As root we can switch to an ordinary user: nobody.
    let binary = ctrace_binary()?;
    let directory = tempfile::Builder::new().prefix("ctrace-cli").tempdir_in("/tmp")?;
    let copy = directory.path().join("ctrace");
    std::fs::copy(&binary, &copy)?;
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["ssl", "--all"])
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    check_not_permitted(&RunningTrace { stdout: output.stdout, stderr, status: output.status })
}

fn check_not_permitted(trace: &RunningTrace) -> Result<()> {
    ensure!(trace.code() == Some(4), "{:?}: {}", trace.code(), trace.stderr);
    ensure!(trace.stderr.contains("root") || trace.stderr.contains("CAP_"), "{}", trace.stderr);
    ensure!(trace.stdout.is_empty(), "{}", text(trace));
    Ok(())
}

#[test]
fn a_plan_of_a_command_is_refused() -> Result<()> {
    let output = Command::new(ctrace_binary()?).args(["ssl", "--dry-run", "--", "true"]).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2), "{:?}", output.status);
    ensure!(stderr.contains("before it runs") && output.stdout.is_empty(), "{stderr}");
    Ok(())
}
