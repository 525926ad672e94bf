//! `ctrace ssl -- COMMAND` misses nothing of the command, and the command does not notice it. Needs root and
//! BPF, no containers.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{LocalServer, TracedCommand, Tracing, ctrace_binary, program, require_bpf, script};
use rustix::process::Signal;

/// Several records and chunks in both directions.
const UP: &str = "1,20000,5";
const DOWN: &str = "100000,1,16384";

/// A target program as a command line.
fn client(name: &str, server: &LocalServer) -> Result<Vec<String>> {
    let path = program(name)?.to_str().context("path of the client")?.to_owned();
    Ok([&path, "--port", server.port(), "--up", UP, "--down", DOWN].map(str::to_owned).to_vec())
}

/// CPython, which loads libssl in the middle of its run.
fn python(server: &LocalServer) -> Result<Vec<String>> {
    let path = script("tls-client.py").to_str().context("path of the script")?.to_owned();
    Ok(["/usr/bin/python3", "-I", &path, server.port(), UP, DOWN].map(str::to_owned).to_vec())
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

/// The command as one line for a shell.
fn quoted(command: &[String]) -> String {
    command.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
}

fn status_of(traced: &TracedCommand) -> Result<i32> {
    traced.trace.code().with_context(|| format!("{:?}: {}", traced.trace.status, traced.trace.stderr))
}

#[test]
fn the_first_call_of_a_program() -> Result<()> {
    require_bpf()?;
    for name in ["tls-client", "tls-client-static"] {
        let server = LocalServer::start(1)?;
        let traced = TracedCommand::run(&[], &words(&client(name, &server)?))?;
        traced.check().with_context(|| name.to_owned())?;
        ensure!(server.transfers()?.len() == 1);
        for record in traced.trace.records()? {
            ensure!(record.process.comm == name.get(..15).unwrap_or(name), "{record:?}");
        }
        // The process has already ended when its records are read.
        for line in traced.trace.lines()?.iter().filter(|line| line["type"] == "ssl") {
            let path = line.pointer("/process/executable/path").and_then(serde_json::Value::as_str);
            ensure!(path.is_some_and(|path| path.ends_with(name)), "{line}");
        }
    }
    Ok(())
}

#[test]
fn a_library_that_is_loaded_late() -> Result<()> {
    require_bpf()?;
    let server = LocalServer::start(1)?;
    TracedCommand::run(&[], &words(&python(&server)?))?.check()
}

/// Nothing holds a program that loads a library from elsewhere than where its loader searches: it is attached
/// to when it is mapped, and counted. The first calls are there, or are what was counted.
#[test]
fn a_library_that_is_loaded_by_its_path() -> Result<()> {
    require_bpf()?;
    let program = program("tls-late")?;
    let name = "exchange-static.so";
    ctrace_tests::program(name)?;
    for (wait, is_whole) in [("2000", true), ("0", false)] {
        let command = [program.to_str().context("path")?, "--library", name, "--after", wait];
        let traced = TracedCommand::run(&[], &command)?;
        ensure!(status_of(&traced)? == 0, "{}", traced.trace.stderr);
        ensure!(traced.attached_late()? == 1, "{wait} ms: {}", traced.trace.summary()?);
        ensure!(traced.trace.stderr.contains("in use before ctrace had attached"), "{}", traced.trace.stderr);
        if is_whole {
            traced.check_streams().with_context(|| format!("{wait} ms"))?;
        }
    }
    Ok(())
}

#[test]
fn a_shell_that_runs_programs() -> Result<()> {
    require_bpf()?;
    let server = LocalServer::start(3)?;
    let (first, second, third) =
        (client("tls-client", &server)?, python(&server)?, client("tls-client-static", &server)?);
    let text = format!("{}; {} | cat; exec {}", quoted(&first), quoted(&second), quoted(&third));
    let traced = TracedCommand::run(&[], &["sh", "-c", &text])?;
    traced.check()?;
    ensure!(traced.text().lines().filter(|line| line.starts_with('{')).count() == 3, "{}", traced.text());
    Ok(())
}

#[test]
fn many_programs_at_once() -> Result<()> {
    require_bpf()?;
    let server = LocalServer::start(12)?;
    let text = format!(
        "for i in 1 2 3 4 5 6; do {} & {} & done; wait",
        quoted(&client("tls-client", &server)?),
        quoted(&python(&server)?)
    );
    let traced = TracedCommand::run(&[], &["sh", "-c", &text])?;
    traced.check()?;
    ensure!(traced.text().lines().filter(|line| line.starts_with('{')).count() == 12, "{}", traced.text());
    Ok(())
}

#[test]
fn a_command_and_a_process() -> Result<()> {
    require_bpf()?;
    let server = LocalServer::start(1)?;
    let command = client("tls-client", &server)?;
    let traced = TracedCommand::run(&["--pid", &server.id().to_string()], &words(&command))?;
    traced.trace.check_complete()?;
    let client = ctrace_tests::Transfer::all(&traced.text())?;
    // The server may still run for a moment after the client's end, which ends the trace.
    let pids: std::collections::BTreeSet<u32> =
        traced.trace.records()?.iter().map(|record| record.process.pid).collect();
    ensure!(pids.len() == 2, "records of {pids:?}");
    traced.trace.streams(|record| record.process.comm == "tls-client")?.check(&client)
}

#[test]
fn programs_of_a_command_by_a_property() -> Result<()> {
    require_bpf()?;
    let server = LocalServer::start(3)?;
    // Neither the shell nor CPython is selected; the programs that they start are held, and matched.
    let (wanted, other, exec) =
        (client("tls-client", &server)?, python(&server)?, client("tls-client-static", &server)?);
    let text = format!(
        "{} > /dev/null; ( {} & wait ); exec {} > /dev/null",
        quoted(&other),
        quoted(&wanted),
        quoted(&exec)
    );
    let traced = TracedCommand::run(&["--comm", "tls-client"], &["sh", "-c", &text])?;
    traced.check()?;
    ensure!(traced.trace.records()?.iter().all(|record| record.process.comm == "tls-client"));
    Ok(())
}

#[test]
fn the_status_is_the_commands() -> Result<()> {
    require_bpf()?;
    let unusable = tempfile::NamedTempFile::new()?;
    let unusable = unusable.path().to_str().context("path")?;
    for (command, expected, said) in [
        (&["sh", "-c", "exit 7"][..], 7, ""),
        (&["true"], 0, ""),
        (&["sh", "-c", "kill -KILL $$"], 137, ""),
        (&["sh", "-c", "kill -TERM $$"], 143, ""),
        (&["there-is-no-such-command"], 127, "\"there-is-no-such-command\" is not there"),
        (&["/nonexistent/command"], 127, "\"/nonexistent/command\" is not there"),
        (&[unusable], 126, "cannot be executed"),
        (&["/"], 126, "cannot be executed"),
    ] {
        let traced = TracedCommand::run(&[], command)?;
        ensure!(status_of(&traced)? == expected, "{command:?}: {}", traced.trace.stderr);
        ensure!(traced.trace.stderr.contains(said), "{command:?}: {}", traced.trace.stderr);
        ensure!(traced.stdout.is_empty(), "{command:?}: {}", traced.text());
    }
    Ok(())
}

#[test]
fn standard_streams_pass_untouched() -> Result<()> {
    require_bpf()?;
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let bytes: Vec<u8> = (0..1024 * 1024)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed.to_be_bytes()[0]
        })
        .collect();
    let traced = TracedCommand::run_with_stdin(&["cat"], &bytes)?;
    ensure!(traced.stdout == bytes, "{} of {} bytes came back", traced.stdout.len(), bytes.len());
    ensure!(status_of(&traced)? == 0, "{}", traced.trace.stderr);
    // No descriptor of ctrace is open in the command, no signal is ignored or blocked, and the command is in
    // no namespace of ctrace but that of its mounts, which a new namespace lists in another order.
    let look = "ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status; readlink /proc/self/ns/[!m]*; cut \
                -d ' ' -f 3- /proc/self/mountinfo | sort; echo err >&2";
    let plain = Command::new("sh").args(["-c", look]).output()?;
    let traced = TracedCommand::run(&[], &["sh", "-c", look])?;
    ensure!(traced.text() == String::from_utf8_lossy(&plain.stdout), "{}", traced.text());
    ensure!(traced.trace.stderr.lines().any(|line| line == "err"), "{}", traced.trace.stderr);
    Ok(())
}

