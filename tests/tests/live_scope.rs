//! What is selected is traced exactly once, and nothing else is traced. Needs root, BPF and Docker.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{
    Ctrace, Demo, DemoProtocol, RunningTrace, Server, ServerProcess, TestContainer, Transfer, images,
    library, program, require_live,
};
use serde_json::Value;

/// The sizes that clients move in these tests: more than one record and chunk, in both directions.
const MOVE: &[&str] = &["--up", "5,20000", "--down", "100000,1"];

/// Checks that the trace is complete, and has exactly these transfers.
fn check(trace: &RunningTrace, transfers: &[Transfer]) -> Result<()> {
    trace.check_complete()?;
    trace.streams(|_| true)?.check(transfers)
}

/// Both sides of a connection within one container.
fn both_sides(server: &Server) -> Result<Vec<Transfer>> {
    let client = server.client(MOVE)?;
    Ok([server.transfers(1)?, client].concat())
}

/// Touches libssl from the host, through the container: overlayfs then copies it to the container's upper
/// layer.
fn copy_up_libssl(container: &TestContainer) -> Result<()> {
    let path = library(&program("tls-server")?, "libssl.so.3")?;
    let path = container.path(path.to_str().context("path of libssl")?);
    let file = File::options().append(true).open(&path).with_context(|| path.display().to_string())?;
    Ok(file.set_modified(SystemTime::now())?)
}

#[test]
fn one_of_two_containers_of_an_image() -> Result<()> {
    require_live()?;
    let (selected, other) = (Server::start("one-a", &[])?, Server::start("one-b", &[])?);
    let ctrace = Ctrace::json(&["--container", selected.container.name()])?;
    other.client(MOVE)?;
    let transfers = both_sides(&selected)?;
    other.client(MOVE)?;
    let trace = ctrace.finish()?;
    check(&trace, &transfers)?;
    for record in trace.records()? {
        let container = record.container.context("a record has no container")?;
        ensure!(container.id == selected.container.id(), "container {}", container.id);
        ensure!(container.name.as_deref() == Some(selected.container.name()), "name {:?}", container.name);
    }
    Ok(())
}

#[test]
fn both_of_two_containers_of_an_image() -> Result<()> {
    require_live()?;
    let (a, b) = (Server::start("both-a", &[])?, Server::start("both-b", &[])?);
    let selection = ["--container", a.container.name(), "--container", b.container.name()];
    let ctrace = Ctrace::json(&selection)?;
    let transfers = [both_sides(&a)?, both_sides(&b)?].concat();
    check(&ctrace.finish()?, &transfers)
}

#[test]
fn a_container_selected_twice_is_traced_once() -> Result<()> {
    require_live()?;
    let server = Server::start("twice", &[])?;
    let pid = server.container.pid().to_string();
    let selection =
        ["--container", server.container.name(), "--container", server.container.id(), "--pid", &pid];
    let ctrace = Ctrace::json(&selection)?;
    let transfers = both_sides(&server)?;
    check(&ctrace.finish()?, &transfers)
}

#[test]
fn a_library_copied_up_in_one_of_two_containers() -> Result<()> {
    require_live()?;
    let image = images::tls()?;
    let lower = Server::start("lower", &[])?;
    let upper = TestContainer::start(&image, "upper", &[], &["/idle"])?;
    copy_up_libssl(&upper)?;
    let upper = Server::exec_in(upper)?;
    let selection = ["--container", lower.container.name(), "--container", upper.container.name()];
    let ctrace = Ctrace::json(&selection)?;
    let transfers = [both_sides(&lower)?, both_sides(&upper)?].concat();
    check(&ctrace.finish()?, &transfers)?;

    let ctrace = Ctrace::json(&["--container", upper.container.name()])?;
    let client = upper.client(MOVE)?;
    lower.client(MOVE)?;
    let server = upper.transfers(2)?.into_iter().skip(1).collect();
    check(&ctrace.finish()?, &[server, client].concat())
}

