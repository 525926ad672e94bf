//! Container engines of the tests: Docker, Podman, containerd and a CRI, each driven as its users drive it.
//!
//! An [`Engine`] is started by the test and ends with it: its processes, mounts and files are in a
//! [`room::Room`] of their own, which is swept when the value is dropped and, after a test that was killed,
//! by the next one. Only Docker's usual engine is the machine's own; the harness takes nothing from it but
//! the containers that it made. What differs between engines is behind [`Driver`]; a test is written once and
//! run with each [`Kind`].

mod archive;
mod cgroups;
mod containerd;
mod cri;
mod cri_api;
mod daemon;
mod docker;
mod podman;
mod room;
mod server;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::child::Child;
use crate::requirements::require_live;
use daemon::Daemon;

pub use archive::Archive;
pub use daemon::wait_until;
pub use server::EngineServer;

/// How long an engine may take for one request.
const PATIENCE: Duration = Duration::from_mins(1);

/// The engines that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The machine's Docker engine.
    Docker,
    /// A Docker engine of the test's own, whose network is not the machine's.
    PrivateDocker,
    /// Podman, with its API service.
    Podman,
    /// containerd, without its CRI plugin.
    Containerd,
    /// containerd's CRI plugin, driven as kubelet drives it.
    Cri,
}

/// What is to run.
#[derive(Debug, Clone, Copy)]
struct Request<'a> {
    image: &'a str,
    name: &'a str,
    labels: &'a [(&'a str, &'a str)],
    command: &'a [&'a str],
}

/// What an engine says of a container that it started.
#[derive(Debug, Clone, Default)]
struct Started {
    id: String,
    pid: u32,
    pod: Option<Pod>,
}

/// The pod of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// The id of its sandbox.
    pub sandbox: String,
}

/// What an engine has to be able to do.
trait Driver: fmt::Debug + Send + Sync {
    /// The runtime's name in ctrace's options.
    fn runtime(&self) -> &'static str;

    /// The runtime's name in records: what is behind an interface that several speak.
    fn product(&self) -> &'static str {
        self.runtime()
    }

    /// The URL of its socket, unless it is where everybody looks.
    fn socket(&self) -> Option<String>;

    /// Its daemon, unless it is the machine's.
    fn daemon(&self) -> Option<&Daemon>;

    /// Takes an image in, unless it has it, and gives its name.
    fn load(&self, archive: &Archive) -> Result<String>;

    /// Starts a container without a network but loopback.
    fn run(&self, request: &Request<'_>) -> Result<Started>;

    /// Runs a command in a container to its end and gives its standard output.
    fn exec(&self, id: &str, command: &[&str]) -> Result<String>;

    /// What the init of a container wrote so far.
    fn logs(&self, id: &str) -> Result<String>;

    /// Ends a container and forgets it.
    fn remove(&self, container: &Started) -> Result<()>;
}

/// An engine that answers.
#[derive(Debug, Clone)]
pub struct Engine {
    kind: Kind,
    driver: Arc<dyn Driver>,
}

impl Engine {
    /// Starts an engine and waits until it answers.
    pub fn start(kind: Kind) -> Result<Self> {
        require_live()?;
        room::sweep_abandoned();
        let driver: Arc<dyn Driver> = match kind {
            Kind::Docker => Arc::new(docker::Docker::of_machine()),
            Kind::PrivateDocker => Arc::new(docker::Docker::start()?),
            Kind::Podman => Arc::new(podman::Podman::start(None)?),
            Kind::Containerd => Arc::new(containerd::Containerd::start(containerd::Plugin::None)?),
            Kind::Cri => Arc::new(cri::Cri::start()?),
        };
        Ok(Self { kind, driver })
    }

    /// Podman, with its service at a place where rootless users have it.
    pub fn start_podman_at(socket: &Path) -> Result<Self> {
        require_live()?;
        room::sweep_abandoned();
        Ok(Self { kind: Kind::Podman, driver: Arc::new(podman::Podman::start(Some(socket))?) })
    }

