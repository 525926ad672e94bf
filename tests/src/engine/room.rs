//! A directory that holds everything of one engine, and how it is removed completely.
//!
//! Owns the killing of processes that belong to such a directory: those that name it on their command line
//! (daemons, shims, monitors) and those whose root file system is in it (containers). Never touches another
//! process.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::daemon::wait_until;

/// Comes before the process id of the test in the directory's name.
const PREFIX: &str = "ctrace-engine-";
const PATIENCE: Duration = Duration::from_secs(10);

/// The directory. It is swept when dropped.
#[derive(Debug)]
pub(super) struct Room {
    path: PathBuf,
}

impl Room {
    /// Creates a room. Its path is short, because the path of a socket must be.
    pub(super) fn new(engine: &str) -> Result<Self> {
        let prefix = format!("{PREFIX}{}-{engine}-", process::id());
        let directory = tempfile::Builder::new().prefix(&prefix).tempdir();
        let directory = directory.context("no directory for a container engine")?;
        // Mounts in it must be removed first, so the library must not delete the directory.
        Ok(Self { path: directory.keep() })
    }

    /// The path of the room.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside the room, as text for configurations and command lines.
    pub(super) fn at(&self, name: &str) -> String {
        self.path.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        sweep(&self.path);
    }
}

/// Sweeps the rooms of tests that ended without dropping them.
pub(super) fn sweep_abandoned() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let owner = owner.and_then(|pid| pid.parse::<u32>().ok());
        let is_ours = entry.metadata().is_ok_and(|found| found.uid() == geteuid().as_raw() && found.is_dir());
        if is_ours && owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            sweep(&entry.path());
        }
    }
}

/// Ends the processes of a room, then removes its mounts and the directory.
fn sweep(room: &Path) {
    // Repeats, because a monitor that sees its container end starts a process to clean up.
    let ended = wait_until("the end of an engine's processes", PATIENCE, || {
        let living = processes(room);
        for pid in &living {
            let _ = kill_process(*pid, Signal::KILL);
        }
        Ok(living.is_empty().then_some(()))
    });
    if let Err(error) = ended {
        eprintln!("{}: {error:#}", room.display());
    }
    for point in mounts(room).iter().rev() {
        let _ = unmount(point, UnmountFlags::DETACH);
    }
    // Never deletes through a mount that is still there.
    if mounts(room).is_empty() {
        let _ = fs::remove_dir_all(room);
    }
}

/// The mount points below a directory, in the order in which they were mounted.
fn mounts(room: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(room)).collect()
}

/// The processes that belong to a directory.
fn processes(room: &Path) -> Vec<Pid> {
    let room = room.to_string_lossy();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = i32::try_from(process::id()).unwrap_or_default();
    let belongs = |pid: &i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != own && (String::from_utf8_lossy(&command).contains(&*room) || is_root_in(*pid, &room))
    };
    pids.filter(belongs).filter_map(Pid::from_raw).collect()
}

/// Whether the root file system of a process is an overlay of layers in a directory.
fn is_root_in(pid: i32, room: &str) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    text.lines().any(|line| line.split(' ').nth(4) == Some("/") && line.contains(room))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use std::process::Command;

    #[test]
    fn a_room_ends_with_what_names_it() {
        let room = Room::new("test").unwrap();
        let path = room.path().to_owned();
        let line = "exec sleep 5";
        let mut child = Command::new("sh").args(["-c", "sleep 5; true", &room.at("x")]).spawn().unwrap();
        let mut other = Command::new("sh").args(["-c", line, "another"]).spawn().unwrap();
        fs::write(room.at("file"), "content").unwrap();
        drop(room);
        assert!(!path.exists());
        assert!(!child.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn an_abandoned_room_is_swept_and_a_living_one_is_not() {
        let room = Room::new("living").unwrap();
        // Larger than any process id of Linux.
        let abandoned = std::env::temp_dir().join(format!("{PREFIX}4194305-gone-x"));
        fs::create_dir_all(abandoned.join("below")).unwrap();
        sweep_abandoned();
        assert!(room.path().exists() && !abandoned.exists());
    }
}
