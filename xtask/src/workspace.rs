//! The paths of the project's files.
//!
//! Owns the paths. Never creates anything but the directory for logs.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result};

/// The directory of the workspace's Cargo.toml.
pub(crate) fn root() -> PathBuf {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir).to_owned()
}

/// Cargo's target directory: this program is in `TARGET/debug` or, as a test, in `TARGET/debug/deps`.
pub(crate) fn target() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find this program's own file")?;
    let profile = own.ancestors().find(|dir| dir.ends_with("debug") || dir.ends_with("release"));
    Ok(profile.and_then(Path::parent).map_or_else(|| root().join("target"), Path::to_owned))
}

/// A directory for logs and other leftovers of these commands.
pub(crate) fn scratch() -> Result<PathBuf> {
    let dir = target()?.join("xtask");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// A directory that survives the target directory, for what is downloaded once for all clones.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(base.join("ctrace"))
}

/// The release build of ctrace, which the demo, the live tests, the benchmarks and the virtual machines run.
pub(crate) fn ctrace() -> Result<PathBuf> {
    Ok(target()?.join("release/ctrace"))
}
