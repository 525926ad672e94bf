//! What `cargo xtask demo` shows: a TLS service that is not aware of being traced, and a client that talks to
//! it.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::child::Child;
use crate::container::{TestContainer, docker};
use crate::image::{TestImage, images};
use crate::namespaces::Namespaced;
use crate::program::program;
use crate::server::Server;

const NAME: &str = "web";
const LABEL: &str = "ctrace-demo";
/// Milliseconds between requests: slow enough to be read.
const INTERVAL: &str = "300";

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DemoProtocol {
    /// One request after the other, on one connection.
    Http1,
    /// Some requests at once, on each of many connections.
    Http2,
}

impl DemoProtocol {
    /// The name of the client's container, and the option of `tls-client`.
    fn client(self, server: &str) -> (String, &'static str) {
        match self {
            Self::Http1 => (format!("{server}-client"), "--http"),
            Self::Http2 => (format!("{server}-client-http2"), "--http2"),
        }
    }
}

/// The running service. Dropping it removes everything.
#[derive(Debug)]
pub struct Demo {
    parts: Parts,
}

/// Fields are dropped in order: the client ends before the server.
#[derive(Debug)]
enum Parts {
    Containers { client: TestContainer, server: Server },
    Namespaces { client: Child, server: Namespaced },
}

impl Demo {
    /// Starts a container `web` made FROM scratch (a server and its libraries, no shell), and a second
    /// container with the client.
    pub fn start(protocol: DemoProtocol) -> Result<Self> {
        Self::start_named(NAME, protocol)
    }

    /// The same as [`Self::start`], with another name than `web`.
    pub fn start_named(name: &str, protocol: DemoProtocol) -> Result<Self> {
        make_room(name)?;
        let image = TestImage::build("demo-web", &images::server_tree()?)?;
        let command = ["/tls-server", "--port", "443"];
        let server = TestContainer::start_named(&image, name, &["--label", LABEL], &command)?;
        let server = Server::of(server)?;
        let client = client_container(&server, protocol)?;
        Ok(Self { parts: Parts::Containers { client, server } })
    }

    /// Starts the same server in its own PID and mount namespaces, for a machine without Docker.
    pub fn start_in_namespaces(protocol: DemoProtocol) -> Result<Self> {
        let server = Namespaced::start(&images::server_tree()?, &["/tls-server"])?;
        let client = client_process(&server, protocol)?;
        Ok(Self { parts: Parts::Namespaces { client, server } })
    }

    /// Replaces the client by one that speaks the other protocol.
    pub fn speak(&mut self, protocol: DemoProtocol) -> Result<()> {
        match &mut self.parts {
            Parts::Containers { client, server } => *client = client_container(server, protocol)?,
            Parts::Namespaces { client, server } => *client = client_process(server, protocol)?,
        }
        Ok(())
    }

    /// The selector for `ctrace ssl`.
    pub fn selector(&self) -> [String; 2] {
        match &self.parts {
            Parts::Containers { server, .. } => ["--container".into(), server.container.name().into()],
            Parts::Namespaces { server, .. } => ["--pid".into(), server.pid().to_string()],
        }
    }

    /// The process id of the server, as the host sees it.
    pub fn pid(&self) -> u32 {
        match &self.parts {
            Parts::Containers { server, .. } => server.container.pid(),
            Parts::Namespaces { server, .. } => server.pid(),
        }
    }
}

fn client_container(server: &Server, protocol: DemoProtocol) -> Result<TestContainer> {
    let (name, option) = protocol.client(server.container.name());
    make_room(&name)?;
    let network = format!("--network=container:{}", server.container.name());
    let options = ["--label", LABEL, &network];
    let command = ["/tls-client", "--port", server.port(), option, INTERVAL];
    TestContainer::start_named(&images::tls()?, &name, &options, &command)
}

fn client_process(server: &Namespaced, protocol: DemoProtocol) -> Result<Child> {
    let port = server.first_line().strip_prefix("listening ").context("the server does not listen")?;
    let (_, option) = protocol.client(NAME);
    let mut client = Command::new(program("tls-client")?);
    Child::start(client.args(["--port", port, option, INTERVAL]))
}

/// Removes a container that an interrupted demonstration left behind. One that belongs to somebody else is
/// not touched.
fn make_room(name: &str) -> Result<()> {
    if docker(&["container", "inspect", name]).is_err() {
        return Ok(());
    }
    let filter = format!("label={LABEL}");
    let ours = docker(&["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"])?;
    if !ours.lines().any(|found| found == name) {
        bail!(
            "a container named {name} is there already: rename it, or remove it with `docker rm -f {name}`"
        );
    }
    docker(&["rm", "--force", name]).map(drop)
}
