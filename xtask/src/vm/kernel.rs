//! Kernels of Debian's archive, and the modules of them that a guest needs.
//!
//! Owns which package a version means, and where its files are cached: `kernels/` in the cache of all clones.
//! A cached kernel is not fetched again. Never installs a package.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ctrace_tests::debian::{Suite, package_files};

use crate::{shell, workspace};

/// Suites that have kernels, those with short package lists first.
const SUITES: [&str; 7] = [
    "bookworm-security",
    "trixie-security",
    "bullseye-security",
    "trixie-backports",
    "bookworm",
    "trixie",
    "bullseye",
];

/// The modules with which a guest sees the host's files, and communicates with it. Their dependencies are
/// added.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

/// A kernel that can be booted.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The name of the package.
    pub(super) name: String,
    directory: PathBuf,
}

impl Kernel {
    /// The newest cached kernel whose version begins like this, or else the newest in the archive.
    pub(crate) fn get(version: &str) -> Result<Self> {
        let cache = workspace::cache()?.join("kernels");
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let lock = File::create(cache.join(".lock"))?;
        lock.lock().context("cannot lock the directory of the kernels")?;
        let kept = fs::read_dir(&cache)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let kept = kept.collect::<Result<Vec<_>>>()?;
        if let Some(name) = newest_first(kept.iter().map(String::as_str), version).first() {
            return Ok(Self { name: (*name).to_owned(), directory: cache.join(name) });
        }
        println!("    kernel {version}: fetching it from Debian's archive");
        // Next to its final place, so that a rename moves it as a whole. This also removes what an
        // interrupted run has left.
        let partial = cache.join(".partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir(&partial)?;
        let name = Suite::first(&SUITES, |suite| download(suite, version, &partial))
            .with_context(|| format!("no kernel {version}"))?;
        let (new, directory) = (partial.join("kernel"), cache.join(&name));
        take(&partial.join("files"), &new).with_context(|| format!("cannot use the package {name}"))?;
        fs::rename(&new, &directory)?;
        fs::remove_dir_all(&partial)?;
        Ok(Self { name, directory })
    }

    /// The file that a boot loader loads.
    pub(super) fn image(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// The modules, named so that they can be loaded in the order of their names.
    pub(super) fn modules(&self) -> PathBuf {
        self.directory.join("modules")
    }
}

/// The package names of plain kernels whose version begins like this, newest first.
fn newest_first<'a>(names: impl Iterator<Item = &'a str>, version: &str) -> Vec<&'a str> {
    let mut found: Vec<(Vec<u64>, &str)> =
        names.filter_map(|name| Some((numbers(name, version)?, name))).collect();
    found.sort();
    found.into_iter().rev().map(|(_, name)| name).collect()
}

/// The numbers by which packages of a version are compared; `None` for another version, or no plain kernel.
fn numbers(name: &str, version: &str) -> Option<Vec<u64>> {
    let full = name.strip_prefix("linux-image-")?.strip_suffix("-amd64")?;
    let rest = full.strip_prefix(version)?;
    let is_plain = !["-rt", "-cloud"].iter().any(|variant| full.ends_with(variant));
    if !is_plain || !(rest.is_empty() || rest.starts_with(['.', '-', '+'])) {
        return None;
    }
    full.split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().ok())
        .collect()
}

/// Downloads and unpacks a suite's newest package that is complete.
fn download(suite: &Suite, version: &str, work: &Path) -> Result<String> {
    let names = suite.ask(&["pkgnames", "linux-image-"])?;
    for name in newest_first(names.lines(), version) {
        // Since Linux 6.19 the package of a kernel has no files, and depends on packages for its parts. Some
        // of these leave the archive before it does.
        let depends = suite.ask(&["depends", name])?;
        let parts: Vec<&str> = depends.lines().filter_map(part).collect();
        if parts.iter().any(|part| part.starts_with('<')) {
            continue;
        }
        let packages = work.join("packages");
        suite.download(&[&[name], parts.as_slice()].concat(), &packages)?;
        for package in package_files(&packages)? {
            shell::read(shell::command("dpkg-deb").arg("-x").arg(package).arg(work.join("files")))?;
        }
        fs::remove_dir_all(&packages)?;
        return Ok(name.to_owned());
    }
    bail!("it has none")
}

