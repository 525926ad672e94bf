//! The target programs: small programs in C, C++, Go and Rust from `programs/`, compiled when their source is
//! newer than the result.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{paths, signals};

/// How an artefact is built. A new program needs only such a row.
struct Recipe {
    name: &'static str,
    /// The file in `programs/`; `None` for a library that is made of archives alone.
    source: Option<&'static str>,
    /// Artefacts that must be built first.
    needs: &'static [&'static str],
    /// Arguments after the source on the compiler's command line; it runs in the directory of the artefacts.
    flags: &'static [&'static str],
}

const SHARED: &[&str] = &["-lssl", "-lcrypto", "-pthread"];
const SHARED_HTTP2: &[&str] = &["-lnghttp2", "-lssl", "-lcrypto", "-pthread"];
/// A library that a running program loads.
const PLUGIN: &[&str] = &["-shared", "-fPIC", "-lssl", "-lcrypto", "-pthread"];
/// The same with OpenSSL inside, as in Python's wheels.
const PLUGIN_STATIC: &[&str] = &["-shared", "-fPIC", "-l:libssl.a", "-l:libcrypto.a", "-pthread", "-ldl"];
/// OpenSSL inside the executable, with its symbols, as in statically linked programs.
const STATIC: &[&str] = &["-static", "-lssl", "-lcrypto", "-pthread", "-ldl"];
const STATIC_HTTP2: &[&str] = &["-static", "-lnghttp2", "-lssl", "-lcrypto", "-pthread", "-ldl"];
/// Finds `libbundle.so` in its own directory.
const BUNDLED: &[&str] = &["-L.", "-lnghttp2", "-lbundle", "-pthread", "-Wl,-rpath,$ORIGIN"];
/// OpenSSL inside a library of another name, as in vendored copies.
const BUNDLE: &[&str] = &[
    "-shared",
    "-Wl,--whole-archive",
    "-l:libssl.a",
    "-l:libcrypto.a",
    "-Wl,--no-whole-archive",
    "-pthread",
    "-ldl",
];

const GNUTLS: &[&str] = &["-DLIBRARY=\"tls-gnutls.h\"", "-lgnutls", "-lcrypto"];
/// With the libraries that GnuTLS itself needs, where there is an archive of them.
const GNUTLS_STRIPPED: &[&str] = &[
    "-DLIBRARY=\"tls-gnutls.h\"",
    "-s",
    "-l:libgnutls.a",
    "-l:libhogweed.a",
    "-l:libnettle.a",
    "-l:libgmp.a",
    "-l:libtasn1.a",
    "-l:libidn2.a",
    "-l:libunistring.so.2",
    "-l:libp11-kit.so.0",
    "-lcrypto",
];
const MBEDTLS: &[&str] = &["-DLIBRARY=\"tls-mbedtls.h\"", "-lmbedtls", "-lmbedcrypto", "-lcrypto"];
const MBEDTLS_STATIC: &[&str] = &[
    "-DLIBRARY=\"tls-mbedtls.h\"",
    "-static-pie",
    "-fPIE",
    "-lmbedtls",
    "-lmbedx509",
    "-lmbedcrypto",
    "-lcrypto",
];
const WOLFSSL: &[&str] = &["-DLIBRARY=\"tls-wolfssl.h\"", "-lwolfssl", "-lcrypto"];

/// Libraries inside executables without symbols: only signatures find them.
const OPENSSL_STRIPPED: &[&str] =
    &["-DLIBRARY=\"tls-openssl.h\"", "-s", "-static", "-lssl", "-lcrypto", "-pthread", "-ldl"];
const OPENSSL_STRIPPED_PIE: &[&str] =
    &["-DLIBRARY=\"tls-openssl.h\"", "-s", "-static-pie", "-fPIE", "-lssl", "-lcrypto", "-pthread", "-ldl"];
const OPENSSL_UNFRAMED: &[&str] =
    &["-DLIBRARY=\"tls-openssl.h\"", UNFRAMED, "-s", "-static", "-lssl", "-lcrypto", "-pthread", "-ldl"];
/// Removes the frames for unwinding, too, as in builds of some browsers and runtimes. Only this harness
/// interprets the flag.
const UNFRAMED: &str = "-DUNFRAMED";
const MBEDTLS_STRIPPED: &[&str] =
    &["-DLIBRARY=\"tls-mbedtls.h\"", "-s", "-static", "-lmbedtls", "-lmbedx509", "-lmbedcrypto", "-lcrypto"];
