//! `ctrace` as an ordinary user runs it, without capabilities or with some of them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::child::Child;
use crate::paths::ctrace_binary;
use crate::trace::RunningTrace;

/// How long a run may take. A hang is a failure; a slow machine is not.
const PATIENCE: Duration = Duration::from_mins(1);

/// Mounts tracefs in a mount namespace of its own if the machine has not mounted it, and becomes nobody.
const WITH_TRACEFS: &str = "test -e /sys/kernel/tracing/events \
                            || mount -t tracefs tracefs /sys/kernel/tracing \
                            && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";

/// A copy of `ctrace` that the tests, as root, run as the user nobody.
#[derive(Debug)]
pub struct Nobody {
    directory: TempDir,
}

impl Nobody {
    /// Creates the copy without capabilities. It is below /tmp, which everybody may enter.
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ctrace-nobody").tempdir_in("/tmp")?;
        let nobody = Self { directory };
        fs::copy(ctrace_binary()?, nobody.program())?;
        fs::set_permissions(nobody.directory.path(), fs::Permissions::from_mode(0o755))?;
        Ok(nobody)
    }

    /// Gives the file exactly these capabilities.
    pub fn grant(&self, capabilities: &[&str]) -> Result<()> {
        let text = format!("{}=ep", capabilities.join(",").to_lowercase());
        let setcap = Command::new("/usr/sbin/setcap").arg(&text).arg(self.program()).output();
        let setcap = setcap.context("cannot run setcap: `cargo xtask setup` installs it")?;
        ensure!(setcap.status.success(), "setcap {text}: {}", String::from_utf8_lossy(&setcap.stderr));
        Ok(())
    }

    /// Copies another program to where nobody can execute it, and returns its path there.
    pub fn put(&self, program: &Path) -> Result<String> {
        let name = program.file_name().context("a program has a name")?;
        let path = self.directory.path().join(name);
        fs::copy(program, &path).with_context(|| format!("cannot copy {}", program.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// A command that runs the copy as nobody, where tracefs is mounted as on most machines.
    pub fn command(&self) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", WITH_TRACEFS, "sh"]).arg(self.program());
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    /// Runs the copy to its end.
    pub fn run(&self, arguments: &[&str]) -> Result<RunningTrace> {
        let mut child = Child::start(self.command().args(arguments))?;
        let status = child.wait(PATIENCE)?;
        let (stdout, stderr) = child.output()?;
        Ok(RunningTrace { stdout, stderr: stderr.join("\n"), status })
    }

    fn program(&self) -> PathBuf {
        self.directory.path().join("ctrace")
    }
}
