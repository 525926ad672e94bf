//! What `-o` and `--output` accept, several outputs at once, how a trace with them ends, how their failures
//! affect the exit status, and what its recording shows. Needs root and BPF, no containers.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{Child, LocalServer, RunningTrace, ctrace_binary, program, require_bpf};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
/// How long a trace may take to end; it waits 2 seconds for a reader that does not read.
const END: Duration = Duration::from_secs(8);
/// Another user: `nobody`.
const OTHER: u32 = 65534;
/// A script that starts many programs.
const BUSY: &str = "for i in $(seq 300); do /bin/true; done";
/// The same in a command that keeps running, and reports when it is done.
const BUSY_COMMAND: &str = "for i in $(seq 300); do /bin/true; done; echo ready >&2; sleep 60";

/// `ctrace exec -o json --output PATH ARGUMENTS`, in its own process group.
fn ctrace(output: &Path, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(ctrace_binary()?);
    command.args(["exec", "-o", "json", "--output"]).arg(output).args(arguments).process_group(0);
    Ok(command)
}

/// Waits until it ends.
fn end(mut child: Child, timeout: Duration) -> Result<RunningTrace> {
    let status = child.wait(timeout)?;
    let (stdout, stderr) = child.output()?;
    Ok(RunningTrace { stdout, stderr: stderr.join("\n"), status })
}

fn run(output: &Path, arguments: &[&str]) -> Result<RunningTrace> {
    end(Child::start(&mut ctrace(output, arguments)?)?, PATIENCE)
}

fn check_status(trace: &RunningTrace, expected: i32, said: &str) -> Result<()> {
    ensure!(trace.code() == Some(expected), "{:?} is not {expected}: {}", trace.status, trace.stderr);
    ensure!(trace.stderr.contains(said), "{said:?} is not in: {}", trace.stderr);
    Ok(())
}

fn wait_for(child: &mut Child, said: &str) -> Result<()> {
    let stderr = child.stderr.as_mut().context("no standard error")?;
    stderr.wait(said, PATIENCE, |line| line.contains(said)).map(drop)
}

/// Sends SIGINT to the whole process group, as the terminal does.
fn press_ctrl_c(child: &Child) -> Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no process group")?;
    Ok(kill_process_group(group, Signal::INT)?)
}

/// A FIFO in its own directory.
fn fifo() -> Result<(TempDir, PathBuf)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
    Ok((directory, path))
}

/// A file that belongs to another user, in a directory where everybody can create files.
fn file_of(owner: u32) -> Result<(TempDir, PathBuf)> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), Permissions::from_mode(0o1777))?;
    let path = directory.path().join("records");
    fs::write(&path, "old")?;
    fs::set_permissions(&path, Permissions::from_mode(0o644))?;
    chown(&path, Some(owner), Some(owner))?;
    Ok((directory, path))
}

fn is_full(pipe: &File) -> Result<bool> {
    Ok(poll(&mut [PollFd::new(pipe, PollFlags::OUT)], Some(&Timespec::default()))? == 0)
}

/// Starts programs until a pipe is full.
fn fill(pipe: &File) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_full(pipe)? {
        ensure!(Instant::now() < deadline, "{} bytes came", rustix::io::ioctl_fionread(pipe)?);
        Command::new("sh").args(["-c", BUSY]).status()?;
    }
    Ok(())
}

