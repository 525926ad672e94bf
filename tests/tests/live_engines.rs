//! ctrace finds, names and traces the containers of every engine alike, also when the engine fails. Needs
//! root, BPF, Docker, Podman and containerd.
//!
//! Each test is written once, for any engine. [`on_each_engine`] runs it with each, which the test itself
//! starts.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{
    Archive, Ctrace, Engine, EngineContainer, EngineKind, EngineServer, RunningTrace, Transfer, images,
    program, wait_until,
};
use serde_json::Value;

/// The sizes that clients move in these tests: more than one record and chunk, in both directions.
const MOVE: &[&str] = &["--up", "5,20000", "--down", "100000,1"];

/// Runs each test with each engine of its line.
macro_rules! on_each_engine {
    ($($test:ident: $($engine:ident = $kind:ident),+;)+) => { $(mod $test { $(
        #[test]
        fn $engine() -> anyhow::Result<()> {
            super::$test(ctrace_tests::EngineKind::$kind)
        }
    )+ })+ };
}

on_each_engine! {
    selected_by_each_property: docker = Docker, podman = Podman, containerd = Containerd, cri = Cri;
    matching_containers_that_start_later: docker = Docker, podman = Podman, containerd = Containerd, cri = Cri;
    a_daemon_that_dies: docker = PrivateDocker, podman = Podman, containerd = Containerd, cri = Cri;
    a_daemon_that_hangs: docker = PrivateDocker, podman = Podman, containerd = Containerd, cri = Cri;
    no_daemon_from_the_start: docker = PrivateDocker, podman = Podman, containerd = Containerd, cri = Cri;
    a_killed_engine_leaves_nothing: docker = PrivateDocker, podman = Podman, containerd = Containerd, cri = Cri;
}

/// A name that no other test uses.
fn unique(label: &str) -> String {
    format!("ctrace-test-{}-{label}", process::id())
}

/// `ctrace ssl -o json` with the options for this engine.
fn trace(engine: &Engine, selection: &[&str]) -> Result<Ctrace> {
    let arguments = engine.ctrace_arguments();
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).chain(selection.iter().copied()).collect();
    Ctrace::json(&arguments)
}

/// Checks that the trace is complete, and has exactly these transfers.
fn check(trace: &RunningTrace, transfers: &[Transfer]) -> Result<()> {
    trace.check_complete()?;
    trace.streams(|_| true)?.check(transfers)
}

/// The server's transfers, derived from its client's, for when the server cannot report.
fn mirrored(transfers: &[Transfer]) -> Vec<Transfer> {
    let mirror = |transfer: &Transfer| Transfer {
        side: "server".to_owned(),
        received: transfer.sent.clone(),
        sent: transfer.received.clone(),
        ..transfer.clone()
    };
    transfers.iter().map(mirror).collect()
}

/// The transfers of a client in the container and of the server, whose connection it was the `number`th of.
fn both_sides(server: &EngineServer, number: usize) -> Result<Vec<Transfer>> {
    let client = server.client(MOVE)?;
    let ours = server.transfers(number)?.pop();
    Ok(ours.into_iter().chain(client).collect())
}

/// The records of calls.
fn records(trace: &RunningTrace) -> Result<Vec<Value>> {
    let lines = trace.lines()?.into_iter();
    let records: Vec<Value> =
        lines.filter(|line| line.get("type").is_some_and(|kind| kind == "ssl")).collect();
    ensure!(!records.is_empty(), "no records; standard error:\n{}", trace.stderr);
    Ok(records)
}

/// Checks that each record names its container, with everything that the engine knows about it.
fn check_names(trace: &RunningTrace, container: &EngineContainer) -> Result<()> {
    let mut expected = vec![
        ("/container/id", container.id()),
        ("/container/name", container.name()),
        ("/container/runtime/name", container.runtime()),
        ("/container/image/name", container.image()),
    ];
    if let Some(pod) = container.pod() {
        expected.push(("/k8s/pod/name", &pod.name));
        expected.push(("/k8s/namespace/name", &pod.namespace));
    }
    for record in records(trace)? {
        for (pointer, value) in &expected {
            let found = record.pointer(pointer).and_then(Value::as_str);
            ensure!(found == Some(value), "{pointer} is {found:?} and not {value:?}; {}", trace.stderr);
        }
        ensure!(container.pod().is_some() || record.get("k8s").is_none_or(Value::is_null), "{record}");
    }
    Ok(())
}