#[test]
fn a_process_that_maps_the_old_library_and_one_that_maps_its_copy() -> Result<()> {
    require_live()?;
    let server = Server::start("two-inodes", &[])?;
    copy_up_libssl(&server.container)?;
    let second = ServerProcess::exec(&server.container, &["/tls-server"])?;
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    let mut transfers = both_sides(&server)?;
    let client = server.container.exec(&[&["/tls-client", "--port", second.port()], MOVE].concat())?;
    transfers.extend(Transfer::all(&client)?);
    transfers.extend(second.transfers(1)?);
    check(&ctrace.finish()?, &transfers)
}

#[test]
fn a_library_unlinked_while_mapped() -> Result<()> {
    require_live()?;
    let server = Server::start("unlinked", &[])?;
    let path = library(&program("tls-server")?, "libssl.so.3")?;
    fs::remove_file(server.container.path(path.to_str().context("path of libssl")?))?;
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    server.client_outside(MOVE)?;
    check(&ctrace.finish()?, &server.transfers(1)?)
}

#[test]
fn a_process_that_starts_after_ctrace() -> Result<()> {
    require_live()?;
    let server = Server::start("later", &[])?;
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    let second = ServerProcess::exec(&server.container, &["/tls-server"])?;
    let client = server.container.exec(&[&["/tls-client", "--port", second.port()], MOVE].concat())?;
    let transfers = [second.transfers(1)?, Transfer::all(&client)?].concat();
    check(&ctrace.finish()?, &transfers)
}

#[test]
fn a_process_that_starts_after_ctrace_with_another_library() -> Result<()> {
    require_live()?;
    let server = Server::start_in(&images::vendored()?, "later-other", &[], &["/tls-server"])?;
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    // OpenSSL is in its executable, which no process mapped before. It waits before its first call.
    let command = ["/tls-client-static", "--delay", "3000", "--port", server.port()];
    let client = Transfer::all(&server.container.exec(&[&command, MOVE].concat())?)?;
    let transfers = [server.transfers(1)?, client].concat();
    check(&ctrace.finish()?, &transfers)
}

#[test]
fn an_idle_init_whose_container_works() -> Result<()> {
    require_live()?;
    let server = Server::start_under_idle(&images::tls()?, "idle-init")?;
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    let transfers = both_sides(&server)?;
    check(&ctrace.finish()?, &transfers)
}

#[test]
fn one_process_by_pid() -> Result<()> {
    require_live()?;
    let server = Server::start_under_idle(&images::tls()?, "pid")?;
    let pids = server.container.processes("tls-server")?;
    let pid = pids.first().context("the server is not listed")?.to_string();
    let other = ServerProcess::exec(&server.container, &["/tls-server"])?;
    let ctrace = Ctrace::json(&["--pid", &pid])?;
    server.client(MOVE)?;
    server.container.exec(&[&["/tls-client", "--port", other.port()], MOVE].concat())?;
    other.transfers(1)?;
    let transfers = server.transfers(1)?;
    check(&ctrace.finish()?, &transfers)
}

#[test]
fn descendants_of_a_pid() -> Result<()> {
    require_live()?;
    let container = TestContainer::start(&images::tls()?, "descendants", &[], &["/idle"])?;
    let server = ServerProcess::exec(&container, &["/tls-server", "--fork"])?;
    let pids = container.processes("tls-server")?;
    let pid = pids.first().context("the server is not listed")?.to_string();
    let ctrace = Ctrace::json(&["--pid", &pid])?;
    let client = [&["/tls-client", "--port", server.port(), "--connections", "3"], MOVE].concat();
    container.exec(&client)?;
    check(&ctrace.finish()?, &server.transfers(3)?)
}

#[test]
fn the_namespace_of_an_init_by_pid() -> Result<()> {
    require_live()?;
    let server = Server::start_under_idle(&images::tls()?, "init-pid")?;
    let ctrace = Ctrace::json(&["--pid", &server.container.pid().to_string()])?;
    let transfers = both_sides(&server)?;
    check(&ctrace.finish()?, &transfers)
}

