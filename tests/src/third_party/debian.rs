//! Packages of a Debian release with everything that they depend on, unpacked into a directory.
//!
//! Owns how they are unpacked; no code of a package is executed for that. The version of a package is the
//! release's current one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{announce, kept, run};
use crate::debian::{Suite, package_files};

/// Parts of packages that no test needs.
const LEFT_OUT: [&str; 4] = ["./usr/share/doc", "./usr/share/man", "./usr/share/locale", "./usr/share/info"];

/// Directories that are links into `usr` since Debian 12.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// A directory with the packages of a suite and everything that they depend on, downloaded unless it exists.
pub(super) fn packages(suite: &str, names: &[&str]) -> Result<PathBuf> {
    let kept_as = format!("debian-{suite}-{}", names.first().unwrap_or(&"bare"));
    kept(&kept_as, &format!("{names:?}"), |directory| {
        announce(&format!("downloading {} of Debian {suite}, once", names.join(", ")));
        Suite::open(suite)?.download_with_dependencies(names, directory)
    })
}

/// Follows the links of the merged directories.
const SCRIPT: &str = "set -e; package=$1; shift; dpkg-deb --fsys-tarfile \"$package\" | tar -x --keep-directory-symlink \"$@\"";

/// Unpacks the packages of a directory to where they would be installed.
pub(super) fn unpack(packages: &Path, root: &Path) -> Result<()> {
    for name in MERGED {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    for package in package_files(packages)? {
        let excluded = LEFT_OUT.map(|path| format!("--exclude={path}"));
        run(Command::new("sh").args(["-c", SCRIPT, "sh"]).arg(&package).arg("-C").arg(root).args(excluded))
            .with_context(|| format!("cannot unpack {}", package.display()))?;
    }
    Ok(())
}
