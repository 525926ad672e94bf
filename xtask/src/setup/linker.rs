//! bpf-linker, and the LLVM that it is built against.
//!
//! Owns the choice of their versions: the linker reads the bitcode of this rustc, so its LLVM is rustc's.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{Host, Missing, Needs, SetupStep, State, packages};
use crate::shell;

/// The version that is installed when there is none.
const BPF_LINKER: &str = "0.13.0";

/// The step that installs the headers and libraries of LLVM, which are needed only to build the linker.
#[derive(Debug)]
pub(super) struct Llvm;

/// The step that installs the linker.
#[derive(Debug)]
pub(super) struct BpfLinker;

/// A field of `rustc -vV`.
pub(super) fn rustc_field(name: &str) -> Result<String> {
    let text = shell::read(shell::command("rustc").arg("-vV"))?;
    field(&text, name).with_context(|| format!("`rustc -vV` does not print its {name}"))
}

fn field(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))?;
    Some(value.trim().to_owned())
}

/// The major version of rustc's LLVM.
fn llvm_major() -> Result<u32> {
    let version = rustc_field("LLVM version")?;
    let major = version.split('.').next().and_then(|major| major.parse().ok());
    major.with_context(|| format!("rustc's LLVM version is not a version: {version}"))
}

fn llvm_packages(major: u32) -> [String; 3] {
    [format!("llvm-{major}-dev"), "zlib1g-dev".to_owned(), "libzstd-dev".to_owned()]
}

impl SetupStep for Llvm {
    fn name(&self) -> String {
        "LLVM".to_owned()
    }

    fn state(&self) -> Result<State> {
        let major = llvm_major()?;
        if let State::There(_) = BpfLinker.state()? {
            return Ok(State::There(format!("version {major}, by bpf-linker's word")));
        }
        let config = format!("/usr/lib/llvm-{major}/bin/llvm-config");
        let proofs = [config.as_str(), "/usr/include/zlib.h", "/usr/include/zstd.h"];
        if proofs.iter().all(|file| Path::new(file).exists()) {
            return Ok(State::There(format!("version {major} in /usr/lib/llvm-{major}")));
        }
        let packages = llvm_packages(major);
        Ok(State::Missing(Missing {
            what: format!("the libraries of LLVM {major}, which rustc uses"),
            by_hand: vec![
                packages::by_hand(&packages.each_ref().map(String::as_str)),
                format!("(where llvm-{major}-dev is not packaged: https://apt.llvm.org)"),
            ],
            needs: Needs::Packages,
        }))
    }

    fn install(&self, machine: Host) -> Result<()> {
        let packages = llvm_packages(llvm_major()?);
        packages::install(machine.root, &packages.each_ref().map(String::as_str))
    }
}

/// Whether a linker's file names another LLVM than this one. A statically linked one names none, and is
/// trusted.
fn wrong_llvm(file: &[u8], major: u32) -> bool {
    let names = |name: &str| file.windows(name.len()).any(|window| window == name.as_bytes());
    let linked = names("libLLVM.so.") || names("libLLVM-");
    linked && !names(&format!("libLLVM.so.{major}")) && !names(&format!("libLLVM-{major}"))
}

impl SetupStep for BpfLinker {
    fn name(&self) -> String {
        "bpf-linker".to_owned()
    }

    fn state(&self) -> Result<State> {
        let major = llvm_major()?;
        let what = match shell::find("bpf-linker") {
            None => "bpf-linker is not in PATH".to_owned(),
            Some(file) => {
                let bytes =
                    std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
                // It must also start: the library that it is linked to may have been removed.
                match shell::read(shell::command("bpf-linker").arg("--version")) {
                    Ok(_) if wrong_llvm(&bytes, major) => {
                        format!("{} is not for LLVM {major}", file.display())
                    }
                    Ok(version) => return Ok(State::There(version.trim().to_owned())),
                    Err(error) => format!("{error:#}"),
                }
            }
        };
        let by_hand = format!("PATH=/usr/lib/llvm-{major}/bin:$PATH cargo {}", install_args(major).join(" "));
        Ok(State::Missing(Missing { what, by_hand: vec![by_hand], needs: Needs::User }))
    }

    fn install(&self, _: Host) -> Result<()> {
        let major = llvm_major()?;
        let llvm = format!("/usr/lib/llvm-{major}/bin");
        if !Path::new(&llvm).is_dir() {
            bail!("it is built with {llvm}/llvm-config, which is not there");
        }
        let mut cargo = shell::cargo();
        let path = std::env::var("PATH").unwrap_or_default();
        println!("    compiling bpf-linker {BPF_LINKER}: one to two minutes");
        // In cargo's own directory: bpf-linker is a separate program with its own lock file.
        cargo.env("PATH", format!("{llvm}:{path}")).env_remove("CARGO_TARGET_DIR");
        // The linker spends nearly all its time in LLVM, so its own code needs little optimisation.
        cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "0").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
        shell::run(cargo.args(install_args(major)).current_dir("/"))
    }
}

fn install_args(llvm: u32) -> Vec<String> {
    let feature = format!("llvm-{llvm}");
    let args = [
        "install",
        "bpf-linker",
        "--version",
        BPF_LINKER,
        "--locked",
        "--no-default-features",
        "--features",
        &feature,
    ];
    // An older linker, or one for another LLVM, is replaced.
    args.into_iter().chain(["--force"]).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_rustc() {
        let text = "rustc 1.95.0 (59807616e 2026-04-14)\nrelease: 1.95.0\nLLVM version: 22.1.2\n";
        let check = |name, expected: Option<&str>| assert_eq!(field(text, name).as_deref(), expected);
        check("release", Some("1.95.0"));
        check("LLVM version", Some("22.1.2"));
        check("host", None);
    }

    #[test]
    fn a_linker_for_another_llvm_is_not_used() {
        let check = |file: &str, wrong| assert_eq!(wrong_llvm(file.as_bytes(), 22), wrong, "{file}");
        check("\0libLLVM.so.22.1\0", false);
        check("\0libLLVM-22.so\0", false);
        check("\0libLLVM.so.21.1\0", true);
        check("\0libLLVM-19.so.1\0", true);
        check("static", false);
    }
}
