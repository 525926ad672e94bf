//! The tests' TLS server as the init of an engine's container, and its clients.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use super::daemon::wait_until;
use super::{Archive, Engine, EngineContainer, output_of};
use crate::program::program;
use crate::transfer::Transfer;

const PATIENCE: Duration = Duration::from_secs(30);

/// A server that is listening.
#[derive(Debug)]
pub struct EngineServer {
    /// Its container.
    pub container: EngineContainer,
    port: String,
}

impl EngineServer {
    /// Starts `/tls-server` in a container of the shared image.
    pub fn start(engine: &Engine, name: &str, labels: &[(&str, &str)]) -> Result<Self> {
        Self::start_in(engine, &engine.load(&Archive::tls()?)?, name, labels)
    }

    /// Starts the server in a container of another loaded image that has it.
    pub fn start_in(engine: &Engine, image: &str, name: &str, labels: &[(&str, &str)]) -> Result<Self> {
        let container = engine.run(image, name, labels, &["/tls-server"])?;
        let port = wait_until("listening server", PATIENCE, || {
            let logs = container.logs()?;
            let port = logs.lines().find_map(|line| line.strip_prefix("listening "));
            Ok(port.map(str::to_owned))
        })?;
        Ok(Self { container, port })
    }

    /// Runs `/tls-client` in the container to its end.
    pub fn client(&self, options: &[&str]) -> Result<Vec<Transfer>> {
        let command = [&["/tls-client", "--port", &self.port], options].concat();
        Transfer::all(&self.container.exec(&command)?)
    }

    /// Runs the client on the host, in the network of the container. It needs no engine, and is out of scope.
    pub fn client_outside(&self, options: &[&str]) -> Result<Vec<Transfer>> {
        let mut client = Command::new("nsenter");
        client.arg(format!("--net=/proc/{}/ns/net", self.container.pid())).arg(program("tls-client")?);
        Transfer::all(&output_of(client.args(["--port", &self.port]).args(options))?)
    }

    /// The first `count` connections, once the server has ended them.
    pub fn transfers(&self, count: usize) -> Result<Vec<Transfer>> {
        let reports = wait_until("reports of the server", PATIENCE, || {
            let reports = Transfer::all(&self.container.logs()?)?;
            Ok((reports.len() >= count).then_some(reports))
        })?;
        if reports.len() > count {
            bail!("{} connections where {count} were made", reports.len());
        }
        Ok(reports)
    }
}