    /// Which it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The runtime's name in ctrace's options.
    pub fn runtime(&self) -> &'static str {
        self.driver.runtime()
    }

    /// The URL of its socket; none for the machine's Docker.
    pub fn socket(&self) -> Option<String> {
        self.driver.socket()
    }

    /// The options with which ctrace finds it.
    pub fn ctrace_arguments(&self) -> Vec<String> {
        let socket = self.socket().map(|address| format!("{}={address}", self.runtime()));
        socket.map(|socket| vec!["--runtime-socket".to_owned(), socket]).unwrap_or_default()
    }

    /// Takes an image in, unless it has it, and gives the name by which it shows it.
    pub fn load(&self, archive: &Archive) -> Result<String> {
        self.driver.load(archive)
    }

    /// Starts a container of an image that was loaded, without a network but loopback.
    pub fn run(
        &self,
        image: &str,
        name: &str,
        labels: &[(&str, &str)],
        command: &[&str],
    ) -> Result<EngineContainer> {
        let request = Request { image, name, labels, command };
        let started = self.driver.run(&request).with_context(|| format!("{:?}: {name}", self.kind))?;
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Ok(EngineContainer {
            driver: Arc::clone(&self.driver),
            runtime: self.driver.product(),
            name: name.to_owned(),
            image: image.to_owned(),
            labels,
            started,
        })
    }

    /// Kills its daemon, as a crash does; containers go on.
    pub fn kill(&self) -> Result<()> {
        self.daemon()?.kill()
    }

    /// Makes its daemon hang: it accepts and says nothing.
    pub fn hang(&self) -> Result<()> {
        self.daemon()?.hang()
    }

    /// Ends the hanging.
    pub fn resume(&self) -> Result<()> {
        self.daemon()?.resume()
    }

    /// Starts its daemon again after [`Self::kill`], and waits until it answers.
    pub fn restart(&self) -> Result<()> {
        self.daemon()?.start()
    }

    fn daemon(&self) -> Result<&Daemon> {
        self.driver.daemon().context("the machine's own engine is not for the tests to stop")
    }
}

/// A running container of an [`Engine`]; removed when dropped, before the engine ends.
#[derive(Debug)]
pub struct EngineContainer {
    driver: Arc<dyn Driver>,
    runtime: &'static str,
    name: String,
    image: String,
    labels: BTreeMap<String, String>,
    started: Started,
}

impl EngineContainer {
    /// Its name; with containerd also its id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.started.id
    }

    /// The process id of its init, as the host sees it.
    pub fn pid(&self) -> u32 {
        self.started.pid
    }

    /// The name of its runtime, as records have it.
    pub fn runtime(&self) -> &'static str {
        self.runtime
    }

    /// Its image, as the engine shows it.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The labels that it was given.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Its pod, if the engine has pods.
    pub fn pod(&self) -> Option<&Pod> {
        self.started.pod.as_ref()
    }

    /// Runs a command in it and gives its standard output.
    pub fn exec(&self, command: &[&str]) -> Result<String> {
        self.driver.exec(self.id(), command)
    }

    /// What its init wrote so far.
    pub fn logs(&self) -> Result<String> {
        self.driver.logs(self.id())
    }

    /// Its cgroup in the version 2 hierarchy.
    pub fn cgroup(&self) -> Result<String> {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", self.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("0::"));
        Ok(line.with_context(|| format!("no version 2 cgroup: {text}"))?.to_owned())
    }
}

impl Drop for EngineContainer {
    fn drop(&mut self) {
        // A daemon that hangs would keep this waiting.
        if let Some(daemon) = self.driver.daemon() {
            let _ = daemon.resume();
        }
        // What is left when the engine does not answer, its room's sweep ends.
        let _ = self.driver.remove(&self.started);
    }
}

/// Runs a command to its end and gives its standard output; the error has its standard error. An engine that
/// hangs is a failure, and not the end of all tests.
fn output_of(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let mut child = Child::start(command).context("`cargo xtask setup` installs the engines")?;
    let status = child.wait(PATIENCE)?;
    let (stdout, stderr) = child.output()?;
    ensure!(status.success(), "{shown} failed: {}", stderr.join("\n"));
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
