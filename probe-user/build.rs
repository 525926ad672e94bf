//! Compiles the BPF programs of `probe-ebpf` into `OUT_DIR/probe-ebpf`, an ELF file that the loader embeds.
//!
//! Owns the flags of the BPF compilation. Never installs anything: that is `cargo xtask setup`.
//!
//! A build script cannot tell `cargo check` from `cargo build`. Where the BPF toolchain is missing it
//! therefore does not fail: it leaves an empty file, sets `cfg(bpf_missing)` and tells in `BPF_MISSING` what
//! is not there; generating the binary's code then stops with that sentence. Checking, clippy, the
//! documentation and the library's tests work without the BPF toolchain.

use std::env::VarError;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs, io};

/// What separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\x1f";

/// Settings of the outer cargo that would change the inner one: its flags, clippy in the compiler's place,
/// its target.
const OUTER_SETTINGS: [&str; 8] = [
    "RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_TARGET_DIR",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "CARGO_UNSTABLE_BUILD_STD",
];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rustc-check-cfg=cfg(bpf_missing)");
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let crate_dir = manifest_dir.join("../probe-ebpf");
    let program = out_dir.join("probe-ebpf");
    for input in [
        "../probe-ebpf/src",
        "../probe-ebpf/Cargo.toml",
        "../probe-ebpf/Cargo.lock",
        "../probe-common/src",
        "../probe-common/Cargo.toml",
        "../Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={}", manifest_dir.join(input).display());
    }
    println!("cargo::rerun-if-env-changed=PATH");

    if let Some(missing) = missing_part()? {
        println!("cargo::rustc-cfg=bpf_missing");
        println!("cargo::rustc-env=BPF_MISSING={missing}");
        return fs::write(&program, []).map_err(|e| format!("cannot write {}: {e}", program.display()));
    }
    let built = compile(&crate_dir, &target_dir(&out_dir))?;
    fs::copy(&built, &program)
        .map(drop)
        .map_err(|e| format!("cannot copy {} to {}: {e}", built.display(), program.display()))
}

/// The part of the BPF toolchain that is not there. Each part is also made an input of this script, so that
/// it runs again once the part has come: cargo takes a file that does not exist for one that has changed.
fn missing_part() -> Result<Option<&'static str>, String> {
    let rustc = variable("RUSTC")?;
    let sysroot = Command::new(&rustc)
        .args(["--print", "sysroot"])
        .output()
        .map_err(|e| format!("cannot run {rustc} --print sysroot: {e}"))?;
    let sysroot = String::from_utf8_lossy(&sysroot.stdout);
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    println!("cargo::rerun-if-changed={}", core.display());
    if !core.is_file() {
        return Ok(Some("the sources of Rust's core library are not there"));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let linker = env::split_paths(&path).map(|dir| dir.join("bpf-linker")).find(|file| file.is_file());
    let linker = linker.unwrap_or_else(|| PathBuf::from("bpf-linker-is-not-in-PATH"));
    println!("cargo::rerun-if-changed={}", linker.display());
    Ok((!linker.is_file()).then_some("bpf-linker is not in PATH"))
}

/// One directory for all profiles, so that `core` is compiled once: the outer `OUT_DIR` is
/// `TARGET/PROFILE/build/PACKAGE/out`. Elsewhere than where cargo puts it today, `OUT_DIR` itself serves.
fn target_dir(out_dir: &Path) -> PathBuf {
    let build = out_dir.ancestors().find(|dir| dir.ends_with("build"));
    let target = build.and_then(Path::parent).and_then(Path::parent);
    target.unwrap_or(out_dir).join("bpf")
}

fn compile(crate_dir: &Path, target_dir: &Path) -> Result<PathBuf, String> {
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "little" => "bpfel-unknown-none",
        _ => "bpfeb-unknown-none",
    };
    // aya-ebpf picks the layout of the registers by this cfg: it is that of the machine that ctrace runs on.
    let arch_cfg = format!("--cfg=bpf_target_arch=\"{}\"", variable("CARGO_CFG_TARGET_ARCH")?);
    // Version 3 of the instruction set (32-bit and signed compares, atomics): kernel 5.12 for all of it.
    let flags = [arch_cfg.as_str(), "-Ctarget-cpu=v3", "-Cdebuginfo=2", "-Clink-arg=--btf"];

    let mut cargo = Command::new(variable("CARGO")?);
    for setting in OUTER_SETTINGS {
        cargo.env_remove(setting);
    }
    cargo
        .current_dir(crate_dir)
        .args(["build", "--release", "--target", target, "-Zbuild-std=core", "--target-dir"])
        .arg(target_dir)
        // `-Z` on the stable compiler: core has to be compiled for a target that rustup does not ship it for.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(SEPARATOR));
    let output = cargo.output().map_err(|e: io::Error| format!("cannot run {cargo:?}: {e}"))?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        return Err(format!(
            "the BPF programs in probe-ebpf do not compile ({}): see cargo's output below, and run `cargo \
             xtask setup` \
             if it is about bpf-linker or core",
            output.status
        ));
    }
    Ok(target_dir.join(target).join("release/probe-ebpf"))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e: VarError| format!("cargo's variable {name}: {e}"))
}
