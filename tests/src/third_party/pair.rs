//! A server that others have built, and a container next to it for its clients.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::client::AUTHORITY;
use super::{Certificate, Release};
use crate::{Child, Ctrace, OutputLines, TestContainer, require_live, script, wait_until};

const PATIENCE: Duration = Duration::from_mins(1);

/// What both containers of a [`Pair`] are.
#[derive(Clone, Copy, Debug)]
pub struct PairSetup<'a> {
    /// What they have.
    pub release: &'a Release,
    /// A part of their names.
    pub label: &'a str,
    /// Options of `docker run` for both of them.
    pub options: &'a [&'a str],
    /// The server with its arguments; its certificate is in /server.pem.
    pub server: &'a [&'a str],
    /// Files that are mapped in the client's container, so that ctrace attaches to them before a client runs.
    pub mapped: &'a [&'a str],
}

/// A server, and a container in its network in which nothing runs yet. Both have the programs of the tests in
/// /programs.
#[derive(Debug)]
pub struct Pair {
    /// The container whose init is the server.
    pub server: TestContainer,
    /// The container for clients, which trusts the server's certificate.
    pub client: TestContainer,
}

impl Pair {
    /// Starts both containers.
    pub fn start(setup: &PairSetup<'_>) -> Result<Self> {
        require_live()?;
        let certificate = Certificate::get()?;
        let image = setup.release.image()?;
        let programs = format!("--volume={}:/programs:ro", script("").display());
        let both =
            [&[programs.as_str(), "--env=HOME=/root", "--env=PYTHONPATH=/app"], setup.options].concat();
        let pem = format!("--volume={}:/server.pem:ro", certificate.server().display());
        let options = [both.as_slice(), &[&pem]].concat();
        let server = TestContainer::start(&image, setup.label, &options, setup.server)?;
        let authority = format!("--volume={}:{AUTHORITY}:ro", certificate.authority().display());
        let network = format!("--network=container:{}", server.id());
        let options = [both.as_slice(), &[&authority, &network]].concat();
        let command = [&["/mapper"], setup.mapped].concat();
        let label = format!("{}-client", setup.label);
        let client = TestContainer::start(&image, &label, &options, &command)?;
        Ok(Self { server, client })
    }

    /// `ctrace` with these arguments, of both ends.
    pub fn trace(&self, arguments: &[&str]) -> Result<Ctrace> {
        let selection = ["--container", self.server.name(), "--container", self.client.name()];
        Ctrace::start(&[arguments, &selection].concat())
    }

    /// Waits until the server listens on a port.
    pub fn wait_for_port(&self, port: u16) -> Result<()> {
        // A line is the number, the local address, the remote address and the state; 0A is LISTEN.
        let is_listening = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let local = words.next().and_then(|address| address.rsplit(':').next());
            local == Some(&format!("{port:04X}")) && words.nth(1) == Some("0A")
        };
        let tables = ["tcp", "tcp6"].map(|table| format!("/proc/{}/net/{table}", self.server.pid()));
        let has = |path: &String| fs::read_to_string(path).is_ok_and(|text| text.lines().any(is_listening));
        let listens = || Ok(tables.iter().any(has).then_some(()));
        let waited = wait_until("listening server", PATIENCE, listens);
        waited.with_context(|| self.server.logs().unwrap_or_default())
    }

    /// Waits until the server has written so many lines that begin so, and returns what it has written.
    pub fn server_lines(&self, start: &str, count: usize) -> Result<String> {
        let count_now =
            || anyhow::Ok(self.server.logs()?.lines().filter(|line| line.starts_with(start)).count());
        let has_all = || Ok((count_now()? >= count).then_some(()));
        let waited = wait_until("line of the server", PATIENCE, has_all);
        waited.with_context(|| {
            format!("{count} lines with {start}: {}", self.server.logs().unwrap_or_default())
        })?;
        self.server.logs()
    }

    /// Starts a client.
    pub fn start_client(&self, command: &[&str]) -> Result<RunningClient> {
        let mut docker = Command::new("docker");
        let docker = docker.args(["exec", self.client.id()]).args(command);
        let mut child = Child::start_with_stdout(docker, Stdio::piped())?;
        let lines = OutputLines::of(child.take_stdout().context("docker has no output")?);
        Ok(RunningClient { child, lines })
    }
}

/// A client that is running.
#[derive(Debug)]
pub struct RunningClient {
    child: Child,
    lines: OutputLines,
}

impl RunningClient {
    /// Waits until it has written so many more lines.
    pub fn wait_for_lines(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            if let Err(error) = self.lines.wait("line of the client", PATIENCE, |_| true) {
                let _ = self.child.kill();
                let (_, stderr) = self.child.output()?;
                return Err(error.context(stderr.join("\n")));
            }
        }
        Ok(())
    }

    /// Waits until it ends, and returns everything that it has written.
    pub fn finish(mut self) -> Result<String> {
        let status = self.child.wait(PATIENCE)?;
        let (_, stderr) = self.child.output()?;
        ensure!(status.success(), "{status}: {}", stderr.join("\n"));
        Ok(self.lines.rest().join("\n"))
    }
}