#[test]
fn records_go_to_standard_error_without_output() -> Result<()> {
    require_bpf()?;
    let server = LocalServer::start(2)?;
    let client = program("tls-client")?;
    let run = |format: &str| {
        let mut command = Command::new(ctrace_binary()?);
        command.args(["ssl", "-o", format, "--"]).arg(&client).args([
            "--port",
            server.port(),
            "--text",
            "a secret",
        ]);
        command.stdin(Stdio::null()).output().context("ctrace")
    };
    let text = run("text")?;
    let stderr = String::from_utf8(text.stderr)?;
    ensure!(stderr.contains("a secret") && stderr.contains("SSL_write"), "{stderr}");
    ensure!(String::from_utf8_lossy(&text.stdout).lines().count() == 1, "more than the client's own line");
    let json = run("json")?;
    let stderr = String::from_utf8(json.stderr)?;
    for line in stderr.lines() {
        ensure!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "not a record: {line}");
    }
    ensure!(stderr.contains("a secret") && stderr.contains("\"summary\""), "{stderr}");
    Ok(())
}

#[test]
fn colours_follow_standard_error() -> Result<()> {
    require_bpf()?;
    let server = LocalServer::start(2)?;
    let directory = tempfile::tempdir()?;
    let (file, ctrace) = (directory.path().join("stream"), ctrace_binary()?);
    for (redirected, coloured) in [("2", false), ("1", true)] {
        let line = format!(
            "'{}' ssl -- '{}' --port {} --text hello {redirected}> '{}'",
            ctrace.display(),
            program("tls-client")?.display(),
            server.port(),
            file.display()
        );
        // Runs it on its own terminal.
        let terminal =
            Command::new("script").args(["-qec", &line, "/dev/null"]).env_remove("NO_COLOR").output()?;
        let records = if coloured { terminal.stdout } else { fs::read(&file)? };
        let records = String::from_utf8_lossy(&records).into_owned();
        ensure!(records.contains("hello"), "{records}");
        ensure!(records.contains('\x1b') == coloured, "{redirected}: {records:?}");
    }
    Ok(())
}

