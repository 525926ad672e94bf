//! A process in its own namespaces with a [`Tree`] as root: what the demonstration uses on a machine without
//! Docker.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::child::{Child, OutputLines};
use crate::paths;
use crate::tree::ImageTree;

/// The init of a PID namespace, with its own mount namespace and root directory.
#[derive(Debug)]
pub struct Namespaced {
    /// `unshare`, which kills its child when it ends. Fields are dropped in order: the directory goes last.
    _unshare: Child,
    _stdout: OutputLines,
    first_line: String,
    pid: u32,
    _root: TempDir,
}

impl Namespaced {
    /// Starts a command with a tree as its root, in a new directory, and waits for its first line.
    pub fn start(tree: &ImageTree, command: &[&str]) -> Result<Self> {
        fs::create_dir_all(paths::cache())?;
        let root = tempfile::tempdir_in(paths::cache())?;
        tree.write(root.path())?;
        // /proc is mounted in the new mount namespace, so it is unmounted when the last process in that ends.
        let script = "mount -t proc proc \"$0/proc\" && exec chroot \"$0\" \"$@\"";
        let mut unshare = Child::start_with_stdout(
            Command::new("unshare")
                .args(["--pid", "--mount", "--fork", "--kill-child", "--propagation", "private"])
                .args(["sh", "-c", script])
                .arg(root.path())
                .args(command),
            Stdio::piped(),
        )?;
        let mut stdout = OutputLines::of(unshare.take_stdout().context("unshare has no output")?);
        let first_line = match stdout.wait("output of the command", Duration::from_secs(20), |_| true) {
            Ok(line) => line,
            Err(error) => {
                unshare.signal(rustix::process::Signal::KILL)?;
                let (_, said) = unshare.output()?;
                return Err(
                    error.context(format!("cannot start {command:?} in namespaces: {}", said.join("\n")))
                );
            }
        };
        let pid = only_child(unshare.id())?;
        Ok(Self { _unshare: unshare, _stdout: stdout, first_line, pid, _root: root })
    }

    /// The process id of the namespace's init, as the host sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The first line that the command wrote.
    pub fn first_line(&self) -> &str {
        &self.first_line
    }
}

/// The only child of a process that has one thread.
fn only_child(parent: u32) -> Result<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    children.trim().parse().with_context(|| format!("{path} has not one process, but: {children}"))
}
