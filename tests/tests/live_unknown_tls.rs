//! A process that speaks TLS or QUIC by code that ctrace does not know is reported, whoever it is, and nobody
//! else is. Needs root, BusyBox, whose wget has TLS code of its own, Docker, and once the machine's package
//! sources for Java.
#![expect(clippy::indexing_slicing, reason = "what a JSON value does not have is null")]

use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::third_party::JAVA;
use ctrace_tests::{
    Child, Ctrace, OutputLines, RunningTrace, TestContainer, TracedCommand, count_lines, require_bpf,
    require_live, script,
};
use serde_json::Value;

/// Sends a ClientHello for `own.test` to the port in its first argument, as an unknown library would. It
/// waits for its standard input first, so that it is traced by then, and holds the connection for a while.
const HELLO: &str = r#"
import os, socket, sys, time
name = b"own.test"
extension = b"\0\0" + (len(name) + 5).to_bytes(2, "big") + (len(name) + 3).to_bytes(2, "big") + b"\0"
extension += len(name).to_bytes(2, "big") + name
body = b"\3\3" + os.urandom(32) + b"\0" + b"\0\2\xc0\x2f" + b"\1\0"
body += len(extension).to_bytes(2, "big") + extension
hello = b"\x16\3\1" + (len(body) + 4).to_bytes(2, "big") + b"\1" + len(body).to_bytes(3, "big") + body
print("ready", flush=True)
sys.stdin.readline()
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.sendall(hello)
if len(sys.argv) > 2:
    quic = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    quic.connect(("127.0.0.1", int(sys.argv[2])))
    quic.send(b"\xc0\0\0\0\1\x08" + os.urandom(1194))
print("sent", flush=True)
sys.stdin.readline()
"#;

/// Forwards one connection from the port that it prints to the port in its first argument.
const FORWARD: &str = r#"
import select, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
client, _ = listener.accept()
server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
other = {client: server, server: client}
while True:
    for end in select.select(list(other), [], [])[0]:
        data = end.recv(65536)
        if not data:
            sys.exit()
        other[end].sendall(data)
"#;

fn python(code: &str, arguments: &[&str]) -> Result<(Child, OutputLines)> {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-I", "-S", "-c", code]).args(arguments);
    let mut child = Child::start_with_streams(&mut command, Stdio::piped(), Stdio::piped())?;
    let lines = OutputLines::of(child.take_stdout().context("no output")?);
    Ok((child, lines))
}

/// The records of TLS that is not seen.
fn unknown(trace: &RunningTrace) -> Result<Vec<Value>> {
    Ok(trace.lines()?.into_iter().filter(|line| line["type"] == "unknown_tls").collect())
}

