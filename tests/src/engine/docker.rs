//! Docker: the machine's engine, or one that the test starts.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::daemon::Daemon;
use super::room::Room;
use super::{Archive, Driver, Request, Started, output_of};

/// A label on everything that the tests create in Docker.
const LABEL: &str = "ctrace-test";

/// The driver. Fields are dropped in order: the daemon ends before its room is removed.
#[derive(Debug)]
pub(super) struct Docker {
    own: Option<(Daemon, Room)>,
}

impl Docker {
    /// The engine that `docker` connects to by default.
    pub(super) fn of_machine() -> Self {
        Self { own: None }
    }

    /// Starts a second engine. It has its own network namespace, because two engines would compete for one
    /// bridge.
    pub(super) fn start() -> Result<Self> {
        let room = Room::new("docker")?;
        let host = socket(&room);
        let place = |option: &str, name: &str| format!("{option}={}", room.at(name));
        // Its containerd dies with it. If nobody reaps that process, a restarted daemon finds the zombie's
        // pid in the pid file, takes it for a running containerd, and waits for it.
        let line =
            format!("rm -f {}; exec unshare --net dockerd \"$@\"", room.at("exec/containerd/containerd.pid"));
        let command = ["sh", "-c", &line, "dockerd", "--live-restore", "--host", &host].map(str::to_owned);
        let places =
            [place("--data-root", "data"), place("--exec-root", "exec"), place("--pidfile", "dockerd.pid")];
        let question =
            move || docker(Some(&host)).arg("version").output().is_ok_and(|ran| ran.status.success());
        let daemon = Daemon::new([&command[..], &places[..]].concat(), room.at("log"), question)?;
        Ok(Self { own: Some((daemon, room)) })
    }

    fn docker(&self) -> Command {
        docker(self.socket().as_deref())
    }
}

fn socket(room: &Room) -> String {
    format!("unix://{}", room.at("docker.sock"))
}

fn docker(host: Option<&str>) -> Command {
    let mut docker = Command::new("docker");
    if let Some(host) = host {
        docker.args(["--host", host]);
    }
    docker
}

impl Driver for Docker {
    fn runtime(&self) -> &'static str {
        "docker"
    }

    fn socket(&self) -> Option<String> {
        self.own.as_ref().map(|(_, room)| socket(room))
    }

    fn daemon(&self) -> Option<&Daemon> {
        self.own.as_ref().map(|(daemon, _)| daemon)
    }

    fn load(&self, archive: &Archive) -> Result<String> {
        let name = archive.name();
        if output_of(self.docker().args(["image", "inspect", name])).is_err() {
            let label = format!("LABEL {LABEL}=yes");
            output_of(self.docker().args(["import", "--change", &label]).arg(archive.layer()).arg(name))?;
        }
        Ok(name.to_owned())
    }

    fn run(&self, request: &Request<'_>) -> Result<Started> {
        let mut run = self.docker();
        run.args(["run", "--detach", "--network=none", "--label", LABEL, "--name", request.name]);
        run.args(request.labels.iter().map(|(key, value)| format!("--label={key}={value}")));
        let id = output_of(run.arg(request.image).args(request.command))?.trim().to_owned();
        let mut started = Started { id, ..Started::default() };
        let ask = ["inspect", "--format", "{{.State.Pid}}", &started.id];
        let pid = output_of(self.docker().args(ask)).and_then(|pid| Ok(pid.trim().parse()?));
        started.pid = pid.inspect_err(|_| drop(self.remove(&started)))?;
        let logs = if started.pid == 0 { self.logs(&started.id)? } else { String::new() };
        ensure!(started.pid != 0, "the container ended at once: {logs}");
        Ok(started)
    }

    fn exec(&self, id: &str, command: &[&str]) -> Result<String> {
        output_of(self.docker().args(["exec", id]).args(command))
    }

    fn logs(&self, id: &str) -> Result<String> {
        output_of(self.docker().args(["logs", id])).context("docker logs")
    }

    fn remove(&self, container: &Started) -> Result<()> {
        output_of(self.docker().args(["rm", "--force", "--volumes", &container.id])).map(drop)
    }
}
