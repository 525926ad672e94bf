//! Which socket each connection is on, and which end of it the process is. Needs root, BPF and Docker.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{Container, Ctrace, Lines, Trace, images, require_live};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// A key and its certificate, in PEM.
fn certificate() -> Result<Vec<u8>> {
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=sockets.test -keyout - -out -";
    let made = Command::new("openssl").args(arguments.split(' ')).output()?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    Ok(made.stdout)
}

#[test]
fn sockets_of_all_kinds() -> Result<()> {
    require_live()?;
    let options = ["--sysctl", "net.ipv6.conf.all.disable_ipv6=0"];
    let container = Container::start(&images::python()?, "sockets", &options, &["/idle"])?;
    let mut child = Command::new("docker")
        .args(["exec", "-i", container.id(), "/usr/bin/python3", "-I", "/tls-sockets.py"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(&[&certificate()?[..], b".\n"].concat())?;
    let mut lines = Lines::of(child.stdout.take().context("no standard output")?);
    lines.wait("line that it is ready", PATIENCE, |line| line == "ready")?;
    let ctrace = Ctrace::json(&["--container", container.name()])?;
    stdin.write_all(b"\n")?;
    ensure!(child.wait()?.success(), "the program failed");
    let trace = ctrace.finish()?;
    let mut connections = BTreeMap::new();
    for line in lines.rest().iter().filter(|line| line.starts_with('{')) {
        let connection: Value = serde_json::from_str(line)?;
        let name = connection.get("name").and_then(Value::as_str).context("no name")?.to_owned();
        connections.insert(name, connection);
    }
    ensure!(connections.len() == 7, "{connections:?}");
    for (name, connection) in &connections {
        check(&trace, name, connection).with_context(|| format!("{name}: {connection}"))?;
    }
    Ok(())
}

/// All calls of a connection, which carry its name.
fn check(trace: &Trace, name: &str, connection: &Value) -> Result<()> {
    let is_memory = name.ends_with("memory");
    let is_unix = connection["client"].is_null();
    let mut calls = 0;
    for line in trace.lines()?.iter().filter(|line| line["type"] == "ssl") {
        let Some((what, number)) = line["data"].as_str().and_then(|data| data.rsplit_once(' ')) else {
            continue;
        };
        let Some(way) = what.strip_prefix(name).filter(|way| [" up", " down"].contains(way)) else {
            continue;
        };
        calls += 1;
        let field = |pointer| line.pointer(pointer).unwrap_or(&Value::Null);
        let (network, certainty) = (&line["network"], field("/connection/socket"));
        let is_client = (field("/network/io/direction") == "transmit") == (way == " up");
        if is_memory && number == "0" && (way == " up" || !is_client) {
            // Neither end has sent bytes through a socket that could tell yet.
            ensure!(certainty.is_null() && network["peer"].is_null(), "{line}");
            continue;
        }
        ensure!(certainty == if is_memory { "guessed" } else { "seen" }, "{line}");
        let (local, peer) = if is_client { ("client", "server") } else { ("server", "client") };
        ensure!(network["local"] == connection[local] && network["peer"] == connection[peer], "{line}");
        ensure!(network["transport"] == if is_unix { "unix" } else { "tcp" }, "{line}");
        let role = if is_client { "client" } else { "server" };
        ensure!(is_unix || field("/connection/role") == role, "{line}");
        let version = if name.ends_with("ipv6") { "ipv6" } else { "ipv4" };
        ensure!(if is_unix { network["type"].is_null() } else { network["type"] == version }, "{line}");
    }
    ensure!(calls == 12, "{calls} calls; standard error of ctrace:\n{}", trace.stderr);
    Ok(())
}
