//! The sources of Rust's core library, of exactly the compiler's version: `core` is compiled for BPF.
//!
//! Owns where they may come from: the toolchain itself, rustup, Debian's package. Never installs a package.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ctrace_tests::debian::Suite;

use super::linker::rustc_field;
use super::{Host, Missing, Needs, SetupStep, State};
use crate::{shell, workspace};

/// Suites of Debian that have had a rustc package newer than the stable release, the smallest list first.
const SUITES: [&str; 4] = ["trixie-backports", "trixie", "forky", "sid"];

/// The step that provides the sources.
#[derive(Debug)]
pub(super) struct RustSource;

/// Where cargo's build-std looks.
fn library() -> Result<PathBuf> {
    let sysroot = shell::read(shell::command("rustc").args(["--print", "sysroot"]))?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library"))
}

impl SetupStep for RustSource {
    fn name(&self) -> String {
        "sources of Rust's core library".to_owned()
    }

    fn state(&self) -> Result<State> {
        let library = library()?;
        if library.join("core/src/lib.rs").is_file() {
            return Ok(State::There(library.display().to_string()));
        }
        let release = rustc_field("release")?;
        Ok(State::Missing(Missing {
            what: format!("{} of Rust {release}", library.display()),
            by_hand: vec![
                "rustup component add rust-src".to_owned(),
                format!("(without rustup: the distribution's rust-src package, if it is {release};"),
                "on Debian bookworm its rustc-web and rust-web-src are a pair that fits together)".to_owned(),
            ],
            needs: Needs::User,
        }))
    }

    fn install(&self, _: Host) -> Result<()> {
        let library = library()?;
        let release = rustc_field("release")?;
        let Err(rustup) = from_rustup(&library) else { return Ok(()) };
        println!("    not by rustup: {rustup:#}");
        from_debian(&library, &release)
            .with_context(|| format!("neither by rustup ({rustup:#}) nor from Debian's archive"))
    }
}

fn from_rustup(library: &Path) -> Result<()> {
    let toolchain = toolchain(library).context("this rustc is not one of rustup's")?;
    if shell::find("rustup").is_none() {
        bail!("rustup is not in PATH");
    }
    let mut rustup = shell::command("rustup");
    rustup.env("RUST_BACKTRACE", "0").args(["component", "add", "rust-src", "--toolchain", &toolchain]);
    println!("    $ {}", shell::shown(&rustup));
    if let Err(error) = shell::read(&mut rustup) {
        // cargo may fail with a backtrace, which does not help the user.
        let text = format!("{error:#}");
        bail!("{}", text.lines().next().unwrap_or_default().to_owned());
    }
    if !library.is_dir() {
        bail!("rustup says done, but {} is not there", library.display());
    }
    Ok(())
}

/// The name of the rustup toolchain that a path is in: `HOME/toolchains/NAME/lib/…`.
fn toolchain(library: &Path) -> Option<String> {
    let mut parts = library.components().skip_while(|part| part.as_os_str() != "toolchains");
    parts.next()?;
    Some(parts.next()?.as_os_str().to_string_lossy().into_owned())
}

fn from_debian(library: &Path, release: &str) -> Result<()> {
    // The toolchain gets a link to this directory.
    let cache = workspace::cache()?.join(format!("rust-src-{release}"));
    let unpacked = cache.join(format!("usr/src/rustc-{release}/library"));
    if !unpacked.is_dir() {
        let work = tempfile::tempdir().context("cannot create a temporary directory")?;
        println!("    looking for rust-src {release} in Debian's archive");
        let package = download(work.path(), release)?;
        unpack(&package, &cache)?;
    }
    let parent = library.parent().context("the sysroot is the root directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    if library.is_symlink() {
        // The link points to a cache that has been deleted.
        fs::remove_file(library).with_context(|| format!("cannot replace {}", library.display()))?;
    }
    println!("    $ ln -s {} {}", unpacked.display(), library.display());
    symlink(&unpacked, library).with_context(|| format!("cannot create {}", library.display()))
}

fn download(work: &Path, release: &str) -> Result<PathBuf> {
    Suite::first(&SUITES, |suite| {
        let versions = suite.ask(&["madison", "rust-src"])?;
        let version = matching(&versions, release)
            .with_context(|| format!("no rust-src {release}; its versions are {:?}", versions.trim()))?;
        let files = suite.download(&[&format!("rust-src={version}")], work)?;
        files.into_iter().next().context("apt-get downloaded nothing")
    })
}

/// The version in the output of `apt-cache madison` that packages this release.
fn matching(madison: &str, release: &str) -> Option<String> {
    let versions = madison.lines().filter_map(|line| line.split('|').nth(1));
    let mut fitting = versions
        .map(str::trim)
        .filter(|version| version.strip_prefix(release).is_some_and(|rest| rest.starts_with(['+', '-'])));
    fitting.next().map(str::to_owned)
}

/// Unpacks the library's part of the package, with a rename at the end: an interrupted run leaves nothing
/// incomplete.
fn unpack(package: &Path, cache: &Path) -> Result<()> {
    let new = cache.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    }
    fs::create_dir_all(&new).with_context(|| format!("cannot create {}", new.display()))?;
    println!("    unpacking {} into {}", package.display(), cache.display());
    let script = "dpkg-deb --fsys-tarfile \"$1\" | tar -x -C \"$2\" --wildcards './usr/src/rustc-*/library'";
    shell::read(shell::command("sh").args(["-c", script, "sh"]).args([package, &new]))?;
    if cache.exists() {
        fs::remove_dir_all(cache).with_context(|| format!("cannot remove {}", cache.display()))?;
    }
    fs::rename(&new, cache).with_context(|| format!("cannot create {}", cache.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_has_exactly_the_compilers_version() {
        let madison = "  rust-src | 1.96.0+dfsg1-1 | http://x sid/main amd64 Packages\n  \
                       rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://x trixie-backports/main amd64 Packages\n";
        let check =
            |release, expected: Option<&str>| assert_eq!(matching(madison, release).as_deref(), expected);
        check("1.95.0", Some("1.95.0+dfsg1-2~bpo13+1"));
        check("1.96.0", Some("1.96.0+dfsg1-1"));
        check("1.9", None);
        check("1.95.1", None);
    }

    #[test]
    fn rustups_toolchains_are_known_by_their_path() {
        let check =
            |path, expected: Option<&str>| assert_eq!(toolchain(Path::new(path)).as_deref(), expected);
        check("/root/.rustup/toolchains/stable-x86_64/lib/rustlib/src/rust/library", Some("stable-x86_64"));
        check("/usr/lib/rustlib/src/rust/library", None);
    }
}
