//! Images built from a [`Tree`], without a registry: `tar` piped into `docker import`, cached until the tree
//! changes.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::container::docker;
use crate::program::{program, script};
use crate::tree::ImageTree;
use crate::{paths, requirements};

/// A label on every image of the tests: `docker image prune --all --filter label=ctrace-test` removes them.
const LABEL: &str = "ctrace-test=yes";

/// An image that Docker has.
#[derive(Debug, Clone)]
pub struct TestImage {
    tag: String,
}

impl TestImage {
    /// The image `ctrace-test/NAME:FINGERPRINT` of a tree, built unless Docker has it already.
    pub fn build(name: &str, tree: &ImageTree) -> Result<Self> {
        Self::build_from(name, &tree.fingerprint()?, |root| tree.write(root))
    }

    /// Builds an image of the files that `write` creates in a directory.
    pub(crate) fn build_from(
        name: &str,
        fingerprint: &str,
        write: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        requirements::require_docker()?;
        // The fingerprint is in the name, because tests of another checkout may use this daemon at the same
        // time.
        let version = fingerprint.get(..16).unwrap_or_default();
        let image = Self { tag: format!("ctrace-test/{name}:{version}") };
        // Tests run in parallel and all begin here; with the lock only one of them builds the image.
        fs::create_dir_all(paths::cache())?;
        let lock = File::create(paths::cache().join(format!("image-{name}.lock")))?;
        lock.lock().context("cannot lock the building of an image")?;
        if docker(&["image", "inspect", &image.tag]).is_ok() {
            return Ok(image);
        }
        let directory = tempfile::tempdir_in(paths::cache())?;
        write(directory.path())?;
        image.import(directory.path())?;
        Ok(image)
    }

    /// Its name for `docker run`.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    fn import(&self, root: &Path) -> Result<()> {
        let mut tar = Command::new("tar")
            .args(["--create", "--numeric-owner", "--owner=0", "--group=0", "--directory"])
            .arg(root)
            .arg(".")
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run `tar`")?;
        let archive = tar.stdout.take().context("tar has no output")?;
        let import = Command::new("docker")
            .args(["import", "--change", &format!("LABEL {LABEL}"), "-", &self.tag])
            .stdin(archive)
            .output()
            .context("cannot run `docker`")?;
        ensure!(
            tar.wait()?.success() && import.status.success(),
            "cannot make the image {}: {}",
            self.tag,
            String::from_utf8_lossy(&import.stderr)
        );
        Ok(())
    }
}

/// The images that several tests share.
pub mod images {
    use super::{ImageTree, Result, TestImage, program, script};

    /// The tree of the demonstration: a server and the libraries that it loads; no shell.
    pub fn server_tree() -> Result<ImageTree> {
        ImageTree::new().program(&program("tls-server")?, "/tls-server")
    }

    /// The same tree with a client, a program that does nothing, and one that maps given files.
    pub fn tls_tree() -> Result<ImageTree> {
        server_tree()?
            .program(&program("tls-client")?, "/tls-client")?
            .program(&program("idle")?, "/idle")?
            .program(&program("mapper")?, "/mapper")
    }

    /// A program that loads OpenSSL while it runs, and one that does nothing.
    pub fn late() -> Result<TestImage> {
        let tree = ImageTree::new()
            .program(&program("tls-late")?, "/app/tls-late")?
            .program(&program("exchange.so")?, "/app/exchange.so")?
            .program(&program("idle")?, "/idle")?;
        TestImage::build("late", &tree)
    }

    /// The environment that programs of [`elsewhere`] need, for `docker run`.
    pub const ELSEWHERE: &str = "--env=LD_LIBRARY_PATH=/srv/ssl";

    /// The same programs as in [`late`], with OpenSSL where no loader searches by itself: ctrace attaches to
    /// it only when a process maps it.
    pub fn elsewhere() -> Result<TestImage> {
        let exchange = program("exchange.so")?;
        let mut tree = ImageTree::new()
            .program(&program("tls-late")?, "/app/tls-late")?
            .program(&exchange, "/app/exchange.so")?
            .program(&program("idle")?, "/idle")?;
        for name in ["libssl.so.3", "libcrypto.so.3"] {
            let library = crate::program::library(&exchange, name)?;
            tree = tree.without(&library).file(&library, &format!("/srv/ssl/{name}"));
        }
        TestImage::build("elsewhere", &tree)
    }