/// The part of a kernel that a line of `apt-cache depends` names. It is in angle brackets if no such package
/// exists.
fn part(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix("Depends: ")?;
    let rest = name.trim_start_matches('<').strip_prefix("linux-")?;
    let is_part = ["base-", "binary-", "modules-"].iter().any(|kind| {
        rest.strip_prefix(kind).is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
    });
    is_part.then_some(name)
}

/// Copies the image and the modules out of unpacked packages.
fn take(files: &Path, new: &Path) -> Result<()> {
    fs::create_dir_all(new.join("modules"))?;
    // Newer packages have everything below usr, where `modprobe` does not search.
    if !files.join("lib").exists() {
        fs::rename(files.join("usr/lib"), files.join("lib")).context("no directory lib")?;
    }
    let versions = fs::read_dir(files.join("lib/modules")).context("no directory lib/modules")?;
    let release = versions.flatten().next().context("no modules")?.file_name().to_string_lossy().into_owned();
    let images = [
        files.join(format!("boot/vmlinuz-{release}")),
        files.join(format!("lib/modules/{release}/vmlinuz")),
        files.join(format!("usr/lib/modules/{release}/vmlinuz")),
    ];
    let image = images.iter().find(|path| path.is_file()).context("no vmlinuz")?;
    fs::copy(image, new.join("vmlinuz"))?;
    shell::read(shell::command("depmod").arg("-b").arg(files).arg(&release))?;
    let mut modprobe = shell::command("modprobe");
    modprobe.arg("-d").arg(files).args(["-S", &release, "-a", "--show-depends"]).args(MODULES);
    let mut taken: Vec<&str> = Vec::new();
    let lines = shell::read(&mut modprobe)?;
    for path in lines.lines().filter_map(|line| line.strip_prefix("insmod ")).map(str::trim) {
        if !taken.contains(&path) {
            unpack_module(Path::new(path), &new.join(format!("modules/{:02}.ko", taken.len())))?;
            taken.push(path);
        }
    }
    Ok(())
}

/// Unpacks a module; Debian compresses them since Linux 6.6.
fn unpack_module(from: &Path, to: &Path) -> Result<()> {
    let program = match from.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => {
            fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
            return Ok(());
        }
    };
    let mut command: Command = shell::command(program);
    let status = command.args(["-q", "-d", "-c"]).arg(from).stdout(File::create(to)?).status()?;
    ensure!(status.success(), "cannot unpack {}: {status}", from.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plain_kernel_is_taken() {
        let names = [
            "linux-image-6.1.0-9-amd64",
            "linux-image-6.1.0-57-amd64",
            "linux-image-6.1.0-60-rt-amd64",
            "linux-image-6.1.0-60-cloud-amd64",
            "linux-image-6.1.0-60-amd64-dbg",
            "linux-image-6.12.90+deb13.1-amd64",
            "linux-image-6.12.9+deb13-amd64",
            "linux-image-amd64",
        ];
        let check = |version, expected: &[&str]| {
            assert_eq!(newest_first(names.into_iter(), version), expected, "{version}");
        };
        check("6.1", &["linux-image-6.1.0-57-amd64", "linux-image-6.1.0-9-amd64"]);
        check("6.12", &["linux-image-6.12.90+deb13.1-amd64", "linux-image-6.12.9+deb13-amd64"]);
        check("6.12.9", &["linux-image-6.12.9+deb13-amd64"]);
        check("5", &[]);
    }

    #[test]
    fn a_kernel_may_have_its_files_in_other_packages() {
        let check = |line, expected| assert_eq!(part(line), expected, "{line}");
        check("  Depends: linux-modules-7.3.4+deb13-amd64", Some("linux-modules-7.3.4+deb13-amd64"));
        check("  Depends: <linux-modules-7.2.6+deb13-amd64>", Some("<linux-modules-7.2.6+deb13-amd64>"));
        check("  Depends: linux-base", None);
        check("  Depends: kmod", None);
        check("  Recommends: linux-binary-7.3.4", None);
    }
}
