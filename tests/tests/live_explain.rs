//! `ctrace ps` and `inspect` report what is there, compared with what Docker and the kernel report. Needs
//! root and Docker.
#![expect(clippy::indexing_slicing, reason = "what a JSON value does not have is null")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{
    Child, Ctrace, OutputLines, Server, TestContainer, answer, docker, images, json, library, list, program,
    require_live, run_as_nobody, text,
};
use serde_json::Value;

/// The version in the system's libcrypto.
fn openssl_version() -> Result<String> {
    let bytes = fs::read(library(&program("tls-server")?, "libcrypto.so.3")?)?;
    let text = String::from_utf8_lossy(&bytes);
    let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    let mut versions =
        text.split("OpenSSL ").skip(1).filter_map(|rest| rest.split(' ').next()).filter(is_version);
    Ok(versions.next().context("libcrypto has no version")?.to_owned())
}

/// Starts the program that carries the marks of a TLS implementation that ctrace can only name.
fn start_untraceable() -> Result<Child> {
    let mut command = Command::new(program("untraceable")?);
    let mut child = Child::start_with_stdout(&mut command, Stdio::piped())?;
    let mut lines = OutputLines::of(child.take_stdout().context("no output")?);
    lines.wait("line that it is ready", Duration::from_secs(10), |line| line == "ready")?;
    Ok(child)
}

#[test]
fn tls_that_cannot_be_traced_is_named() -> Result<()> {
    const NAMED: &str = "untraceable: Zig TLS (std.crypto.tls) cannot be traced: trace its peer or a proxy";
    require_live()?;
    let there = start_untraceable()?;
    let pid = there.id().to_string();
    let listed = json(&answer(&["ps", "-o", "json"])?)?;
    let row = list(&listed, "processes")?.iter().find(|row| row["process"]["pid"] == there.id());
    let why = row.and_then(|row| row["why"][0].as_str()).context("ps does not list it")?;
    ensure!(NAMED.ends_with(why), "{why}");
    let explained = text(&Ctrace::run_to_end(&["doctor", &pid])?);
    ensure!(explained.contains("Zig TLS (std.crypto.tls) cannot be traced"), "{explained}");
    // The error names its file with the full path.
    let refused = Ctrace::run_to_end(&["ssl", "--pid", &pid])?;
    ensure!(!refused.status.success() && refused.stderr.contains(NAMED), "{}", refused.stderr);
    // First a process that runs at the start, then one that starts later: it is said once for a file.
    let ctrace = Ctrace::start(&["ssl", "-o", "json", "--comm", "untraceable", "--wait"])?;
    let _late = start_untraceable()?;
    std::thread::sleep(Duration::from_secs(1));
    let said = ctrace.finish()?.stderr;
    let times = said.lines().filter(|line| line.contains(NAMED)).count();
    ensure!(times == 1, "{said}");
    Ok(())
}

#[test]
fn ps_lists_a_server_with_its_library() -> Result<()> {
    require_live()?;
    let server = Server::start("ps", &[])?;
    let name = server.container.name();
    let found = json(&answer(&["ps", "-o", "json", "--container", name])?)?;
    let ours: Vec<&Value> = list(&found, "processes")?
        .iter()
        .filter(|row| row["container"]["id"] == server.container.id())
        .collect();
    let [row] = ours.as_slice() else { anyhow::bail!("not one row: {ours:?}") };
    ensure!(row["process"]["pid"] == server.container.pid(), "{row}");
    ensure!(row["process"]["comm"] == "tls-server", "{row}");
    ensure!(row["container"]["name"] == name && row["container"]["runtime"]["name"] == "docker", "{row}");
    ensure!(row["library"]["name"] == "libssl.so.3" && row["linked"] == "shared", "{row}");
    ensure!(row["library"]["version"] == openssl_version()?.as_str(), "{row}");
    let functions: BTreeSet<&str> =
        list(row, "functions")?.iter().filter_map(|function| function["name"].as_str()).collect();
    ensure!(
        row["traceable"] == true && functions.contains("SSL_read") && functions.contains("SSL_write_ex"),
        "{row}"
    );
    // The same as a table.
    let table = text(&answer(&["ps", "--container", name])?);
    let lines: Vec<&str> = table.lines().collect();
    let [head, line] = lines.as_slice() else { anyhow::bail!("not one row:\n{table}") };
    for part in
        [name, "docker", &server.container.pid().to_string(), "libssl.so.3", &openssl_version()?, "shared"]
    {
        ensure!(line.contains(part), "{part} is not in {line}");
    }
    ensure!(head.find("PID") == line.find(&server.container.pid().to_string()), "not aligned:\n{table}");
    Ok(())
}