/// `nsenter` puts the client into the container's namespaces, but not into its cgroup.
#[test]
fn a_process_that_enters_a_container_from_outside() -> Result<()> {
    require_live()?;
    let (server, other) = (Server::start("entered", &[])?, Server::start("entered-not", &[])?);
    let id = server.container.id();
    let ctrace = Ctrace::json(&["--container", server.container.name()])?;
    let enter = |server: &Server| {
        let pid = server.container.pid().to_string();
        let client = ["/tls-client", "--delay", "500", "--port", server.port()];
        let options = ["--mount", "--pid", "--net", "--target", &pid];
        let output = Command::new("nsenter").args(options).args(client).args(MOVE).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Transfer::all(&String::from_utf8(output.stdout)?)
    };
    enter(&other)?;
    let transfers = [enter(&server)?, server.transfers(1)?].concat();
    let trace = ctrace.finish()?;
    check(&trace, &transfers)?;
    let mut entered = 0;
    for line in trace.lines()?.iter().filter(|line| line.pointer("/thread").is_some()) {
        let (own, of) = (line.pointer("/container/id"), line.pointer("/process/entered_container/id"));
        ensure!(own.or(of).and_then(Value::as_str) == Some(id) && own.is_some() != of.is_some(), "{line}");
        entered += u32::from(of.is_some());
    }
    ensure!(entered > 0, "nothing is marked");
    Ok(())
}

#[test]
fn programs_by_the_names_of_their_scripts_and_links() -> Result<()> {
    require_live()?;
    let server = Server::start("script", &[])?;
    let path = |name: &str| server.container.path(name);
    symlink("/tls-client", path("/linked"))?;
    fs::write(path("/job.tls"), format!("#!/tls-client --port={}\n", server.port()))?;
    fs::set_permissions(path("/job.tls"), fs::Permissions::from_mode(0o755))?;
    let ctrace = Ctrace::json(&["--exe", "job.tls", "--exe", "/linked"])?;
    let client = |command: &[&str]| -> Result<Vec<Transfer>> {
        let command = [command, &["--delay", "500"], MOVE].concat();
        Transfer::all(&server.container.exec(&command)?)
    };
    server.client(MOVE)?;
    let transfers = [client(&["/job.tls"])?, client(&["/linked", "--port", server.port()])?].concat();
    check(&ctrace.finish()?, &transfers)
}

#[test]
fn one_process_by_its_pid_in_the_container() -> Result<()> {
    require_live()?;
    let server = Server::start_under_idle(&images::tls()?, "inner-pid")?;
    let name = server.container.name();
    let pids = server.container.processes("tls-server")?;
    let pid = pids.first().context("the server is not listed")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).context("no NSpid")?;
    let inner = ids.split_whitespace().next_back().context("no ids")?;
    let other = ServerProcess::exec(&server.container, &["/tls-server"])?;
    for (number, selection) in [(1, format!("{name}:{inner}")), (2, format!("docker://{name}:{inner}"))] {
        let ctrace = Ctrace::json(&["--pid", &selection])?;
        server.client(MOVE)?;
        server.container.exec(&[&["/tls-client", "--port", other.port()], MOVE].concat())?;
        let last = server.transfers(number)?.pop();
        check(&ctrace.finish()?, &last.into_iter().collect::<Vec<_>>()).context(selection)?;
    }
    // Process 1 of the container selects all of the container, as its pid on the host does, and nothing else.
    let outside = Server::start("inner-pid-outside", &[])?;
    let ctrace = Ctrace::json(&["--pid", &format!("{name}:1")])?;
    outside.client(MOVE)?;
    let client = server.client(MOVE)?;
    let last = server.transfers(3)?.pop();
    check(&ctrace.finish()?, &last.into_iter().chain(client).collect::<Vec<_>>())?;

    let inspected = Ctrace::run_to_end(&["inspect", "-o", "json", &format!("{name}:{inner}")])?;
    let answer: Value = serde_json::from_slice(&inspected.stdout)?;
    let found = answer.pointer("/init").and_then(Value::as_u64);
    ensure!(found == Some(u64::from(*pid)), "{found:?} is not {pid}: {}", inspected.stderr);
    let wanted = format!("{name}:4000");
    let commands =
        [&["ssl", "--pid"][..], &["exec", "--pid"], &["uprobe", "libc.so.6:write", "--pid"], &["inspect"]];
    for command in commands {
        let trace = Ctrace::run_to_end(&[command, &[&wanted]].concat())?;
        ensure!(trace.code() == Some(3), "{command:?}: {:?}: {}", trace.code(), trace.stderr);
        for part in ["has no process 4000", &format!("{inner} (tls-server)")] {
            ensure!(trace.stderr.contains(part), "{command:?}: {}", trace.stderr);
        }
    }
    Ok(())
}

