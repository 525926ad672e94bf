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

/// The running service. Dropping it removes everything.
#[derive(Debug)]
pub struct Demo {
    parts: Parts,
}

/// Fields are dropped in order: the client ends before the server.
#[derive(Debug)]
enum Parts {
    Containers { _client: TestContainer, server: Server },
    Namespaces { _client: Child, server: Namespaced },
}

impl Demo {
    /// Starts a container `web` made FROM scratch (a server and its libraries, no shell), and a second
    /// container with the client.
    pub fn start() -> Result<Self> {
        Self::start_named(NAME)
    }

    /// The same as [`Self::start`], with another name than `web`.
    pub fn start_named(name: &str) -> Result<Self> {
        let client_name = format!("{name}-client");
        make_room(name)?;
        make_room(&client_name)?;
        let server_image = TestImage::build("demo-web", &images::server_tree()?)?;
        let options = ["--label", LABEL];
        let server = ["/tls-server", "--port", "443"];
        let server = Server::of(TestContainer::start_named(&server_image, name, &options, &server)?)?;
        let network = format!("--network=container:{name}");
        let options = [options.as_slice(), &[&network]].concat();
        let client = ["/tls-client", "--port", server.port(), "--http", INTERVAL];
        let client = TestContainer::start_named(&images::tls()?, &client_name, &options, &client)?;
        Ok(Self { parts: Parts::Containers { _client: client, server } })
    }

    /// Starts the same server in its own PID and mount namespaces, for a machine without Docker.
    pub fn start_in_namespaces() -> Result<Self> {
        let server = Namespaced::start(&images::server_tree()?, &["/tls-server"])?;
        let port = server.first_line().strip_prefix("listening ").context("the server does not listen")?;
        let mut client = Command::new(program("tls-client")?);
        let client = Child::start(client.args(["--port", port, "--http", INTERVAL]))?;
        Ok(Self { parts: Parts::Namespaces { _client: client, server } })
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