/// A prefix of the container's name or id that is still unique. With containerd, ids are names.
fn prefix(container: &EngineContainer) -> Result<&str> {
    let length = if container.id() == container.name() { container.id().len() - 1 } else { 12 };
    container.id().get(..length).context("id")
}

fn selected_by_each_property(kind: EngineKind) -> Result<()> {
    let engine = Engine::start(kind)?;
    let run = process::id().to_string();
    let labels =
        |role| [("ctrace.run", run.as_str()), ("ctrace.role", role), ("com.docker.compose.service", role)];
    let server = EngineServer::start(&engine, &unique("wanted"), &labels("wanted"))?;
    // The same libraries in another image.
    let tree = images::tls_tree()?.file(&program("idle")?, "/another");
    let image = engine.load(&Archive::build("another", &tree)?)?;
    let other = EngineServer::start_in(&engine, &image, &unique("another"), &labels("another"))?;

    let wanted = &server.container;
    let (label, either) = ("ctrace.role=wanted".to_owned(), format!("ctrace.run={run}"));
    let without_tag = Archive::tls()?.name().split_once(':').context("no tag")?.0.to_owned();
    let mut selections = vec![
        vec!["--container", wanted.name()],
        vec!["--container", wanted.id()],
        vec!["--container", prefix(wanted)?],
        vec!["--label", &label],
        vec!["--compose-service", "wanted", "--label", &either],
        vec!["--image", wanted.image(), "--label", &either],
        vec!["--image", &without_tag, "--label", &either],
        vec!["--label", &either, "--exclude-container", other.container.name()],
        // An image is only certain not to be excluded if all of its names are known.
        vec!["--label", &either, "--exclude-image", other.container.image()],
    ];
    let owner = format!("deploy/{}", wanted.name());
    let (prefix, of_pod) = (format!("{}-*", wanted.name()), format!("ctrace.pod={}", wanted.name()));
    let pod = wanted.pod().map(|pod| (format!("{}/{}", pod.namespace, pod.name), &pod.name, &pod.namespace));
    if let Some((full, name, namespace)) = &pod {
        selections.push(vec!["--pod", full]);
        selections.push(vec!["--pod", name]);
        selections.push(vec!["--pod", &owner]);
        selections.push(vec!["--pod", &prefix]);
        selections.push(vec!["--label", &of_pod]);
        selections.push(vec!["--namespace", namespace]);
    }
    for (index, selection) in selections.iter().enumerate() {
        let attempt = || {
            let ctrace = trace(&engine, selection)?;
            other.client(MOVE)?;
            let transfers = both_sides(&server, index + 1)?;
            let trace = ctrace.finish()?;
            check(&trace, &transfers)?;
            check_names(&trace, wanted)
        };
        attempt().with_context(|| format!("{kind:?}: {}", selection.join(" ")))?;
    }
    Ok(())
}

fn matching_containers_that_start_later(kind: EngineKind) -> Result<()> {
    let engine = Engine::start(kind)?;
    let value = unique("later");
    let labels = [("ctrace.later", value.as_str())];
    let first = EngineServer::start(&engine, &unique("first"), &labels)?;
    let ctrace = trace(&engine, &["--label", &format!("ctrace.later={value}")])?;
    let second = EngineServer::start(&engine, &unique("second"), &labels)?;
    let unlabelled = EngineServer::start(&engine, &unique("unlabelled"), &[("ctrace.later", "another")])?;
    unlabelled.client(MOVE)?;
    let transfers = [both_sides(&second, 1)?, both_sides(&first, 1)?].concat();
    let trace = ctrace.finish()?;
    check(&trace, &transfers)?;
    for record in records(&trace)? {
        let id = record.pointer("/container/id").and_then(Value::as_str);
        let named = [&first.container, &second.container].into_iter().find(|one| Some(one.id()) == id);
        let named = named.with_context(|| format!("another container: {record}"))?;
        let name = record.pointer("/container/name").and_then(Value::as_str);
        ensure!(name == Some(named.name()), "{id:?} is called {name:?}");
    }
    Ok(())
}

