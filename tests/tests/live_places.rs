//! ctrace where it can see nothing, or where a resource is scarce. It must say what is missing and what to
//! do, and never claim that nothing happened. Needs root and BPF; one test needs Docker.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{
    Child, RunningTrace, Server, check_harmless, ctrace_binary, json, library, list, program, require_bpf,
    require_live,
};

/// Runs ctrace through programs that change what it sees.
fn run(through: &[&str], arguments: &[&str]) -> Result<RunningTrace> {
    let binary = ctrace_binary()?;
    run_copy(&binary, through, arguments)
}

fn run_copy(binary: &Path, through: &[&str], arguments: &[&str]) -> Result<RunningTrace> {
    let (first, rest) = through.split_first().context("through what?")?;
    let mut command = Command::new(first);
    command.args(rest).arg(binary).args(arguments);
    let mut child = Child::start(&mut command)?;
    let status = child.wait(Duration::from_secs(40))?;
    let (stdout, stderr) = child.output()?;
    Ok(RunningTrace { stdout, stderr: stderr.join("\n"), status })
}

/// Checks the exit status and the messages, and that nothing panicked.
fn check(trace: &RunningTrace, status: i32, parts: &[&str]) -> Result<()> {
    ensure!(trace.code() == Some(status), "{:?}: {}", trace.status, trace.stderr);
    for part in parts {
        ensure!(trace.stderr.contains(part), "{part} is not in: {}", trace.stderr);
    }
    ensure!(!trace.stderr.contains("panicked"), "{}", trace.stderr);
    check_harmless(trace)
}

/// Arguments that run ctrace in a new mount namespace, after these commands.
fn after(script: &str) -> [String; 5] {
    ["unshare", "-m", "sh", "-c", &format!("{script} && exec \"$0\" \"$@\"")].map(str::to_owned)
}

fn run_after(script: &str, arguments: &[&str]) -> Result<RunningTrace> {
    let through = after(script);
    run(&through.each_ref().map(String::as_str), arguments)
}

/// Traces of a process that does not exist, so nothing is inspected.
const TRACES: [&[&str]; 4] = [
    &["ssl", "--comm", "ctrace-nobody", "--duration", "1s"],
    &["exec", "--comm", "ctrace-nobody", "--duration", "1s"],
    &["uprobe", "--comm", "ctrace-nobody", "--duration", "1s", "libc.so.6:getaddrinfo"],
    &["ssl", "--", "true"],
];

#[test]
fn in_a_pid_namespace_of_its_own_nothing_can_be_traced_and_it_is_said() -> Result<()> {
    require_bpf()?;
    // Once with its own /proc, as in a privileged container, and once with the host's.
    for through in [&["unshare", "-p", "-f", "--mount-proc"][..], &["unshare", "-p", "-f"]] {
        for arguments in TRACES {
            let trace = run(through, arguments)?;
            check(&trace, 4, &["PID namespace", "--pid=host"])?;
            ensure!(trace.stdout.is_empty() && !trace.stderr.contains("summary"), "{}", trace.stderr);
        }
        check(&run(through, &["doctor"])?, 4, &["PID namespace"])?;
        let found = json(&run(through, &["doctor", "-o", "json"])?)?;
        let namespace = list(&found, "machine")?.iter().find(|check| check["check"] == "PID namespace");
        let namespace = namespace.context("no such check")?;
        ensure!(namespace["status"] == "no", "{namespace}");
        ensure!(namespace["next"].as_str().is_some_and(|next| next.contains("--pid=host")), "{namespace}");
    }
    let through = ["unshare", "-p", "-f", "--mount-proc"];
    check(&run(&through, &["ps"])?, 0, &["--pid=host"])?;
    // The first process of the namespace is a shell.
    let of_shell = [&through[..], &["sh", "-c", "\"$0\" \"$@\"; exit $?"]].concat();
    check(&run(&of_shell, &["inspect", "1"])?, 0, &["--pid=host"])?;
    let plan = run(&through, &["ssl", "--comm", "ctrace-nobody", "--dry-run"])?;
    check(&plan, 0, &["--pid=host"])?;
    json(&plan).map(drop)
}

#[test]
fn a_command_does_not_begin_where_it_cannot_be_traced() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("file");
    let through = ["unshare", "-p", "-f", "--mount-proc"];
    let path = file.to_str().context("path")?;
    check(&run(&through, &["ssl", "--", "touch", path])?, 4, &["--pid=host"])?;
    ensure!(!file.exists(), "the command has run");
    Ok(())
}

