//! Where things are: the workspace, the build results, the program under test. Never creates anything.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::signals;

/// The directory of this crate.
pub(crate) const CRATE: &str = env!("CARGO_MANIFEST_DIR");

/// Cargo's target directory: everything that the harness builds is cached in `ctrace-tests/` below it.
pub fn target_directory() -> PathBuf {
    let workspace = Path::new(CRATE).parent().unwrap_or(Path::new("/"));
    workspace.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The directory that holds built programs and locks.
pub(crate) fn cache() -> PathBuf {
    target_directory().join("ctrace-tests")
}

/// The `ctrace` under test: `CTRACE_BIN`, or the release build.
pub fn ctrace_binary() -> Result<PathBuf> {
    signals::default_in_children()?;
    let binary = match env::var_os("CTRACE_BIN") {
        Some(path) => PathBuf::from(path),
        None => target_directory().join("release/ctrace"),
    };
    if !binary.is_file() {
        bail!(
            "no program to test at {}: build it with `cargo build --release --package ctrace`, or name one \
             with \
             CTRACE_BIN",
            binary.display()
        );
    }
    Ok(binary)
}