const WOLFSSL_STRIPPED: &[&str] =
    &["-DLIBRARY=\"tls-wolfssl.h\"", "-s", "-static", "-lwolfssl", "-lcrypto", "-lm", "-lpthread"];
const NSS: &[&str] = &[
    "-DLIBRARY=\"tls-nss.h\"",
    "-I/usr/include/nspr",
    "-I/usr/include/nss",
    "-lssl3",
    "-lnss3",
    "-lnspr4",
    "-lcrypto",
];
/// Linked statically, as it is used in practice.
const BEARSSL: &[&str] = &["-DLIBRARY=\"tls-bearssl.h\"", "-l:libbearssl.a", "-lcrypto"];
const BOTAN: &[&str] = &["-D_GNU_SOURCE", "-std=gnu++20", "-I/usr/include/botan-2", "-lbotan-2", "-lcrypto"];

/// With LLVM's library instead of GCC's.
const LIBCXX: &[&str] = &[
    "-nostdinc++",
    "-isystem",
    "/usr/include/c++/v1",
    "-nodefaultlibs",
    "-lc++",
    "-lc++abi",
    "-lm",
    "-lc",
    "-lgcc_s",
    "-lgcc",
];

/// The optimisation (`release`, or `fat` for link-time optimisation as well) and the cryptography library.
const RUSTLS: &[&str] = &["fat", "ring"];
const RUSTLS_RELEASE: &[&str] = &["release", "ring"];
const RUSTLS_AWS_LC: &[&str] = &["fat", "aws-lc"];
const RUSTLS_AWS_LC_RELEASE: &[&str] = &["release", "aws-lc"];
/// The same without symbols, as images have them.
const RUSTLS_STRIPPED: &[&str] = &["fat", "ring", STRIPPED];
const RUSTLS_RELEASE_STRIPPED: &[&str] = &["release", "ring", STRIPPED];
const RUSTLS_AWS_LC_STRIPPED: &[&str] = &["fat", "aws-lc", STRIPPED];
const RUSTLS_AWS_LC_RELEASE_STRIPPED: &[&str] = &["release", "aws-lc", STRIPPED];
const STRIPPED: &str = "stripped";

/// A program that includes AWS-LC's libssl.
const AWS_LC_MANIFEST: &str = "aws-lc/Cargo.toml";
const AWS_LC: &[&str] = &["release", ""];
const AWS_LC_STRIPPED: &[&str] = &["release", "", STRIPPED];
/// With OpenSSL besides.
const TWO: &[&str] = &["release", "openssl"];
const TWO_STRIPPED: &[&str] = &["release", "openssl", STRIPPED];

/// Without symbols and debugging information, as in most images of Go programs.
const GO_STRIPPED: &[&str] = &["-ldflags=-s -w"];
const GO_PIE: &[&str] = &["-buildmode=pie", "-ldflags=-s -w"];
/// With C code, so that the system's linker links it.
const GO_CGO: &[&str] = &["-ldflags=-s -w", concat!(env!("CARGO_MANIFEST_DIR"), "/programs/tls-cgo.go")];
/// A library for C, with a soname, as distributions require.
const GO_SHARED: &[&str] = &[
    "-buildmode=c-shared",
    "-ldflags=-s -w -extldflags=-Wl,-soname=libtlsgo.so",
    concat!(env!("CARGO_MANIFEST_DIR"), "/programs/tls-shared.go"),
];
const GO_CALLER: &[&str] = &["-L.", "-l:libtlsgo.so", "-Wl,-rpath,$ORIGIN"];

