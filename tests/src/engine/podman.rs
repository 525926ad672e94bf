//! Podman with its own storage, and its API service.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::daemon::Daemon;
use super::room::Room;
use super::{Archive, Driver, Request, Started, cgroups, output_of};

/// Limits that a root without CAP_SYS_RESOURCE may set, an OCI runtime that works with every version of
/// cgroups, logs and events that need no systemd, and locks that are not shared with the machine's Podman.
const CONFIGURATION: &str = r#"
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
"#;

/// The driver. Fields are dropped in order: the service ends before its room is removed.
#[derive(Debug)]
pub(super) struct Podman {
    service: Daemon,
    socket: PathBuf,
    room: Room,
}

impl Podman {
    /// Starts the service, at the given socket or at one in the room.
    pub(super) fn start(socket: Option<&Path>) -> Result<Self> {
        let room = Room::new("podman")?;
        fs::write(room.path().join("containers.conf"), CONFIGURATION)?;
        let socket = socket.map_or_else(|| room.path().join("podman.sock"), Path::to_owned);
        let url = format!("unix://{}", socket.display());
        // Podman reads its configuration from the environment, but a daemon here is only a command line.
        let command = ["env".to_owned(), format!("CONTAINERS_CONF={}", room.at("containers.conf"))];
        let service = ["system", "service", "--time=0", &url].map(str::to_owned);
        let command = [&command[..], &["podman".to_owned()], &options(&room)[..], &service[..]].concat();
        let place = socket.clone();
        let service = Daemon::new(command, room.at("log"), move || answers(&place))?;
        Ok(Self { service, socket, room })
    }

    fn podman(&self) -> Command {
        let mut podman = Command::new("podman");
        podman.env("CONTAINERS_CONF", self.room.at("containers.conf")).env_remove("CONTAINER_HOST");
        podman.args(options(&self.room));
        podman
    }
}

/// Whether the service answers a question about containers. The first answer takes long, because the service
/// opens its storage for it.
fn answers(socket: &Path) -> bool {
    const QUESTION: &[u8] = b"GET /v1.40/containers/json HTTP/1.0\r\nHost: podman\r\n\r\n";
    let ask = || -> Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(QUESTION)?;
        let mut answer = [0; 64];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned())
    };
    ask().is_ok_and(|answer| answer.contains(" 200 "))
}

/// The options that place everything in the room.
fn options(room: &Room) -> [String; 4] {
    [
        format!("--root={}", room.at("root")),
        format!("--runroot={}", room.at("run")),
        format!("--tmpdir={}", room.at("tmp")),
        "--storage-driver=overlay".to_owned(),
    ]
}

impl Driver for Podman {
    fn runtime(&self) -> &'static str {
        "podman"
    }

    fn socket(&self) -> Option<String> {
        Some(format!("unix://{}", self.socket.display()))
    }

    fn daemon(&self) -> Option<&Daemon> {
        Some(&self.service)
    }

    fn load(&self, archive: &Archive) -> Result<String> {
        let name = archive.full_name();
        if output_of(self.podman().args(["image", "exists", &name])).is_err() {
            output_of(self.podman().args(["import", "--quiet"]).arg(archive.layer()).arg(&name))?;
        }
        Ok(name)
    }

    fn run(&self, request: &Request<'_>) -> Result<Started> {
        let mut run = self.podman();
        run.args(["run", "--detach", "--network=none", "--name", request.name]);
        run.args(request.labels.iter().map(|(key, value)| format!("--label={key}={value}")));
        let id = output_of(run.arg(request.image).args(request.command))?.trim().to_owned();
        let mut started = Started { id, ..Started::default() };
        let ask = ["inspect", "--format", "{{.State.Pid}}", &started.id];
        let pid = output_of(self.podman().args(ask)).and_then(|pid| Ok(pid.trim().parse()?));
        started.pid = pid.inspect_err(|_| drop(self.remove(&started)))?;
        let logs = if started.pid == 0 { self.logs(&started.id)? } else { String::new() };
        ensure!(started.pid != 0, "the container ended at once: {logs}");
        Ok(started)
    }

    fn exec(&self, id: &str, command: &[&str]) -> Result<String> {
        output_of(self.podman().args(["exec", id]).args(command))
    }

    fn logs(&self, id: &str) -> Result<String> {
        output_of(self.podman().args(["logs", id]))
    }

    fn remove(&self, container: &Started) -> Result<()> {
        let removed = output_of(self.podman().args(["rm", "--force", "--time=0", &container.id]));
        cgroups::remove("/libpod_parent");
        removed.map(drop)
    }
}