/// Killing the daemon costs names and no data. Names that ctrace already knew stay, before and after the
/// daemon is started again.
fn a_daemon_that_dies(kind: EngineKind) -> Result<()> {
    let engine = Engine::start(kind)?;
    let server = EngineServer::start(&engine, &unique("dies"), &[])?;
    let ctrace = trace(&engine, &["--container", server.container.name()])?;
    let inside = server.client(MOVE)?;
    engine.kill()?;
    let outside = server.client_outside(MOVE)?;
    engine.restart()?;
    let again = server.client(MOVE)?;
    let trace = ctrace.finish()?;
    let servers = mirrored(&[inside.clone(), outside, again.clone()].concat());
    check(&trace, &[inside, again, servers].concat())?;
    check_names(&trace, &server.container)
}

fn a_daemon_that_hangs(kind: EngineKind) -> Result<()> {
    let engine = Engine::start(kind)?;
    let server = EngineServer::start(&engine, &unique("hangs"), &[])?;
    let ctrace = trace(&engine, &["--container", server.container.name()])?;
    engine.hang()?;
    let mut clients = server.client_outside(MOVE)?;
    // A process that ctrace has not seen yet, and whose container nobody can be asked about.
    clients.extend(server.client_outside(MOVE)?);
    let trace = ctrace.finish();
    engine.resume()?;
    let trace = trace?;
    check(&trace, &mirrored(&clients))?;
    check_names(&trace, &server.container)
}

fn no_daemon_from_the_start(kind: EngineKind) -> Result<()> {
    let engine = Engine::start(kind)?;
    // containerd accepts any name as an id. Without containerd, only names that look like an id in a cgroup's
    // name can be found.
    let name = match kind {
        EngineKind::Containerd => format!("{:064x}", process::id()),
        _ => unique("no-daemon"),
    };
    let server = EngineServer::start(&engine, &name, &[])?;
    engine.kill()?;

    let id = server.container.id();
    let ctrace = Ctrace::json(&["--container", id])?;
    let clients = server.client_outside(MOVE)?;
    let trace = ctrace.finish()?;
    check(&trace, &mirrored(&clients))?;
    for record in records(&trace)? {
        ensure!(record.pointer("/container/id").and_then(Value::as_str) == Some(id), "{record}");
        ensure!(record.pointer("/container/name").is_some_and(Value::is_null), "{record}");
    }

    // A socket that the user named must answer.
    let option = engine.ctrace_arguments();
    let arguments = ["ssl", "--container", id].into_iter().chain(option.iter().map(String::as_str));
    let trace = Ctrace::run_to_end(&arguments.collect::<Vec<_>>())?;
    let socket = engine.socket().context("no socket")?;
    let path = socket.trim_start_matches("unix://");
    ensure!(matches!(trace.code(), Some(1 | 2)), "{:?}: {}", trace.code(), trace.stderr);
    ensure!(trace.stderr.contains(path) && trace.stderr.contains(engine.runtime()), "{}", trace.stderr);
    engine.restart()
}

/// A test may be killed at the worst moment; then no daemon can be asked to clean up.
fn a_killed_engine_leaves_nothing(kind: EngineKind) -> Result<()> {
    let engine = Engine::start(kind)?;
    let server = EngineServer::start(&engine, &unique("left"), &[])?;
    let socket = engine.socket().context("no socket")?;
    let room = Path::new(socket.trim_start_matches("unix://")).parent().context("no room")?.to_owned();
    let place = room.to_str().context("path")?;
    let mounts = || fs::read_to_string("/proc/self/mountinfo");
    let init = PathBuf::from(format!("/proc/{}/cgroup", server.container.pid()));
    let id = server.container.id().to_owned();
    ensure!(mounts()?.contains(place) && fs::read_to_string(&init)?.contains(&id), "nothing is there");
    engine.kill()?;
    drop((server, engine));
    ensure!(!mounts()?.contains(place), "mounts are left: {}", mounts()?);
    // The process is killed, and reaped by whoever does that on this machine.
    wait_until("end of the container", Duration::from_secs(10), || {
        let is_left = fs::read_to_string(&init).is_ok_and(|cgroup| cgroup.contains(&id));
        Ok((!is_left).then_some(()))
    })?;
    ensure!(!room.exists(), "files are left in {place}");
    for process in fs::read_dir("/proc")?.flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        ensure!(!command.contains(place), "a process is left: {command:?}");
    }
    Ok(())
}