const RECIPES: &[Recipe] = &[
    Recipe { name: "idle", source: Some("idle.c"), needs: &[], flags: &["-static"] },
    Recipe { name: "exec-one", source: Some("exec-one.c"), needs: &[], flags: &["-static", "-pthread"] },
    Recipe { name: "waits", source: Some("waits.c"), needs: &[], flags: &["-pthread"] },
    Recipe { name: "mapper", source: Some("mapper.c"), needs: &[], flags: &["-static"] },
    Recipe { name: "half-tls", source: Some("half-tls.c"), needs: &[], flags: &[] },
    Recipe { name: "untraceable", source: Some("untraceable.c"), needs: &[], flags: &[] },
    Recipe { name: "fibers", source: Some("fibers.c"), needs: &[], flags: &["-lssl", "-lcrypto"] },
    Recipe { name: "functions", source: Some("functions.c"), needs: &[], flags: &["-pthread"] },
    Recipe {
        name: "functions-stripped",
        source: Some("functions.c"),
        needs: &[],
        flags: &["-pthread", "-s"],
    },
    Recipe { name: "functions-cpp", source: Some("functions.cpp"), needs: &[], flags: &[] },
    Recipe { name: "functions-libcxx", source: Some("functions.cpp"), needs: &[], flags: LIBCXX },
    Recipe { name: "functions-rust", source: Some("functions.rs"), needs: &[], flags: &[] },
    Recipe { name: "functions-go", source: Some("functions.go"), needs: &[], flags: &[] },
    Recipe { name: "functions-go-stripped", source: Some("functions.go"), needs: &[], flags: GO_STRIPPED },
    Recipe { name: "usdt", source: Some("usdt.c"), needs: &[], flags: &[] },
    Recipe { name: "bpf-ids", source: Some("bpf-ids.c"), needs: &[], flags: &[] },
    Recipe { name: "churn", source: Some("churn.c"), needs: &[], flags: SHARED },
    Recipe { name: "bench-floor", source: Some("bench-floor.c"), needs: &[], flags: &[] },
    Recipe { name: "bench-tls", source: Some("bench-tls.c"), needs: &[], flags: SHARED },
    Recipe { name: "containers", source: Some("containers.c"), needs: &[], flags: &["-static"] },
    Recipe { name: "tls-fork", source: Some("tls-fork.c"), needs: &[], flags: SHARED },
    Recipe { name: "prefork", source: Some("prefork.c"), needs: &[], flags: SHARED },
    Recipe { name: "tls-server", source: Some("tls-server.c"), needs: &[], flags: SHARED_HTTP2 },
    Recipe { name: "tls-client", source: Some("tls-client.c"), needs: &[], flags: SHARED_HTTP2 },
    Recipe { name: "exchange.so", source: Some("exchange.c"), needs: &[], flags: PLUGIN },
    Recipe { name: "exchange-static.so", source: Some("exchange.c"), needs: &[], flags: PLUGIN_STATIC },
    Recipe { name: "tls-late", source: Some("tls-late.c"), needs: &["exchange.so"], flags: &["-ldl"] },
    Recipe { name: "tls-gnutls", source: Some("tls-pair.c"), needs: &[], flags: GNUTLS },
    Recipe { name: "tls-gnutls-stripped", source: Some("tls-pair.c"), needs: &[], flags: GNUTLS_STRIPPED },
    Recipe { name: "tls-mbedtls", source: Some("tls-pair.c"), needs: &[], flags: MBEDTLS },
    Recipe { name: "tls-mbedtls-static", source: Some("tls-pair.c"), needs: &[], flags: MBEDTLS_STATIC },
    Recipe { name: "tls-wolfssl", source: Some("tls-pair.c"), needs: &[], flags: WOLFSSL },
    Recipe { name: "tls-openssl-stripped", source: Some("tls-pair.c"), needs: &[], flags: OPENSSL_STRIPPED },
    Recipe { name: "tls-openssl-unframed", source: Some("tls-pair.c"), needs: &[], flags: OPENSSL_UNFRAMED },
    Recipe {
        name: "tls-openssl-stripped-pie",
        source: Some("tls-pair.c"),
        needs: &[],
        flags: OPENSSL_STRIPPED_PIE,
    },
    Recipe { name: "tls-mbedtls-stripped", source: Some("tls-pair.c"), needs: &[], flags: MBEDTLS_STRIPPED },
    Recipe { name: "tls-wolfssl-stripped", source: Some("tls-pair.c"), needs: &[], flags: WOLFSSL_STRIPPED },
    Recipe { name: "tls-nss", source: Some("tls-pair.c"), needs: &[], flags: NSS },
    Recipe { name: "tls-bearssl", source: Some("tls-pair.c"), needs: &[], flags: BEARSSL },
    Recipe { name: "tls-botan", source: Some("tls-botan.cpp"), needs: &[], flags: BOTAN },
    rustls("tls-rustls", RUSTLS),
    rustls("tls-rustls-release", RUSTLS_RELEASE),
    rustls("tls-rustls-aws-lc", RUSTLS_AWS_LC),
    rustls("tls-rustls-aws-lc-release", RUSTLS_AWS_LC_RELEASE),
    Recipe { name: "tls-tonic", source: Some("tonic/Cargo.toml"), needs: &[], flags: RUSTLS_RELEASE },
    Recipe { name: "tls-aws-lc", source: Some(AWS_LC_MANIFEST), needs: &[], flags: AWS_LC },
    Recipe { name: "tls-aws-lc-stripped", source: Some(AWS_LC_MANIFEST), needs: &[], flags: AWS_LC_STRIPPED },
    Recipe { name: "tls-two", source: Some(AWS_LC_MANIFEST), needs: &[], flags: TWO },
    Recipe { name: "tls-two-stripped", source: Some(AWS_LC_MANIFEST), needs: &[], flags: TWO_STRIPPED },
    rustls("tls-rustls-stripped", RUSTLS_STRIPPED),
    rustls("tls-rustls-release-stripped", RUSTLS_RELEASE_STRIPPED),
    rustls("tls-rustls-aws-lc-stripped", RUSTLS_AWS_LC_STRIPPED),
    rustls("tls-rustls-aws-lc-release-stripped", RUSTLS_AWS_LC_RELEASE_STRIPPED),
    Recipe { name: "tls-go", source: Some("tls-pair.go"), needs: &[], flags: &[] },
    Recipe { name: "tls-go-stripped", source: Some("tls-pair.go"), needs: &[], flags: GO_STRIPPED },
    Recipe { name: "tls-go-pie", source: Some("tls-pair.go"), needs: &[], flags: GO_PIE },
    Recipe { name: "tls-go-cgo", source: Some("tls-pair.go"), needs: &[], flags: GO_CGO },
    Recipe { name: "http-pair", source: Some("http-pair.go"), needs: &[], flags: &[] },
    Recipe { name: "libtlsgo.so", source: Some("tls-pair.go"), needs: &[], flags: GO_SHARED },
    Recipe {
        name: "tls-go-shared",
        source: Some("tls-go-shared.c"),
        needs: &["libtlsgo.so"],
        flags: GO_CALLER,
    },
    Recipe { name: "tls-server-static", source: Some("tls-server.c"), needs: &[], flags: STATIC_HTTP2 },
    Recipe { name: "tls-client-static", source: Some("tls-client.c"), needs: &[], flags: STATIC_HTTP2 },
    Recipe { name: "self-copy", source: Some("self-copy.c"), needs: &[], flags: STATIC },
    Recipe { name: "libbundle.so", source: None, needs: &[], flags: BUNDLE },
    Recipe {
        name: "tls-server-bundled",
        source: Some("tls-server.c"),
        needs: &["libbundle.so"],
        flags: BUNDLED,
    },
];

