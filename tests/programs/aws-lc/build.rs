//! Compiles AWS-LC's libssl, whose sources come with the crate of its libcrypto, and `tls-pair.c` on top of
//! it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let package = aws_lc()?;
    let library = env::var("DEP_AWS_LC_0_47_0_LIBCRYPTO")?;
    let prefix = library.strip_suffix("_crypto").ok_or("no prefix of the symbols")?;
    let mut build = cc::Build::new();
    for directory in ["generated-include", "include", "aws-lc/include"] {
        build.include(package.join(directory));
    }
    // As it is usually built; its warnings are not ours.
    build.define("BORINGSSL_PREFIX", prefix).opt_level(2).warnings(false);
    let mut pair = build.clone();
    let sources = fs::read_dir(package.join("aws-lc/ssl"))?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_source = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.ends_with(".cc") && !name.ends_with("_test.cc")
    };
    let options = ["-fno-exceptions", "-fno-rtti"];
    build.cpp(true).std("gnu++17").define("BORINGSSL_IMPLEMENTATION", None).flags(options);
    let programs = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("..");
    pair.file(programs.join("tls-pair.c")).define("_GNU_SOURCE", None).define("LIBRARY", "\"tls-openssl.h\"").std("gnu17");
    pair.compile("pair");
    build.files(sources.filter(is_source)).compile("ssl");
    for name in ["tls-pair.c", "tls-openssl.h", "tally.h"] {
        println!("cargo:rerun-if-changed={}", programs.join(name).display());
    }
    Ok(())
}

/// The directory of the package `aws-lc-sys`, by what cargo says of this one. Only for the platform that is
/// compiled for: nobody has fetched what others would need.
fn aws_lc() -> Result<PathBuf, Box<dyn Error>> {
    let target = env::var("TARGET")?;
    let options = ["metadata", "--locked", "--format-version", "1", "--filter-platform", &target];
    let output = Command::new(env::var("CARGO")?).args(options).output()?;
    if !output.status.success() {
        return Err(format!("`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let mut manifests = text.split("\"manifest_path\":\"").filter_map(|rest| rest.split('"').next());
    let manifest = manifests.find(|path| path.contains("/aws-lc-sys-")).ok_or("aws-lc-sys is not there")?;
    Ok(Path::new(manifest).parent().ok_or("no directory")?.to_owned())
}