#[test]
fn a_hello_of_code_that_is_not_known_is_reported_once() -> Result<()> {
    require_bpf()?;
    let (tcp, udp) = (TcpListener::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    let (tcp_port, udp_port) = (tcp.local_addr()?.port().to_string(), udp.local_addr()?.port().to_string());
    let (mut tls, mut of_tls) = python(HELLO, &[&tcp_port])?;
    let (mut both, mut of_both) = python(HELLO, &[&tcp_port, &udp_port])?;
    let limit = Duration::from_secs(10);
    for lines in [&mut of_tls, &mut of_both] {
        lines.wait("line that it is ready", limit, |line| line == "ready")?;
    }
    let (first, second) = (tls.id().to_string(), both.id().to_string());
    let ctrace = Ctrace::start(&["ssl", "-o", "json", "--pid", &first, "--pid", &second, "--wait"])?;
    let mut inputs = Vec::new();
    for (child, lines) in [(&mut tls, &mut of_tls), (&mut both, &mut of_both)] {
        let mut input = child.take_stdin().context("no input")?;
        input.write_all(b"\n")?;
        // They would end without it.
        inputs.push(input);
        lines.wait("line that it has sent", limit, |line| line == "sent")?;
    }
    std::thread::sleep(Duration::from_millis(1500));
    let trace = ctrace.finish()?;
    let records = unknown(&trace)?;
    ensure!(records.len() == 2, "{records:?}");
    for (pid, record) in [tls.id(), both.id()].into_iter().zip(&records) {
        ensure!(record["process"]["pid"] == pid && record["reason"] == "unknown_code", "{record}");
        ensure!(record["role"] == "client", "{record}");
    }
    ensure!(records[0]["protocol"] == "tls", "{}", records[0]);
    ensure!(records[0]["tls"]["client"]["server_name"] == "own.test", "{}", records[0]);
    let said = " speaks TLS (SNI own.test) by code that ctrace does not know";
    let lines = trace.stderr.lines().filter(|line| line.contains("by code that ctrace does not know"));
    ensure!(lines.clone().count() == 2 && trace.stderr.contains(said), "{}", trace.stderr);
    Ok(())
}

/// `openssl s_server`, also for old cipher suites, which answers one GET on each connection, at the port that
/// is returned.
fn web_server(directory: &Path) -> Result<(Child, String)> {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3"])
        .args(["-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "certificate.pem"])
        .current_dir(directory)
        .stderr(Stdio::null())
        .status()?;
    ensure!(made.success(), "openssl req: {made}");
    let mut command = Command::new("openssl");
    command
        .args([
            "s_server",
            "-accept",
            "127.0.0.1:0",
            "-www",
            "-cipher",
            "ALL:@SECLEVEL=0",
            "-key",
            "key.pem",
            "-cert",
            "certificate.pem",
        ])
        .current_dir(directory);
    let mut child = Child::start_with_stdout(&mut command, Stdio::piped())?;
    let mut lines = OutputLines::of(child.take_stdout().context("no output")?);
    let accepts = |line: &str| line.starts_with("ACCEPT ");
    let line = lines.wait("line with the port", Duration::from_secs(10), accepts)?;
    let port = line.rsplit(':').next().context("no port")?.to_owned();
    Ok((child, port))
}

#[test]
fn a_program_with_tls_of_its_own_is_reported() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let (_server, port) = web_server(directory.path())?;
    let address = format!("https://localhost:{port}/");
    // BusyBox prefers the program `openssl` if it finds that.
    let wget = "PATH=/nowhere exec \"$(command -v busybox)\" wget -q -O /dev/null \"$0\"";
    let wget = ["sh", "-c", wget, &address];
    let trace = TracedCommand::run(&["-vv"], &wget)?.trace;
    ensure!(trace.code() == Some(0), "{:?}: {}", trace.code(), trace.stderr);
    let records = unknown(&trace)?;
    let [record] = records.as_slice() else { anyhow::bail!("{records:?}: {}", trace.stderr) };
    ensure!(record["process"]["comm"] == "busybox" && record["role"] == "client", "{record}");
    ensure!(record["tls"]["client"]["server_name"] == "localhost", "{record}");
    ensure!(record["reason"] == "unknown_code", "{record}");
    Ok(())
}

/// The file is named once, and each process that speaks TLS by it is.
#[test]
fn java_is_reported() -> Result<()> {
    require_live()?;
    let directory = tempfile::tempdir()?;
    let (_server, port) = web_server(directory.path())?;
    let address = format!("https://server.test:{port}/");
    let programs = format!("--volume={}:/programs:ro", script("").display());
    // Java sends no name that has no dot.
    let options = ["--network=host", "--add-host=server.test:127.0.0.1", &programs];
    let container = TestContainer::start(&JAVA.image()?, "java", &options, &["/idle"])?;
    let ctrace = Ctrace::json(&["--wait", "--container", container.name()])?;
    let java = "/usr/lib/jvm/java-17-openjdk-amd64/bin/java";
    for _ in 0..2 {
        let said = container.exec(&[java, "/programs/third-party-client.java", &address])?;
        ensure!(said.trim() == "200", "{said}");
    }
    std::thread::sleep(Duration::from_millis(1500));
    let trace = ctrace.finish()?;
    let records = unknown(&trace)?;
    ensure!(records.len() == 2, "{records:?}: {}", trace.stderr);
    for record in &records {
        ensure!(record["reason"] == "cannot_be_traced" && record["role"] == "client", "{record}");
        ensure!(record["tls"]["client"]["server_name"] == "server.test", "{record}");
        ensure!(record["process"]["executable"]["path"] == java, "{record}");
        ensure!(record["container"]["name"] == container.name(), "{record}");
    }
    ensure!(records[0]["process"]["pid"] != records[1]["process"]["pid"], "{records:?}");
    let said = &trace.stderr;
    ensure!(
        count_lines(said, "libjvm.so: Java TLS (JSSE), which the JVM compiles at run time") == 1,
        "{said}"
    );
    let each = "speaks TLS (SNI server.test) by code that ctrace cannot trace";
    ensure!(count_lines(said, each) == 2, "{said}");
    Ok(())
}

#[test]
fn who_is_seen_or_only_forwards_is_not_reported() -> Result<()> {
    require_bpf()?;
    let directory = tempfile::tempdir()?;
    let (server, port) = web_server(directory.path())?;
    let (forwarder, mut lines) = python(FORWARD, &[&port])?;
    let through = lines.wait("line with the port", Duration::from_secs(10), |_| true)?;
    let (server, forwarder) = (server.id().to_string(), forwarder.id().to_string());
    let ctrace = Ctrace::start(&["ssl", "-o", "json", "--pid", &server, "--pid", &forwarder])?;
    // The first connection is only a handshake, whose functions are not probed.
    for (port, request) in [(port.as_str(), "Q\n"), (through.as_str(), "GET / HTTP/1.0\n\n")] {
        let target = format!("127.0.0.1:{port}");
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-no_ign_eof", "-connect", &target])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        client.stdin.take().context("no input")?.write_all(request.as_bytes())?;
        client.wait()?;
    }
    std::thread::sleep(Duration::from_millis(1500));
    let trace = ctrace.finish()?;
    ensure!(unknown(&trace)?.is_empty() && !trace.stderr.contains("does not know"), "{}", trace.stderr);
    ensure!(trace.lines()?.iter().any(|line| line["type"] == "ssl"), "the server was not seen");
    Ok(())
}
