//! What a live test needs from the machine. A missing requirement is an error that says how to meet it, never
//! a skip.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// Docker's daemon must answer.
pub fn require_docker() -> Result<()> {
    let answers =
        Command::new("docker").args(["version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match answers {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => bail!("no Docker daemon answers: `cargo xtask setup` starts one"),
        Err(_) => bail!("there is no `docker` command: `cargo xtask setup` installs it"),
    }
}

/// Root, a kernel with uprobes and BPF, and Docker.
pub fn require_live() -> Result<()> {
    require_bpf()?;
    require_docker()
}

/// Root, and a kernel with uprobes and BPF.
pub fn require_bpf() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("this test loads BPF programs, so it needs root: run `cargo xtask test`, or with sudo");
    }
    if !Path::new("/sys/bus/event_source/devices/uprobe/type").exists() {
        bail!(
            "this kernel has no uprobes (/sys/bus/event_source/devices/uprobe): `cargo xtask setup` says \
             more"
        );
    }
    Ok(())
}