#[test]
fn one_name_in_two_engines() -> Result<()> {
    let (docker, podman) = (Engine::start(EngineKind::Docker)?, Engine::start(EngineKind::Podman)?);
    let name = unique("twice");
    let in_docker = EngineServer::start(&docker, &name, &[])?;
    let in_podman = EngineServer::start(&podman, &name, &[])?;
    let trace = Ctrace::run_to_end(
        &[&["ssl", "--container", &name], &as_text(&podman.ctrace_arguments())[..]].concat(),
    )?;
    ensure!(trace.code() == Some(3), "{:?}: {}", trace.code(), trace.stderr);
    for (runtime, server) in [("docker", &in_docker), ("podman", &in_podman)] {
        let id = server.container.id().get(..12).context("id")?;
        ensure!(trace.stderr.contains(id), "{id} of {runtime} is not in: {}", trace.stderr);
        ensure!(trace.stderr.contains(&format!("{runtime}://")), "no advice for {runtime}: {}", trace.stderr);
    }
    for (runtime, server, other) in [("docker", &in_docker, &in_podman), ("podman", &in_podman, &in_docker)] {
        let ctrace = self::trace(&podman, &["--container", &format!("{runtime}://{name}")])?;
        other.client(MOVE)?;
        let client = server.client(MOVE)?;
        let trace = ctrace.finish()?;
        check(&trace, &[mirrored(&client), client].concat()).context(runtime)?;
        check_names(&trace, &server.container).context(runtime)?;
    }
    Ok(())
}

fn as_text(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// A runtime directory as a login creates it, and the user's files in it; removed when dropped.
struct RuntimeDirectory {
    made: Vec<PathBuf>,
}

impl RuntimeDirectory {
    /// A user id that no machine has assigned.
    const USER: u32 = 61_234;

    fn make() -> Result<Self> {
        let mut directory = Self { made: Vec::new() };
        let user = format!("/run/user/{}", Self::USER);
        for path in [Path::new("/run/user"), Path::new(&user), &Path::new(&user).join("podman")] {
            if !path.exists() {
                fs::create_dir(path)?;
                directory.made.push(path.to_owned());
            }
        }
        Ok(directory)
    }

    fn socket() -> PathBuf {
        PathBuf::from(format!("/run/user/{}/podman/podman.sock", Self::USER))
    }

    /// Gives the socket to the user, as with rootless Podman.
    fn give(&self) -> Result<()> {
        let own = self.made.iter().filter(|path| path.as_path() != Path::new("/run/user"));
        for path in own.chain([&Self::socket()]) {
            chown(path, Some(Self::USER), Some(Self::USER))?;
        }
        Ok(())
    }
}

impl Drop for RuntimeDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_file(Self::socket());
        for path in self.made.iter().rev() {
            let _ = fs::remove_dir(path);
        }
    }
}

#[test]
fn a_rootless_users_socket_is_found() -> Result<()> {
    let directory = RuntimeDirectory::make()?;
    let engine = Engine::start_podman_at(&RuntimeDirectory::socket())?;
    directory.give()?;
    let server = EngineServer::start(&engine, &unique("rootless"), &[])?;
    // No option is needed: ctrace searches where rootless Podman listens.
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    let client = server.client(MOVE)?;
    let trace = ctrace.finish()?;
    check(&trace, &[mirrored(&client), client].concat())?;
    check_names(&trace, &server.container)
}
