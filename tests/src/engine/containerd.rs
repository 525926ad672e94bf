//! A containerd with its own root, state and socket, driven by `ctr`.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::daemon::Daemon;
use super::room::Room;
use super::{Archive, Driver, Request, Started, cgroups, output_of};

/// The namespace that `ctr` uses by default.
const NAMESPACE: &str = "default";

/// What containerd serves besides its own API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plugin {
    /// Nothing.
    None,
    /// The Container Runtime Interface.
    Cri,
}

/// The driver. Fields are dropped in order: the daemon ends before its room is removed.
#[derive(Debug)]
pub(super) struct Containerd {
    daemon: Daemon,
    room: Room,
}

impl Containerd {
    /// Starts containerd.
    pub(super) fn start(plugin: Plugin) -> Result<Self> {
        let room = Room::new("containerd")?;
        let file = room.at("config.toml");
        fs::write(&file, configuration(&room, plugin)?)?;
        let command = ["containerd", "--config", &file].map(str::to_owned);
        let address = room.at("containerd.sock");
        let question = move || {
            let mut ctr = Command::new("ctr");
            ctr.args(["--address", &address, "version"]).output().is_ok_and(|ran| ran.status.success())
        };
        let daemon = Daemon::new(command.to_vec(), room.at("log"), question)?;
        Ok(Self { daemon, room })
    }

    /// The path of its socket.
    pub(super) fn address(&self) -> String {
        self.room.at("containerd.sock")
    }

    /// A path inside its room.
    pub(super) fn at(&self, name: &str) -> String {
        self.room.at(name)
    }

    /// Imports an image into a namespace.
    pub(super) fn import(&self, namespace: &str, archive: &Archive) -> Result<String> {
        let name = archive.full_name();
        let known = output_of(self.ctr(namespace).args(["image", "list", "--quiet"]))?;
        if !known.lines().any(|line| line == name) {
            output_of(self.ctr(namespace).args(["image", "import"]).arg(archive.oci()))?;
        }
        Ok(name)
    }

    fn ctr(&self, namespace: &str) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.args(["--address", &self.address(), "--namespace", namespace]);
        ctr
    }

    fn log(&self, id: &str) -> String {
        self.room.at(&format!("{id}.log"))
    }

    fn pid(&self, id: &str) -> Result<u32> {
        let tasks = output_of(self.ctr(NAMESPACE).args(["task", "list"]))?;
        // TASK PID STATUS
        let of_id = |line: &str| {
            let mut words = line.split_whitespace();
            (words.next() == Some(id)).then(|| words.next()?.parse().ok()).flatten()
        };
        tasks.lines().find_map(of_id).with_context(|| format!("no task {id}:\n{tasks}"))
    }
}

/// A configuration with all paths inside the room. The disabled plugins need something that is not there, or
/// use the network.
fn configuration(room: &Room, plugin: Plugin) -> Result<String> {
    let cri = match plugin {
        Plugin::None => String::new(),
        Plugin::Cri => format!(
            r#"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
disable_tcp_service = true
sandbox_image = "{pause}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{room}/cni/bin"
conf_dir = "{room}/cni/conf"
"#,
            pause = Archive::tls()?.full_name(),
            room = room.path().display(),
        ),
    };
    let disabled = match plugin {
        Plugin::None => "\"io.containerd.grpc.v1.cri\", ",
        Plugin::Cri => "",
    };
    Ok(format!(
        r#"version = 2
root = "{room}/root"
state = "{room}/state"
disabled_plugins = [{disabled}"io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{room}/containerd.sock"
[ttrpc]
address = "{room}/containerd.sock.ttrpc"
{cri}"#,
        room = room.path().display(),
    ))
}

impl Driver for Containerd {
    fn runtime(&self) -> &'static str {
        "containerd"
    }

    fn socket(&self) -> Option<String> {
        Some(format!("unix://{}", self.address()))
    }

    fn daemon(&self) -> Option<&Daemon> {
        Some(&self.daemon)
    }

    fn load(&self, archive: &Archive) -> Result<String> {
        self.import(NAMESPACE, archive)
    }

    fn run(&self, request: &Request<'_>) -> Result<Started> {
        let mut run = self.ctr(NAMESPACE);
        run.args(["run", "--detach", "--log-uri", &format!("file://{}", self.log(request.name))]);
        run.args(request.labels.iter().map(|(key, value)| format!("--label={key}={value}")));
        let mut started = Started { id: request.name.to_owned(), ..Started::default() };
        let ran = output_of(run.args([request.image, request.name]).args(request.command));
        started.pid =
            ran.and_then(|_| self.pid(request.name)).inspect_err(|_| drop(self.remove(&started)))?;
        Ok(started)
    }

    fn exec(&self, id: &str, command: &[&str]) -> Result<String> {
        // An exec needs an id, too. Clients of one container run one after the other, or have their own ids.
        let unique = tempfile::Builder::new().prefix("exec-").tempfile_in(self.room.path())?;
        let name = unique.path().file_name().unwrap_or_default().to_owned();
        output_of(self.ctr(NAMESPACE).args(["task", "exec", "--exec-id"]).arg(name).arg(id).args(command))
    }

    fn logs(&self, id: &str) -> Result<String> {
        Ok(fs::read_to_string(self.log(id)).unwrap_or_default())
    }

    fn remove(&self, container: &Started) -> Result<()> {
        let task = output_of(self.ctr(NAMESPACE).args(["task", "delete", "--force", &container.id]));
        let removed = output_of(self.ctr(NAMESPACE).args(["container", "delete", &container.id]));
        cgroups::remove(&format!("/{NAMESPACE}"));
        task.and(removed).map(drop)
    }
}