fn has_summary(records: &[u8]) -> bool {
    let last = records.trim_ascii_end().split(|byte| *byte == b'\n').next_back();
    let last = last.and_then(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
    last.is_some_and(|record| record.get("type").and_then(|kind| kind.as_str()) == Some("summary"))
}

#[test]
fn a_file_of_somebody_else_is_left_as_it_is() -> Result<()> {
    require_bpf()?;
    let (_directory, path) = file_of(OTHER)?;
    let trace = run(&path, &["--", "echo", "began"])?;
    check_status(&trace, 1, "belongs to user 65534")?;
    ensure!(trace.stdout.is_empty(), "the command has begun");
    let metadata = fs::metadata(&path)?;
    ensure!(fs::read(&path)? == b"old" && metadata.mode() & 0o777 == 0o644, "{metadata:?}");
    // The file belongs to the user who called sudo.
    let mut command = ctrace(&path, &["--", "true"])?;
    let trace = end(Child::start(command.env("SUDO_UID", OTHER.to_string()))?, PATIENCE)?;
    check_status(&trace, 0, "")?;
    let metadata = fs::metadata(&path)?;
    ensure!(has_summary(&fs::read(&path)?), "{:?}", fs::read_to_string(&path)?);
    ensure!(metadata.mode() & 0o777 == 0o600 && metadata.uid() == OTHER, "{metadata:?}");
    Ok(())
}

#[test]
fn a_link_is_not_followed() -> Result<()> {
    require_bpf()?;
    let (directory, file) = file_of(0)?;
    let link = directory.path().join("link\x1b[31m");
    symlink(&file, &link)?;
    let trace = run(&link, &["--", "echo", "began"])?;
    check_status(&trace, 1, "is a link")?;
    ensure!(trace.stdout.is_empty() && !trace.stderr.contains('\x1b'), "{:?}", trace.stderr);
    ensure!(fs::read(&file)? == b"old", "the file was emptied");
    Ok(())
}

#[test]
fn what_was_recorded_stays_when_nothing_can_be_attached_to() -> Result<()> {
    require_bpf()?;
    let (_directory, path) = file_of(0)?;
    let mut command = Command::new(ctrace_binary()?);
    command.args(["ssl", "--pid", &std::process::id().to_string(), "--output"]).arg(&path);
    check_status(&end(Child::start(&mut command)?, PATIENCE)?, 3, "nothing to attach to")?;
    ensure!(fs::read(&path)? == b"old", "the file was emptied");
    Ok(())
}

#[test]
fn a_fifo_that_nobody_reads_holds_nobody() -> Result<()> {
    require_bpf()?;
    let (_directory, path) = fifo()?;
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut child = Child::start(&mut ctrace(&path, &["--all"])?)?;
        wait_for(&mut child, "waiting for a reader")?;
        child.signal(signal)?;
        check_status(&end(child, END)?, 0, "interrupted")?;
    }
    let trace = run(&path, &["--all", "--duration", "300ms"])?;
    check_status(&trace, 1, "no process has opened")
}

#[test]
fn a_command_begins_when_the_fifo_is_read() -> Result<()> {
    require_bpf()?;
    let (_directory, path) = fifo()?;
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut child = Child::start(&mut ctrace(&path, &["--", "echo", "began"])?)?;
        wait_for(&mut child, "waiting for a reader")?;
        child.signal(signal)?;
        let trace = end(child, END)?;
        check_status(&trace, status, "")?;
        ensure!(trace.stdout.is_empty(), "{signal:?}: the command has begun");
    }
    let trace = run(&path, &["--duration", "300ms", "--", "echo", "began"])?;
    check_status(&trace, 1, "no process has opened")?;
    ensure!(trace.stdout.is_empty(), "the command has begun");

    let mut child = Child::start(&mut ctrace(&path, &["--", "echo", "began"])?)?;
    wait_for(&mut child, "waiting for a reader")?;
    let records = fs::read(&path)?;
    let trace = end(child, END)?;
    check_status(&trace, 0, "")?;
    ensure!(trace.stdout == b"began\n" && has_summary(&records), "{}", String::from_utf8_lossy(&records));
    ensure!(fs::metadata(&path)?.mode() & 0o777 == 0o644, "the FIFO's mode was changed");
    Ok(())
}

#[test]
fn a_fifo_whose_reader_does_not_read_holds_nobody() -> Result<()> {
    require_bpf()?;
    let (_directory, path) = fifo()?;
    for signal in [Some(Signal::INT), Some(Signal::TERM), Some(Signal::HUP), None] {
        let reader = OpenOptions::new().read(true).write(true).open(&path)?;
        let limits: &[&str] = if signal.is_none() { &["--duration", "3s"] } else { &[] };
        let mut child = Child::start(&mut ctrace(&path, &[&["--all", "--env", "all"], limits].concat())?)?;
        wait_for(&mut child, "tracing")?;
        fill(&reader)?;
        if let Some(signal) = signal {
            child.signal(signal)?;
        }
        check_status(&end(child, END)?, 0, "").with_context(|| format!("{signal:?}"))?;
    }
    Ok(())
}

#[test]
fn ctrl_c_ends_a_command_and_the_trace_that_nobody_reads() -> Result<()> {
    require_bpf()?;
    let (_directory, path) = fifo()?;
    let reader = OpenOptions::new().read(true).write(true).open(&path)?;
    let arguments = ["--env", "all", "--", "sh", "-c", BUSY_COMMAND];
    let mut child = Child::start(&mut ctrace(&path, &arguments)?)?;
    wait_for(&mut child, "ready")?;
    ensure!(is_full(&reader)?, "too little to show anything");
    press_ctrl_c(&child)?;
    check_status(&end(child, END)?, 130, "")
}

#[test]
fn a_reader_that_leaves_is_the_end() -> Result<()> {
    require_bpf()?;
    let (_directory, path) = fifo()?;
    let mut child = Child::start(&mut ctrace(&path, &["--all"])?)?;
    wait_for(&mut child, "waiting for a reader")?;
    let reader = File::open(&path)?;
    wait_for(&mut child, "tracing")?;
    drop(reader);
    check_status(&end(child, END)?, 0, "")
}