/// A user with supplementary groups, if this machine has one.
fn some_user() -> Result<String> {
    let groups = fs::read_to_string("/etc/group")?;
    let mut member = groups.lines().filter_map(|line| line.rsplit(':').next()?.split(',').next());
    let found = member.rfind(|user| !user.is_empty() && *user != "root");
    Ok(found.unwrap_or("nobody").to_owned())
}

fn output_of(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[test]
fn under_sudo_the_command_is_the_users() -> Result<()> {
    require_bpf()?;
    let user = some_user()?;
    let uid = output_of("id", &["-u", &user])?;
    let gid = output_of("id", &["-g", &user])?;
    let passwd = output_of("getent", &["passwd", &user])?;
    let home = passwd.split(':').nth(5).context("no home")?;
    let server = LocalServer::start(1)?;
    // A directory where the user can execute it, wherever the target directory is.
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let copy = directory.path().join("client");
    fs::copy(program("tls-client")?, &copy)?;
    let text = format!(
        "id -u; id -g; id -G; echo \"$HOME $USER $LOGNAME $SUDO_UID\"; grep CapEff /proc/self/status; exec \
         '{}' --port {} --text hello",
        copy.display(),
        server.port()
    );
    let environment = [("SUDO_UID", uid.as_str()), ("SUDO_GID", &gid), ("SUDO_USER", &user)];
    let traced = Tracing::start_with(&[], &["sh", "-c", &text], Stdio::null(), &environment)?.wait()?;
    let expected = format!(
        "{uid}\n{gid}\n{}\n{home} {user} {user} {uid}\nCapEff:\t0000000000000000\n",
        output_of("id", &["-G", &user])?
    );
    ensure!(traced.text().starts_with(&expected), "{} is not {expected}", traced.text());
    traced.check()
}

#[test]
fn an_end_before_the_commands() -> Result<()> {
    require_bpf()?;
    let server = LocalServer::start(1)?;
    let text = format!("{}; sleep 1; exit 3", quoted(&client("tls-client", &server)?));
    for (option, value, end, status, text) in [
        ("--limit", "2", "count", 3, text.as_str()),
        ("--duration", "300ms", "duration", 4, "sleep 2; echo more; exit 4"),
    ] {
        let traced = TracedCommand::run(&[option, value], &["sh", "-c", text])?;
        ensure!(status_of(&traced)? == status, "{option}: {}", traced.trace.stderr);
        let summary = traced.trace.summary()?;
        ensure!(summary.get("end").and_then(serde_json::Value::as_str) == Some(end), "{summary}");
        ensure!(!traced.text().is_empty(), "the command did not go on after {option}");
    }
    Ok(())
}

#[test]
fn ctrl_c_is_the_commands() -> Result<()> {
    require_bpf()?;
    let server = LocalServer::start(1)?;
    let client = quoted(&client("tls-client", &server)?);
    // It is traced until it ends, whatever it does with the signal.
    let text =
        format!("trap '{}; exit 9' INT; echo ready; while :; do sleep 0.1; done", client.replace('\'', ""));
    let mut tracing = Tracing::start(&[], &["sh", "-c", &text], Stdio::null())?;
    tracing.wait_for("ready")?;
    tracing.press_ctrl_c()?;
    let mut traced = tracing.wait()?;
    ensure!(status_of(&traced)? == 9, "{}", traced.trace.stderr);
    traced.trace.status = std::process::ExitStatus::default();
    traced.check()?;
    let mut tracing = Tracing::start(&[], &["sh", "-c", "echo ready; sleep 30"], Stdio::null())?;
    tracing.wait_for("ready")?;
    tracing.press_ctrl_c()?;
    ensure!(status_of(&tracing.wait()?)? == 130);
    Ok(())
}

/// As with `cargo xtask test &` in a script: the shell ignores SIGINT for it, and a program that inherits an
/// ignored signal does not restore it.
#[test]
fn ctrl_c_is_the_commands_when_the_tests_run_in_the_background() -> Result<()> {
    require_bpf()?;
    let script = "trap '' INT; exec \"$0\" --exact ctrl_c_is_the_commands";
    let output =
        Command::new("sh").args(["-c", script]).arg(std::env::current_exe()?).output().context("sh")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && said.contains("1 passed"), "{said}");
    Ok(())
}

