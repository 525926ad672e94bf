//! A command behaves under `ctrace ssl -- COMMAND` as without it: the same standard output and the same exit
//! status, whatever it does with signals, namespaces, rights and other processes. Needs root, BPF and Docker.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{LocalServer, TracedCommand, Tracing, images, program, require_bpf, require_live};
use regex::Regex;
use rustix::process::Signal;

/// How often what depends on timing is repeated.
const ROUNDS: usize = 20;

/// What a command has shown: standard output, and the exit status.
type Behaviour = (String, Option<i32>);

fn alone(command: &[&str]) -> Result<Behaviour> {
    let (first, rest) = command.split_first().context("no command")?;
    let mut child = Command::new(first);
    let output = child.args(rest).stdin(Stdio::null()).output().with_context(|| first.to_string())?;
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code()))
}

fn traced(options: &[&str], command: &[&str]) -> Result<Behaviour> {
    let traced = TracedCommand::run(options, command)?;
    ensure!(!traced.trace.stderr.contains("not held"), "{command:?}: {}", traced.trace.stderr);
    Ok((traced.text(), traced.trace.code()))
}

/// Runs a command with and without ctrace, so often. Numbers of processes and addresses differ between runs,
/// so all numbers of several digits count as equal.
fn check_times(rounds: usize, command: &[&str], status: i32) -> Result<()> {
    let numbers = Regex::new("(0x)?[0-9a-f]{3,}")?;
    let plain = |(output, status): Behaviour| (numbers.replace_all(&output, "N").into_owned(), status);
    let expected = plain(alone(command)?);
    ensure!(expected.1 == Some(status), "{command:?} alone: {expected:?}");
    for round in 0..rounds {
        let found = plain(traced(&[], command)?);
        ensure!(found == expected, "{command:?}, round {round}: {found:?}, alone {expected:?}");
    }
    Ok(())
}

fn check(command: &[&str], status: i32) -> Result<()> {
    check_times(1, command, status)
}

fn check_shell(text: &str, status: i32) -> Result<()> {
    check(&["bash", "-c", text], status)
}

#[test]
fn script() -> Result<()> {
    require_bpf()?;
    check_times(ROUNDS, &["script", "-qec", "true", "/dev/null"], 0)?;
    check(&["script", "-qec", "echo typed; exit 3", "/dev/null"], 3)
}

#[test]
fn shells_with_job_control() -> Result<()> {
    require_bpf()?;
    let job = "openssl version > /dev/null";
    let jobs = format!("set -m; {job}; echo $?; {job} & wait; echo $?; sh -c 'exit 7' & wait $!; echo $?");
    check_times(ROUNDS, &["bash", "-c", &jobs], 0)?;
    let interactive = format!("bash --norc -ic '{job}; echo $?; {job} & wait $!; echo $?; jobs; exit 4'");
    check(&["script", "-qec", &interactive, "/dev/null"], 4)?;
    check_shell("set -m; sleep 60 & kill -STOP $!; kill -CONT $!; kill $!; wait $!; echo $?", 0)
}

#[test]
fn system_calls_that_wait_are_not_interrupted() -> Result<()> {
    require_bpf()?;
    let waits = program("waits")?;
    let waits = waits.to_str().context("path")?;
    check_times(5, &[waits], 0)?;
    // One that is in another directory than the loader's.
    check(&[waits, program("libbundle.so")?.to_str().context("path")?], 0)
}

#[test]
fn tracers_and_debuggers() -> Result<()> {
    require_bpf()?;
    let openssl = "openssl version";
    for options in ["", "--seccomp-bpf"] {
        check_shell(&format!("strace -f {options} -o /dev/null sh -c '{openssl}; exit 5'"), 5)?;
    }
    // As many programs are seen, and no signal that stops one.
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let exec = format!("strace -f -e trace=execve -e signal=all -o '{}'", log.display());
    let count = format!("grep -c -e 'execve.* = 0' -e SIGSTOP '{}'", log.display());
    check_shell(&format!("{exec} sh -c '{openssl}; true'; echo $?; {count}"), 0)?;
    let gdb = ["gdb", "-nx", "-batch", "-ex", "run", "-ex", "print $_exitcode", "--args"];
    check(&[&gdb[..], &["openssl", "version"]].concat(), 0)?;
    check(&[&gdb[..], &["sh", "-c", "exit 7"]].concat(), 0)
}

#[test]
fn other_users() -> Result<()> {
    require_bpf()?;
    let look =
        "id; grep -E '^(Cap|NoNewPrivs|Seccomp|SigBlk|SigIgn)' /proc/self/status; openssl version; exit 6";
    check(&["sudo", "-n", "sh", "-c", look], 6)?;
    check(&["sudo", "-n", "-u", "nobody", "sh", "-c", look], 6)?;
    check(&["su", "nobody", "-s", "/bin/sh", "-c", look], 6)?;
    check(&["setpriv", "--reuid=65534", "--clear-groups", "--no-new-privs", "sh", "-c", look], 6)?;
    // The shell gets its rights only from the file of sudo.
    let as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups sudo -n true; echo $?";
    check_shell(as_nobody, 0)
}

