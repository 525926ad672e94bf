//! An image as files: a layer for engines that import a tar, and an OCI layout for those that import images.
//!
//! Owns how both are built and cached. The name contains the hash of the tree, so equal names mean equal
//! content.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::output_of;
use crate::image::images;
use crate::paths;
use crate::tree::ImageTree;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image that every engine can import.
#[derive(Debug, Clone)]
pub struct Archive {
    name: String,
    layer: PathBuf,
    oci: PathBuf,
}

impl Archive {
    /// The image of a tree, built unless it is cached.
    pub fn build(name: &str, tree: &ImageTree) -> Result<Self> {
        let fingerprint = tree.fingerprint()?;
        let version = fingerprint.get(..16).unwrap_or_default();
        let directory = paths::cache().join("archives");
        fs::create_dir_all(&directory)?;
        let lock = File::create(directory.join(".lock"))?;
        lock.lock().context("cannot lock the directory of the archives")?;
        let file = |kind: &str| directory.join(format!("{name}-{version}.{kind}"));
        let archive =
            Self { name: format!("ctrace-test/{name}:{version}"), layer: file("tar"), oci: file("oci.tar") };
        if !archive.oci.exists() {
            forget(&directory, &format!("{name}-"))?;
            archive.make(tree, &directory)?;
        }
        Ok(archive)
    }

    /// The image of the tests' TLS programs.
    pub fn tls() -> Result<Self> {
        Self::build("tls", &images::tls_tree()?)
    }

    /// The name without a registry: `ctrace-test/NAME:VERSION`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name for engines that require a registry.
    pub fn full_name(&self) -> String {
        format!("localhost/{}", self.name)
    }

    /// The tar of its files.
    pub(super) fn layer(&self) -> &Path {
        &self.layer
    }

    /// The tar of its OCI layout, tagged with [`Self::full_name`].
    pub(super) fn oci(&self) -> &Path {
        &self.oci
    }

    fn make(&self, tree: &ImageTree, directory: &Path) -> Result<()> {
        let work = tempfile::tempdir_in(directory)?;
        let (root, layout) = (work.path().join("root"), work.path().join("oci"));
        fs::create_dir_all(&root)?;
        tree.write(&root)?;
        let layer = work.path().join("layer");
        tar(&root, &layer)?;
        self.write_layout(&layer, &layout)?;
        let oci = work.path().join("oci.tar");
        tar(&layout, &oci)?;
        // By renames at the end, so that a file that exists is complete. `build` checks for the last one.
        fs::rename(layer, &self.layer)?;
        fs::rename(oci, &self.oci)?;
        Ok(())
    }

    fn write_layout(&self, layer: &Path, layout: &Path) -> Result<()> {
        fs::create_dir_all(layout.join("blobs/sha256"))?;
        let layer = put_file(layout, layer, LAYER)?;
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            // The command of a pod's sandbox: kubelet gives it none.
            "config": { "Cmd": ["/idle"] },
            "rootfs": { "type": "layers", "diff_ids": [layer.get("digest")] },
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": put_json(layout, &config, CONFIG)?,
            "layers": [layer],
        });
        let mut manifest = put_json(layout, &manifest, MANIFEST)?;
        if let Some(fields) = manifest.as_object_mut() {
            fields.insert("annotations".to_owned(), json!({ "io.containerd.image.name": self.full_name() }));
        }
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(layout.join("index.json"), index.to_string())?;
        fs::write(layout.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;
        Ok(())
    }
}

/// This machine's architecture by its name in Go, which images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Removes cached files of former versions.
fn forget(directory: &Path, prefix: &str) -> Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn tar(directory: &Path, to: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--numeric-owner", "--owner=0", "--group=0", "--file"]).arg(to);
    output_of(tar.arg("--directory").arg(directory).arg("."))?;
    Ok(())
}

/// Puts a blob into a layout and returns its descriptor.
fn put_file(layout: &Path, file: &Path, media_type: &str) -> Result<Value> {
    let mut hash = Sha256::new();
    let size = io::copy(&mut File::open(file)?, &mut hash)?;
    let digest = format!("{:x}", hash.finalize());
    fs::copy(file, layout.join("blobs/sha256").join(&digest))?;
    Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size }))
}

fn put_json(layout: &Path, value: &Value, media_type: &str) -> Result<Value> {
    let file = layout.join("blob");
    fs::write(&file, value.to_string())?;
    let descriptor = put_file(layout, &file, media_type);
    fs::remove_file(file)?;
    descriptor
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_layout_names_blobs_by_their_content() {
        let directory = tempfile::tempdir().unwrap();
        let (layer, layout) = (directory.path().join("layer"), directory.path().join("oci"));
        fs::write(&layer, "files").unwrap();
        let archive = Archive { name: "ctrace-test/x:1".into(), layer: layer.clone(), oci: layout.clone() };
        archive.write_layout(&layer, &layout).unwrap();
        let read =
            |path: &str| -> Value { serde_json::from_slice(&fs::read(layout.join(path)).unwrap()).unwrap() };
        let index = read("index.json");
        let name = index.pointer("/manifests/0/annotations/io.containerd.image.name");
        assert_eq!(name.and_then(Value::as_str), Some("localhost/ctrace-test/x:1"));
        let blobs: Vec<_> = fs::read_dir(layout.join("blobs/sha256")).unwrap().flatten().collect();
        assert_eq!(blobs.len(), 3);
        for blob in blobs {
            let content = fs::read(blob.path()).unwrap();
            assert_eq!(format!("{:x}", Sha256::digest(&content)), blob.file_name().to_string_lossy());
        }
    }
}