#[test]
fn the_first_process_of_the_machine_is_said_to_be_everything() -> Result<()> {
    require_live()?;
    let trace = Ctrace::json(&["--pid", "1", "--wait"])?.finish()?;
    ensure!(trace.stderr.contains("which is everything, as with --all"), "{}", trace.stderr);
    Ok(())
}

#[test]
fn namespaces_without_docker() -> Result<()> {
    require_live()?;
    let demo = Demo::start_in_namespaces(DemoProtocol::Http1)?;
    let ctrace = Ctrace::json(&["--pid", &demo.pid().to_string(), "--limit", "4"])?;
    let trace = ctrace.wait(std::time::Duration::from_secs(20))?;
    trace.check_complete()?;
    let text = String::from_utf8_lossy(&trace.stdout).into_owned();
    ensure!(text.contains("GET /orders/42") && text.contains("HTTP/1.1 200 OK"), "{text}");
    for record in trace.records()? {
        ensure!(record.process.vpid == Some(1) && record.container.is_none(), "{record:?}");
    }
    Ok(())
}

#[test]
fn everything() -> Result<()> {
    require_live()?;
    let (a, b) = (Server::start("all-a", &[])?, Server::start("all-b", &[])?);
    let ctrace = Ctrace::json(&["--all"])?;
    let transfers = [both_sides(&a)?, both_sides(&b)?].concat();
    let trace = ctrace.finish()?;
    // Other tests run at the same time.
    let ours = [a.container.id(), b.container.id()];
    let streams = trace.streams(|record| {
        record.container.as_ref().is_some_and(|container| ours.contains(&container.id.as_str()))
    })?;
    streams.check(&transfers)
}

#[test]
fn a_container_by_a_prefix_of_its_id() -> Result<()> {
    require_live()?;
    let server = Server::start("prefix", &[])?;
    let prefix = server.container.id().get(..12).context("id")?;
    let ctrace = Ctrace::json(&["--container", prefix])?;
    let transfers = both_sides(&server)?;
    check(&ctrace.finish()?, &transfers)
}

#[test]
fn a_container_by_its_id_without_a_daemon() -> Result<()> {
    require_live()?;
    let server = Server::start("no-daemon", &[])?;
    let prefix = server.container.id().get(..12).context("id")?;
    for nowhere in ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:1"] {
        let ctrace = Ctrace::json_with(&["--container", prefix], &[("DOCKER_HOST", nowhere)])?;
        let client = server.client(MOVE)?;
        let trace = ctrace.finish()?;
        trace.check_complete()?;
        let of_client = |record: &ctrace_tests::JsonRecord| record.process.comm == "tls-client";
        trace.streams(of_client)?.check(&client)?;
        let ids: Vec<_> = trace.records()?.into_iter().filter_map(|record| record.container).collect();
        ensure!(!ids.is_empty() && ids.iter().all(|container| container.id == server.container.id()));
    }
    Ok(())
}