#[test]
fn ps_tells_a_linked_in_library_and_a_container_without() -> Result<()> {
    require_live()?;
    let server = Server::start_in(&images::vendored()?, "ps-static", &[], &["/tls-server-static"])?;
    let idle = TestContainer::start(&images::tls()?, "ps-idle", &[], &["/idle"])?;
    let both = ["--container", server.container.name(), "--container", idle.name()];
    let found = json(&answer(&[&["ps", "--wide", "-o", "json"], both.as_slice()].concat())?)?;
    let rows = list(&found, "processes")?;
    let of = |id: &str| -> Result<&Value> {
        rows.iter().find(|row| row["container"]["id"] == id).with_context(|| format!("{id} is not listed"))
    };
    let row = of(server.container.id())?;
    ensure!(row["linked"] == "executable" && row["traceable"] == true, "{row}");
    let row = of(idle.id())?;
    ensure!(row["library"].is_null() && row["why"][0] == "no TLS library", "{row}");
    let usual = json(&answer(&[&["ps", "-o", "json"], both.as_slice()].concat())?)?;
    ensure!(list(&usual, "processes")?.iter().all(|row| row["container"]["id"] != idle.id()), "{usual}");
    Ok(())
}

#[test]
fn ps_as_nobody_says_what_it_could_not_see() -> Result<()> {
    require_live()?;
    let server = Server::start("ps-nobody", &[])?;
    let trace = run_as_nobody(&["ps", "-o", "json"])?;
    ensure!(trace.code() == Some(0), "{:?}: {}", trace.code(), trace.stderr);
    ensure!(
        trace.stderr.contains("could not be inspected") && trace.stderr.contains("root"),
        "{}",
        trace.stderr
    );
    let found = json(&trace)?;
    let is_ours = |unseen: &&Value| unseen["pid"] == server.container.pid();
    let unseen = list(&found, "unseen")?.iter().find(is_ours).context("the server is not listed")?;
    ensure!(unseen["why"].as_str().is_some_and(|why| why.contains("Permission denied")), "{unseen}");
    Ok(())
}

#[test]
fn a_dry_run_as_nobody_says_what_it_could_not_see() -> Result<()> {
    require_live()?;
    let server = Server::start("dry-nobody", &[])?;
    let trace = run_as_nobody(&["ssl", "--all", "--dry-run"])?;
    ensure!(trace.code() == Some(0), "{:?}: {}", trace.code(), trace.stderr);
    let plan = json(&trace)?;
    let is_ours = |skipped: &&Value| skipped["pid"] == server.container.pid();
    let skipped = list(&plan, "skipped")?.iter().find(is_ours).context("the server is not skipped")?;
    ensure!(skipped["why"].as_str().is_some_and(|why| why.contains("Permission denied")), "{skipped}");
    // Compares it with the object in root's plan.
    let plan = json(&answer(&["ssl", "--container", server.container.name(), "--dry-run"])?)?;
    let maps = |object: &Value| {
        object["pids"].as_array().is_some_and(|pids| pids.contains(&server.container.pid().into()))
    };
    ensure!(list(&plan, "objects")?.iter().any(maps), "{plan}");
    Ok(())
}

