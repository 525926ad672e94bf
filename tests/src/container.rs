//! Containers of the tests. Each has its own name, and is removed when dropped.

use std::fs;
use std::path::PathBuf;
use std::process::{self, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::child::Child;
use crate::image::TestImage;

/// Runs `docker` and gives its standard output.
pub fn docker(arguments: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(arguments).stdin(Stdio::null()).output();
    let output = output.context("cannot run `docker`: `cargo xtask setup` installs it")?;
    if !output.status.success() {
        bail!("docker {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A running container.
#[derive(Debug)]
pub struct TestContainer {
    name: String,
    id: String,
    pid: u32,
}

impl TestContainer {
    /// Starts a command in a container named `ctrace-test-PID-LABEL`, with no network but its own loopback.
    pub fn start(image: &TestImage, label: &str, options: &[&str], command: &[&str]) -> Result<Self> {
        Self::start_named(image, &format!("ctrace-test-{}-{label}", process::id()), options, command)
    }

    /// The same with a name chosen by the caller.
    pub fn start_named(image: &TestImage, name: &str, options: &[&str], command: &[&str]) -> Result<Self> {
        let mut arguments = vec!["run", "--detach", "--name", name, "--label", "ctrace-test"];
        if !options.iter().any(|option| option.starts_with("--network")) {
            arguments.push("--network=none");
        }
        arguments.extend_from_slice(options);
        arguments.push(image.tag());
        arguments.extend_from_slice(command);
        let id = docker(&arguments)?.trim().to_owned();
        // From here on dropping the value removes the container, even if the code below fails.
        let mut container = Self { name: name.to_owned(), id, pid: 0 };
        let pid = docker(&["inspect", "--format", "{{.State.Pid}}", &container.id])?;
        container.pid = pid.trim().parse().context("docker does not report the container's process")?;
        if container.pid == 0 {
            let logs = container.logs().unwrap_or_default();
            bail!("the container {name} ended at once: {logs}");
        }
        Ok(container)
    }

    /// Takes over a container that the caller has started; it is removed like the others.
    pub fn running(name: &str) -> Result<Self> {
        let fields = docker(&["inspect", "--format", "{{.Id}} {{.State.Pid}}", name])?;
        let (id, pid) = fields.trim().split_once(' ').context("docker does not report the container")?;
        Ok(Self { name: name.to_owned(), id: id.to_owned(), pid: pid.parse()? })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id, all 64 digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The process id of its init, as the host sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Everything that its init has written.
    pub fn logs(&self) -> Result<String> {
        let output = Command::new("docker").args(["logs", &self.id]).output()?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// A path inside the container, as the host reaches it. It goes through the root of its init, so absolute
    /// links of the container do not lead out.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// Runs a command inside the container and returns its standard output.
    pub fn exec(&self, command: &[&str]) -> Result<String> {
        docker(&[&["exec", &self.id], command].concat())
    }

    /// Starts a command inside the container. It runs until it ends by itself or the value is dropped.
    pub fn exec_background(&self, command: &[&str]) -> Result<Child> {
        Child::start(Command::new("docker").args(["exec", &self.id]).args(command))
    }

    /// The host's process ids of the container's processes with this comm.
    pub fn processes(&self, comm: &str) -> Result<Vec<u32>> {
        let listed = docker(&["top", &self.id, "-o", "pid"])?;
        let pids = listed.lines().filter_map(|line| line.trim().parse::<u32>().ok());
        let is_wanted = |pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|found| found.trim_end() == comm)
        };
        Ok(pids.filter(is_wanted).collect())
    }
}

impl Drop for TestContainer {
    fn drop(&mut self) {
        // We can do nothing about a failure here, and the next run uses another name.
        let _ = docker(&["rm", "--force", "--volumes", &self.id]);
    }
}
