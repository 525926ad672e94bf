//! Groups of the distribution's packages, and their installation.
//!
//! Owns apt-get. A group counts as installed if the files that it is needed for exist, whoever installed
//! them. Never upgrades an installed package, and never changes the machine's package sources.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Host, Missing, Needs, SetupStep, State};
use crate::shell::{self, RootAccess};
use crate::workspace;

/// Packages that serve one purpose.
#[derive(Debug)]
pub(super) struct Group {
    name: &'static str,
    parts: &'static [Part],
}

/// A package, and what proves that its contents are there.
#[derive(Debug)]
struct Part {
    package: &'static str,
    /// A path if it begins with a slash, or else a program in `PATH`.
    proof: &'static str,
}

const fn part(package: &'static str, proof: &'static str) -> Part {
    Part { package, proof }
}

/// The packages that cargo itself needs.
pub(super) const COMPILER: Group = Group {
    name: "C compiler and linker",
    parts: &[part("gcc", "cc"), part("libc6-dev", "/usr/include/stdlib.h")],
};

/// The packages for the end-to-end tests and the demo, whose programs are in C and Python. AWS-LC, a
/// dependency of a Rust program, needs only the C compiler: its build script uses CMake only on request.
pub(super) const TESTS: Group = Group {
    name: "programs for the tests",
    parts: &[
        part("libssl-dev", "/usr/include/openssl/ssl.h"),
        part("libnghttp2-dev", "/usr/include/nghttp2/nghttp2.h"),
        part("libgnutls28-dev", "/usr/include/gnutls/gnutls.h"),
        part("libmbedtls-dev", "/usr/include/mbedtls/ssl.h"),
        part("libwolfssl-dev", "/usr/include/wolfssl/ssl.h"),
        part("libnss3-dev", "/usr/include/nss/ssl.h"),
        part("libbearssl-dev", "/usr/include/bearssl.h"),
        part("libbotan-2-dev", "/usr/include/botan-2/botan/tls_client.h"),
        part("g++", "c++"),
        part("libc++-dev", "/usr/include/c++/v1/string"),
        part("libc++abi-dev", "/usr/include/c++/v1/cxxabi.h"),
        part("openssl", "openssl"),
        part("python3", "/usr/bin/python3"),
        part("python3-pip", "pip3"),
        part("binutils", "readelf"),
        part("jq", "jq"),
        part("busybox-static", "busybox"),
        part("libcap2-bin", "/usr/sbin/setcap"),
        part("bindfs", "bindfs"),
        part("fuse3", "fusermount3"),
    ],
};

/// Programs that watch, confine or become other programs, which must behave under ctrace as without it.
pub(super) const WATCHERS: Group = Group {
    name: "programs that watch or confine others",
    parts: &[part("bubblewrap", "bwrap"), part("gdb", "gdb"), part("strace", "strace"), part("sudo", "sudo")],
};

/// Decodes the same connections as ctrace, from their packets (22 MB, with what it depends on).
pub(super) const ORACLE: Group = Group {
    name: "program that decodes packets",
    parts: &[part("tshark", "tshark"), part("tshark", "dumpcap")],
};

/// The packages for tests in other languages, and for probes that programs define themselves (USDT).
pub(super) const LANGUAGES: Group = Group {
    name: "compilers for the tests",
    parts: &[part("golang-go", "go"), part("systemtap-sdt-dev", "/usr/include/x86_64-linux-gnu/sys/sdt.h")],
};

/// Engines besides Docker, which the end-to-end tests start themselves: none needs a running service.
pub(super) const ENGINES: Group = Group {
    name: super::ENGINES,
    parts: &[
        part("podman", "podman"),
        part("containerd", "containerd"),
        part("containerd", "ctr"),
        part("runc", "runc"),
    ],
};

/// The packages for the measurements.
pub(super) const BENCH: Group = Group {
    name: "programs for the measurements",
    parts: &[part("nginx", "nginx"), part("bpftrace", "bpftrace"), part("wrk", "wrk")],
};

/// The packages for booting other kernels.
pub(super) const VM: Group = Group {
    name: super::VM,
    parts: &[
        part("qemu-system-x86", "qemu-system-x86_64"),
        part("busybox-static", "busybox"),
        part("kmod", "depmod"),
        part("xz-utils", "xz"),
        part("zstd", "zstd"),
    ],
};

impl Group {
    fn missing(&self) -> Vec<&'static str> {
        let missing = self.parts.iter().filter(|part| !is_there(part.proof)).map(|part| part.package);
        let mut missing: Vec<_> = missing.collect();
        // A package may have two proofs.
        missing.dedup();
        missing
    }
}

fn is_there(proof: &str) -> bool {
    if proof.starts_with('/') { Path::new(proof).exists() } else { shell::find(proof).is_some() }
}

impl SetupStep for Group {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn state(&self) -> Result<State> {
        let missing = self.missing();
        if missing.is_empty() {
            let mut there: Vec<&str> = self.parts.iter().map(|part| part.package).collect();
            there.dedup();
            return Ok(State::There(there.join(", ")));
        }
        Ok(State::Missing(Missing {
            what: missing.join(", "),
            by_hand: vec![by_hand(&missing)],
            needs: Needs::Packages,
        }))
    }

    fn install(&self, machine: Host) -> Result<()> {
        install(machine.root, &self.missing())
    }
}

/// The command that installs packages.
pub(super) fn by_hand(packages: &[&str]) -> String {
    format!("sudo apt-get install --no-install-recommends {}", packages.join(" "))
}

/// Installs packages. The package lists are updated only if the packages cannot be found with the current
/// ones.
pub(super) fn install(root: RootAccess, packages: &[&str]) -> Result<()> {
    let log = workspace::scratch()?.join("apt.log");
    if shell::run_logged(&mut apt_install(root, packages), &log).is_ok() {
        return Ok(());
    }
    println!("    not with the package lists that are here: fetching them");
    let mut update = root.command("apt-get", &[]);
    // An unreachable source is no reason to stop, because it need not be the one that has the packages.
    if let Err(error) = shell::run_logged(update.args(["-q", "update"]), &log) {
        println!("    {error:#}");
    }
    shell::run_logged(&mut apt_install(root, packages), &log)
        .with_context(|| format!("cannot install {}", packages.join(" ")))
}

fn apt_install(root: RootAccess, packages: &[&str]) -> std::process::Command {
    let mut command = root.command("apt-get", &[("DEBIAN_FRONTEND", "noninteractive")]);
    command.args(["-q", "install", "--yes", "--no-install-recommends"]).args(packages);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_misses_what_is_not_there() {
        const PARTS: &[Part] =
            &[part("a", "/"), part("b", "/no/such/file"), part("c", "no-such-program"), part("c", "/none")];
        let group = Group { name: "x", parts: PARTS };
        assert_eq!(group.missing(), ["b", "c"]);
        let State::Missing(missing) = group.state().unwrap_or(State::There(String::new())) else {
            panic!("nothing is missing");
        };
        assert_eq!(missing.what, "b, c");
        assert_eq!(missing.by_hand, ["sudo apt-get install --no-install-recommends b c"]);
        assert_eq!(missing.needs, Needs::Packages);
    }
}
