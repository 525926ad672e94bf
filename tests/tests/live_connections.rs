//! The socket of each connection, which end of it the process is, and the result of the handshake, compared
//! with what the programs themselves report. Needs root, BPF and Docker.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{Ctrace, OutputLines, RunningTrace, TestContainer, images, require_live};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

/// A private key and its certificate, in PEM.
fn certificate() -> Result<Vec<u8>> {
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj \
     /CN=sockets.test -keyout - -out -";
    let made = Command::new("openssl").args(arguments.split(' ')).output()?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    Ok(made.stdout)
}

/// The IANA names of cipher suites, by their names in OpenSSL.
type Names = BTreeMap<String, String>;

fn standard_names() -> Result<Names> {
    let listed = Command::new("openssl").args(["ciphers", "-stdname", "ALL"]).output()?;
    let text = String::from_utf8(listed.stdout)?;
    let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let names: Names =
        rows.filter_map(|row| Some(((*row.get(2)?).to_owned(), (*row.first()?).to_owned()))).collect();
    ensure!(names.len() > 20, "{text}");
    Ok(names)
}

/// Compares the handshake in a record with what the program reports to have agreed on.
fn check_tls(tls: &Value, connection: &Value, names: &Names) -> Result<()> {
    let version = connection["version"]
        .as_str()
        .and_then(|version| version.strip_prefix("TLSv"))
        .context("no version")?;
    let cipher = connection["cipher"].as_str().and_then(|cipher| names.get(cipher)).context("no cipher")?;
    ensure!(tls["protocol"] == json!({"name": "tls", "version": version}), "{tls}");
    ensure!(tls["cipher"] == *cipher, "{tls}");
    let client = json!({"server_name": "sockets.test", "supported_protocols": ["h2", "http/1.1"]});
    ensure!(tls["client"] == client, "{tls}");
    // With TLS 1.3 the server's choice is encrypted.
    let chosen = if version == "1.3" { &Value::Null } else { &connection["alpn"] };
    ensure!(tls["next_protocol"] == *chosen && connection["alpn"] == "http/1.1", "{tls}");
    Ok(())
}

/// Compares every record of a program of `images::libraries` with the handshakes that both of its ends
/// report.
fn check_library(program: &str, options: &[&str], version: &str) -> Result<()> {
    require_live()?;
    let name = format!("{program}-{version}");
    let container = TestContainer::start(&images::libraries()?, &name, &[], &["/idle"])?;
    let mut child = Command::new("docker")
        .args(["exec", "-i", container.id(), &format!("/{program}"), "--up", "5,700", "--down", "9,3000"])
        .args(["--connections", "3"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = OutputLines::of(child.stdout.take().context("no standard output")?);
    lines.wait("line that it is ready", PATIENCE, |line| line == "ready")?;
    let ctrace = Ctrace::json(&["--container", container.name()])?;
    child.stdin.take().context("no standard input")?.write_all(b"\n")?;
    ensure!(child.wait()?.success(), "{program} failed");
    let trace = ctrace.finish()?;
    let lines = lines.rest();
    let agreed: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("tls ")).collect();
    ensure!(agreed.len() == 6, "{lines:?}");
    let agreed: &Value = &serde_json::from_str(agreed.first().context("nothing is agreed on")?)?;
    ensure!(agreed["version"] == version && agreed["alpn"] == "second", "{agreed}");
    let chosen = if version == "1.3" { &Value::Null } else { &agreed["alpn"] };
    let expected = json!({
        "protocol": {"name": "tls", "version": version},
        "cipher": agreed["cipher"],
        "client": {"server_name": "hello.test", "supported_protocols": ["first", "second"]},
        "next_protocol": chosen,
    });
    let records = trace.lines()?.into_iter().filter(|line| line["type"] == "ssl").collect::<Vec<_>>();
    ensure!(records.len() >= 24, "{} records; {}", records.len(), trace.stderr);
    for record in &records {
        ensure!(record["tls"] == expected, "{record}");
    }
    Ok(())
}

#[test]
fn handshakes_of_go() -> Result<()> {
    check_library("tls-go", &[], "1.3")
}

#[test]
fn handshakes_of_go_with_tls_1_2() -> Result<()> {
    check_library("tls-go", &["--version", "2"], "1.2")
}

#[test]
fn handshakes_of_gnutls() -> Result<()> {
    check_library("tls-gnutls", &[], "1.2")
}

#[test]
fn sockets_of_all_kinds() -> Result<()> {
    require_live()?;
    let options = ["--sysctl", "net.ipv6.conf.all.disable_ipv6=0"];
    let container = TestContainer::start(&images::python()?, "sockets", &options, &["/idle"])?;
    let mut child = Command::new("docker")
        .args(["exec", "-i", container.id(), "/usr/bin/python3", "-I", "/tls-sockets.py"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(&[&certificate()?[..], b".\n"].concat())?;
    let mut lines = OutputLines::of(child.stdout.take().context("no standard output")?);
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
    ensure!(connections.len() == 8, "{connections:?}");
    let names = standard_names()?;
    for (name, connection) in &connections {
        check(&trace, name, connection, &names).with_context(|| format!("{name}: {connection}"))?;
    }
    Ok(())
}

/// Checks all calls of a connection, whose payload carries its name.
fn check(trace: &RunningTrace, name: &str, connection: &Value, names: &Names) -> Result<()> {
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
            // Until now neither end has sent bytes through a socket from which ctrace could learn it.
            ensure!(certainty.is_null() && network["peer"].is_null() && line["tls"].is_null(), "{line}");
            continue;
        }
        ensure!(certainty == if is_memory { "guessed" } else { "seen" }, "{line}");
        let (local, peer) = if is_client { ("client", "server") } else { ("server", "client") };
        ensure!(network["local"] == connection[local] && network["peer"] == connection[peer], "{line}");
        ensure!(network["transport"] == if is_unix { "unix" } else { "tcp" }, "{line}");
        let role = if is_client { "client" } else { "server" };
        ensure!(is_unix || field("/connection/role") == role, "{line}");
        let version = if name.ends_with("ipv6") { "ipv6" } else { "ipv4" };
        if name.starts_with("early") {
            ensure!(line["tls"].is_null(), "{line}");
        } else {
            check_tls(&line["tls"], connection, names)?;
        }
        ensure!(if is_unix { network["type"].is_null() } else { network["type"] == version }, "{line}");
    }
    ensure!(calls == 12, "{calls} calls; standard error of ctrace:\n{}", trace.stderr);
    Ok(())
}