/// A field that Docker reports about a container, by a template of `docker inspect`.
fn docker_field(container: &TestContainer, template: &str) -> Result<Value> {
    let format = format!("{{{{json {template}}}}}");
    Ok(serde_json::from_str(&docker(&["inspect", "--format", &format, container.id()])?)?)
}

/// Checks that every namespace is as `readlink` shows it, and whether it is the host's.
fn check_namespaces(found: &Value, pid: u32) -> Result<()> {
    for namespace in list(found, "namespaces")? {
        let kind = namespace["kind"].as_str().context("kind")?;
        let link = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/{kind}"));
        let shown = format!("{kind}:[{}]", namespace["id"]);
        ensure!(link(pid)?.to_string_lossy() == shown, "{shown}, not {}", link(pid)?.display());
        // The tests run in the host's namespaces. Those of process 1 cannot be read everywhere.
        let hosts = link(std::process::id())?;
        ensure!(namespace["host"] == (link(pid)? == hosts), "{namespace}");
    }
    ensure!(list(found, "namespaces")?.len() == fs::read_dir("/proc/self/ns")?.count() - 2, "{found}");
    Ok(())
}

fn paths(value: &Value) -> Result<Vec<PathBuf>> {
    let text = value.as_str().context("no text")?;
    text.split(':').map(|path| Ok(fs::canonicalize(path)?)).collect()
}

#[test]
fn inspect_agrees_with_docker() -> Result<()> {
    require_live()?;
    let directory = tempfile::tempdir()?;
    let bind = format!("{}:/bound:ro", directory.path().display());
    let image = images::tls()?;
    let container =
        TestContainer::start(&image, "inspect", &["-v", &bind, "-v", "/volume"], &["/tls-server"])?;
    let server = Server::of(container)?;
    let container = &server.container;
    let found = json(&answer(&["inspect", container.name(), "-o", "json"])?)?;
    ensure!(found["init"] == docker_field(container, ".State.Pid")?, "{}", found["init"]);
    ensure!(found["container"]["id"] == container.id(), "{}", found["container"]);
    for way in list(&found, "access")? {
        ensure!(way["works"] == true, "{way}");
    }
    ensure!(list(&found, "access")?.len() == 4, "{}", found["access"]);

    let data = docker_field(container, ".GraphDriver.Data")?;
    let overlay = &found["overlay"];
    for (ours, theirs) in [("merged", "MergedDir"), ("upper", "UpperDir"), ("work", "WorkDir")] {
        ensure!(overlay[ours]["path"] == data[theirs] && overlay[ours]["works"] == true, "{overlay} {data}");
    }
    let lower: Vec<PathBuf> = list(overlay, "lower")?
        .iter()
        .map(|layer| Ok(fs::canonicalize(layer["path"].as_str().context("path")?)?))
        .collect::<Result<_>>()?;
    ensure!(lower == paths(&data["LowerDir"])?, "{lower:?} {data}");

    let runtime = &found["runtime"];
    ensure!(
        runtime["init"] == container.pid()
            && runtime["driver"] == docker_field(container, ".GraphDriver.Name")?,
        "{runtime}"
    );
    for (ours, theirs) in [("merged", "MergedDir"), ("upper", "UpperDir"), ("work", "WorkDir")] {
        let place = &runtime["overlay"][ours];
        ensure!(place["path"] == data[theirs] && place["works"] == true, "{place} {data}");
    }
    let mounts = docker_field(container, ".Mounts")?;
    let mounts = mounts.as_array().context("mounts")?;
    ensure!(mounts.len() == 2, "{mounts:?}");
    for mount in mounts {
        let ours = list(&found, "mounts")?.iter().find(|ours| ours["destination"] == mount["Destination"]);
        let ours = ours.with_context(|| format!("{mount} is not in {}", found["mounts"]))?;
        ensure!(ours["source"] == mount["Source"] && ours["same"] == "same", "{ours} {mount}");
        let theirs =
            list(runtime, "mounts")?.iter().find(|theirs| theirs["destination"] == mount["Destination"]);
        let theirs = theirs.with_context(|| format!("{mount} is not in {runtime}"))?;
        ensure!(theirs["source"] == mount["Source"] && theirs["same"] == "same", "{theirs} {mount}");
        ensure!(theirs["kind"] == mount["Type"] && theirs["writable"] == mount["RW"], "{theirs} {mount}");
        ensure!(ours["read_only"] == !mount["RW"].as_bool().context("RW")?, "{ours} {mount}");
    }

    check_namespaces(&found, container.pid())?;
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid()))?;
    let ours = list(&found, "cgroups")?;
    ensure!(ours.len() == cgroups.lines().count(), "{ours:?}");
    for cgroup in ours {
        let line = format!(
            ":{}:{}",
            cgroup["controllers"].as_str().context("text")?,
            cgroup["path"].as_str().context("text")?
        );
        ensure!(cgroups.lines().any(|theirs| theirs.ends_with(&line)), "{line} is not in {cgroups}");
    }

    let [process] = list(&found, "processes")?.as_slice() else { anyhow::bail!("{}", found["processes"]) };
    ensure!(
        process["pid"] == container.pid() && process["inner_pids"] == serde_json::json!([1]),
        "{process}"
    );
    ensure!(process["executable"] == "/tls-server" && process["uid"] == 0, "{process}");
    check_object(&found)
}

