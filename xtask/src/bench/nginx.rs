//! What tracing costs a real server: CPU time of an nginx worker for each request that wrk makes over TLS.
//!
//! Owns its own nginx, in a directory that is removed afterwards. Never touches an nginx of the machine.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ctrace_tests::{Child, library, program};
use rustix::process::Signal;
use tempfile::TempDir;

use super::Extent;
use super::process::{self, BenchTarget, PROGRAM};
use super::report::BenchReport;
use super::statistics::median;
use super::tracer::{Pids, Tracer, Way, bpftrace_program};
use crate::shell;

/// Connections that wrk keeps open.
const CONNECTIONS: u32 = 16;
/// Bytes of a response's body.
const BODY: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// A way to trace, with microseconds of CPU time per request and requests per second, round by round.
#[derive(Clone, Debug)]
pub(super) struct NginxRequests {
    way: Way,
    rounds: Vec<(f64, f64)>,
    lost: bool,
}

/// Measures all ways in turn, round by round; `None` if nginx or wrk is not installed.
pub(super) fn measure(extent: Extent) -> Result<Option<Vec<NginxRequests>>> {
    let (Some(nginx), Some(wrk)) = (shell::find("nginx"), shell::find("wrk")) else { return Ok(None) };
    let nginx = Nginx::start(&nginx)?;
    let idle = BenchTarget::start()?;
    let pids = Pids { measured: nginx.worker()?, idle: idle.id() };
    let ways = [Way::Untraced, Way::Ctrace, Way::Elsewhere, Way::Floor].into_iter();
    let ways = ways.chain(bpftrace_program().map(|_| Way::Bpftrace));
    let mut all: Vec<NginxRequests> =
        ways.map(|way| NginxRequests { way, rounds: Vec::new(), lost: false }).collect();
    for round in 1..=extent.rounds {
        eprintln!("bench: nginx, round {round} of {}", extent.rounds);
        for requests in &mut all {
            let tracer = Tracer::start(requests.way, pids)?;
            let before = process::cpu_ns(pids.measured)?;
            let made = nginx.load(&wrk, extent.request_seconds)?;
            let us = (process::cpu_ns(pids.measured)? - before) / made / 1e3;
            requests.rounds.push((us, made / f64::from(extent.request_seconds)));
            requests.lost |= tracer.finish()?.lost.is_some();
        }
    }
    Ok(Some(all))
}

/// Adds the table.
pub(super) fn describe(all: Option<&Vec<NginxRequests>>, report: &mut BenchReport) {
    report.paragraph("### A server");
    let Some(all) = all else {
        report.paragraph("Not measured: nginx or wrk is not installed.");
        return;
    };
    report.paragraph(&format!(
        "CPU time of the nginx worker for each request: TLS 1.3, {CONNECTIONS} connections kept open, a body \
         of {BODY} bytes, wrk on the same machine with a copy of the library of its own."
    ));
    let us = |requests: &NginxRequests| median(requests.rounds.iter().map(|(us, _)| *us));
    let untraced = all.first().map_or(0.0, us);
    let row = |requests: &NginxRequests| {
        let name = match requests.way {
            Way::Untraced => "untraced",
            Way::Ctrace => "ctrace",
            Way::Elsewhere => "ctrace, another process selected",
            Way::Floor => "empty programs at the places of ctrace",
            Way::Bpftrace => "bpftrace",
        };
        let lost = match (requests.way, requests.lost) {
            (Way::Ctrace, true) => "some",
            (Way::Ctrace, false) => "nothing",
            _ => "-",
        };
        [
            name.to_owned(),
            format!("{:.1}", us(requests)),
            format!("{:.1}", us(requests) - untraced),
            format!("{:.2}", untraced / us(requests)),
            format!("{:.0}", median(requests.rounds.iter().map(|(_, rate)| *rate))),
            lost.to_owned(),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    report.table(["tracer", "µs a request", "added", "untraced / traced", "requests/s", "lost"], &rows);
}

/// A server with one worker.
struct Nginx {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl Nginx {
    fn start(nginx: &Path) -> Result<Self> {
        let directory = tempfile::tempdir().context("no directory for nginx")?;
        let file = |name: &str| directory.path().join(name);
        shell::read(shell::command("openssl").args(["req", "-x509", "-newkey", "ec"]).args([
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-keyout",
            &file("key.pem").to_string_lossy(),
            "-out",
            &file("certificate.pem").to_string_lossy(),
        ]))?;
        let libssl = library(&program(PROGRAM)?, "libssl.so.3")?;
        fs::copy(&libssl, file("libssl.so.3"))
            .with_context(|| format!("cannot copy {}", libssl.display()))?;
        // The port is free now, and it is unlikely that another program takes it in between.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        fs::write(file("nginx.conf"), configuration(port)).context("cannot write nginx.conf")?;
        let mut command = shell::command(&nginx.to_string_lossy());
        command.arg("-p").arg(directory.path()).arg("-c").arg(file("nginx.conf")).args(["-e", "stderr"]);
        let child = Child::start_with_stdout(&mut command, Stdio::null())?;
        let mut nginx = Self { child, port, directory };
        nginx.wait_until_listening()?;
        Ok(nginx)
    }

    fn wait_until_listening(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if Instant::now() > deadline {
                let said = self.child.stderr.take().map(ctrace_tests::OutputLines::rest).unwrap_or_default();
                bail!("nginx does not listen; it said:\n{}", said.join("\n"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn worker(&self) -> Result<u32> {
        let master = self.child.id();
        let file = format!("/proc/{master}/task/{master}/children");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let worker = text.split_whitespace().next().and_then(|word| word.parse().ok());
        worker.context("nginx has no worker")
    }
}

impl Nginx {
    /// Makes requests, and returns how many. wrk loads its own copy of the library, so that it does not hit
    /// the probes itself: most clients are on other machines.
    fn load(&self, wrk: &Path, seconds: u32) -> Result<f64> {
        let mut command = shell::command(&wrk.to_string_lossy());
        command.env("LD_LIBRARY_PATH", self.directory.path());
        command.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s")]);
        let text = shell::read(command.arg(format!("https://127.0.0.1:{}/", self.port)))?;
        requests(&text).with_context(|| format!("wrk did not say how many requests it made:\n{text}"))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its worker only when it is asked to end.
        let _ = self.child.signal(Signal::TERM);
        let _ = self.child.wait(PATIENCE);
    }
}

fn configuration(port: u16) -> String {
    let body = "x".repeat(BODY);
    format!(
        "daemon off; user root; worker_processes 1; pid nginx.pid; error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    keepalive_requests 1000000000;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate certificate.pem; ssl_certificate_key key.pem; ssl_protocols TLSv1.3;
        location / {{ default_type text/plain; return 200 \"{body}\"; }}
    }}
}}
"
    )
}

/// The number in wrk's line `  12345 requests in 2.00s, 15.11MB read`; `None` if some requests failed.
fn requests(text: &str) -> Option<f64> {
    let failed = text.contains("Non-2xx") || text.contains("Socket errors");
    let line = text.lines().find(|line| line.contains(" requests in "))?;
    let number = line.split_whitespace().next()?.parse().ok()?;
    (!failed && number > 0.0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_from_what_wrk_says() {
        let check = |text: &str, expected: Option<f64>| assert_eq!(requests(text), expected, "{text}");
        check("Running 2s test\n  12345 requests in 2.00s, 15.11MB read\n", Some(12345.0));
        check("  12345 requests in 2.00s\n  Non-2xx or 3xx responses: 3\n", None);
        check("  0 requests in 2.00s\n", None);
        check("", None);
    }
}
