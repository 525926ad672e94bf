//! A suite of Debian's archive, such as `bookworm`: its package lists and its packages.
//!
//! Owns the use of apt, with its own state directory. From the machine it only reads the address of the
//! mirror and the archive's keys; it changes nothing and never installs a package. apt verifies the archive's
//! signatures as usual.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

/// The keys that sign Debian's package lists.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The package lists of a suite, fetched when it is opened and removed when it is dropped.
#[derive(Debug)]
pub struct Suite {
    state: TempDir,
    /// The mirror and the name of the suite.
    what: String,
}

impl Suite {
    /// Fetches the lists of a suite from the machine's own mirror.
    pub fn open(name: &str) -> Result<Self> {
        ensure!(Path::new(KEYRING).is_file(), "{KEYRING} is not there: install debian-archive-keyring");
        let mirror = mirror(name)?;
        let state = tempfile::tempdir().context("cannot create a temporary directory")?;
        for part in ["lists/partial", "archives/partial", "etc/apt.conf.d", "etc/preferences.d"] {
            fs::create_dir_all(state.path().join(part))?;
        }
        // An empty status file: apt then counts nothing as installed, and downloads all dependencies.
        fs::write(state.path().join("status"), "")?;
        let source = format!("deb [arch=amd64 signed-by={KEYRING}] {mirror} {name} main\n");
        fs::write(state.path().join("etc/sources.list"), source)?;
        let suite = Self { state, what: format!("{name} of {mirror}") };
        read(suite.apt("apt-get").arg("update")).with_context(|| format!("no lists of {}", suite.what))?;
        Ok(suite)
    }

    /// The first result that one of the suites gives. The error says why each suite gave none.
    pub fn first<T>(names: &[&str], mut take: impl FnMut(&Self) -> Result<T>) -> Result<T> {
        let mut tried = Vec::new();
        for name in names {
            match Self::open(name).and_then(|suite| take(&suite)) {
                Ok(taken) => return Ok(taken),
                Err(error) => tried.push(format!("{name}: {error:#}")),
            }
        }
        bail!("in no suite of Debian: {}", tried.join("; "))
    }

    /// The output of `apt-cache`.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        read(self.apt("apt-cache").args(arguments))
    }

    /// Downloads packages into a directory and returns their files. A package is named `NAME` or
    /// `NAME=VERSION`.
    pub fn download(&self, packages: &[&str], directory: &Path) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(directory)?;
        read(self.apt("apt-get").arg("download").args(packages).current_dir(directory))
            .with_context(|| format!("cannot get {} from {}", packages.join(", "), self.what))?;
        package_files(directory)
    }

    /// Downloads packages into a directory, with everything that they depend on.
    pub fn download_with_dependencies(&self, packages: &[&str], directory: &Path) -> Result<()> {
        let partial = directory.join("partial");
        fs::create_dir_all(&partial)?;
        let mut apt = self.apt("apt-get");
        apt.arg(format!("-oDir::Cache::archives={}", directory.display()));
        apt.args(["install", "--yes", "--download-only", "--no-install-recommends"]).args(packages);
        read(&mut apt).with_context(|| format!("cannot get {} from {}", packages.join(", "), self.what))?;
        fs::remove_dir(&partial)?;
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let state = self.state.path();
        let own = |setting: &str, path: PathBuf| format!("-o{setting}={}", path.display());
        let mut command = Command::new(program);
        command.arg("-qq").env("DEBIAN_FRONTEND", "noninteractive").args([
            own("Dir::State", state.to_owned()),
            own("Dir::State::status", state.join("status")),
            own("Dir::Cache", state.to_owned()),
            own("Dir::Etc", state.join("etc")),
            "-oAPT::Architecture=amd64".to_owned(),
            "-oAcquire::Languages=none".to_owned(),
            "-oAPT::Sandbox::User=".to_owned(),
            // The lock belongs to the machine's apt, which we do not touch.
            "-oDebug::NoLocking=1".to_owned(),
        ]);
        command
    }
}

/// The packages in a directory.
pub fn package_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    Ok(paths.into_iter().filter(is_package).collect())
}

/// The machine's own mirror of the archive that has a suite.
fn mirror(suite: &str) -> Result<String> {
    let sites = read(Command::new("apt-get").args(["indextargets", "--format", "$(SITE)"]))?;
    let archive = if suite.ends_with("-security") { "/debian-security" } else { "/debian" };
    let found = site(&sites, archive).map(str::to_owned);
    found.with_context(|| {
        format!(
            "no mirror of Debian ({archive}) is among this machine's package sources: add one, such as \
                 `deb URL{archive} {suite} main`"
        )
    })
}

/// The first address in the package sources that belongs to an archive.
fn site<'a>(sites: &'a str, archive: &str) -> Option<&'a str> {
    sites.lines().map(|site| site.trim_end_matches('/')).find(|site| site.ends_with(archive))
}

fn read(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{program}`"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{program}` failed, {}: {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::site;

    #[test]
    fn the_archive_of_security_updates_is_another() {
        let sites = "http://x/debian/\nhttp://x/debian/\nhttp://x/debian-security\nhttps://apt.llvm.org/y\n";
        assert_eq!(site(sites, "/debian"), Some("http://x/debian"));
        assert_eq!(site(sites, "/debian-security"), Some("http://x/debian-security"));
        assert_eq!(site("https://apt.llvm.org/y\n", "/debian"), None);
    }
}