#[test]
fn names_of_open_files() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("file");
    let quoted = |path: &Path| format!("'{}'", path.display());
    let (ctrace, file_word) = (quoted(&ctrace_binary()?), quoted(&file));
    // The content of the file stays, because the shell opened it and decides where to write.
    for (name, redirection, mixed) in [
        ("/dev/stdout", ">>", "echoed"),
        ("/proc/self/fd/1", ">>", "echoed"),
        ("/dev/stderr", "2>>", ""),
        ("/dev/fd/7", "7>>", ""),
    ] {
        fs::write(&file, "old\n")?;
        let line = format!("{ctrace} exec -o json --output {name} -- echo echoed {redirection} {file_word}");
        let trace = end(Child::start(Command::new("sh").args(["-c", &line]))?, PATIENCE)?;
        check_status(&trace, 0, "")?;
        let text = fs::read_to_string(&file)?;
        ensure!(text.starts_with("old\n") && text.contains("\"summary\""), "{name}: {text}");
        ensure!(text.contains(mixed), "{name}: {text}");
    }
    let line = format!("{ctrace} exec -o json --output /dev/stdout -- true | cat");
    let trace = end(Child::start(Command::new("sh").args(["-c", &line]))?, PATIENCE)?;
    ensure!(has_summary(&trace.stdout), "{}", trace.stderr);
    check_status(&run(Path::new("/dev/null"), &["--", "true"])?, 0, "")?;
    let trace = run(Path::new("/dev/fd/9"), &["--", "echo", "began"])?;
    check_status(&trace, 1, "/dev/fd/9 is not open for writing")?;
    ensure!(trace.stdout.is_empty(), "the command has begun");
    Ok(())
}

#[test]
fn a_failed_output_and_the_commands_status() -> Result<()> {
    require_bpf()?;
    let full = Path::new("/dev/full");
    for (command, expected) in [
        (&["true"][..], 1),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["there-is-no-such-command"], 127),
        (&["/"], 126),
    ] {
        let trace = run(full, &[&["--"], command].concat())?;
        check_status(&trace, expected, "records cannot be written to /dev/full: free some space there")
            .with_context(|| format!("{command:?}"))?;
    }
    // The failure is reported when it happens, however long the command still runs.
    let mut child = Child::start(&mut ctrace(full, &["--", "sleep", "60"])?)?;
    wait_for(&mut child, "records cannot be written")?;
    child.signal(Signal::TERM)?;
    check_status(&end(child, END)?, 143, "")
}

/// `ctrace exec ARGUMENTS`, its own process group, with outputs as `-o` takes them.
fn with_outputs(outputs: &[String], arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(ctrace_binary()?);
    command
        .arg("exec")
        .args(outputs.iter().flat_map(|output| ["-o", output]))
        .args(arguments)
        .process_group(0);
    Ok(command)
}

fn output(format: &str, path: &Path) -> String {
    format!("{format}={}", path.display())
}

/// The pids of the records of one type.
fn pids(records: &[u8], kind: &str) -> Result<Vec<u64>> {
    let records = serde_json::Deserializer::from_slice(records).into_iter::<serde_json::Value>();
    let records = records.collect::<std::result::Result<Vec<_>, _>>()?;
    let of_kind = records.iter().filter(|record| record["type"] == kind);
    Ok(of_kind.filter_map(|record| record.pointer("/process/pid")?.as_u64()).collect())
}

#[test]
fn several_outputs_have_the_same_records() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let (lines, text) = (directory.path().join("lines"), directory.path().join("text"));
    let outputs = ["text=-".to_owned(), output("json", &lines), output("text", &text)];
    let arguments = ["--", "sh", "-c", "for i in 1 2 3 4 5; do /bin/true $i; done"];
    let trace = end(Child::start(&mut with_outputs(&outputs, &arguments)?)?, PATIENCE)?;
    check_status(&trace, 0, "summary: 6 programs")?;
    ensure!(fs::read(&text)? == trace.stdout, "{:?}", fs::read_to_string(&text)?);
    let records = fs::read(&lines)?;
    let pids = pids(&records, "exec")?;
    let shown = String::from_utf8_lossy(&trace.stdout);
    ensure!(pids.len() == 6 && has_summary(&records) && shown.lines().count() == 6, "{pids:?}: {shown}");
    for (line, pid) in shown.lines().zip(pids) {
        ensure!(line.contains(&format!("[{pid}]")), "{pid} is not in {line}");
    }
    for path in [&lines, &text] {
        ensure!(fs::metadata(path)?.mode() & 0o777 == 0o600, "{:?}", fs::metadata(path)?);
    }
    Ok(())
}

