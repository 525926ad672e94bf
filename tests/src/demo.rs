//! What `cargo xtask demo` shows: a TLS service that knows nothing of being watched, and a client that talks
//! with it.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::child::Child;
use crate::container::{Container, docker};
use crate::image::{Image, images};
use crate::namespaces::Namespaced;
use crate::program::program;
use crate::server::Server;

const NAME: &str = "web";
const LABEL: &str = "ctrace-demo";
/// Milliseconds between requests: slow enough to be read.
const INTERVAL: &str = "300";

/// The running service; everything of it is gone when it is dropped.
#[derive(Debug)]
pub struct Demo {
    parts: Parts,
}

/// Dropped in the order of the fields: the client leaves before the server.
#[derive(Debug)]
enum Parts {
    Containers { _client: Container, server: Server },
    Namespaces { _client: Child, server: Namespaced },
}

impl Demo {
    /// A container `web` made FROM scratch (a server, the libraries it loads, no shell), and a second
    /// container with the client.
    pub fn start() -> Result<Self> {
        Self::start_named(NAME)
    }

    /// The same with a name of the caller's in place of `web`.
    pub fn start_named(name: &str) -> Result<Self> {
        let client_name = format!("{name}-client");
        make_room(name)?;
        make_room(&client_name)?;
        let server_image = Image::build("demo-web", &images::server_tree()?)?;
        let options = ["--label", LABEL];
        let server = ["/tls-server", "--port", "443"];
        let server = Server::of(Container::start_named(&server_image, name, &options, &server)?)?;
        let network = format!("--network=container:{name}");
        let options = [options.as_slice(), &[&network]].concat();
        let client = ["/tls-client", "--port", server.port(), "--http", INTERVAL];
        let client = Container::start_named(&images::tls()?, &client_name, &options, &client)?;
        Ok(Self { parts: Parts::Containers { _client: client, server } })
    }

    /// The same server in PID and mount namespaces of its own, for a machine without Docker.
    pub fn start_in_namespaces() -> Result<Self> {
        let server = Namespaced::start(&images::server_tree()?, &["/tls-server"])?;
        let port = server.first_line().strip_prefix("listening ").context("the server does not listen")?;
        let mut client = Command::new(program("tls-client")?);
        let client = Child::start(client.args(["--port", port, "--http", INTERVAL]))?;
        Ok(Self { parts: Parts::Namespaces { _client: client, server } })
    }

    /// How `ctrace ssl` is told to watch it.
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

/// A container of an interrupted demonstration is removed; one that is somebody's is left alone.
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
