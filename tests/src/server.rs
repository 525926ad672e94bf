//! A container with a TLS server in it, and the client that talks with it.

use anyhow::{Context as _, Result};

use crate::child::Child;
use crate::container::Container;
use crate::image::{Image, images};
use crate::transfer::Transfer;

/// A container whose init is a TLS server of ours.
#[derive(Debug)]
pub struct Server {
    /// The container.
    pub container: Container,
    port: String,
}

impl Server {
    /// Starts `/tls-server` with the given options in a container of the shared image.
    pub fn start(label: &str, options: &[&str]) -> Result<Self> {
        Self::start_in(&images::tls()?, label, &[], &[&["/tls-server"], options].concat())
    }

    /// Starts a server by its command line, in a container of any image.
    pub fn start_in(image: &Image, label: &str, docker: &[&str], command: &[&str]) -> Result<Self> {
        Self::of(Container::start(image, label, docker, command)?)
    }

    /// Waits until the init of a container listens.
    pub fn of(container: Container) -> Result<Self> {
        let line =
            container.wait_for_line("line \"listening PORT\"", |line| line.starts_with("listening "))?;
        let port = line.strip_prefix("listening ").context("no port")?.to_owned();
        Ok(Self { container, port })
    }

    /// Its port on the loopback of the container.
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Runs `/tls-client` with the given options in the same container, to its end.
    pub fn client(&self, options: &[&str]) -> Result<Vec<Transfer>> {
        let arguments = [&["/tls-client", "--port", &self.port], options].concat();
        Transfer::all(&self.container.exec(&arguments)?)
    }

    /// Starts `/tls-client` without waiting for its end.
    pub fn client_background(&self, options: &[&str]) -> Result<Child> {
        self.container.exec_background(&[&["/tls-client", "--port", &self.port], options].concat())
    }

    /// The first `count` connections, waiting until the server has ended them.
    pub fn transfers(&self, count: usize) -> Result<Vec<Transfer>> {
        let mut seen = 0;
        if count > 0 {
            self.container.wait_for_line(&format!("{count} reports of the server"), |line| {
                seen += usize::from(line.starts_with('{'));
                seen == count
            })?;
        }
        Transfer::all(&self.container.logs()?)
    }
}