#[test]
fn other_namespaces_than_that_of_pids_do_not_matter() -> Result<()> {
    require_bpf()?;
    // As in a container with --pid=host.
    let through = ["unshare", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--mount-proc"];
    let trace = run(&through, TRACES[0])?;
    check(&trace, 0, &["summary"])?;
    // Root sees the processes that /proc hides from others.
    let trace = run_after("mount -t proc -o hidepid=invisible proc /proc", TRACES[0])?;
    check(&trace, 0, &["summary"])
}

#[test]
fn without_a_proc_of_its_own_nothing_can_be_seen_and_it_is_said() -> Result<()> {
    require_bpf()?;
    for arguments in TRACES.iter().chain(&[&["ps"][..], &["ssl", "--comm", "ctrace-nobody", "--dry-run"]]) {
        check(&run_after("mount -t tmpfs none /proc", arguments)?, 4, &["mount -t proc proc /proc"])?;
    }
    // The /proc of a PID namespace that ctrace is not in.
    let directory = tempfile::tempdir()?;
    let path = directory.path().to_str().context("path")?;
    let mounted = format!(
        "{{ unshare -p -f --kill-child sh -c 'mount -t proc proc {path} && sleep 5' & }} && \
         while ! test -e {path}/1; do sleep 0.01; done && mount --bind {path} /proc"
    );
    check(&run_after(&mounted, TRACES[0])?, 4, &["another PID namespace", "unshare"])
}

#[test]
fn what_proc_hides_from_a_user_is_said() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::Builder::new().prefix("ctrace-places").tempdir_in("/tmp")?;
    let copy = directory.path().join("ctrace");
    fs::copy(ctrace_binary()?, &copy)?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let script = after("mount -t proc -o hidepid=invisible proc /proc");
    let rights = "+bpf,+perfmon,+sys_admin,+dac_read_search";
    let mut through: Vec<&str> = script.iter().map(String::as_str).collect();
    through.extend(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    through.extend(["--inh-caps", rights, "--ambient-caps", rights]);
    check(&run_copy(&copy, &through, TRACES[0])?, 4, &["hidepid", "CAP_SYS_PTRACE"])?;
    check(&run_copy(&copy, &through, &["ps"])?, 0, &["hidepid"])
}

#[test]
fn root_of_a_user_namespace_is_told_that_it_is_not_root() -> Result<()> {
    require_bpf()?;
    for arguments in TRACES {
        check(&run(&["unshare", "-U", "-r"], arguments)?, 4, &["user namespace", "on the host"])?;
    }
    Ok(())
}

#[test]
fn a_kernel_that_cannot_be_asked_is_not_called_too_old() -> Result<()> {
    require_bpf()?;
    for arguments in TRACES {
        let trace = run_after("mount -t tmpfs none /sys", arguments)?;
        check(&trace, 4, &["mount -t sysfs sysfs /sys"])?;
        ensure!(!trace.stderr.contains("CONFIG_"), "{}", trace.stderr);
    }
    let trace = run_after("mount -t tmpfs none /sys/kernel", TRACES[0])?;
    check(&trace, 4, &["mount -t tracefs tracefs /sys/kernel/tracing"])
}

#[test]
fn what_is_not_known_without_btf_is_said() -> Result<()> {
    require_bpf()?;
    let hidden = "mount -t tmpfs none /sys/kernel/btf";
    check(&run_after(hidden, TRACES[1])?, 4, &["CONFIG_DEBUG_INFO_BTF=y"])?;
    check(&run_after(hidden, TRACES[0])?, 0, &["addresses", "CONFIG_DEBUG_INFO_BTF=y", "summary"])
}

#[test]
fn too_few_open_files_are_said_with_what_to_do() -> Result<()> {
    require_bpf()?;
    for limit in [6, 7, 8, 9, 10, 12, 16, 20, 30, 40, 60, 80] {
        let option = format!("--nofile={limit}:{limit}");
        for arguments in TRACES {
            let trace = run(&["prlimit", &option], arguments)?;
            // The smallest trace needs only a few descriptors. Its pattern has matched nothing.
            if !matches!(trace.code(), Some(0 | 3)) || limit < 30 {
                check(&trace, 1, &["ulimit -n"]).with_context(|| format!("{limit} {arguments:?}"))?;
            }
            ensure!(!trace.stderr.contains("report it"), "{limit}: {}", trace.stderr);
        }
    }
    // ctrace raises the soft limit to the hard one.
    check(&run(&["prlimit", "--nofile=64:4096"], TRACES[0])?, 0, &["summary"])
}

#[test]
fn too_little_memory_for_the_ring_is_said_with_what_to_do() -> Result<()> {
    require_bpf()?;
    let large = [TRACES[0], &["--ring-size", "1G"]].concat();
    // As a limit of the address space, which works the same on every machine.
    check(&run(&["prlimit", "--as=800000000"], &large)?, 1, &["--ring-size 4M", "out of memory"])
}

#[test]
fn too_few_processes_are_said_with_what_to_do() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::Builder::new().prefix("ctrace-places").tempdir_in("/tmp")?;
    let copy = directory.path().join("ctrace");
    fs::copy(ctrace_binary()?, &copy)?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    // A user who may have this one process only.
    let through = ["prlimit", "--nproc=1:1", "setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"];
    check(&run_copy(&copy, &through, &["ps"])?, 1, &["could not start a thread", "pids.max"])
}