/// Checks build id and offsets against `readelf`.
fn check_object(found: &Value) -> Result<()> {
    let file = library(&program("tls-server")?, "libssl.so.3")?;
    let readelf = |option: &str| -> Result<String> {
        let output = Command::new("readelf").args([option, "-W"]).arg(&file).output().context("readelf")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let [object] = list(found, "objects")?.as_slice() else { anyhow::bail!("{}", found["objects"]) };
    let build_id = object["build_id"].as_str().context("no build id")?;
    ensure!(readelf("-n")?.contains(build_id), "{build_id}");
    ensure!(object["library"]["version"] == openssl_version()?.as_str(), "{object}");
    let symbols = readelf("--dyn-syms")?;
    let write =
        list(object, "symbols")?.iter().find(|symbol| symbol["name"] == "SSL_write").context("SSL_write")?;
    let address = format!("{:016x}", write["address"].as_u64().context("address")?);
    let is_write = |line: &str| line.contains(&address) && line.contains(" SSL_write@");
    ensure!(symbols.lines().any(is_write), "{address} is not SSL_write's in {}", file.display());
    Ok(())
}

#[test]
fn inspect_tells_shared_namespaces() -> Result<()> {
    require_live()?;
    let server = Server::start("inspect-net", &[])?;
    let network = format!("--network=container:{}", server.container.id());
    let other =
        TestContainer::start(&images::tls()?, "inspect-shared", &[&network, "--pid=host"], &["/idle"])?;
    let found = json(&answer(&["inspect", other.name(), "-o", "json"])?)?;
    check_namespaces(&found, other.pid())?;
    let namespace = |kind: &str| -> Result<&Value> {
        list(&found, "namespaces")?.iter().find(|one| one["kind"] == kind).context("no such kind")
    };
    ensure!(namespace("pid")?["host"] == true, "{}", namespace("pid")?);
    let net = namespace("net")?;
    ensure!(net["host"] == false && net["containers"][0]["id"] == server.container.id(), "{net}");
    ensure!(list(namespace("mnt")?, "containers")?.is_empty(), "{}", namespace("mnt")?);
    let [process] = list(&found, "processes")?.as_slice() else { anyhow::bail!("{}", found["processes"]) };
    ensure!(process["pid"] == other.pid() && process["inner_pids"] == serde_json::json!([]), "{process}");
    // The same process by its pid, as text.
    let shown = text(&answer(&["inspect", &server.container.pid().to_string()])?);
    for part in [server.container.name(), other.name(), "map_files", "SSL_write", "libssl.so.3", "upper"] {
        ensure!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    Ok(())
}