    /// Programs that load the system's OpenSSL.
    pub fn tls() -> Result<TestImage> {
        TestImage::build("tls", &tls_tree()?)
    }

    /// Programs with functions to probe, in several languages.
    pub fn functions() -> Result<TestImage> {
        let names = [
            "functions",
            "functions-stripped",
            "functions-cpp",
            "functions-libcxx",
            "functions-rust",
            "functions-go",
            "functions-go-stripped",
            "usdt",
        ];
        let mut tree = ImageTree::new();
        for name in names {
            tree = tree.program(&program(name)?, &format!("/{name}"))?;
        }
        TestImage::build("functions", &tree)
    }

    /// The same programs, and programs that include OpenSSL.
    pub fn vendored() -> Result<TestImage> {
        let tree = tls_tree()?
            .program(&program("tls-server-static")?, "/tls-server-static")?
            .program(&program("tls-client-static")?, "/tls-client-static")?
            .program(&program("tls-server-bundled")?, "/app/tls-server-bundled")?;
        TestImage::build("vendored", &tree)
    }

    /// A client and a server for each TLS library other than OpenSSL, and a program that does nothing.
    pub fn libraries() -> Result<TestImage> {
        let mut tree = ImageTree::new().program(&program("idle")?, "/idle")?;
        for name in [
            "tls-gnutls",
            "tls-gnutls-stripped",
            "tls-mbedtls",
            "tls-mbedtls-static",
            "tls-wolfssl",
            "tls-openssl-stripped",
            "tls-openssl-stripped-pie",
            "tls-openssl-unframed",
            "tls-mbedtls-stripped",
            "tls-wolfssl-stripped",
            "tls-nss",
            "tls-bearssl",
            "tls-botan",
            "tls-go",
            "tls-go-stripped",
            "tls-go-pie",
            "tls-go-cgo",
            "tls-go-shared",
        ] {
            tree = tree.program(&program(name)?, &format!("/{name}"))?;
        }
        // NSS loads its cryptography at run time from its own directory, and verifies it.
        let nss = crate::program::library(&program("tls-nss")?, "libnss3.so")?;
        for name in ["libsoftokn3", "libfreeblpriv3"] {
            let library = nss.with_file_name(format!("{name}.so"));
            let check = library.with_extension("chk");
            tree = tree.program(&library, &library.to_string_lossy())?.file(&check, &check.to_string_lossy());
        }
        TestImage::build("libraries", &tree)
    }

    /// Programs with rustls, on ring and on AWS-LC, optimised in two ways. Building them takes minutes.
    pub fn rustls() -> Result<TestImage> {
        let mut tree = ImageTree::new().program(&program("idle")?, "/idle")?;
        for name in ["tls-rustls", "tls-rustls-release", "tls-rustls-aws-lc", "tls-rustls-aws-lc-release"] {
            for name in [name.to_owned(), format!("{name}-stripped")] {
                tree = tree.program(&program(&name)?, &format!("/{name}"))?;
            }
        }
        TestImage::build("rustls", &tree)
    }

    /// Programs that include AWS-LC's libssl, with symbols and without. Building them takes minutes.
    pub fn aws_lc() -> Result<TestImage> {
        let mut tree = ImageTree::new().program(&program("idle")?, "/idle")?;
        for name in ["tls-aws-lc", "tls-aws-lc-stripped"] {
            tree = tree.program(&program(name)?, &format!("/{name}"))?;
        }
        TestImage::build("aws-lc", &tree)
    }

    /// The same as [`tls`], and the system's Python.
    pub fn python() -> Result<TestImage> {
        let mut tree = tls_tree()?.python()?;
        for name in ["tls-client.py", "tls-sockets.py"] {
            tree = tree.file(&script(name), &format!("/{name}"));
        }
        TestImage::build("python", &tree)
    }
}