#[test]
fn a_second_ctrl_c_leaves_the_command() -> Result<()> {
    require_bpf()?;
    let text = "trap '' INT; echo ready; sleep 3; echo ended";
    let mut tracing = Tracing::start(&[], &["sh", "-c", text], Stdio::null())?;
    tracing.wait_for("ready")?;
    tracing.press_ctrl_c()?;
    thread::sleep(Duration::from_millis(300));
    ensure!(!String::from_utf8_lossy(&tracing.stdout()?).contains("ended"), "too slow to show anything");
    tracing.press_ctrl_c()?;
    let status = tracing.child().wait(Duration::from_secs(2))?;
    ensure!(status.code() == Some(130), "{status}");
    tracing.wait_for("ended")
}

#[test]
fn sigterm_is_passed_on() -> Result<()> {
    require_bpf()?;
    let text = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    let mut tracing = Tracing::start(&[], &["sh", "-c", text], Stdio::null())?;
    tracing.wait_for("ready")?;
    tracing.child().signal(Signal::TERM)?;
    let traced = tracing.wait()?;
    ensure!(status_of(&traced)? == 5, "{}", traced.trace.stderr);
    ensure!(traced.trace.summary()?.get("end").and_then(serde_json::Value::as_str) == Some("interrupted"));
    Ok(())
}
