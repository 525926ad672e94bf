//! Container engines of the tests: Docker, Podman, containerd and a CRI, each driven as its users drive it.
//!
//! The test starts an [`Engine`], which ends with the test. Its processes, mounts and files are in its own
//! [`room::Room`], which is swept when the value is dropped, or by the next test if this one was killed. Only
//! Docker's default engine belongs to the machine; the harness removes nothing from it but the containers
//! that it created. What differs between engines is behind [`Driver`]: a test is written once and run with
//! each [`Kind`].

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

/// The supported engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// The machine's Docker engine.
    Docker,
    /// A Docker engine that the test starts, in its own network namespace.
    PrivateDocker,
    /// Podman, with its API service.
    Podman,
    /// containerd, without its CRI plugin.
    Containerd,
    /// containerd's CRI plugin, driven as kubelet drives it.
    Cri,
}

/// The container to start.
#[derive(Debug, Clone, Copy)]
struct Request<'a> {
    image: &'a str,
    name: &'a str,
    labels: &'a [(&'a str, &'a str)],
    command: &'a [&'a str],
}

/// What an engine reports about a container that it started.
#[derive(Debug, Clone, Default)]
struct Started {
    id: String,
    pid: u32,
    pod: Option<TestPod>,
}

/// The pod of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestPod {
    /// Its name.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// The id of its sandbox.
    pub sandbox: String,
}

/// The operations that an engine must support.
trait Driver: fmt::Debug + Send + Sync {
    /// The runtime's name in ctrace's options.
    fn runtime(&self) -> &'static str;

    /// The runtime's name in records. It differs if several products share one interface.
    fn product(&self) -> &'static str {
        self.runtime()
    }

    /// The URL of its socket, unless it is the default one.
    fn socket(&self) -> Option<String>;

    /// Its daemon; none for the machine's engine.
    fn daemon(&self) -> Option<&Daemon>;

    /// Imports an image, unless the engine has it, and returns its name.
    fn load(&self, archive: &Archive) -> Result<String>;

    /// Starts a container with no network but loopback.
    fn run(&self, request: &Request<'_>) -> Result<Started>;

    /// Runs a command in a container to its end and returns its standard output.
    fn exec(&self, id: &str, command: &[&str]) -> Result<String>;

    /// Everything that the init of a container has written so far.
    fn logs(&self, id: &str) -> Result<String>;

    /// Ends and removes a container.
    fn remove(&self, container: &Started) -> Result<()>;
}

/// A running engine.
#[derive(Debug, Clone)]
pub struct Engine {
    kind: EngineKind,
    driver: Arc<dyn Driver>,
}

impl Engine {
    /// Starts an engine and waits until it answers.
    pub fn start(kind: EngineKind) -> Result<Self> {
        require_live()?;
        room::sweep_abandoned();
        let driver: Arc<dyn Driver> = match kind {
            EngineKind::Docker => Arc::new(docker::Docker::of_machine()),
            EngineKind::PrivateDocker => Arc::new(docker::Docker::start()?),
            EngineKind::Podman => Arc::new(podman::Podman::start(None)?),
            EngineKind::Containerd => Arc::new(containerd::Containerd::start(containerd::Plugin::None)?),
            EngineKind::Cri => Arc::new(cri::Cri::start()?),
        };
        Ok(Self { kind, driver })
    }

    /// Podman, with its service at a path where rootless users have it.
    pub fn start_podman_at(socket: &Path) -> Result<Self> {
        require_live()?;
        room::sweep_abandoned();
        Ok(Self { kind: EngineKind::Podman, driver: Arc::new(podman::Podman::start(Some(socket))?) })
    }

    /// The kind of the engine.
    pub fn kind(&self) -> EngineKind {
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

    /// Imports an image, unless the engine has it, and returns the name under which the engine lists it.
    pub fn load(&self, archive: &Archive) -> Result<String> {
        self.driver.load(archive)
    }

    /// Starts a container of a loaded image, with no network but loopback.
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

    /// Kills the daemon, as a crash would. Its containers continue.
    pub fn kill(&self) -> Result<()> {
        self.daemon()?.kill()
    }

    /// Makes the daemon hang: it accepts connections and does not answer.
    pub fn hang(&self) -> Result<()> {
        self.daemon()?.hang()
    }

    /// Continues a daemon that hangs.
    pub fn resume(&self) -> Result<()> {
        self.daemon()?.resume()
    }

    /// Starts the daemon again after [`Self::kill`], and waits until it answers.
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

    /// The name of its runtime in records.
    pub fn runtime(&self) -> &'static str {
        self.runtime
    }

    /// Its image, as the engine lists it.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The labels that it was given.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Its pod, if the engine has pods.
    pub fn pod(&self) -> Option<&TestPod> {
        self.started.pod.as_ref()
    }

    /// Runs a command in it and gives its standard output.
    pub fn exec(&self, command: &[&str]) -> Result<String> {
        self.driver.exec(self.id(), command)
    }

    /// Everything that its init has written so far.
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
        // A hanging daemon would block the removal.
        if let Some(daemon) = self.driver.daemon() {
            let _ = daemon.resume();
        }
        // If the engine does not answer, sweeping its room removes what is left.
        let _ = self.driver.remove(&self.started);
    }
}

/// Runs a command to its end and returns its standard output; the error includes its standard error. A
/// hanging engine makes this call fail, so that it does not block all tests.
fn output_of(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let mut child = Child::start(command).context("`cargo xtask setup` installs the engines")?;
    let status = child.wait(PATIENCE)?;
    let (stdout, stderr) = child.output()?;
    ensure!(status.success(), "{shown} failed: {}", stderr.join("\n"));
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