/// Cargo names the program after its directory.
fn cargo_name(manifest: &Path) -> String {
    let directory = manifest.parent().and_then(Path::file_name).unwrap_or_default();
    format!("tls-{}", directory.to_string_lossy())
}

const fn rustls(name: &'static str, flags: &'static [&'static str]) -> Recipe {
    Recipe { name, source: Some("rustls/Cargo.toml"), needs: &[], flags }
}

/// The path of a target program, which is compiled first if necessary.
pub fn program(name: &str) -> Result<PathBuf> {
    signals::default_in_children()?;
    let directory = paths::cache().join("programs");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let lock = File::create(directory.join(".lock"))?;
    lock.lock().context("cannot lock the directory of the test programs")?;
    make(name, &directory)
}

/// The path of a script of `programs/`.
pub fn script(name: &str) -> PathBuf {
    Path::new(paths::CRATE).join("programs").join(name)
}

/// The file of the shared library with this soname that a program would load.
pub fn library(program: &Path, soname: &str) -> Result<PathBuf> {
    crate::tree::libraries(program)?
        .into_iter()
        .find(|path| path.file_name().is_some_and(|name| name == soname))
        .with_context(|| format!("{} does not load {soname}", program.display()))
}

fn make(name: &str, directory: &Path) -> Result<PathBuf> {
    let recipe = RECIPES
        .iter()
        .find(|recipe| recipe.name == name)
        .with_context(|| format!("no test program is called {name}"))?;
    for needed in recipe.needs {
        make(needed, directory)?;
    }
    let output = directory.join(name);
    let source = recipe.source.map(script);
    if is_current(&output, source.as_deref())? {
        return Ok(output);
    }
    // A rename at the end: even an interrupted compiler leaves no partial file under the final name.
    let partial = directory.join(format!("{name}.partial"));
    let language = source.as_ref().and_then(|source| source.extension()).and_then(|name| name.to_str());
    let mut compiler = match (&source, language) {
        (Some(source), Some("go")) => go(source, &partial, recipe.flags),
        (Some(source), Some("rs")) => rust(source, &partial, recipe.flags),
        (Some(source), Some("toml")) => cargo(source, recipe.flags),
        (Some(source), Some("cpp")) => cpp(source, &partial, recipe.flags),
        _ => cc(source.as_deref(), &partial, recipe.flags),
    };
    let result = compiler
        .current_dir(directory)
        .output()
        .with_context(|| format!("cannot run {compiler:?}: `cargo xtask setup` installs the compilers"))?;
    if !result.status.success() {
        bail!(
            "the test program {name} does not compile (`cargo xtask setup` installs what it needs):\n{}",
            String::from_utf8_lossy(&result.stderr)
        );
    }
    if let (Some(manifest), Some("toml"), [_, _, rest @ ..]) = (&source, language, recipe.flags) {
        fs::copy(cargo_target().join("release").join(cargo_name(manifest)), &partial)?;
        if rest.contains(&STRIPPED) {
            let status = Command::new("strip").arg(&partial).status().context("cannot run `strip`")?;
            ensure!(status.success(), "cannot strip {}", partial.display());
        }
    }
    if recipe.flags.contains(&UNFRAMED) {
        let status = Command::new("objcopy").args(["-R", ".eh_frame"]).arg(&partial).status();
        ensure!(status.context("cannot run `objcopy`")?.success(), "cannot change {}", partial.display());
    }
    fs::rename(&partial, &output)?;
    Ok(output)
}

fn cc(source: Option<&Path>, output: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new("cc");
    command.args(["-D_GNU_SOURCE", "-std=gnu17", "-O2", "-g0", "-Wall", "-Wextra", "-o"]).arg(output);
    command.args(source).args(flags);
    command
}

fn go(source: &Path, output: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new("go");
    command.args(["build", "-o"]).arg(output).args(flags).arg(source);
    // Shares a cache with the tests of the file formats. Modules are off, so that nothing is downloaded.
    command.env("GOCACHE", paths::target_directory().join("go-cache")).env("GOFLAGS", "-mod=mod");
    command
}

fn cpp(source: &Path, output: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new("c++");
    command.args(["-O2", "-g0", "-Wall", "-Wextra", "-o"]).arg(output).arg(source).args(flags);
    command
}

fn rust(source: &Path, output: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new("rustc");
    command.args(["--edition", "2024", "-O", "-o"]).arg(output).args(flags).arg(source);
    command
}

/// Builds a program with dependencies that are not those of the tests.
fn cargo(manifest: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(manifest);
    command.arg("--target-dir").arg(cargo_target()).env_remove("RUSTFLAGS");
    if let [optimised, feature, ..] = flags {
        command.args(["--release", "--features", feature]);
        if *optimised == "fat" {
            // The profile is overridden on the command line, because with a profile of its own everything
            // that build scripts compile (AWS-LC takes a minute) would be compiled again.
            command.args([
                "--config",
                "profile.release.lto=\"fat\"",
                "--config",
                "profile.release.codegen-units=1",
            ]);
        }
    }
    command
}

fn cargo_target() -> PathBuf {
    paths::target_directory().join("programs-rust")
}

/// Whether the artefact is newer than its source and the headers that the sources share.
fn is_current(output: &Path, source: Option<&Path>) -> Result<bool> {
    let Ok(built) = output.metadata().and_then(|metadata| metadata.modified()) else {
        return Ok(false);
    };
    let mut newest = SystemTime::UNIX_EPOCH;
    if let Some(source) = source {
        let shared = fs::read_dir(script(""))?.filter_map(|entry| Some(entry.ok()?.path()));
        let headers = shared.filter(|path| path.extension().is_some_and(|extension| extension == "h"));
        let manifest = source.extension().is_some_and(|extension| extension == "toml");
        let main = manifest.then(|| source.with_file_name("src").join("main.rs"));
        let steps = manifest.then(|| source.with_file_name("build.rs")).filter(|steps| steps.exists());
        for input in headers.chain([source.to_owned()]).chain(main).chain(steps) {
            newest = newest.max(input.metadata().and_then(|metadata| metadata.modified())?);
        }
    }
    Ok(built > newest)
}