/// Processes that live as long as the value.
struct Sleepers(Vec<Child>);

impl Sleepers {
    fn start(count: usize, environment: impl Fn(usize) -> Vec<(String, String)>) -> Result<Self> {
        let sleeper = |number| {
            let mut command = Command::new("sleep");
            command.arg("120").envs(environment(number)).stdin(Stdio::null());
            Child::start(&mut command)
        };
        let children = (0..count).map(sleeper).collect::<Result<_>>()?;
        // By now they have executed, and loaded their libraries.
        std::thread::sleep(Duration::from_secs(2));
        Ok(Self(children))
    }

    fn selection(&self) -> Vec<String> {
        self.0.iter().flat_map(|child| ["--pid".to_owned(), child.id().to_string()]).collect()
    }
}

#[test]
fn equal_lines_of_many_processes_are_one() -> Result<()> {
    const COUNT: usize = 20;
    require_bpf()?;
    let libssl = library(&program("tls-server")?, "libssl.so.3")?;
    let directory = tempfile::tempdir()?;
    let copy = |number: usize| directory.path().join(number.to_string()).join("libssl.so.3");
    for number in 0..COUNT {
        fs::create_dir(directory.path().join(number.to_string()))?;
        fs::copy(&libssl, copy(number))?;
    }
    let preload = |number| vec![("LD_PRELOAD".to_owned(), copy(number).to_string_lossy().into_owned())];
    let sleepers = Sleepers::start(COUNT, preload)?;
    let mut arguments = ["ssl", "-v", "--duration", "1s"].map(str::to_owned).to_vec();
    arguments.extend(sleepers.selection());
    let trace = run(&["env"], &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
    check(&trace, 0, &[&format!("host: {COUNT} processes, libssl.so.3 ")])?;
    ensure!(trace.stderr.matches("libssl.so.3 (").count() == 1, "{}", trace.stderr);
    drop(sleepers);
    let idle = Sleepers::start(COUNT, |_| Vec::new())?;
    let mut arguments = vec!["ssl".to_owned()];
    arguments.extend(idle.selection());
    let trace = run(&["env"], &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
    check(&trace, 3, &[&format!("{COUNT} processes (sleep[")])?;
    ensure!(trace.stderr.lines().count() < 10, "{}", trace.stderr);
    Ok(())
}

#[test]
fn mount_tables_are_read_once_and_not_for_each_file() -> Result<()> {
    require_live()?;
    let server = Server::start("mounts", &[])?;
    let arguments = ["ssl", "-vv", "--dry-run", "--container", server.container.name()];
    let trace = run(&["env"], &arguments)?;
    check(&trace, 0, &[])?;
    let files = trace.stderr.matches("inspected").count();
    let tables = trace.stderr.matches("read a mount table").count();
    ensure!(files >= 4, "{files} files: {}", trace.stderr);
    // One is for the hierarchy of cgroups, one for ctrace itself, one for the container; the last two repeat
    // if that takes longer than a moment.
    ensure!((1..=5).contains(&tables) && tables < 2 * files, "{tables} for {files} files: {}", trace.stderr);
    Ok(())
}
