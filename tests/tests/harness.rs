//! The harness without ctrace: the target programs really move what they report. Needs Docker.

use anyhow::{Result, ensure};
use ctrace_tests::{Demo, DemoProtocol, Server, Transfer, images};

/// The sizes around which buffers, records and chunks end.
const SIZES: &str = "0,1,8191,8192,8193,16384,100000,1000000";

fn check_agree(server: &[Transfer], client: &[Transfer]) -> Result<()> {
    ensure!(server.len() == client.len(), "{server:?} and {client:?}");
    for (server, client) in server.iter().zip(client) {
        ensure!(
            server.received == client.sent && server.sent == client.received,
            "{server:?} and {client:?}"
        );
    }
    Ok(())
}

#[test]
fn both_sides_report_the_same_bytes() -> Result<()> {
    for (label, options) in [
        ("agree-plain", ["--api", "plain"].as_slice()),
        ("agree-small", &["--api", "ex", "--nonblocking", "--partial", "--buffer", "16384"]),
        ("agree-peek", &["--peek", "--fork"]),
    ] {
        let server = Server::start(label, options)?;
        let client =
            server.client(&["--up", SIZES, "--down", SIZES, "--nonblocking", "--buffer", "16384"])?;
        check_agree(&server.transfers(1)?, &client)?;
    }
    Ok(())
}

#[test]
fn python_is_a_client() -> Result<()> {
    let server = Server::start_in(&images::python()?, "agree-python", &[], &["/tls-server"])?;
    let client =
        server.container.exec(&["/usr/bin/python3", "-I", "/tls-client.py", server.port(), SIZES, SIZES])?;
    check_agree(&server.transfers(1)?, &Transfer::all(&client)?)
}

#[test]
fn vendored_programs_start() -> Result<()> {
    for (label, program) in
        [("agree-static", "/tls-server-static"), ("agree-bundled", "/app/tls-server-bundled")]
    {
        let server = Server::start_in(&images::vendored()?, label, &[], &[program, "--early"])?;
        let client = server.client(&["--early", "early bytes", "--up", "5", "--down", "7"])?;
        check_agree(&server.transfers(2)?, &client)?;
    }
    Ok(())
}

#[test]
fn the_demonstration_runs_in_containers() -> Result<()> {
    let demo = Demo::start(DemoProtocol::Http1)?;
    ensure!(demo.selector() == ["--container", "web"]);
    ensure!(std::path::Path::new(&format!("/proc/{}", demo.pid())).exists());
    Ok(())
}

#[test]
fn the_demonstration_runs_in_namespaces() -> Result<()> {
    let demo = Demo::start_in_namespaces(DemoProtocol::Http1)?;
    ensure!(demo.selector() == ["--pid".to_owned(), demo.pid().to_string()]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", demo.pid()))?;
    let own = status.lines().find(|line| line.starts_with("NSpid:"));
    ensure!(own.is_some_and(|line| line.ends_with("\t1")), "not the init of a PID namespace: {own:?}");
    Ok(())
}
