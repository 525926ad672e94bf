//! `ctrace requests` counts connections without TLS, and none that has TLS. Needs root and Docker.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{Ctrace, Server, TestContainer, images, require_live};
use serde_json::json;

/// Serves HTTP without TLS on port 8080; and on port 9090 a protocol that begins without TLS, and turns to it
/// after the first line.
const SERVE: &str = r#"
import http.server, socketserver, threading
class Upgrade(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(100)
        self.request.sendall(b"go ahead\r\n")
        while self.request.recv(100):
            self.request.sendall(b"\x16\3\3\0\4none")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
upgrade = Server(("127.0.0.1", 9090), Upgrade)
threading.Thread(target=upgrade.serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), http.server.SimpleHTTPRequestHandler).serve_forever()
"#;

/// Waits until both ports are served.
const WAIT: &str = r#"
import socket, time
for port in 8080, 9090:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
"#;

/// Three connections to the one, and two to the other.
const ASK: &str = r#"
import socket, urllib.request
for _ in range(3):
    urllib.request.urlopen("http://127.0.0.1:8080/etc/hostname").read()
for _ in range(2):
    s = socket.create_connection(("127.0.0.1", 9090))
    s.sendall(b"STARTTLS\r\n")
    s.recv(100)
    s.sendall(b"\x16\3\1\0\4none")
    s.recv(100)
    s.close()
"#;

const PYTHON: [&str; 3] = ["/usr/bin/python3", "-I", "-c"];

#[test]
fn connections_without_tls_are_counted() -> Result<()> {
    require_live()?;
    let server = Server::start_in(&images::python()?, "cleartext", &[], &["/tls-server"])?;
    let network = format!("--network=container:{}", server.container.name());
    // Its processes are not selected, so that each connection has one end that counts.
    let client = TestContainer::start(&images::python()?, "cleartext-client", &[&network], &["/idle"])?;
    let python = |code| [&PYTHON[..], &[code]].concat();
    let _http = server.container.exec_background(&python(SERVE))?;
    client.exec(&python(WAIT))?;

    let ctrace =
        Ctrace::start(&["requests", "--no-cleartext", "-o", "json", "--container", server.container.name()])?;
    server.client(&["--text", "GET / HTTP/1.1\r\n\r\n"])?;
    client.exec(&python(ASK))?;
    // It is said while the trace goes on, too.
    sleep(Duration::from_secs(2));
    let trace = ctrace.finish()?;
    let expected = "3 connections without TLS (port 8080): not shown";
    let lines = trace.stderr.lines().filter(|line| *line == expected).count();
    ensure!(lines == 2, "{}", trace.stderr);
    let summary = trace.summary()?;
    let cleartext = summary.get("cleartext").context("the summary does not have them")?;
    ensure!(*cleartext == json!({ "connections": 3, "ports": [8080] }), "{cleartext}");
    Ok(())
}

#[test]
fn connections_with_tls_are_not_counted() -> Result<()> {
    require_live()?;
    let server = Server::start_in(&images::python()?, "no-cleartext", &[], &["/tls-server"])?;
    let ctrace = Ctrace::start(&["requests", "--no-cleartext", "--container", server.container.name()])?;
    // The client is another process of the container, and so both ends are traced.
    for _ in 0..3 {
        server.client(&["--text", "GET / HTTP/1.1\r\n\r\n"])?;
    }
    sleep(Duration::from_secs(2));
    let trace = ctrace.finish()?;
    ensure!(!trace.stderr.contains("without TLS") && trace.stderr.contains("summary: "), "{}", trace.stderr);
    Ok(())
}
