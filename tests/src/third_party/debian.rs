//! Packages of a release of Debian, with all that they depend on, unpacked into a directory.
//!
//! Owns the use of apt, on a state directory of its own: it reads and changes nothing of the machine's packages, and checks the
//! archive's signatures. Which version a package has is the release's; nothing of a package is executed to unpack it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{kept, run, tell};

/// What Debian's package lists are signed with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Parts of packages that no program reads here.
const LEFT_OUT: [&str; 4] = ["./usr/share/doc", "./usr/share/man", "./usr/share/locale", "./usr/share/info"];

/// Directories that are links into `usr` since Debian 12.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// A directory with the packages of a suite and all that they depend on, downloaded unless it is there.
pub(super) fn packages(suite: &str, names: &[&str]) -> Result<PathBuf> {
    kept(&format!("debian-{suite}"), &format!("{names:?}"), |directory| {
        let mirror = mirror()?;
        tell(&format!("downloading {} of Debian {suite}, once, from {mirror}", names.join(", ")));
        download(directory, &mirror, suite, names).with_context(|| {
            format!("cannot get {} of Debian {suite} from {mirror} with apt-get", names.join(", "))
        })
    })
}

/// The machine's own mirror of Debian.
fn mirror() -> Result<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(SITE)"])
        .output()
        .context("cannot run `apt-get`: these tests take programs from Debian's archive")?;
    let sites = String::from_utf8_lossy(&output.stdout).into_owned();
    let own = sites.lines().map(|site| site.trim_end_matches('/')).find(|site| site.ends_with("/debian"));
    own.map(str::to_owned).context(
        "no mirror of Debian is among this machine's package sources: add one (`deb URL/debian bookworm main`), and \
         run `apt-get update`",
    )
}

fn download(directory: &Path, mirror: &str, suite: &str, names: &[&str]) -> Result<()> {
    ensure!(Path::new(KEYRING).is_file(), "{KEYRING} is not there: install debian-archive-keyring");
    let state = tempfile::tempdir_in(directory)?;
    let state = state.path();
    for part in ["lists/partial", "archives/partial", "etc/apt.conf.d", "etc/preferences.d"] {
        fs::create_dir_all(state.join(part))?;
    }
    // Nothing is installed, so that everything is downloaded.
    fs::write(state.join("status"), "")?;
    fs::write(
        state.join("etc/sources.list"),
        format!("deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n"),
    )?;
    run(apt(state).arg("update"))?;
    run(apt(state).args(["install", "--yes", "--download-only", "--no-install-recommends"]).args(names))?;
    let archives = fs::read_dir(state.join("archives"))?.collect::<Result<Vec<_>, _>>()?;
    for archive in archives.iter().filter(|archive| is_package(&archive.path())) {
        fs::rename(archive.path(), directory.join(archive.file_name()))?;
    }
    Ok(())
}

fn is_package(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "deb")
}

fn apt(state: &Path) -> Command {
    let mut command = Command::new("apt-get");
    let own = |setting: &str, path: PathBuf| format!("-o{setting}={}", path.display());
    command.arg("-qq").env("DEBIAN_FRONTEND", "noninteractive").args([
        own("Dir::State", state.to_owned()),
        own("Dir::State::status", state.join("status")),
        own("Dir::Cache", state.to_owned()),
        own("Dir::Etc", state.join("etc")),
        "-oAPT::Architecture=amd64".to_owned(),
        "-oAcquire::Languages=none".to_owned(),
        "-oAPT::Sandbox::User=".to_owned(),
        // The lock is the machine's, of which nothing is touched.
        "-oDebug::NoLocking=1".to_owned(),
    ]);
    command
}

/// Follows the links of the directories that are merged.
const SCRIPT: &str = "set -e; package=$1; shift; dpkg-deb --fsys-tarfile \"$package\" | tar -x --keep-directory-symlink \"$@\"";

/// Unpacks the packages of a directory, as they would lie in a system.
pub(super) fn unpack(packages: &Path, root: &Path) -> Result<()> {
    for name in MERGED {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    let paths = fs::read_dir(packages)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    for package in paths.iter().filter(|path| is_package(path)) {
        let excluded = LEFT_OUT.map(|path| format!("--exclude={path}"));
        run(Command::new("sh").args(["-c", SCRIPT, "sh"]).arg(package).arg("-C").arg(root).args(excluded))
            .with_context(|| format!("cannot unpack {}", package.display()))?;
    }
    Ok(())
}