#[test]
fn a_name_without_a_daemon_is_explained() -> Result<()> {
    require_live()?;
    let server = Server::start("no-daemon-name", &[])?;
    let nowhere = [("DOCKER_HOST", "unix:///nonexistent/docker.sock")];
    let trace = Ctrace::run_to_end_with(&["ssl", "--container", server.container.name()], &nowhere)?;
    ensure!(matches!(trace.code(), Some(1 | 3)), "{:?}: {}", trace.code(), trace.stderr);
    ensure!(trace.stderr.contains("/nonexistent/docker.sock"), "{}", trace.stderr);
    Ok(())
}

#[test]
fn an_unknown_name_tells_the_nearest() -> Result<()> {
    require_live()?;
    let server = Server::start("nearest", &[])?;
    let misspelt = format!("{}t", server.container.name());
    let trace = Ctrace::run_to_end(&["ssl", "--container", &misspelt])?;
    ensure!(trace.code() == Some(3), "{:?}: {}", trace.code(), trace.stderr);
    let named = trace.stderr.replace(&misspelt, "");
    ensure!(named.contains(server.container.name()), "{}", trace.stderr);
    Ok(())
}

#[test]
fn an_ambiguous_prefix_tells_the_candidates() -> Result<()> {
    require_live()?;
    let image = images::tls()?;
    let mut containers: Vec<TestContainer> = Vec::new();
    // Ids begin with one of sixteen digits, so two of seventeen containers share one.
    let (first, second) = loop {
        let label = format!("ambiguous-{}", containers.len());
        let container = TestContainer::start(&image, &label, &[], &["/idle"])?;
        let digit = container.id().get(..1).context("id")?.to_owned();
        if let Some(at) = containers.iter().position(|other| other.id().starts_with(&digit)) {
            break (containers.swap_remove(at), container);
        }
        containers.push(container);
    };
    let prefix = first.id().get(..1).context("id")?;
    let trace = Ctrace::run_to_end(&["ssl", "--container", prefix])?;
    ensure!(matches!(trace.code(), Some(2 | 3)), "{:?}: {}", trace.code(), trace.stderr);
    for candidate in [&first, &second] {
        ensure!(trace.stderr.contains(candidate.name()), "{} is not in: {}", candidate.name(), trace.stderr);
    }
    Ok(())
}

#[test]
fn a_process_that_is_not_there() -> Result<()> {
    require_live()?;
    let trace = Ctrace::run_to_end(&["ssl", "--pid", "4194303"])?;
    ensure!(trace.code() == Some(3), "{:?}: {}", trace.code(), trace.stderr);
    ensure!(trace.stderr.contains("4194303"), "{}", trace.stderr);
    Ok(())
}

#[test]
fn a_container_without_tls_is_explained() -> Result<()> {
    require_live()?;
    let container = TestContainer::start(&images::tls()?, "without-tls", &[], &["/idle"])?;
    // The error lists each process and what was inspected; with -v each file.
    let process = format!("idle[{}]", container.pid());
    for (arguments, part) in [(["ssl"].as_slice(), "SSL_read"), (&["ssl", "-v"], "/idle")] {
        let trace = Ctrace::run_to_end(&[arguments, &["--container", container.name()]].concat())?;
        ensure!(trace.code() == Some(3), "{:?}: {}", trace.code(), trace.stderr);
        ensure!(trace.stdout.is_empty(), "{:?}", String::from_utf8_lossy(&trace.stdout));
        ensure!(trace.stderr.contains(&process) && trace.stderr.contains(part), "{}", trace.stderr);
    }
    Ok(())
}

#[test]
fn a_container_that_has_ended() -> Result<()> {
    require_live()?;
    let container = TestContainer::start(&images::tls()?, "ended", &[], &["/idle"])?;
    ctrace_tests::docker(&["kill", container.id()])?;
    let trace = Ctrace::run_to_end(&["ssl", "--container", container.name()])?;
    ensure!(trace.code() == Some(3), "{:?}: {}", trace.code(), trace.stderr);
    ensure!(trace.stderr.contains(container.name()), "{}", trace.stderr);
    Ok(())
}
