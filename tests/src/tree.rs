//! A root file system for an image: its entries, and where each comes from. Nothing is copied until it is
//! written.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

/// Where an entry comes from.
#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    /// A directory with everything below it, except what `EXCLUDED` names.
    Directory(PathBuf),
    Symlink(PathBuf),
    Empty,
}

/// Parts of Python's library that no test needs and that are half of its size.
const EXCLUDED: &[&str] =
    &["test", "idlelib", "tkinter", "lib2to3", "ensurepip", "__pycache__", "dist-packages"];

/// The files of an image, by their path in it.
#[derive(Debug, Clone, Default)]
pub struct ImageTree {
    entries: BTreeMap<PathBuf, Source>,
}

impl ImageTree {
    /// A tree with the empty directories that programs expect.
    pub fn new() -> Self {
        let directories = ["/proc", "/tmp", "/dev", "/sys"];
        Self { entries: directories.map(|path| (PathBuf::from(path), Source::Empty)).into() }
    }

    /// Puts a file at a place.
    #[must_use]
    pub fn file(mut self, from: &Path, to: &str) -> Self {
        self.entries.insert(to.into(), Source::File(from.to_owned()));
        self
    }

    /// Puts a symbolic link at a place; `target` is written unchanged.
    #[must_use]
    pub fn symlink(mut self, target: &str, to: &str) -> Self {
        self.entries.insert(to.into(), Source::Symlink(target.into()));
        self
    }

    /// Removes an entry, so that another can take its place.
    #[must_use]
    pub fn without(mut self, path: &Path) -> Self {
        self.entries.remove(path);
        self
    }

    /// Puts an executable or library at a place, with the libraries that it loads. These go to the same path
    /// as on the system, or next to the program if that is not a directory of the system.
    pub fn program(mut self, from: &Path, to: &str) -> Result<Self> {
        for library in libraries(from)? {
            let system = ["/lib", "/usr"].iter().any(|prefix| library.starts_with(prefix))
                || library.to_string_lossy().starts_with("/lib");
            let place = match (system, library.file_name()) {
                (false, Some(name)) => Path::new(to).with_file_name(name),
                _ => library.clone(),
            };
            self.entries.insert(place, Source::File(library));
        }
        Ok(self.file(from, to))
    }

    /// Adds the system's Python with its standard library, at the paths where Python expects them.
    pub fn python(mut self) -> Result<Self> {
        const ASK: &str = "import sysconfig, _ssl, glob, os; lib = sysconfig.get_path('stdlib'); \
                           print(lib); print(*glob.glob(lib + '/lib-dynload/*.so'), sep='\\n')";
        let interpreter = fs::canonicalize("/usr/bin/python3")
            .context("the tests need the system's /usr/bin/python3: `cargo xtask setup` installs it")?;
        let output = Command::new(&interpreter).args(["-I", "-c", ASK]).output()?;
        ensure!(output.status.success(), "python3 has no ssl: {}", String::from_utf8_lossy(&output.stderr));
        let answer = String::from_utf8(output.stdout)?;
        let mut lines = answer.lines();
        let library = lines.next().context("python3 does not say where its library is")?;
        for module in lines.filter(|line| line.contains("/_ssl.") || line.contains("/_hashlib.")) {
            self = self.program(Path::new(module), module)?;
        }
        self.entries.insert(library.into(), Source::Directory(library.into()));
        self.program(&interpreter, "/usr/bin/python3")
    }

    /// A hash that changes when a file of the tree changes. It uses size and modification time, because
    /// hashing the content would take long.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for (place, source) in &self.entries {
            hash.update(format!("{:?}", (place, source)));
            if let Source::File(path) | Source::Directory(path) = source {
                let metadata =
                    path.metadata().with_context(|| format!("cannot look at {}", path.display()))?;
                hash.update(format!(" {} {} {}", metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
            }
        }
        Ok(format!("{:x}", hash.finalize()))
    }

    /// Writes the tree to an existing directory.
    pub fn write(&self, root: &Path) -> Result<()> {
        for (place, source) in &self.entries {
            let to = root.join(place.strip_prefix("/").unwrap_or(place));
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            match source {
                Source::File(from) => copy(from, &to)?,
                Source::Directory(from) => copy_directory(from, &to)?,
                Source::Symlink(target) => symlink(target, &to)?,
                Source::Empty => fs::create_dir_all(&to)?,
            }
        }
        Ok(())
    }
}

/// The libraries that the system's loader would load for a program; none for a static program.
pub(crate) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot run `ldd`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("not found") {
        bail!("{} cannot be loaded:\n{text}", program.display());
    }
    // Either "name => /path (address)" or, for the loader itself, "/path (address)".
    let path_of = |line: &str| {
        let path = line.split_once("=>").map_or(line, |(_, path)| path).split_whitespace().next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    Ok(text.lines().filter_map(path_of).collect())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let name: OsString = entry.file_name();
        if EXCLUDED.iter().any(|excluded| name == *excluded) {
            continue;
        }
        // Follows symbolic links, because a module may be a link that leads out of the directory.
        match entry.path().metadata() {
            Ok(metadata) if metadata.is_dir() => copy_directory(&entry.path(), &to.join(&name))?,
            Ok(_) => copy(&entry.path(), &to.join(&name))?,
            Err(_) => {}
        }
    }
    Ok(())
}
