//! A TLS server in a container, and its clients.

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::child::{Child, OutputLines};
use crate::container::TestContainer;
use crate::image::{TestImage, images};
use crate::transfer::Transfer;

const PATIENCE: Duration = Duration::from_secs(30);

/// A TLS server that is listening: the init of a container, or another process in it.
#[derive(Debug)]
pub struct Server {
    /// The container.
    pub container: TestContainer,
    process: ServerProcess,
}

/// The output of a server, as it arrives.
#[derive(Debug)]
pub struct ServerProcess {
    lines: Mutex<OutputLines>,
    port: String,
    /// `docker logs` or `docker exec`.
    _docker: Child,
}

impl ServerProcess {
    /// Starts a server in a container whose init is another program.
    pub fn exec(container: &TestContainer, command: &[&str]) -> Result<Self> {
        Self::of(Command::new("docker").args(["exec", container.id()]).args(command))
    }

    fn of(docker: &mut Command) -> Result<Self> {
        let mut docker = Child::start_with_stdout(docker, Stdio::piped())?;
        let mut lines = OutputLines::of(docker.take_stdout().context("docker has no output")?);
        let what = "line \"listening PORT\"";
        let line = lines.wait(what, PATIENCE, |line| line.starts_with("listening "))?;
        let port = line.strip_prefix("listening ").context("no port")?.to_owned();
        Ok(Self { lines: Mutex::new(lines), port, _docker: docker })
    }

    /// The server's port on the container's loopback.
    pub fn port(&self) -> &str {
        &self.port
    }

    /// The first `count` connections, once the server has ended them.
    pub fn transfers(&self, count: usize) -> Result<Vec<Transfer>> {
        Transfer::all(&self.reports(count)?.join("\n"))
    }

    /// The reports as text, for a server that reports more than [`Transfer`] holds.
    pub fn reports(&self, count: usize) -> Result<Vec<String>> {
        let mut lines = self.lines.lock().map_err(|_| anyhow!("another reader panicked"))?;
        let reports = |lines: &OutputLines| -> Vec<String> {
            lines.seen().iter().filter(|line| line.starts_with('{')).cloned().collect()
        };
        let what = format!("{count} reports of the server");
        while reports(&lines).len() < count {
            lines.wait(&what, PATIENCE, |line| line.starts_with('{'))?;
        }
        Ok(reports(&lines))
    }
}

impl Server {
    /// Starts `/tls-server` with the given options in a container of the shared image.
    pub fn start(label: &str, options: &[&str]) -> Result<Self> {
        Self::start_in(&images::tls()?, label, &[], &[&["/tls-server"], options].concat())
    }

    /// Starts a server by its command line, in a container of any image.
    pub fn start_in(image: &TestImage, label: &str, docker: &[&str], command: &[&str]) -> Result<Self> {
        Self::of(TestContainer::start(image, label, docker, command)?)
    }

    /// Starts a container whose init does nothing, and `/tls-server` in it.
    pub fn start_under_idle(image: &TestImage, label: &str) -> Result<Self> {
        Self::exec_in(TestContainer::start(image, label, &[], &["/idle"])?)
    }

    /// Starts `/tls-server` in an existing container.
    pub fn exec_in(container: TestContainer) -> Result<Self> {
        let process = ServerProcess::exec(&container, &["/tls-server"])?;
        Ok(Self { container, process })
    }

    /// Waits until the init of a container is listening.
    pub fn of(container: TestContainer) -> Result<Self> {
        let process = ServerProcess::of(Command::new("docker").args(["logs", "--follow", container.id()]))?;
        Ok(Self { container, process })
    }

    /// The server's port on the container's loopback.
    pub fn port(&self) -> &str {
        self.process.port()
    }

    /// Runs `/tls-client` with the given options in the same container to its end.
    pub fn client(&self, options: &[&str]) -> Result<Vec<Transfer>> {
        let arguments = [&["/tls-client", "--port", self.port()], options].concat();
        Transfer::all(&self.container.exec(&arguments)?)
    }

    /// Starts `/tls-client` in the same container.
    pub fn client_background(&self, options: &[&str]) -> Result<Child> {
        self.container.exec_background(&[&["/tls-client", "--port", self.port()], options].concat())
    }

    /// Runs `/tls-client` in another container that shares this one's network. It is out of scope of a trace
    /// of this container.
    pub fn client_outside(&self, options: &[&str]) -> Result<Vec<Transfer>> {
        let network = format!("--network=container:{}", self.container.id());
        let label = format!("client-of-{}", self.container.name());
        let container = TestContainer::start(&images::tls()?, &label, &[&network], &["/idle"])?;
        Transfer::all(&container.exec(&[&["/tls-client", "--port", self.port()], options].concat())?)
    }

    /// The first `count` connections, once the server has ended them.
    pub fn transfers(&self, count: usize) -> Result<Vec<Transfer>> {
        self.process.transfers(count)
    }

    /// The reports as text, for a server that reports more than [`Transfer`] holds.
    pub fn reports(&self, count: usize) -> Result<Vec<String>> {
        self.process.reports(count)
    }
}
