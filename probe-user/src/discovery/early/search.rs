//! Which files of a root file system are worth attaching to before anybody maps them.
//!
//! Reads directories only, with limits: they are a target's. Symbolic links to directories are not followed,
//! and no path leads out of the root.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FileType;

use super::super::loader::{self, LoaderCache};
use crate::probe::Probe;
use crate::rootfs::{Mounts, TargetRoot};

/// Limit of the files of one root file system.
pub(super) const MAX_FILES: usize = 96;
/// How many of them may be extension modules.
const MAX_MODULES: usize = 32;
/// Limit of the directories that are read for extension modules. An image for machine learning has 10 000,
/// but few of them in the levels that are searched.
const MAX_DIRECTORIES: usize = 4096;
/// How deep a directory of Python's packages is searched: `cryptography/hazmat/bindings/_rust.abi3.so`.
const MAX_DEPTH: usize = 3;
/// How long directories are read.
const MAX_TIME: Duration = Duration::from_secs(1);

/// Where a version of Python has its directory, and where its modules are in that.
const PYTHON: [&str; 4] = ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/conda/lib"];
const PYTHON_MODULES: [&str; 3] = ["site-packages", "dist-packages", "lib-dynload"];
/// Where Node.js has packages, besides the working directory.
const NODE: [&str; 2] = ["/usr/lib", "/usr/local/lib"];
/// Where a package of Node.js has its modules.
const NODE_MODULES: [&str; 2] = ["build/Release", "prebuilds/linux-x64"];

/// The paths of these files. `working` is the working directory of a process.
pub(super) fn files(
    root: &TargetRoot,
    (mounts, cache): (&Mounts, &LoaderCache),
    probe: &Probe,
    working: Option<&Path>,
) -> Vec<PathBuf> {
    let mut found = loader::expected((root, mounts, cache), |name| probe.expects_library(name));
    let mut modules =
        ModuleSearch { root, probe, directories: 0, until: Instant::now() + MAX_TIME, found: Vec::new() };
    modules.python();
    for parent in NODE.iter().map(Path::new).chain(working) {
        modules.node(&parent.join("node_modules"));
    }
    found.extend(modules.found);
    found.truncate(MAX_FILES);
    found
}

struct ModuleSearch<'a> {
    root: &'a TargetRoot,
    probe: &'a Probe,
    /// How many directories were read.
    directories: usize,
    until: Instant,
    found: Vec<PathBuf>,
}

impl ModuleSearch<'_> {
    /// The names in a directory, with whether each may be a directory. Nothing if a limit is reached.
    fn entries(&mut self, directory: &Path) -> Vec<(String, IsDirectory)> {
        self.directories += 1;
        if self.directories > MAX_DIRECTORIES
            || self.found.len() >= MAX_MODULES
            || Instant::now() >= self.until
        {
            return Vec::new();
        }
        let entries = self.root.entries(directory).into_iter().flatten();
        let named = entries.filter_map(|(name, kind)| Some((name.into_string().ok()?, kind)));
        named
            .filter(|(name, _)| name != "." && name != "..")
            .map(|(name, kind)| (name, kind.into()))
            .collect()
    }

    /// Adds the modules in this directory.
    fn add(&mut self, directory: &Path, entries: &[(String, IsDirectory)]) {
        let names = entries.iter().filter(|(_, kind)| *kind != IsDirectory::Yes).map(|(name, _)| name);
        let wanted = names.filter(|name| self.probe.expects_module(name));
        let room = MAX_MODULES.saturating_sub(self.found.len());
        self.found.extend(wanted.take(room).map(|name| directory.join(name)));
    }

    fn python(&mut self) {
        for parent in PYTHON.map(Path::new) {
            for (name, _) in self.entries(parent).into_iter().filter(|(name, _)| name.starts_with("python3"))
            {
                for modules in PYTHON_MODULES {
                    self.below(parent.join(&name).join(modules));
                }
            }
        }
    }

    /// Adds the modules below a directory, the nearest ones first.
    fn below(&mut self, directory: PathBuf) {
        let mut queue = VecDeque::from([(directory, 0)]);
        while let Some((directory, depth)) = queue.pop_front() {
            let entries = self.entries(&directory);
            self.add(&directory, &entries);
            if depth < MAX_DEPTH && queue.len() < MAX_DIRECTORIES {
                let inner =
                    entries.iter().filter(|(name, kind)| *kind != IsDirectory::No && may_have_modules(name));
                queue.extend(inner.map(|(name, _)| (directory.join(name), depth + 1)));
            }
        }
    }

    /// Adds the modules of the packages in a directory.
    fn node(&mut self, directory: &Path) {
        let mut queue = VecDeque::from([directory.to_owned()]);
        while let Some(directory) = queue.pop_front() {
            for (name, kind) in self.entries(&directory) {
                if kind == IsDirectory::No || name.starts_with('.') {
                    continue;
                }
                let package = directory.join(&name);
                // A directory of packages.
                if name.starts_with('@') {
                    queue.push_back(package);
                    continue;
                }
                for modules in NODE_MODULES {
                    let modules = package.join(modules);
                    let entries = self.entries(&modules);
                    self.add(&modules, &entries);
                }
            }
        }
    }
}

/// Whether an entry is a directory. Some file systems do not say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IsDirectory {
    Yes,
    No,
    Unknown,
}

impl From<FileType> for IsDirectory {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::Directory => Self::Yes,
            FileType::Unknown => Self::Unknown,
            _ => Self::No,
        }
    }
}

/// Whether there may be modules in a directory of this name. Most directories have none, and dots in the name
/// of a file show that it is none where the file system does not.
fn may_have_modules(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    name != "__pycache__" && name != "tests" && matches!(extension, None | Some("libs"))
}