#[test]
fn namespaces_and_other_roots() -> Result<()> {
    require_bpf()?;
    let look = "openssl version; id -u; exit 6";
    check(&["unshare", "--mount", "sh", "-c", look], 6)?;
    check(&["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", "echo $$; exit 6"], 6)?;
    check(&["unshare", "--user", "--map-root-user", "--mount", "--net", "--ipc", "sh", "-c", look], 6)?;
    check(&["chroot", "/", "sh", "-c", look], 6)?;
    let binds = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/run"];
    let confined = ["--unshare-all", "--new-session", "--die-with-parent", "sh", "-c", look];
    check(&[&["bwrap"], &binds[..], &confined].concat(), 6)?;
    let pivot = "d=$(mktemp -d); mount --bind / $d; cd $d; pivot_root . mnt; umount -l /mnt; \
                 openssl version; sh -c 'exit 6'";
    check(&["unshare", "--mount", "sh", "-c", pivot], 6)
}

#[test]
fn mounts_of_the_command() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().to_str().context("path")?;
    let text = format!(
        "mount -t tmpfs none {path} && cp $(command -v openssl) {path}/copy && {path}/copy version && \
         grep -c ' {path} ' /proc/self/mounts; umount {path}; echo $?"
    );
    check_shell(&text, 0)?;
    ensure!(!fs::read_to_string("/proc/mounts")?.contains(path), "a mount is left");
    // What the host shares with the command goes both ways.
    let shared = Command::new("mount").args(["-t", "tmpfs", "none", path]).status()?;
    ensure!(shared.success(), "no tmpfs can be mounted");
    let result = (|| -> Result<()> {
        ensure!(Command::new("mount").args(["--make-shared", path]).status()?.success());
        let text = format!("mkdir {path}/in && mount -t tmpfs none {path}/in && echo kept > {path}/in/file");
        traced(&[], &["sh", "-c", &text])?;
        let kept = fs::read_to_string(directory.path().join("in/file")).context("it did not propagate")?;
        ensure!(kept == "kept\n");
        Ok(())
    })();
    for mounted in [format!("{path}/in"), path.to_owned()] {
        let _ = Command::new("umount").arg(mounted).stderr(Stdio::null()).status();
    }
    result
}

#[test]
fn container_runtimes() -> Result<()> {
    require_live()?;
    let image = images::tls()?;
    let run = ["docker", "run", "--rm", "--network", "none", image.tag()];
    check(&[&run[..], &["/tls-client", "--no-such-option"]].concat(), 2)?;
    let bundle = tempfile::tempdir()?;
    fs::create_dir(bundle.path().join("rootfs"))?;
    fs::copy(program("exec-one")?, bundle.path().join("rootfs/program"))?;
    let text = format!(
        "cd {} && [ -e config.json ] || runc spec && sed -i -e 's/\"terminal\": true/\"terminal\": false/' -e \
         's|\"sh\"|\"/program\"|' config.json && runc run harmless-$$; echo $?",
        bundle.path().display()
    );
    check_shell(&text, 0)
}

#[test]
fn what_takes_longer_than_the_limit_goes_on_and_is_counted() -> Result<()> {
    require_bpf()?;
    let server = LocalServer::start(1)?;
    let client = program("tls-client-static")?;
    let text = format!("'{}' --port {} --text hello; exit 3", client.display(), server.port());
    // A program that was never inspected takes longer.
    let traced = TracedCommand::run(&["--hold-limit", "1ms"], &["sh", "-c", &text])?;
    ensure!(traced.trace.code() == Some(3), "{}", traced.trace.stderr);
    ensure!(traced.text().contains("\"side\""), "{}", traced.text());
    ensure!(traced.attached_late()? >= 1, "{}", traced.trace.summary()?);
    ensure!(traced.trace.stderr.contains("in use before ctrace had attached"), "{}", traced.trace.stderr);
    Ok(())
}

#[test]
fn without_a_limit_the_command_has_the_mounts_of_ctrace() -> Result<()> {
    require_bpf()?;
    let look = ["readlink", "/proc/self/ns/mnt"];
    let own = alone(&look)?;
    ensure!(traced(&["--hold-limit", "0"], &look)? == own);
    ensure!(traced(&[], &look)?.0 != own.0, "the command can be held, and is not");
    Ok(())
}

/// ctrace does not answer while a signal has stopped it. When it is killed, the kernel answers.
#[test]
fn sigkill_lets_everything_go() -> Result<()> {
    require_bpf()?;
    // Either the command itself is held, or a process that it has started.
    for prefix in ["exec ", ""] {
        let text = format!("echo pid $$; read line; {prefix}sh -c 'echo went on'");
        let mut tracing = Tracing::start(&[], &["sh", "-c", &text], Stdio::piped())?;
        tracing.wait_for("pid ")?;
        let stdin = tracing.child().take_stdin().context("no standard input")?;
        tracing.child().signal(Signal::STOP)?;
        std::io::Write::write_all(&mut &stdin, b"go\n")?;
        std::thread::sleep(Duration::from_secs(1));
        let output = String::from_utf8_lossy(&tracing.stdout()?).into_owned();
        ensure!(!output.contains("went on"), "{prefix:?}: nobody is held: this test shows nothing");
        tracing.child().signal(Signal::KILL)?;
        tracing.child().wait(Duration::from_secs(10))?;
        let begin = Instant::now();
        tracing.wait_for("went on")?;
        ensure!(begin.elapsed() < Duration::from_secs(5), "{prefix:?}: after {:?}", begin.elapsed());
    }
    Ok(())
}