/// What a trace shows as text is what its recording shows, later and without it.
#[test]
fn the_text_of_a_recording_is_that_of_the_trace() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let (lines, text) = (directory.path().join("lines"), directory.path().join("text"));
    let server = LocalServer::start(1)?;
    let mut command = Command::new(ctrace_binary()?);
    command.args(["ssl", "--connections", "-o", &output("json", &lines), "-o", &output("text", &text), "--"]);
    command.arg(program("tls-client")?).args(["--port", server.port(), "--up", "1,20000,5"]);
    command.args(["--down", "100000,1,16384"]).process_group(0);
    check_status(&end(Child::start(&mut command)?, PATIENCE)?, 0, "summary: ")?;
    let (lines_then, text_then) = (fs::read(&lines)?, fs::read_to_string(&text)?);
    for part in [" open ", " → 20000 B", " ← ", " close ", "TLS 1."] {
        ensure!(text_then.contains(part), "{part} is not in {text_then}");
    }
    let read = |format: &str| -> Result<Vec<u8>> {
        let mut command = Command::new(ctrace_binary()?);
        let output = command.args(["ssl", "-o", format, "--read"]).arg(&lines).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(output.stdout)
    };
    let text_now = String::from_utf8(read("text")?)?;
    ensure!(text_now == text_then, "then:\n{text_then}\nnow:\n{text_now}");
    ensure!(read("json")? == lines_then, "JSON is as it was");
    Ok(())
}

#[test]
fn the_other_outputs_go_on_when_one_has_gone() -> Result<()> {
    require_bpf()?;
    let (directory, path) = fifo()?;
    let file = directory.path().join("file");
    let outputs = [output("json", &path), output("json", &file)];
    let mut child = Child::start(&mut with_outputs(&outputs, &["--all"])?)?;
    wait_for(&mut child, "waiting for a reader")?;
    let reader = File::open(&path)?;
    wait_for(&mut child, "tracing")?;
    drop(reader);
    Command::new("true").status()?;
    wait_for(&mut child, "nobody reads the records of")?;
    let later = Command::new("true").spawn()?;
    let pid = u64::from(later.id());
    later.wait_with_output()?;
    child.signal(Signal::TERM)?;
    check_status(&end(child, END)?, 0, "interrupted")?;
    let records = fs::read(&file)?;
    ensure!(has_summary(&records) && pids(&records, "exec")?.contains(&pid), "{pid} is not in the file");
    Ok(())
}

#[test]
fn the_other_outputs_are_finished_when_one_fails() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("file");
    let outputs = [output("json", Path::new("/dev/full")), output("json", &file)];
    let trace =
        end(Child::start(&mut with_outputs(&outputs, &["--", "sh", "-c", "true; sleep 1"])?)?, PATIENCE)?;
    check_status(&trace, 1, "records cannot be written to /dev/full: free some space there")?;
    let records = fs::read_to_string(&file)?;
    ensure!(has_summary(records.as_bytes()), "{records}");
    ensure!(records.contains("\"end\":\"output_failed\"") && records.contains("\"exec\""), "{records}");
    Ok(())
}

#[test]
fn no_output_is_emptied_when_another_is_refused() -> Result<()> {
    require_bpf()?;
    let (_own, ours) = file_of(0)?;
    let (_other, theirs) = file_of(OTHER)?;
    let outputs = [output("json", &ours), output("text", &theirs)];
    let trace = end(Child::start(&mut with_outputs(&outputs, &["--", "echo", "began"])?)?, PATIENCE)?;
    check_status(&trace, 1, "belongs to user 65534")?;
    // The same file by another name.
    let parent = ours.parent().context("no parent")?;
    let name = parent.file_name().context("no name")?;
    let again = output("text", &parent.join("..").join(name).join("records"));
    let twice = [output("json", &ours), again];
    let trace = end(Child::start(&mut with_outputs(&twice, &["--", "echo", "began"])?)?, PATIENCE)?;
    check_status(&trace, 1, "is the same file")?;
    ensure!(trace.stdout.is_empty() && fs::read(&ours)? == b"old", "{:?}", fs::read_to_string(&ours)?);
    Ok(())
}

#[test]
fn a_limit_of_the_size_of_files_is_an_error() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("records");
    let mut command = Command::new("prlimit");
    command.arg("--fsize=100").arg(ctrace_binary()?).args(["exec", "-o", "json", "--output"]).arg(&file);
    let trace = end(Child::start(command.args(["--", "true"]))?, PATIENCE)?;
    check_status(&trace, 1, "raise the file size limit")
}
