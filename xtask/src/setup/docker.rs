//! A running Docker engine.
//!
//! Owns installing and starting the machine's own engine. Never changes its configuration, and never stops
//! it.

use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{DOCKER, Host, Missing, Needs, SetupStep, State, packages};
use crate::shell::{self, RootAccess};
use crate::workspace;

/// How long a starting engine may take.
const START: Duration = Duration::from_mins(1);

/// The step that provides a Docker engine.
#[derive(Debug)]
pub(super) struct DockerSetup;

/// The version of the engine, asked as this user, or as root if this user can become root without a password.
fn answers() -> Option<String> {
    let version = |root: RootAccess| {
        let mut command = root.command("docker", &[]);
        let text = shell::read(command.args(["version", "--format", "{{.Server.Version}}"])).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    shell::find("docker")?;
    let quiet_sudo = || shell::succeeds(shell::command("sudo").args(["-n", "true"]));
    version(RootAccess::Root).or_else(|| if quiet_sudo() { version(RootAccess::Sudo) } else { None })
}

impl SetupStep for DockerSetup {
    fn name(&self) -> String {
        DOCKER.to_owned()
    }

    fn state(&self) -> Result<State> {
        if let Some(version) = answers() {
            return Ok(State::There(format!("version {version} answers")));
        }
        Ok(State::Missing(Missing {
            what: "no engine answers `docker version`".to_owned(),
            by_hand: vec![packages::by_hand(&PACKAGES), "sudo dockerd &".to_owned()],
            needs: Needs::Packages,
        }))
    }

    fn install(&self, machine: Host) -> Result<()> {
        if shell::find("dockerd").is_none() || shell::find("docker").is_none() {
            packages::install(machine.root, &PACKAGES)?;
        }
        if answers().is_some() {
            return Ok(());
        }
        start(machine.root)
    }
}

/// The engine with its client, and the program that it needs to create its bridge.
const PACKAGES: [&str; 2] = ["docker.io", "iptables"];

fn start(root: RootAccess) -> Result<()> {
    let log = workspace::scratch()?.join("dockerd.log");
    if Path::new("/run/systemd/system").is_dir() {
        shell::run(root.command("systemctl", &[]).args(["start", "docker"]))?;
    } else {
        // In its own session: it must outlive this program, and not receive the terminal's Ctrl-C.
        let line = format!("exec dockerd >{} 2>&1", log.display());
        let mut dockerd = root.command("setsid", &[]);
        dockerd
            .args(["--fork", "sh", "-c", &line])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        shell::run(&mut dockerd)?;
    }
    let begin = Instant::now();
    // The engine does not announce when it is ready, so we poll it.
    while answers().is_none() {
        if begin.elapsed() > START {
            bail!(
                "dockerd does not answer after {} s; the end of {}:\n{}",
                START.as_secs(),
                log.display(),
                tail(&log)?
            );
        }
        sleep(Duration::from_millis(300));
    }
    Ok(())
}

fn tail(log: &Path) -> Result<String> {
    let text = std::fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines.iter().skip(lines.len().saturating_sub(5)).copied().collect::<Vec<_>>().join("\n"))
}
