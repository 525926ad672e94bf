//! Containers that no engine has started: `tests/programs/containers.c` makes them.
//!
//! Owns the containers, their images and the API that lists them. All of it goes when this is dropped, and
//! when this process ends in any other way: then `containers` removes it.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ctrace_tests::{ImageTree, library, program, target_directory};

use super::engine_api::EngineApi;
use super::{CONNECTIONS, IMAGES, PROCESSES};
use crate::bench::process::Dialogue;

const SERVER: &str = "prefork";
/// The cgroup that holds the containers' cgroups.
const CGROUP: &str = "ctrace-bench.slice";

/// Running containers, oldest first.
#[derive(Debug)]
pub(super) struct ContainerSet {
    dialogue: Dialogue,
    api: EngineApi,
    directory: PathBuf,
    running: VecDeque<String>,
    /// How many containers were started so far. Also decides the image of the next.
    started: usize,
    /// How many images there are.
    images: usize,
}

impl ContainerSet {
    /// Writes the images, and starts no container yet.
    pub(super) fn new() -> Result<Self> {
        let directory = target_directory().join("ctrace-tests").join("scale");
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
        let root = cgroup_root(&mountinfo).context("no hierarchy of cgroups v2 is mounted")?;
        let mut command = Command::new(program("containers")?);
        let dialogue = Dialogue::start(command.arg(&directory).arg(root.join(CGROUP)))?;
        let api = EngineApi::start(&directory.join("docker.sock"))?;
        let mut new = Self { dialogue, api, directory, running: VecDeque::new(), started: 0, images: 0 };
        let server = program(SERVER)?;
        for _ in 0..IMAGES {
            new.add_image(&ImageTree::new().program(&server, &format!("/app/{SERVER}"))?)?;
        }
        Ok(new)
    }

    /// How many containers are running.
    pub(super) fn count(&self) -> usize {
        self.running.len()
    }

    /// The option of ctrace that names the socket of the API.
    pub(super) fn runtime_option(&self) -> String {
        self.api.option()
    }

    /// Starts a container of one of the images, which take turns, and waits until its server is ready.
    pub(super) fn start(&mut self) -> Result<()> {
        let image = self.started % IMAGES;
        let layers = self.layer(image).display().to_string();
        self.start_with(image, &layers)
    }

    /// The same with an image of its own: another image with a new copy of libssl above it.
    pub(super) fn start_new_image(&mut self) -> Result<()> {
        let libssl = library(&program(SERVER)?, "libssl.so.3")?;
        let image = self.add_image(&ImageTree::new().file(&libssl, &libssl.to_string_lossy()))?;
        let layers = format!("{}:{}", self.layer(image).display(), self.layer(0).display());
        self.start_with(image, &layers)
    }

    /// Ends the container that was started first.
    pub(super) fn stop_oldest(&mut self) -> Result<()> {
        let id = self.running.pop_front().context("no container is left")?;
        self.stop(&id)
    }

    /// Ends the container that was started last.
    pub(super) fn stop_newest(&mut self) -> Result<()> {
        let id = self.running.pop_back().context("no container is left")?;
        self.stop(&id)
    }

    /// Moves a line through each connection of each container, and returns how many calls that were.
    pub(super) fn exchange(&mut self) -> Result<usize> {
        let answer = self.dialogue.ask("exchange")?;
        ensure!(answer == "exchanged", "the containers said {answer:?}");
        Ok(self.count() * CONNECTIONS * 2)
    }

    fn start_with(&mut self, image: usize, layers: &str) -> Result<()> {
        let id = id(std::process::id(), self.started);
        self.started += 1;
        self.api.add(&id, image);
        let answer = self.dialogue.ask(&format!("start {id} {layers} {PROCESSES} {CONNECTIONS}"))?;
        ensure!(answer.starts_with("started "), "the containers said {answer:?}");
        self.running.push_back(id);
        Ok(())
    }

    fn stop(&mut self, id: &str) -> Result<()> {
        let answer = self.dialogue.ask(&format!("stop {id}"))?;
        ensure!(answer == "stopped", "the containers said {answer:?}");
        self.api.remove(id);
        Ok(())
    }

    fn add_image(&mut self, tree: &ImageTree) -> Result<usize> {
        let image = self.images;
        self.images += 1;
        let path = self.layer(image);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        tree.write(&path)?;
        Ok(image)
    }

    fn layer(&self, image: usize) -> PathBuf {
        self.directory.join(format!("image-{image}"))
    }
}

impl Drop for ContainerSet {
    fn drop(&mut self) {
        self.dialogue.end();
    }
}

/// An id like Docker's, which no container of another process has.
fn id(process: u32, number: usize) -> String {
    format!("{process:032x}{number:032x}")
}

/// Where the v2 hierarchy is mounted: the mount point is the fifth field, the type follows a dash.
fn cgroup_root(mountinfo: &str) -> Option<&Path> {
    let line = mountinfo.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(Path::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_as_long_as_dockers() {
        assert_eq!(id(1, 2).len(), 64);
        assert_ne!(id(1, 2), id(2, 1));
    }

    #[test]
    fn the_hierarchy_is_found() {
        let v1 = "30 25 0:26 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n";
        let v2 = "41 25 0:37 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n";
        let expected = Path::new("/sys/fs/cgroup/unified");
        assert_eq!(cgroup_root(&format!("{v1}{v2}")), Some(expected));
        assert_eq!(cgroup_root(v1), None);
    }
}
