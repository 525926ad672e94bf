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
    let both = env::var_os("CARGO_FEATURE_OPENSSL").is_some();
    if both {
        pair.define("main", "aws_lc_main").cargo_metadata(false);
        build.cargo_metadata(false);
    }
    pair.compile("pair");
    build.files(sources.filter(is_source)).compile("ssl");
    if both {
        hide_all_but_main()?;
        add_openssl(&programs)?;
        println!("cargo:rustc-link-lib=stdc++");
    }
    for name in ["tls-pair.c", "tls-two.c", "tls-openssl.h", "tally.h"] {
        println!("cargo:rerun-if-changed={}", programs.join(name).display());
    }
    Ok(())
}

/// Makes one object of `tls-pair.c` and AWS-LC's libssl, of which a few functions have names without the
/// prefix.
fn hide_all_but_main() -> Result<(), Box<dyn Error>> {
    let directory = env::var("OUT_DIR")?;
    let at = |name: &str| format!("{directory}/{name}");
    let (pair, ssl, object) = (at("libpair.a"), at("libssl.a"), at("aws-lc-pair.o"));
    for words in [
        &["ld", "-r", "-u", "aws_lc_main", "-o", &object, &pair, &ssl][..],
        &["objcopy", "--keep-global-symbol=aws_lc_main", &object],
    ] {
        let (name, arguments) = words.split_first().ok_or("no command")?;
        if !Command::new(name).args(arguments).status()?.success() {
            return Err(format!("{words:?} failed").into());
        }
    }
    println!("cargo:rustc-link-arg={object}");
    Ok(())
}

/// Compiles `tls-pair.c` with OpenSSL, and the `main` that calls both.
fn add_openssl(programs: &Path) -> Result<(), Box<dyn Error>> {
    let mut build = cc::Build::new();
    build.opt_level(2).warnings(false).define("_GNU_SOURCE", None).std("gnu17");
    let mut pair = build.clone();
    build.file(programs.join("tls-two.c")).compile("two");
    pair.file(programs.join("tls-pair.c")).define("LIBRARY", "\"tls-openssl.h\"").define("main", "openssl_main");
    pair.compile("pair_openssl");
    // By their paths, because AWS-LC's archives have the same names.
    for name in ["libssl.a", "libcrypto.a"] {
        let found = Command::new("cc").arg(format!("-print-file-name={name}")).output()?;
        println!("cargo:rustc-link-arg={}", String::from_utf8(found.stdout)?.trim());
    }
    println!("cargo:rustc-link-arg=-pthread");
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
